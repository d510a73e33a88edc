"""Whatever dies while a volume is made or written: what is half there is never listed, and can be done again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.real.test_crash_points import VOLUMES, Doomed
from tests.real.test_volumes import MIB, Stocked, Uploader, pool, random_file  # noqa: F401 -- a fixture
from tests.support.stock import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.conftest import RealCluster

BACK = 60.0
"""Seconds until all nodes are in reach again."""


@pytest.fixture
def doomed(cluster: RealCluster, tmp_path: Path) -> Iterator[Doomed]:
    """A cluster whose front end dies where it is told to."""
    made = Doomed(cluster, cluster.state / "front" / "crash-point", tmp_path)
    made.revive()
    eventually(made.resolved, BACK, "all nodes are in reach")
    try:
        yield made
    finally:
        made.order.unlink(missing_ok=True)
        demo.restart_front(cluster.state)
        eventually(made.resolved, BACK, "all nodes are in reach")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("point", sorted(VOLUMES))
def test_a_volume_whose_creation_died_is_not_listed_and_can_be_made_again(
    doomed: Doomed,
    pool: Stocked,  # noqa: F811
    point: str,
) -> None:
    pool.create("there")
    outcome = doomed.dies_at(point, lambda: pool.virsh.run("vol-create-as", pool.name, "disk", "1M"))
    assert outcome.code != 0
    assert pool.listed() == ["there"]
    pool.create("disk", "2M")
    assert pool.listed() == ["disk", "there"]
    (node,) = pool.holders("disk")
    assert pool.file(node, "disk").stat().st_size == 2 * MIB


def refused(pool: Stocked, where: Path) -> str:  # noqa: F811
    """Why nobody may read it."""
    return pool.virsh.fails("vol-download", "disk", str(where / "back"), "--pool", pool.name)


def again(pool: Stocked, where: Path) -> None:  # noqa: F811
    """A whole upload makes it whole."""
    data = random_file(where, 2 * MIB)
    pool.virsh("vol-upload", "disk", str(data), "--pool", pool.name)
    assert pool.listed() == ["disk"]
    pool.virsh("vol-download", "disk", str(where / "back"), "--pool", pool.name)
    assert (where / "back").read_bytes() == data.read_bytes()


@pytest.mark.timeout(180)
def test_an_upload_in_which_the_front_end_dies_leaves_no_volume(
    doomed: Doomed,
    pool: Stocked,  # noqa: F811
    tmp_path: Path,
) -> None:
    pool.create("disk", "2M")
    uploader = Uploader(pool, "disk", 2 * MIB, MIB)
    try:
        doomed.revive()
        eventually(doomed.resolved, BACK, "all nodes are in reach")
        assert pool.listed() == []
        assert "an upload of bytes 0 to 2097152 to node" in refused(pool, tmp_path)
        again(pool, tmp_path)
    finally:
        uploader.kill()


@pytest.mark.timeout(180)
def test_an_upload_in_which_the_node_loses_power_leaves_no_volume(
    doomed: Doomed,
    pool: Stocked,  # noqa: F811
    tmp_path: Path,
) -> None:
    pool.create("disk", "2M")
    (node,) = pool.holders("disk")
    uploader = Uploader(pool, "disk", 2 * MIB, MIB)
    try:
        demo.power_cut(pool.cluster.state, node)
        try:
            eventually(lambda: node in refused(pool, tmp_path), 20, "it is on that node alone")
            assert pool.listed() == []
        finally:
            demo.power_on(pool.cluster.state, node)
        eventually(doomed.resolved, BACK, "all nodes are in reach")
        eventually(lambda: "was cut after" in refused(pool, tmp_path), 20, "the pool is active again")
        assert pool.listed() == []
        again(pool, tmp_path)
    finally:
        uploader.kill()


@pytest.mark.timeout(120)
def test_an_agent_that_dies_in_an_upload_ends_it_with_an_error(
    cluster: RealCluster,
    pool: Stocked,  # noqa: F811
    tmp_path: Path,
) -> None:
    pool.create("disk", "2M")
    (node,) = pool.holders("disk")
    uploader = Uploader(pool, "disk", 2 * MIB, MIB)
    try:
        demo.kill_service(cluster.state, node, "agent")
        eventually(lambda: f"to node {node} was cut after" in refused(pool, tmp_path), 30, "it was cut")
        eventually(lambda: pool.virsh.run("vol-info", "disk", pool.name).code == 0, 30, "the agent is back")
        again(pool, tmp_path)
    finally:
        uploader.process.send_signal(signal.SIGKILL)
        uploader.process.communicate()
