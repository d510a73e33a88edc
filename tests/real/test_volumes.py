"""Volumes of a pool of the cluster by stock virsh and libvirt-python: one namespace over the nodes' own files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import libvirt
import pytest

from tests.real.conftest import RealCluster
from tests.real.test_outages import stopped
from tests.support.stock import Virsh, eventually

MIB = 1024 * 1024
DOCUMENT = "<volume><name>{}</name><capacity>{}</capacity>{}</volume>"
HERE = "/var/lib/libvirt/{}"


@dataclass(frozen=True)
class Stocked:
    """A running pool of the cluster: a directory of that path on every node."""

    cluster: RealCluster
    name: str

    @property
    def virsh(self) -> Virsh:
        return self.cluster.virsh

    def file(self, node: str, volume: str) -> Path:
        """The file as this machine sees it."""
        return self.cluster.state / "nodes" / node / "lib" / self.name / volume

    def holders(self, volume: str) -> list[str]:
        """Nodes with a file of that name."""
        return [node for node in self.cluster.nodes if self.file(node, volume).exists()]

    def listed(self) -> list[str]:
        return [line.split()[0] for line in self.virsh("vol-list", self.name).splitlines()]

    def create(self, volume: str, size: str = "1M", *more: str) -> None:
        self.virsh("vol-create-as", self.name, volume, size, *more)


@pytest.fixture
def pool(cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[Stocked]:
    """A pool of its own for each test; nothing of it is left on a node."""
    name = f"v{abs(hash(request.node.name)) % 10**8}"
    path = HERE.format(name)
    cluster.virsh("pool-define-as", name, "dir", "--target", path)
    cluster.virsh("pool-build", name)
    cluster.virsh("pool-start", name)
    try:
        yield Stocked(cluster, name)
    finally:
        cluster.virsh.run("pool-destroy", name)
        cluster.virsh.run("pool-undefine", name)
        for node in cluster.nodes:
            directory = cluster.state / "nodes" / node / "lib" / name
            subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.fixture
def python(cluster: RealCluster) -> Iterator[libvirt.virConnect]:
    connection = libvirt.open(cluster.endpoint)
    yield connection
    connection.close()


def random_file(tmp_path: Path, size: int, name: str = "data") -> Path:
    path = tmp_path / name
    path.write_bytes(os.urandom(size))
    return path


def blocks(path: Path) -> int:
    """Bytes of room that it takes."""
    return path.stat().st_blocks * 512


def test_a_volume_is_made_on_one_node_and_all_calls_about_it_find_it(pool):
    pool.create("one", "2M")
    assert len(pool.holders("one")) == 1
    path = f"{HERE.format(pool.name)}/one"
    assert pool.listed() == ["one"]
    assert pool.virsh("vol-path", "one", "--pool", pool.name) == path
    assert pool.virsh("vol-key", "one", "--pool", pool.name) == path
    assert pool.virsh("vol-name", path) == "one"
    assert pool.virsh("vol-pool", path) == pool.name
    assert "2.00 MiB" in pool.virsh("vol-info", "one", "--pool", pool.name)
    assert f"<path>{path}</path>" in pool.virsh("vol-dumpxml", "one", "--pool", pool.name)
    assert path in pool.virsh("vol-list", pool.name, "--details")
    pool.virsh("vol-delete", "one", "--pool", pool.name)
    assert pool.listed() == []
    assert pool.holders("one") == []


def test_what_is_uploaded_is_downloaded_again(pool, tmp_path):
    data = random_file(tmp_path, 5 * MIB + 123)
    pool.create("disk", str(5 * MIB + 123) + "b")
    pool.virsh("vol-upload", "disk", str(data), "--pool", pool.name)
    back = tmp_path / "back"
    pool.virsh("vol-download", "disk", str(back), "--pool", pool.name)
    assert back.read_bytes() == data.read_bytes()
    part = tmp_path / "part"
    pool.virsh(
        "vol-download", "disk", str(part), "--pool", pool.name, "--offset", "1000", "--length", "70000"
    )
    assert part.read_bytes() == data.read_bytes()[1000:71000]


def test_sparse_stays_sparse_both_ways(pool, tmp_path):
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(64 * MIB)
        file.seek(40 * MIB)
        file.write(os.urandom(MIB))
    pool.create("hollow", "64M", "--allocation", "0")
    pool.virsh("vol-upload", "hollow", str(source), "--pool", pool.name, "--sparse")
    (node,) = pool.holders("hollow")
    assert blocks(pool.file(node, "hollow")) < 4 * MIB
    back = tmp_path / "back"
    pool.virsh("vol-download", "hollow", str(back), "--pool", pool.name, "--sparse")
    assert back.read_bytes() == source.read_bytes()
    assert blocks(back) < 4 * MIB


def test_a_clone_is_made_where_its_source_is_and_holds_the_same(pool, tmp_path):
    data = random_file(tmp_path, MIB)
    pool.create("base")
    pool.virsh("vol-upload", "base", str(data), "--pool", pool.name)
    pool.virsh("vol-clone", "base", "copy", "--pool", pool.name)
    assert pool.holders("copy") == pool.holders("base")
    back = tmp_path / "back"
    pool.virsh("vol-download", "copy", str(back), "--pool", pool.name)
    assert back.read_bytes() == data.read_bytes()


def test_an_overlay_is_made_where_its_base_is(pool):
    pool.create("base", "8M", "--format", "qcow2")
    for number in range(3):
        name = f"overlay{number}"
        pool.create(name, "8M", "--format", "qcow2", "--backing-vol", "base", "--backing-vol-format", "qcow2")
        assert pool.holders(name) == pool.holders("base")


def test_a_volume_is_resized_and_wiped(pool, tmp_path):
    data = random_file(tmp_path, MIB)
    pool.create("disk")
    pool.virsh("vol-upload", "disk", str(data), "--pool", pool.name)
    pool.virsh("vol-wipe", "disk", "--pool", pool.name)
    (node,) = pool.holders("disk")
    assert pool.file(node, "disk").read_bytes() == bytes(MIB)
    pool.virsh("vol-resize", "disk", "3M", "--pool", pool.name)
    assert pool.file(node, "disk").stat().st_size == 3 * MIB
    pool.virsh("vol-resize", "disk", "1M", "--pool", pool.name, "--delta")
    assert pool.file(node, "disk").stat().st_size == 4 * MIB


def test_a_name_is_one_volumes_on_all_nodes(pool, python):
    pool.create("one")
    found = python.storagePoolLookupByName(pool.name)
    for number in range(4):  # wherever there is most room
        pool.create(f"other{number}", "4M", "--allocation", "4M")
    with pytest.raises(libvirt.libvirtError) as refused:
        found.createXML(DOCUMENT.format("one", MIB, ""), 0)
    assert refused.value.get_error_code() == libvirt.VIR_ERR_STORAGE_VOL_EXIST
    assert len(pool.holders("one")) == 1


@pytest.mark.parametrize("name", ["a/b", ".hidden", "new\nline", "x" * 256])
def test_a_name_that_no_volume_can_have_is_refused(pool, python, name):
    with pytest.raises(libvirt.libvirtError, match="volume name"):
        python.storagePoolLookupByName(pool.name).createXML(DOCUMENT.format(name, MIB, ""), 0)
    assert pool.listed() == []


def test_files_of_one_name_on_two_nodes_are_two_volumes_when_they_differ(pool, tmp_path):
    first, second = pool.cluster.nodes[:2]
    pool.file(first, "same").write_bytes(b"one" * 1000)
    pool.file(second, "same").write_bytes(b"two" * 1000)
    pool.virsh("pool-refresh", pool.name)
    eventually(lambda: pool.listed() == ["same", f"same@{second}"], 15, "both are listed")
    for shown, text in (("same", b"one"), (f"same@{second}", b"two")):
        back = tmp_path / shown
        pool.virsh("vol-download", shown, str(back), "--pool", pool.name)
        assert back.read_bytes() == text * 1000
    key = pool.virsh("vol-key", f"same@{second}", "--pool", pool.name)
    assert pool.virsh("vol-name", key) == f"same@{second}"
    assert f"<name>same@{second}</name>" in pool.virsh("vol-dumpxml", f"same@{second}", "--pool", pool.name)
    pool.virsh("vol-delete", f"same@{second}", "--pool", pool.name)
    assert pool.holders("same") == [first]
    assert pool.listed() == ["same"]


def test_what_somebody_puts_on_a_node_by_its_own_socket_is_listed(pool):
    node = pool.cluster.nodes[1]
    pool.cluster.node(node)("vol-create-as", pool.name, "found", "1M")
    eventually(lambda: "found" in pool.listed(), 10, "it is listed")
    assert pool.virsh("vol-path", "found", "--pool", pool.name).endswith("/found")
    pool.cluster.node(node)("vol-delete", "found", "--pool", pool.name)
    eventually(lambda: pool.listed() == [], 10, "it is gone")


class Uploader:
    """A client that sends half of a volume and waits."""

    PROGRAM = """
import libvirt, sys, time
connection = libvirt.open(sys.argv[1])
volume = connection.storagePoolLookupByName(sys.argv[2]).storageVolLookupByName(sys.argv[3])
stream = connection.newStream()
volume.upload(stream, 0, int(sys.argv[4]))
left = int(sys.argv[5])
while left:
    left -= stream.send(b"x" * min(left, 65536))
print("sent", flush=True)
time.sleep(60)
"""

    def __init__(self, pool: Stocked, volume: str, size: int, half: int) -> None:
        words = [pool.cluster.endpoint, pool.name, volume, str(size), str(half)]
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-c", self.PROGRAM, *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "sent\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_an_upload_that_is_cut_leaves_no_volume_that_looks_whole(pool, tmp_path):
    pool.create("disk", "2M")
    pool.create("other", "1M")
    uploader = Uploader(pool, "disk", 2 * MIB, MIB)
    try:
        assert pool.listed() == ["other"], "while it comes it is not listed"
        assert "still in use" in pool.virsh.fails("vol-delete", "disk", "--pool", pool.name)
    finally:
        uploader.kill()
    back = tmp_path / "back"
    (node,) = pool.holders("disk")

    def said() -> str:
        return pool.virsh.fails("vol-download", "disk", str(back), "--pool", pool.name)

    eventually(lambda: "was cut" in said(), 10, "the upload was cut")
    reason = f"to node {node} was cut after {MIB} of {2 * MIB} bytes: the client went away"
    assert reason in said()
    assert pool.listed() == ["other"]
    assert "exists already" in pool.virsh.fails("vol-create-as", pool.name, "disk", "1M")
    assert reason in pool.virsh.fails("vol-clone", "disk", "copy", "--pool", pool.name)
    data = random_file(tmp_path, 2 * MIB)
    pool.virsh("vol-upload", "disk", str(data), "--pool", pool.name)
    assert pool.listed() == ["disk", "other"]
    pool.virsh("vol-download", "disk", str(back), "--pool", pool.name)
    assert back.read_bytes() == data.read_bytes()


def test_what_is_left_of_a_cut_upload_can_be_deleted(pool):
    pool.create("disk", "2M")
    Uploader(pool, "disk", 2 * MIB, MIB).kill()
    eventually(
        lambda: pool.virsh.run("vol-delete", "disk", "--pool", pool.name).code == 0, 10, "it can be deleted"
    )
    assert pool.holders("disk") == []
    pool.create("disk", "1M")
    assert pool.listed() == ["disk"]


def test_many_streams_at_once_carry_what_was_sent(pool, tmp_path):
    files = {f"disk{number}": random_file(tmp_path, 3 * MIB, f"data{number}") for number in range(4)}
    for name in files:
        pool.create(name, "3M")
    senders = [
        subprocess.Popen(
            ["virsh", "-q", "-c", pool.cluster.endpoint, "vol-upload", name, str(path), "--pool", pool.name]
        )
        for name, path in files.items()
    ]
    assert [sender.wait(60) for sender in senders] == [0] * len(files)
    for name, path in files.items():
        back = tmp_path / f"{name}.back"
        pool.virsh("vol-download", name, str(back), "--pool", pool.name)
        assert back.read_bytes() == path.read_bytes()


def errors_of(connection: libvirt.virConnect, name: str) -> dict[str, tuple[int, int, str]]:
    """Code, domain and text of what goes wrong, by what was tried."""
    pool = connection.storagePoolLookupByName(name)
    volume = pool.createXML(DOCUMENT.format("there", MIB, ""), 0)
    tried = {
        "name": lambda: pool.storageVolLookupByName("no"),
        "key": lambda: connection.storageVolLookupByKey("no"),
        "path": lambda: connection.storageVolLookupByPath(f"{HERE.format(name)}/no"),
        "path with dots": lambda: connection.storageVolLookupByPath(f"{HERE.format(name)}/../no"),
        "list flags": lambda: pool.listAllVolumes(1),
        "again": lambda: pool.createXML(DOCUMENT.format("there", MIB, ""), 0),
        "clone again": lambda: pool.createXMLFrom(DOCUMENT.format("there", MIB, ""), volume, 0),
        "slash": lambda: pool.createXML(DOCUMENT.format("x/y", MIB, ""), 0),
        "no name": lambda: pool.createXML("<volume><capacity>1</capacity></volume>", 0),
        "malformed": lambda: pool.createXML("<volume", 0),
        "other root": lambda: pool.createXML("<x/>", 0),
        "create flags": lambda: pool.createXML(DOCUMENT.format("new", MIB, ""), 64),
        "validate": lambda: pool.createXML(DOCUMENT.format("new", MIB, "<foo/>"), 4),
        "info flags": lambda: volume.infoFlags(8),
        "xml flags": lambda: volume.XMLDesc(1),
        "resize flags": lambda: volume.resize(1, 64),
        "wipe flags": lambda: volume.wipe(1),
        "wipe pattern": lambda: volume.wipePattern(99, 0),
        "delete flags": lambda: volume.delete(64),
        "upload flags": lambda: volume.upload(connection.newStream(), 0, 0, 64),
    }
    after = {
        "gone info": lambda: volume.info(),
        "gone xml": lambda: volume.XMLDesc(),
        "gone path": lambda: volume.path(),
        "gone delete": lambda: volume.delete(),
        "gone upload": lambda: volume.upload(connection.newStream(), 0, 0, 0),
        "gone source": lambda: pool.createXMLFrom(DOCUMENT.format("new", MIB, ""), volume, 0),
    }
    found = {what: error_of(call) for what, call in tried.items()}
    volume.delete()
    return found | {what: error_of(call) for what, call in after.items()}


def error_of(call) -> tuple[int, int, str]:
    with pytest.raises(libvirt.libvirtError) as raised:
        call()
    code, domain, text = raised.value.err[:3]
    return code, domain, text


def test_errors_are_those_of_a_node(pool, python, capfd):
    node = libvirt.open(pool.cluster.node_uri(pool.cluster.nodes[0]))
    try:
        assert errors_of(python, pool.name) == errors_of(node, pool.name)
    finally:
        node.close()


SPARSE = 1
"""VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM"""
Piece = bytes | int
SOME, MORE = random.Random(4).randbytes(9000), random.Random(5).randbytes(70_000)
UPLOADS: tuple[tuple[list[Piece], int, int, int], ...] = (
    ([SOME], 0, 0, 0),
    ([MORE, SOME], 5, 0, 0),
    ([SOME], 100_000, 9000, 0),
    ([SOME], 7, 20_000, 0),
    ([8192, SOME, 100_000, MORE, 65_536], 0, 0, SPARSE),
    ([30_000], 0, 20_000, SPARSE),
    ([4096, SOME, 12_288], 8192, 0, SPARSE),
)
"""What is sent (a number: a hole), from where, the length that is said, flags."""


def told_by_streams(connection: libvirt.virConnect, name: str) -> list[object]:
    """What a volume holds after uploads of all kinds, and what downloads of all kinds gave of it."""
    volume = connection.storagePoolLookupByName(name).createXML(DOCUMENT.format("odd", 40_000, ""), 0)

    def upload(sent: list[Piece], offset: int, length: int, flags: int) -> None:
        stream = connection.newStream()
        volume.upload(stream, offset, length, flags)
        for piece in sent:
            stream.sendHole(piece) if isinstance(piece, int) else stream.send(piece)
        stream.finish()

    def download(offset: int, length: int, flags: int) -> list[Piece]:
        stream = connection.newStream()
        volume.download(stream, offset, length, flags)
        found: list[Piece] = []
        while (
            piece := stream.recvFlags(65536, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if flags
            else stream.recv(65536)
        ):
            found.append(stream.recvHole() if piece == -3 else piece)
        stream.finish()
        return [b"".join(list(part)) if kind is bytes else sum(part) for kind, part in groupby(found, type)]

    def outcome(call: Callable[..., object], *how: object) -> object:
        try:
            return call(*how)
        except libvirt.libvirtError as error:
            return error.err[:3]

    found: list[object] = []
    for sent, *how in UPLOADS:
        found.append(outcome(upload, sent, *how))
        found += [outcome(download, 0, 0, 0), outcome(download, 0, 0, SPARSE)]
    for offset, length in ((100, 5000), (0, 1 << 40), (33_000, 0), (1 << 30, 0), (10_000, 10_000)):
        found.append(outcome(download, offset, length, 0))
        # Beyond the end libvirt's clients themselves lose the error of a sparse one.
        found.append(offset < 40_000 and outcome(download, offset, length, SPARSE))
    found.append(volume.info())
    found.append(outcome(upload, [SOME], 0, 1000, 0))
    volume.delete()
    return found


def test_streams_carry_and_refuse_what_those_of_a_node_do(pool, python, capfd):
    node = libvirt.open(pool.cluster.node_uri(pool.cluster.nodes[0]))
    try:
        expected = told_by_streams(node, pool.name)
    finally:
        node.close()
    assert (38, 38, "cannot write to stream: No space left on device") in expected
    assert told_by_streams(python, pool.name) == expected


def test_a_volume_whose_node_is_away_is_not_listed_and_says_which_node_it_was(pool):
    pool.create("far")
    (node,) = pool.holders("far")
    with stopped(pool.cluster, node, "agent"):
        eventually(lambda: pool.listed() == [], 20, "it is not listed")
        path = f"{HERE.format(pool.name)}/far"
        assert f"node {node} alone has volume 'far'" in pool.virsh.fails("vol-info", path)
        assert "exists already" in pool.virsh.fails("vol-create-as", pool.name, "far", "1M")
        began = time.monotonic()
        pool.create("near")
        assert time.monotonic() - began < 5
        assert pool.listed() == ["near"]
    eventually(lambda: pool.listed() == ["far", "near"], 30, "it is listed again")


def test_no_guest_is_started_on_what_is_left_of_an_upload(
    cluster: RealCluster, pool: Stocked, make: Callable[..., str]
) -> None:
    pool.create("disk", "2M")
    (node,) = pool.holders("disk")
    Uploader(pool, "disk", 2 * MIB, MIB).kill()
    path = f"{HERE.format(pool.name)}/disk"
    disk = "<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vda'/></disk>"
    make("halfway", devices=disk.format(path))
    assert f"no node has all of volume disk, parts of it are on {node}" in pool.virsh.fails(
        "start", "halfway"
    )
