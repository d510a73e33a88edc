"""A pool on one directory that all nodes see: nothing is copied, moves need no copying, and nobody writes twice."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.test_images import bound, digest_in_guest, sha256
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "oneplace"


@pytest.fixture
def place(cluster: RealCluster) -> Iterator[Path]:
    """The directory of the pool NAME, which nobody has said to be one place."""
    where = cluster.state / "shared" / NAME
    where.mkdir()
    cluster.virsh("pool-create-as", NAME, "dir", "--target", str(where))
    yield where
    cluster.virsh.run("pool-destroy", NAME)
    shutil.rmtree(where)


def on_volume(disk: Path, more: str = "") -> str:
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        f"<source file='{disk}'/><target dev='vda' bus='virtio'/>{more}</disk>"
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB, all of it told apart."""
    path = tmp_path / "image"
    path.write_bytes(bytes(range(256)) * (8 << 12))
    return path


@pytest.fixture
def disk(cluster: RealCluster, place: Path, image: Path) -> Path:
    """The file of the volume "disk" of the pool, with the image's bytes."""
    cluster.virsh("vol-create-as", NAME, "disk", "8M", "--format", "raw")
    cluster.virsh("vol-upload", "disk", str(image), NAME)
    return place / "disk"


@contextlib.contextmanager
def nothing_copied(cluster: RealCluster, command: Command, disk: Path) -> Iterator[None]:
    """Nobody brings an image meanwhile, and then the place has its one disk and nothing else."""
    with command.brings_no_image():
        yield
    assert [path for path in disk.parent.iterdir() if not path.name.startswith(".")] == [disk]
    assert cluster.virsh("vol-list", NAME).split() == ["disk", str(disk)]


@pytest.mark.timeout(240)
def test_a_guest_moves_live_on_one_place_and_nothing_is_copied(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    disk: Path,
    image: Path,
    tmp_path: Path,
) -> None:
    name = cluster.place("n1", gone("onone"), tmp_path, devices=on_volume(disk))
    with nothing_copied(cluster, command, disk):
        cluster.virsh("start", name)
        (source,) = cluster.running_on(name)
        target = cluster.other(source)
        assert digest_in_guest(cluster, name) == sha256(image)
        # Of ext4 libvirt does not know that the other node has it too: on NFS it needs no --unsafe.
        words = ("migrate", "--live", "--unsafe", name, cluster.view_uri(target))
        cluster.virsh(*words, seconds=120)
        assert cluster.running_on(name) == [target]
        assert digest_in_guest(cluster, name) == sha256(image)


@pytest.mark.timeout(180)
def test_a_second_domain_on_a_disk_is_refused_with_the_name_and_the_node_of_the_first(
    cluster: RealCluster, gone: Callable[[str], str], disk: Path, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    first, second, sharing = gone("first"), gone("second"), gone("sharing")
    virsh.define(bound(cluster, cluster.xml(first, devices=on_volume(disk)), "n1"), tmp_path)
    virsh.define(bound(cluster, cluster.xml(second, devices=on_volume(disk)), "n2"), tmp_path)
    virsh.define(
        bound(cluster, cluster.xml(sharing, devices=on_volume(disk, "<shareable/>")), "n2"), tmp_path
    )
    virsh("start", first)
    said = f"volume disk of pool {NAME} is in use: domain '{first}' writes to it on node n1"
    assert said in virsh.fails("start", second)
    assert said in virsh.fails("start", sharing), "the first one does not share it"
    assert cluster.running_on(second) == []
    # What the node would have said: QEMU's lock, which reaches other nodes where the file system carries it.
    assert "Failed to get" in cluster.node(cluster.owner(second)).fails("start", second)
    virsh("destroy", first)
    virsh("start", second)
    assert cluster.running_on(second) == ["n2"]
    assert f"domain '{second}' writes to it on node n2" in virsh.fails("start", first)


@pytest.mark.timeout(120)
def test_a_disk_that_another_domain_has_cannot_be_plugged_in(
    cluster: RealCluster,
    make: Callable[..., str],
    gone: Callable[[str], str],
    disk: Path,
    tmp_path: Path,
) -> None:
    cluster.virsh.define(cluster.xml(gone("first"), devices=on_volume(disk)), tmp_path)
    cluster.virsh("start", "first")
    make("plain", start=True)
    said = cluster.virsh.fails(
        *("attach-disk", "plain", str(disk), "vdb", "--live", "--driver", "qemu", "--subdriver", "raw")
    )
    assert f"volume disk of pool {NAME} is in use: domain 'first' writes to it on node" in said
