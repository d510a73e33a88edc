"""Shown by 5: on a pool that is one place a domain starts on any node, and nothing is copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real import test_shared_places
from tests.real.test_images import bound
from tests.real.test_shared_places import nothing_copied, on_volume
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

UUID = "5b0fd1e2-0b7e-4a44-9f0f-6f1a1f6f2f05"
place, image, disk = test_shared_places.place, test_shared_places.image, test_shared_places.disk


def started_everywhere(cluster: RealCluster, name: str, disk: Path, tmp_path: Path) -> None:
    """On one node after the other; it runs on the last one then."""
    for node in cluster.nodes:
        xml = cluster.xml(name, devices=on_volume(disk), uuid=UUID)
        cluster.virsh.define(bound(cluster, xml, node), tmp_path)
        cluster.virsh("start", name)
        assert cluster.running_on(name) == [node]
        if node != cluster.nodes[-1]:
            cluster.virsh("destroy", name)


@pytest.mark.timeout(240)
def test_a_domain_starts_on_each_node_of_one_place_and_moves_as_between_nodes_that_know_nothing_of_it(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    disk: Path,
    tmp_path: Path,
) -> None:
    name, inode = gone("anywhere"), disk.stat().st_ino
    with nothing_copied(cluster, command, disk):
        started_everywhere(cluster, name, disk, tmp_path)
        # As between two nodes by themselves: their file system is none that libvirt knows to be on both.
        first, last = cluster.nodes[0], cluster.nodes[-1]
        words = ("migrate", "--live", name)
        said = cluster.virsh.fails(*words, cluster.view_uri(first))
        assert said == cluster.node(last).fails(*words, cluster.node_uri(first))
        assert cluster.running_on(name) == [last]
        cluster.virsh("destroy", name)
    assert disk.stat().st_ino == inode
