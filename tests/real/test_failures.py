"""Shown by 8: a node's power cut, a stopped agent, a dead front end: what clients see, and that nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]


@pytest.mark.timeout(180)
def test_a_power_cut_hurts_only_the_domains_of_that_node(cluster: RealCluster, make: Make) -> None:
    names = [make(f"cut{number}", start=True) for number in range(3)]
    victim = cluster.owner(names[0])
    others = [name for name in names if cluster.owner(name) != victim]
    homes = {name: cluster.owner(name) for name in names}
    demo.power_cut(cluster.state, victim)
    try:
        began = time.monotonic()
        assert cluster.virsh.names("--all") == set(names)
        assert time.monotonic() - began < 2
        eventually(
            lambda: victim in cluster.virsh.run("domstate", names[0]).err, 6, "an error that names the node"
        )
        began = time.monotonic()
        assert victim in cluster.virsh.fails("dumpxml", names[0])
        assert time.monotonic() - began < 2
        for name in others:
            assert cluster.virsh("domstate", name) == "running"
    finally:
        demo.power_on(cluster.state, victim)
    lost = [name for name, home in homes.items() if home == victim]
    for name in lost:
        eventually(
            lambda name=name: cluster.virsh.run("domstate", name).out == "shut off", 30, f"{name} is shut off"
        )
        cluster.virsh("start", name)
        assert cluster.virsh("domstate", name) == "running"
    assert cluster.virsh.names("--all") == set(names)


@pytest.mark.timeout(120)
def test_autostart_follows_a_boot_of_the_node_and_nothing_else_does(cluster: RealCluster, make: Make) -> None:
    wanted, other = make("wanted", start=True), make("other", start=True)
    victim = cluster.owner(wanted)
    cluster.virsh("autostart", wanted)
    if cluster.owner(other) != victim:
        cluster.virsh("migrate", "--live", other, cluster.view_uri(victim), seconds=60)
    demo.power_cut(cluster.state, victim)
    demo.power_on(cluster.state, victim)
    eventually(lambda: cluster.virsh.run("domstate", other).out == "shut off", 40, "the boot is seen")
    eventually(lambda: cluster.virsh.run("domstate", wanted).out == "running", 40, "started by itself")
    assert cluster.running_on(wanted) == [victim]
    assert cluster.virsh("domstate", other) == "shut off"
