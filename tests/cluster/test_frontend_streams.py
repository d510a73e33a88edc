"""Streams through the front end before a real libvirtd: console, screenshot, volumes; slow and absent readers."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from compat.libvirt import events as wire
from compat.libvirt import messages
from tests.support.direct import Served, served
from tests.support.libvirtd import PrivateLibvirtd, domain_xml, nodes
from tests.support.rawclient import RawClient
from tests.support.stock import Virsh, eventually

pytestmark = pytest.mark.real

GRAPHICS = "<graphics type='vnc' autoport='yes'/><video><model type='vga'/></video>"


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PrivateLibvirtd]]:
    with nodes(tmp_path_factory.mktemp("c"), "n1", "n2") as started:
        yield started


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, daemons: dict[str, PrivateLibvirtd]) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("f") / "f", daemons) as front:
        yield front


@pytest.fixture
def virsh(front: Served) -> Virsh:
    return Virsh(front.uri())


@pytest.fixture
def made(front: Served, virsh: Virsh, tmp_path: Path) -> Iterator[Any]:
    """Defines domains that are gone after the test."""
    names: list[str] = []

    def define(name: str, devices: str = "") -> str:
        virsh.define(domain_xml(name, devices), tmp_path)
        names.append(name)
        return name

    yield define
    for name in names:
        virsh.run("destroy", name)
        virsh.run("undefine", name)


def test_the_console_shows_the_guest_and_ends_on_the_escape_character(
    virsh: Virsh, front: Served, tmp_path: Path, made: Any
) -> None:
    made("con")
    virsh("start", "--paused", "con")
    console = pexpect.spawn("virsh", ["-c", front.uri(), "console", "con"], timeout=20, encoding="utf-8")
    try:
        console.expect("Escape character")
        # QEMU's own monitor can write to the guest's serial port as the firmware does not.
        virsh("resume", "con")
        console.sendcontrol("]")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)
    assert virsh("domstate", "con") == "running"


def test_a_second_console_is_refused_with_the_nodes_own_error(virsh: Virsh, front: Served, made: Any) -> None:
    made("con2")
    virsh("start", "con2")
    console = pexpect.spawn("virsh", ["-c", front.uri(), "console", "con2"], timeout=20, encoding="utf-8")
    try:
        console.expect("Escape character")
        assert "Active console session exists" in pexpect.run(
            f"virsh -c '{front.uri()}' console con2", timeout=20, encoding="utf-8"
        )
    finally:
        console.sendcontrol("]")
        console.expect(pexpect.EOF)
        console.close(force=True)


def test_a_screenshot_arrives_whole(virsh: Virsh, made: Any, tmp_path: Path) -> None:
    made("shot", GRAPHICS)
    virsh("start", "shot")
    picture = tmp_path / "shot.png"
    virsh("screenshot", "shot", str(picture))
    assert picture.read_bytes()[:8] in (b"\x89PNG\r\n\x1a\n",) or picture.read_bytes()[:2] == b"P6"


@pytest.fixture
def pool(front: Served, tmp_path: Path) -> Iterator[Virsh]:
    """A directory pool on n1, in that node's view."""
    view = Virsh(front.uri("n1"))
    (tmp_path / "pool").mkdir()
    view("pool-create-as", "p", "dir", "--target", str(tmp_path / "pool"))
    yield view
    view("pool-destroy", "p")


def test_a_volume_goes_up_and_comes_down_unchanged_in_a_view(pool: Virsh, tmp_path: Path) -> None:
    data = os.urandom(9_000_001)
    (tmp_path / "up").write_bytes(data)
    pool("vol-create-as", "p", "v", str(len(data)))
    pool("vol-upload", "v", str(tmp_path / "up"), "--pool", "p")
    assert (tmp_path / "pool" / "v").read_bytes() == data
    pool("vol-download", "v", str(tmp_path / "down"), "--pool", "p")
    assert hashlib.sha256((tmp_path / "down").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_holes_travel_as_holes(pool: Virsh, tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(size - 4096)
        file.write(b"z" * 4096)
    pool("vol-create-as", "p", "s", str(size), "--allocation", "0")
    pool("vol-upload", "s", str(tmp_path / "sparse"), "--pool", "p", "--sparse")
    stored = tmp_path / "pool" / "s"
    assert stored.stat().st_size == size
    assert stored.stat().st_blocks * 512 < size // 4
    pool("vol-download", "s", str(tmp_path / "back"), "--pool", "p", "--sparse")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sparse").read_bytes()


def test_a_slow_reader_stalls_only_its_own_stream(pool: Virsh, front: Served, tmp_path: Path) -> None:
    size = 24 * 1024 * 1024
    data = os.urandom(1024) * (size // 1024)
    (tmp_path / "pool" / "big").write_bytes(data)
    pool("pool-refresh", "p")
    client = RawClient(front.path, name="qemu:///system?node=n1")
    volume = client.ok(
        "remote:STORAGE_VOL_LOOKUP_BY_PATH",
        messages.RemoteStorageVolLookupByPathArgs(str(tmp_path / "pool" / "big")),
    ).vol
    args = messages.RemoteStorageVolDownloadArgs(volume, 0, 0, 0)
    serial = client.send("remote:STORAGE_VOL_DOWNLOAD", args)
    key = wire.StreamKey(0x20008086, 209, serial)
    client.connection.open_stream(key)
    assert client.reply(serial).ok
    time.sleep(1.0)
    stream = front.nodes.streams[-1]
    assert stream.most_under_way < 3 * 1024 * 1024
    session = next(one for one in front.front.front.sessions.values() if one.bridges)  # type: ignore[union-attr]
    assert session.transport.buffered < 4 * 1024 * 1024
    other = RawClient(front.path)
    assert other.ok("remote:CONNECT_GET_TYPE").type == "QEMU"
    got = hashlib.sha256()
    count = 0
    while count < size:
        part = client.until(lambda event: isinstance(event, wire.StreamData)).payload
        got.update(part)
        count += len(part)
    client.until(lambda event: isinstance(event, wire.StreamEnd))
    client.sock.sendall(client.connection.stream_finish(key))
    client.until(lambda event: isinstance(event, wire.StreamFinished))
    assert got.digest() == hashlib.sha256(data).digest()
    assert not session.bridges
    client.close()
    other.close()


def test_an_aborted_stream_is_confirmed_and_the_connection_goes_on(
    pool: Virsh, front: Served, tmp_path: Path
) -> None:
    (tmp_path / "pool" / "big").write_bytes(b"x" * 8_000_000)
    pool("pool-refresh", "p")
    client = RawClient(front.path, name="qemu:///system?node=n1")
    path = messages.RemoteStorageVolLookupByPathArgs(str(tmp_path / "pool" / "big"))
    volume = client.ok("remote:STORAGE_VOL_LOOKUP_BY_PATH", path).vol
    serial = client.send(
        "remote:STORAGE_VOL_DOWNLOAD", messages.RemoteStorageVolDownloadArgs(volume, 0, 0, 0)
    )
    key = wire.StreamKey(0x20008086, 209, serial)
    client.connection.open_stream(key)
    assert client.reply(serial).ok
    client.sock.sendall(client.connection.stream_abort(key))
    client.until(lambda event: isinstance(event, wire.StreamFinished))
    assert client.ok("remote:CONNECT_GET_URI").uri == "qemu:///system?node=n1"
    client.close()


def test_a_stream_of_something_unknown_fails_with_the_nodes_error(front: Served) -> None:
    client = RawClient(front.path, name="qemu:///system?node=n1")
    volume = messages.RemoteNonnullStorageVol("nopool", "novol", "/nowhere")
    args = messages.RemoteStorageVolDownloadArgs(volume, 0, 0, 0)
    assert client.error("remote:STORAGE_VOL_DOWNLOAD", args).code in (49, 50)
    client.close()


def test_a_client_that_vanishes_closes_its_stream_at_the_node(
    pool: Virsh, front: Served, tmp_path: Path
) -> None:
    (tmp_path / "pool" / "big").write_bytes(b"x" * 8_000_000)
    pool("pool-refresh", "p")
    client = RawClient(front.path, name="qemu:///system?node=n1")
    path = messages.RemoteStorageVolLookupByPathArgs(str(tmp_path / "pool" / "big"))
    volume = client.ok("remote:STORAGE_VOL_LOOKUP_BY_PATH", path).vol
    serial = client.send(
        "remote:STORAGE_VOL_DOWNLOAD", messages.RemoteStorageVolDownloadArgs(volume, 0, 0, 0)
    )
    client.connection.open_stream(wire.StreamKey(0x20008086, 209, serial))
    assert client.reply(serial).ok
    line = front.nodes.streams[-1].line
    client.close()
    eventually(lambda: line.transport is None or line.transport.is_closing(), 5, "the node's stream closed")
