"""Shown by 2: a disk on a local pool goes along with its running guest, and the cluster's view of it follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.test_images import (
    IMAGES,
    digest_in_guest,
    file_at,
    holders,
    image,  # noqa: F401 -- fixtures
    on_disk,
    sha256,
    uploaded,
    volume,  # noqa: F401
    written_in_guest,
)
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster


def seen_right(cluster: RealCluster, name: str, node: str, tmp_path: Path, expected: str | None) -> None:
    """What clients see of the volume is what the node has; nobody else has any of it."""
    virsh = cluster.virsh
    assert holders(cluster, name) == [node]
    assert virsh("vol-list", "default").split().count(f"{IMAGES}/{name}") == 1
    assert f"{name}@" not in virsh("vol-list", "default", "--details")
    assert virsh("vol-path", name, "default") == f"{IMAGES}/{name}"
    assert "24.00 MiB" in virsh("vol-info", name, "default")
    assert "running" in virsh("pool-info", "default")
    if expected is not None:
        back = tmp_path / "back"
        virsh("vol-download", name, str(back), "default")
        assert sha256(back) == expected


@pytest.mark.timeout(300)
def test_a_running_guest_takes_its_disk_to_each_node_in_turn(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,  # noqa: F811
    volume: Callable[[str], str],  # noqa: F811
    tmp_path: Path,
) -> None:
    virsh, name = cluster.virsh, gone("nomad")
    node = uploaded(cluster, volume("nomad"), image)
    assert cluster.begun(name, tmp_path, devices=on_disk("nomad")) == node
    expected = written_in_guest(cluster, name, "before the moves")
    for target in [other for other in cluster.nodes if other != node] + [node]:
        virsh("migrate", name, cluster.view_uri(target), "--live", "--copy-storage-all", seconds=120)
        assert cluster.running_on(name) == [target]
        seen_right(cluster, name, target, tmp_path, None)
        assert digest_in_guest(cluster, name) == expected, f"on {target}"
        expected = written_in_guest(cluster, name, f"on {target}")
    virsh("destroy", name)
    seen_right(cluster, name, node, tmp_path, expected)
    other = cluster.other(node)
    virsh("start", name)
    # It has booted: one that moves in its first instants may spin for ever after it, under TCG.
    assert digest_in_guest(cluster, name) == expected
    command("domain", "move", name, "--to", other, "--copy-storage", "all")
    assert digest_in_guest(cluster, name) == expected
    virsh("destroy", name)
    seen_right(cluster, name, other, tmp_path, expected)


@pytest.mark.timeout(180)
def test_an_old_copy_at_the_target_makes_way_for_a_live_move(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,  # noqa: F811
    volume: Callable[[str], str],  # noqa: F811
    tmp_path: Path,
) -> None:
    virsh, name = cluster.virsh, gone("again")
    first = uploaded(cluster, volume("again"), image)
    second = cluster.other(first)
    cluster.view(second).define(cluster.xml(name, devices=on_disk("again")), tmp_path)
    cluster.view(second)("start", name)
    assert holders(cluster, "again") == sorted([first, second])
    expected = written_in_guest(cluster, name, "newer than the old copy")
    command("domain", "move", name, "--to", first, "--copy-storage", "all")
    assert digest_in_guest(cluster, name) == expected
    virsh("destroy", name)
    assert sha256(file_at(cluster, first, "again")) == expected
    seen_right(cluster, "again", first, tmp_path, expected)
