"""Shown by 5: live migration between ?node= views keeps the counter, the id and exactly one copy."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pexpect
import pytest

from clusterhost.demo import cluster as demo
from tests.support.stock import EventLog, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]


@pytest.mark.timeout(240)
def test_live_migration_to_each_node_loses_no_count_and_keeps_the_id(
    cluster: RealCluster, make: Make, events: Callable[[str], EventLog]
) -> None:
    name = make("mover", start=True)
    number = cluster.virsh("domid", name)
    log = events(cluster.endpoint)
    counts: list[int] = []
    for _ in range(2):
        source = cluster.owner(name)
        counts += watch(cluster, name, 2)
        target = next(node for node in cluster.nodes if node != source)
        cluster.view(source)(
            "migrate",
            "--live",
            name,
            cluster.view_uri(target),
            "--persistent",
            "--undefinesource",
            seconds=90,
        )
        assert cluster.running_on(name) == [target]
        assert cluster.owner(name) == target
        assert cluster.virsh("domid", name) == number
        assert "Persistent:     yes" in cluster.virsh("dominfo", name)
    counts += watch(cluster, name, 2)
    assert counts == sorted(counts)
    lines = [line for line in log.lines if f"'{name}'" in line and "lifecycle" in line]
    assert not [line for line in lines if re.search("Stopped|Undefined|Defined|Started", line)], lines
    assert any("Resumed Migrated" in line for line in lines), lines


def watch(cluster: RealCluster, name: str, rows: int) -> list[int]:
    """The next counter values on the console."""
    console = pexpect.spawn(
        "virsh", ["-c", cluster.endpoint, "console", name, "--force"], timeout=40, encoding="utf-8"
    )
    try:
        found = []
        for _ in range(rows):
            console.expect(r"count (\d+)\r")
            found.append(int(console.match.group(1)))
        return found
    finally:
        console.close(force=True)


@pytest.mark.timeout(180)
def test_peer_to_peer_and_placed_migrations_work(cluster: RealCluster, make: Make) -> None:
    name = make("peer", start=True)
    source = cluster.owner(name)
    number = cluster.virsh("domid", name)
    target = next(node for node in cluster.nodes if node != source)
    cluster.virsh("migrate", "--live", "--p2p", name, cluster.view_uri(target), seconds=90)
    assert cluster.running_on(name) == [target]
    assert cluster.virsh("domid", name) == number
    cluster.virsh("migrate", "--live", name, cluster.endpoint, seconds=90)
    assert cluster.running_on(name) not in ([target], [])
    assert cluster.virsh("domstate", name) == "running"
    assert cluster.virsh("domid", name) == number
    assert len([node for node in cluster.nodes if name in cluster.node(node).names("--all")]) == 1


@pytest.mark.timeout(180)
def test_a_target_cut_in_the_middle_leaves_the_domain_running_once(cluster: RealCluster, make: Make) -> None:
    name = make("survivor", start=True)
    source = cluster.owner(name)
    target = next(node for node in cluster.nodes if node != source)
    cluster.virsh("migrate-setspeed", name, "1")
    failures: list[str] = []
    mover = threading.Thread(
        target=lambda: failures.append(
            cluster.view(source).run("migrate", "--live", name, cluster.view_uri(target), seconds=120).err
        )
    )
    mover.start()
    time.sleep(2)
    demo.power_cut(cluster.state, target)
    try:
        mover.join(100)
        assert failures
        assert failures[0]
        eventually(
            lambda: cluster.node(source).run("domstate", name).out == "running", 30, "running at the source"
        )
    finally:
        demo.power_on(cluster.state, target)
    eventually(lambda: cluster.view(target).run("hostname").out == target, 30, "the target is back")
    assert cluster.running_on(name) == [source]
