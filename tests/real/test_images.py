"""Shown by 1: an image is uploaded and cloned, and its guest reads the very bytes on another node than the upload's."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest

from clusterhost.demo import cluster as demo
from tests.support.command import Command
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

MIB = 1 << 20
SIZE = 24 * MIB
"""Three chunks with something in each third, so that there are holes within chunks and between them."""
SLACK = 256 << 10
"""Bytes that a file system takes more, by its own counsel."""
IMAGES = "/var/lib/libvirt/images"
Volume = Callable[[str], str]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse file with data at its beginning, in its middle and at its very end; another one for each test."""
    path, dice = tmp_path / "image", random.Random(tmp_path.name)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for place, length in ((0, 64 << 10), (9 * MIB + 4096, MIB), (SIZE - 4096, 4096)):
            file.seek(place)
            file.write(dice.randbytes(length))
    return path


@pytest.fixture
def volume(cluster: RealCluster) -> Iterator[Volume]:
    """volume("x"): the name of one that is deleted after the test."""
    names: list[str] = []

    def keep(name: str) -> str:
        names.append(name)
        return name

    yield keep
    for name in reversed(names):
        cluster.virsh.run("vol-delete", name, "default")


def holders(cluster: RealCluster, name: str) -> list[str]:
    """Nodes with a file of that name."""
    return [node for node in cluster.nodes if file_at(cluster, node, name).exists()]


def file_at(cluster: RealCluster, node: str, name: str) -> Path:
    return cluster.state / "nodes" / node / "lib" / "images" / name


def uploaded(cluster: RealCluster, name: str, image: Path, *options: str) -> str:
    """A raw volume with the bytes of a file; the node that has it."""
    virsh = cluster.virsh
    virsh("vol-create-as", "default", name, str(SIZE), "--format", "raw", "--allocation", "0")
    virsh("vol-upload", name, str(image), "default", *options)
    (node,) = holders(cluster, name)
    return node


def on_disk(name: str) -> str:
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        f"<source file='{IMAGES}/{name}'/><target dev='vda' bus='virtio'/></disk>"
    )


def bound(cluster: RealCluster, xml: str, node: str) -> str:
    """The definition binds the domain to a node."""
    cell = cluster.nodes.index(node)
    return xml.replace("<devices>", f"<numatune><memory mode='strict' nodeset='{cell}'/></numatune><devices>")


def digest_in_guest(cluster: RealCluster, name: str) -> str:
    """SHA-256 of its first disk, as the guest prints it on its console."""
    console = pexpect.spawn("virsh", ["-c", cluster.endpoint, "console", name], timeout=60, encoding="utf-8")
    try:
        console.expect(r"count \d+")
        console.send("sha256sum /dev/vda\r")
        console.expect(r"([0-9a-f]{64})  /dev/vda")
        return str(console.match.group(1))
    finally:
        console.close(force=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def room(path: Path) -> int:
    """Bytes that a file takes."""
    return path.stat().st_blocks * 512


def job_of(command: Command, name: str) -> dict[str, object]:
    jobs = command.json("job", "list")
    return next(job for job in jobs if job["kind"] == "images" and job["object"] == name)


@pytest.mark.timeout(240)
def test_a_guest_on_a_clone_reads_the_uploaded_bytes_on_another_node(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    virsh = cluster.virsh
    source = uploaded(cluster, volume("golden"), image, "--sparse")
    virsh("vol-clone", "golden", volume("disk"), "--pool", "default")
    assert holders(cluster, "disk") == [source]
    target = next(node for node in cluster.nodes if node != source)
    name = gone("reader")
    virsh.define(bound(cluster, cluster.xml(name, devices=on_disk("disk")), target), tmp_path)
    virsh("start", name)
    assert cluster.running_on(name) == [target]
    assert digest_in_guest(cluster, name) == sha256(image)

    rooms = [room(image), room(file_at(cluster, source, "disk")), room(file_at(cluster, target, "disk"))]
    assert max(rooms) <= rooms[0] + SLACK, f"file, clone, copy: {rooms}"
    job = job_of(command, name)
    assert (job["state"], job["done"]) == ("done", job["total"])

    virsh("destroy", name)
    back = tmp_path / "back"
    virsh("vol-download", "disk", str(back), "default", "--sparse")
    assert sha256(back) == sha256(image)
    assert room(back) <= room(image) + SLACK
    assert virsh("vol-list", "default").split().count("disk") == 1


@pytest.mark.timeout(240)
def test_what_a_guest_wrote_goes_along_when_it_starts_elsewhere(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, volume: Volume, tmp_path: Path
) -> None:
    virsh, name = cluster.virsh, gone("writer")
    first = uploaded(cluster, volume("notes"), image)
    others = [node for node in cluster.nodes if node != first]
    expected = sha256(image)
    for round_, node in enumerate([others[0], first, others[1]]):
        virsh.define(bound(cluster, cluster.xml(name, devices=on_disk("notes")), node), tmp_path)
        virsh("start", name)
        assert cluster.running_on(name) == [node]
        assert digest_in_guest(cluster, name) == expected, f"on {node}"
        expected = written_in_guest(cluster, name, f"round {round_}")
        virsh("destroy", name)
        virsh("undefine", name)
        assert sha256(file_at(cluster, node, "notes")) == expected
        back = tmp_path / "back"
        virsh("vol-download", "notes", str(back), "default")
        assert sha256(back) == expected, "the newest copy is what is read"


def written_in_guest(cluster: RealCluster, name: str, text: str) -> str:
    """Write at the disk's beginning; the new digest."""
    console = pexpect.spawn("virsh", ["-c", cluster.endpoint, "console", name], timeout=60, encoding="utf-8")
    try:
        console.expect(r"count \d+")
        console.send(f"echo '{text}' | dd of=/dev/vda conv=notrunc,fsync && echo wr''itten\r")
        console.expect("written")
    finally:
        console.close(force=True)
    return digest_in_guest(cluster, name)


@pytest.mark.timeout(120)
def test_an_overlay_brings_its_base_and_install_media_and_a_kernel_come_too(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, volume: Volume, tmp_path: Path
) -> None:
    virsh, name = cluster.virsh, gone("layered")
    source = uploaded(cluster, volume("base"), image)
    backing = ("--backing-vol", "base", "--backing-vol-format", "raw")
    virsh("vol-create-as", "default", volume("top"), str(SIZE), "--format", "qcow2", *backing)
    assert holders(cluster, "top") == [source]
    (kernel,) = re.findall("<kernel>(.*)</kernel>", cluster.xml(name))
    virsh("vol-create-as", "default", volume("vmlinuz"), str(Path(kernel).stat().st_size), "--format", "raw")
    virsh("vol-upload", "vmlinuz", kernel, "default")
    disks = (
        "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
        "<source pool='default' volume='top'/><target dev='vda' bus='virtio'/></disk>"
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
        f"<source file='{IMAGES}/base'/><target dev='hdc' bus='ide'/><readonly/></disk>"
    )
    target = next(node for node in cluster.nodes if node != source)
    xml = cluster.xml(name, devices=disks).replace(kernel, f"{IMAGES}/vmlinuz")
    virsh.define(bound(cluster, xml, target), tmp_path)
    virsh("start", name)
    assert cluster.running_on(name) == [target]
    assert digest_in_guest(cluster, name) == sha256(image)
    for each in ("base", "top"):
        assert holders(cluster, each) == sorted([source, target])
    assert target in holders(cluster, "vmlinuz")
    virsh("destroy", name)


@pytest.mark.timeout(120)
def test_a_domain_that_nobody_binds_starts_where_its_disk_is(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, volume: Volume, tmp_path: Path
) -> None:
    virsh, name = cluster.virsh, gone("near")
    source = uploaded(cluster, volume("near"), image)
    # Its home is another node: nobody asked for that one when it starts.
    other = next(node for node in cluster.nodes if node != source)
    cluster.view(other).define(cluster.xml(name, devices=on_disk("near")), tmp_path)
    assert cluster.owner(name) == other
    virsh("start", name)
    assert cluster.running_on(name) == [source]
    assert holders(cluster, "near") == [source]


@pytest.mark.timeout(120)
def test_a_disk_that_a_guest_writes_to_is_not_copied_away_under_it(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, volume: Volume, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    source = uploaded(cluster, volume("busy"), image)
    target = next(node for node in cluster.nodes if node != source)
    one, two = gone("one"), gone("two")
    virsh.define(bound(cluster, cluster.xml(one, devices=on_disk("busy")), source), tmp_path)
    virsh("start", one)
    virsh.define(bound(cluster, cluster.xml(two, devices=on_disk("busy")), target), tmp_path)
    home = cluster.owner(two)
    error = virsh.fails("start", two)
    assert f"volume busy is in use: domain '{one}' writes to it on node {source}" in error
    assert cluster.owner(two) == home
    assert holders(cluster, "busy") == [source]
    assert re.search(r"\bbusy\b", virsh("vol-list", "default"))


@pytest.mark.timeout(120)
def test_an_inactive_domain_is_moved_with_its_disk(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    name = gone("idle")
    source = uploaded(cluster, volume("idle"), image)
    target = next(node for node in cluster.nodes if node != source)
    cluster.view(source).define(cluster.xml(name, devices=on_disk("idle")), tmp_path)
    command("domain", "move", name, "--to", target)
    assert cluster.owner(name) == target
    assert sha256(file_at(cluster, target, "idle")) == sha256(image)
    assert holders(cluster, "idle") == sorted([source, target])


@pytest.mark.timeout(120)
def test_a_disk_that_is_plugged_in_comes_to_the_guest_and_is_the_newest_there(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, volume: Volume, tmp_path: Path
) -> None:
    virsh, name = cluster.virsh, gone("plugged")
    source = uploaded(cluster, volume("more"), image)
    node, third = (other for other in cluster.nodes if other != source)
    cluster.view(node).define(cluster.xml(name), tmp_path)
    cluster.view(node)("start", name)
    virsh("attach-disk", name, f"{IMAGES}/more", "vda", "--subdriver", "raw", "--live")
    assert holders(cluster, "more") == sorted([source, node])
    assert digest_in_guest(cluster, name) == sha256(image)
    expected = written_in_guest(cluster, name, "by hot-plug")
    virsh("destroy", name)
    virsh("undefine", name)
    cluster.view(third).define(cluster.xml(name, devices=on_disk("more")), tmp_path)
    cluster.view(third)("start", name)
    assert digest_in_guest(cluster, name) == expected
    virsh("destroy", name)


@pytest.mark.timeout(180)
def test_the_only_node_with_the_newest_copy_is_named_when_it_is_away(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    virsh, name = cluster.virsh, gone("left")
    source = uploaded(cluster, volume("left"), image)
    target = next(node for node in cluster.nodes if node != source)
    cluster.view(target).define(cluster.xml(name, devices=on_disk("left")), tmp_path)
    demo.partition(cluster.state, source)
    try:
        eventually(lambda: command.node(source)["link"] != "up", 30, "the node is out of reach")
        error = virsh.fails("start", name)
        assert f"volume left is on {source}, out of reach" in error
        assert cluster.owner(name) == target
    finally:
        demo.heal(cluster.state, source)
        eventually(lambda: command.node(source)["link"] == "up", 60, "the node is back")
