"""virt-install and virt-clone with disks in the cluster's pool: volumes are made, cloned and taken away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.test_virtinst import install, run
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("virt-install") is None, reason="the package virtinst is not installed"),
]
DISKS = ("--disk", "size=0.02,format=qcow2", "--disk", "size=0.01,pool=default,format=raw")


@pytest.fixture
def empty(cluster: RealCluster) -> Iterator[RealCluster]:
    """Its default pool has no volume, before and after."""
    assert cluster.virsh("vol-list", "default") == ""
    yield cluster
    for name in ("installed", "second"):
        cluster.virsh.run("destroy", name)
        cluster.virsh.run("undefine", name, "--remove-all-storage")
    for line in cluster.virsh("vol-list", "default").splitlines():
        cluster.virsh("vol-delete", line.split()[0], "default")


def volumes(cluster: RealCluster) -> list[str]:
    return [line.split()[0] for line in cluster.virsh("vol-list", "default").splitlines()]


def test_a_guest_with_disks_is_installed_cloned_and_removed_with_its_storage(
    empty: RealCluster, tmp_path: Path
) -> None:
    virsh, words = empty.virsh, install(empty, empty.endpoint, *DISKS)
    none = words.index("none")
    assert words[none - 1] == "--disk"
    outcome = run(tmp_path, *words[: none - 1], *words[none + 1 :])
    assert outcome.code == 0, outcome.err
    assert volumes(empty) == ["installed.img", "installed.qcow2"]
    assert virsh("domstate", "installed") == "running"
    virsh("destroy", "installed")
    cloned = run(
        tmp_path, "virt-clone", "--connect", empty.endpoint, "--original", "installed", "--name", "second",
        "--auto-clone",
    )  # fmt: skip
    assert cloned.code == 0, cloned.err
    assert volumes(empty) == ["installed.img", "installed.qcow2", "second.img", "second.qcow2"]
    virsh("start", "second")
    virsh("destroy", "second")
    virsh("undefine", "second", "--remove-all-storage")
    assert volumes(empty) == ["installed.img", "installed.qcow2"]
    virsh("undefine", "installed", "--remove-all-storage")
    assert volumes(empty) == []


def test_in_a_linked_pool_virt_clone_makes_an_overlay_of_a_qcow2_disk_and_a_copy_of_a_raw_one(
    empty: RealCluster, command: Command, tmp_path: Path
) -> None:
    virsh, words = empty.virsh, install(empty, empty.endpoint, *DISKS)
    none = words.index("none")
    assert run(tmp_path, *words[: none - 1], *words[none + 1 :]).code == 0
    virsh("destroy", "installed")
    command("pool", "set", "default", "--linked-clones")
    try:
        cloned = run(
            tmp_path, "virt-clone", "--connect", empty.endpoint, "--original", "installed", "--name", "second",
            "--auto-clone",
        )  # fmt: skip
    finally:
        command("pool", "set", "default", "--full-clones")
    assert cloned.code == 0, cloned.err
    assert "installed.qcow2</path>" in virsh(
        "vol-dumpxml", "second.qcow2", "default", "--xpath", "//backingStore/path"
    )
    assert "<format type='raw'/>" in virsh("vol-dumpxml", "second.img", "default")
    virsh("start", "second")
    assert "'installed.qcow2' is the base of 'second.qcow2'" in virsh.fails("start", "installed")
    virsh("destroy", "second")
    virsh("undefine", "second", "--remove-all-storage")
    virsh("start", "installed")
