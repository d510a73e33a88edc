"""Pools that are no directories, through the endpoint: iSCSI without a kernel's help, disks, file systems; and NBD."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import FRONT_ADDRESS as ADDRESS
from tests.real.test_images import bound, digest_in_guest, sha256
from tests.support import blockservers
from tests.support.blockservers import INITIATOR, ISCSI_PORT, NBD_PORT, TARGET, Iscsi
from tests.support.command import Command
from tests.support.stock import Virsh

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

MIB = 1 << 20
FAR, DISKS, FILES = "far", "disks", "files"
UNIT = "unit:0:0:1"
SOURCE = f"<host name='{ADDRESS}' port='{ISCSI_PORT}'/><device path='{TARGET}'/>"
FAR_XML = f"""<pool type='iscsi-direct'><name>{FAR}</name>
<source>{SOURCE}<initiator><iqn name='{INITIATOR}'/></initiator></source></pool>"""
DEVICE = "/run/own-disk"
"""On each node another loop device."""
PLACE = "/var/lib/libvirt/own-files"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB, all of it told apart."""
    path = tmp_path / "image"
    path.write_bytes(random.Random(tmp_path.name).randbytes(8 * MIB))
    return path


def define(virsh: Virsh, xml: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.xml"
    path.write_text(xml)
    virsh("pool-define", str(path))


def forget(cluster: RealCluster, pool: str) -> None:
    cluster.virsh.run("pool-destroy", pool)
    cluster.virsh.run("pool-undefine", pool)


def row(command: Command, name: str) -> dict[str, object]:
    (found,) = [row for row in command.json("pool", "list") if row["name"] == name]
    return dict(found)


def on(source: str, more: str = "") -> str:
    return (
        f"<disk {source}<target dev='vda' bus='virtio'/>{more}"
        "<driver name='qemu' type='raw' cache='none'/></disk>"
    )


# -- iSCSI


@pytest.fixture
def far(cluster: RealCluster, tmp_path: Path, image: Path) -> Iterator[Iscsi]:
    """A target with one unit, and the pool of it, defined."""
    if why := blockservers.lacking("tgtd", "tgtadm", backend="iscsi-direct", driver="iscsi"):
        pytest.skip(why)
    with blockservers.iscsi(cluster.state, tmp_path, image) as target:
        define(cluster.virsh, FAR_XML, tmp_path)
        yield target
        forget(cluster, FAR)


UNIT_XML = on(f"type='volume' device='disk'><source pool='{FAR}' volume='{UNIT}'/>")


@pytest.mark.timeout(120)
def test_an_iscsi_target_is_one_place_with_one_listing_and_says_what_a_node_says(
    cluster: RealCluster, command: Command, far: Iscsi, tmp_path: Path
) -> None:
    virsh, node = cluster.virsh, cluster.node("n1")
    virsh("pool-start", FAR)
    assert (row(command, FAR)["kind"], row(command, FAR)["nodes_ok"]) == ("shared", 3)
    for words in (
        ("vol-list", FAR, "--details"),
        ("pool-info", FAR),
        ("pool-dumpxml", FAR),
        ("vol-info", UNIT, FAR),
        ("vol-dumpxml", UNIT, FAR),
        ("vol-key", UNIT, FAR),
        ("vol-path", UNIT, FAR),
        ("pool-dumpxml", FAR, "--inactive"),
    ):
        assert virsh(*words) == node(*words), words
    key, path = virsh("vol-key", UNIT, FAR), virsh("vol-path", UNIT, FAR)
    assert virsh("vol-name", key) == virsh("vol-name", path) == UNIT
    assert virsh("vol-pool", path) == FAR
    for refused in (
        ("vol-create-as", FAR, "more", "1M"),
        ("vol-delete", UNIT, FAR),
        ("vol-resize", UNIT, "16M", FAR),
        ("vol-upload", UNIT, str(far.images[0]), FAR),
        ("vol-info", "unit:0:0:9", FAR),
    ):
        assert virsh.fails(*refused) == node.fails(*refused), refused
    assert virsh("vol-list", FAR, "--details") == node("vol-list", FAR, "--details"), "nothing was changed"
    more = tmp_path / "more"
    more.write_bytes(bytes(4 * MIB))
    far.add(more)
    virsh("pool-refresh", FAR)
    assert [line.split()[0] for line in virsh("vol-list", FAR).splitlines()] == [
        "unit:0:0:0",
        UNIT,
        "unit:0:0:2",
    ]


@pytest.mark.timeout(180)
def test_a_guest_on_an_iscsi_unit_moves_live_to_every_node_and_nothing_is_copied(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    far: Iscsi,
    image: Path,
    tmp_path: Path,
) -> None:
    virsh = cluster.virsh
    virsh("pool-start", FAR)
    name, second = gone("onunit"), gone("second")
    virsh.define(cluster.xml(second, devices=UNIT_XML), tmp_path)
    with command.brings_no_image():
        source = cluster.begun(name, tmp_path, devices=UNIT_XML)
        assert f"domain '{name}' writes to it on node {source}" in virsh.fails("start", second)
        for target in [node for node in cluster.nodes if node != source]:
            virsh("migrate", "--live", name, cluster.view_uri(target), seconds=120)
            assert cluster.running_on(name) == [target]
        assert digest_in_guest(cluster, name) == sha256(image)


@pytest.mark.timeout(180)
def test_a_target_that_is_away_says_so_and_holds_up_nobody(
    cluster: RealCluster, command: Command, far: Iscsi, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    virsh("pool-start", FAR)
    far.stop()
    said = virsh.fails("pool-refresh", FAR)
    assert f"error: Failed to refresh pool {FAR}" in said, said
    assert "iscsi" in said.lower(), said
    assert row(command, FAR)["active"] is False, "as at a node"
    said = virsh.fails("pool-start", FAR)
    assert f"error: Failed to start pool {FAR}" in said, said
    assert "default" in virsh("pool-list")
    far.start()
    virsh("pool-define-as", "other", "dir", "--target", "/var/lib/libvirt/other")
    virsh("pool-build", "other")
    with far.silent():
        words = ["virsh", "-q", "-c", cluster.endpoint, "pool-start", FAR]
        starting = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        virsh("pool-refresh", "default", seconds=20)
        virsh("pool-start", "other", seconds=20)
        assert "far" in virsh("pool-list", seconds=20)
        virsh("pool-destroy", "other", seconds=20)
        virsh("pool-undefine", "other", seconds=20)
        assert starting.poll() is None
    assert starting.wait(60) == 0
    virsh("pool-destroy", FAR)
    virsh("pool-start", FAR)
    assert row(command, FAR)["nodes_ok"] == 3
    assert UNIT in virsh("vol-list", FAR)


# -- disks and file systems on them


@pytest.fixture
def devices(cluster: RealCluster, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Each node has one of its own at DEVICE, 64 MiB; returned by node."""
    with contextlib.ExitStack() as undo:
        made = {}
        for number, node in enumerate(cluster.nodes):
            device = undo.enter_context(blockservers.loop(tmp_path / f"disk-{node}", (64 + number) * MIB))
            link = cluster.state / "nodes" / node / "run" / Path(DEVICE).name
            link.symlink_to(device)
            undo.callback(link.unlink)
            made[node] = device
        yield made


@contextlib.contextmanager
def built(
    cluster: RealCluster, command: Command, pool: str, kind: str, device: str, *more: str, nodes: int = 3
) -> Iterator[None]:
    """A pool on a device of each node, started; as many nodes as said have one."""
    virsh = cluster.virsh
    virsh("pool-define-as", pool, kind, "--source-dev", device, *more)
    try:
        virsh("pool-build", pool, "--overwrite")
        virsh("pool-start", pool)
        found = row(command, pool)
        assert (found["kind"], found["nodes_ok"], found["nodes_all"]) == ("local", nodes, 3)
        yield
    finally:
        forget(cluster, pool)


@pytest.fixture
def disks(cluster: RealCluster, command: Command, devices: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """A pool of a disk of each node."""
    if why := blockservers.lacking("parted"):
        pytest.skip(why)
    with built(cluster, command, DISKS, "disk", DEVICE, "--source-format", "gpt", "--target", "/dev"):
        yield devices


@pytest.fixture
def files(cluster: RealCluster, command: Command, devices: dict[str, Path]) -> Iterator[None]:
    """A pool of a file system on a device of each node."""
    with built(cluster, command, FILES, "fs", DEVICE, "--source-format", "ext4", "--target", PLACE):
        yield


@pytest.mark.timeout(180)
def test_a_partition_is_on_its_node_and_so_is_the_domain_that_has_it(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    disks: dict[str, Path],
    image: Path,
    tmp_path: Path,
) -> None:
    virsh = cluster.virsh
    for node, device in reversed(disks.items()):  # the largest first: with none, nobody knows a disk's name
        name = f"{device.name}p1"
        virsh("vol-create-as", DISKS, name, "16M")
        assert cluster.node(node)("vol-path", name, DISKS) == f"/dev/{name}"
    assert len(virsh("vol-list", DISKS).splitlines()) == 3
    mine = f"{disks['n2'].name}p1"
    assert virsh("vol-info", mine, DISKS) == cluster.node("n2")("vol-info", mine, DISKS)
    assert virsh("vol-name", f"/dev/{mine}") == mine
    virsh("vol-upload", mine, str(image), DISKS)
    back = tmp_path / "back"
    virsh("vol-download", mine, str(back), DISKS, "--length", str(8 * MIB))
    assert back.read_bytes() == image.read_bytes()

    domain = gone("onpart")
    virsh.define(
        cluster.xml(domain, devices=on(f"type='block' device='disk'><source dev='/dev/{mine}'/>")), tmp_path
    )
    virsh("start", domain)
    assert cluster.running_on(domain) == ["n2"]
    said = virsh.fails("migrate", "--live", domain, cluster.view_uri("n3"))
    assert f"has no volume {mine}, and pools of type disk are not copied" in said
    assert cluster.running_on(domain) == ["n2"]
    assert "pools of type disk are not copied" in command.fails("domain", "move", domain, "--to", "n3")[1]
    said = virsh.fails("vol-delete", mine, DISKS)
    assert said == cluster.node("n2").fails("vol-delete", mine, DISKS)
    assert "did not start with parent pool source device name" in said, "libvirt: where that is a link"
    virsh("destroy", domain)
    explained = command("placement", "explain", domain)
    assert explained.count(f"has no volume {mine}, and pools of type disk are not copied") == 2, explained


@pytest.mark.timeout(120)
def test_a_disk_of_one_node_is_used_there_and_the_others_say_why_not(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    if why := blockservers.lacking("parted"):
        pytest.skip(why)
    virsh, node = cluster.virsh, cluster.node("n2")
    with contextlib.ExitStack() as undo:
        device = undo.enter_context(blockservers.loop(tmp_path / "disk", 64 * MIB))
        for other in ("n1", "n3"):
            undo.enter_context(blockservers.hidden(cluster.state, other, device))
        undo.enter_context(built(cluster, command, DISKS, "disk", str(device), "--target", "/dev", nodes=1))
        one, two = f"{device.name}p1", f"{device.name}p2"
        for name in (one, two):
            virsh("vol-create-as", DISKS, name, "8M")
        assert virsh("vol-list", DISKS, "--details") == node("vol-list", DISKS, "--details")
        assert virsh("pool-info", DISKS) == node("pool-info", DISKS)
        name = gone("ondisk")
        disk = on(f"type='volume' device='disk'><source pool='{DISKS}' volume='{two}'/>")
        virsh.define(cluster.xml(name, devices=disk), tmp_path)
        explained = command("placement", "explain", name)
        assert explained.count(f"has no volume {two}, and its pool {DISKS}") == 2, explained
        virsh("start", name)
        assert cluster.running_on(name) == ["n2"]
        said = virsh.fails("vol-delete", two, DISKS)
        assert said == node.fails("vol-delete", two, DISKS)
        assert two in virsh("vol-list", DISKS), "it is in use"
        virsh("destroy", name)
        # Not even then, as libvirt 9 has parted remove `p2` where a disk's name ends with a digit.
        assert virsh.fails("vol-delete", two, DISKS) == node.fails("vol-delete", two, DISKS)


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("files")
def test_a_file_system_on_a_device_of_each_node_is_a_place_on_each_and_images_are_copied(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    virsh("vol-create-as", FILES, "disk", "8M", "--format", "raw", "--allocation", "0")
    virsh("vol-upload", "disk", str(image), FILES)
    (source,) = (node for node in cluster.nodes if "disk" in cluster.node(node)("vol-list", FILES))
    target = cluster.other(source)
    domain = gone("onfiles")
    disk = on(f"type='file' device='disk'><source file='{PLACE}/disk'/>")
    virsh.define(bound(cluster, cluster.xml(domain, devices=disk), target), tmp_path)
    virsh("start", domain)
    assert cluster.running_on(domain) == [target]
    back = tmp_path / "back"
    cluster.node(target)("vol-download", "disk", str(back), FILES)
    assert back.read_bytes() == image.read_bytes()
    virsh("destroy", domain)
    virsh("vol-delete", "disk", FILES)


# -- NBD, of which libvirt has no pools


@pytest.mark.timeout(180)
def test_a_guest_on_nbd_starts_on_any_node_and_moves_live_without_a_copy(
    cluster: RealCluster, gone: Callable[[str], str], image: Path, tmp_path: Path
) -> None:
    if why := blockservers.lacking("qemu-nbd"):
        pytest.skip(why)
    virsh, name = cluster.virsh, gone("onnbd")
    server = f"<source protocol='nbd' name='disk'><host name='{ADDRESS}' port='{NBD_PORT}'/></source>"
    with blockservers.nbd(cluster.state, tmp_path, image):
        virsh.define(cluster.xml(name, devices=on(f"type='network' device='disk'>{server}")), tmp_path)
        virsh("start", name)
        (source,) = cluster.running_on(name)
        target = cluster.other(source)
        # It has booted before it moves.
        assert digest_in_guest(cluster, name) == sha256(image)
        virsh("migrate", "--live", name, cluster.view_uri(target), seconds=120)
        assert cluster.running_on(name) == [target]
        assert digest_in_guest(cluster, name) == sha256(image)
        virsh("destroy", name)
    assert "Connection refused" in virsh.fails("start", name)
