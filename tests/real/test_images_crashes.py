"""Shown by 4: whatever dies while an image is brought, nothing is lost, nothing half listed, and it can be repeated."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.real.test_crash_points import IMAGES as POINTS
from tests.real.test_crash_points import Doomed
from tests.real.test_images import (
    IMAGES,
    MIB,
    file_at,
    holders,
    image,  # noqa: F401 -- a fixture
    on_disk,
    sha256,
    uploaded,
)
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

LARGE = 600 * MIB


@pytest.fixture(scope="module")
def doomed(cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doomed]:
    """A cluster whose front end dies where it is told to."""
    made = Doomed(cluster, cluster.state / "front" / "crash-point", tmp_path_factory.mktemp("crash"))
    made.revive()
    eventually(made.resolved, 60, "all nodes are in reach")
    try:
        yield made
    finally:
        made.order.unlink(missing_ok=True)
        demo.restart_front(cluster.state)
        eventually(made.resolved, 60, "all nodes are in reach")


def listed(cluster: RealCluster) -> list[str]:
    """Names of volumes that clients see."""
    return [line.split()[0] for line in cluster.virsh("vol-list", "default").splitlines() if IMAGES in line]


def away_from_home(cluster: RealCluster, name: str, source: str, tmp_path: Path) -> str:
    """A domain whose home is not where its disk is; its home."""
    home = next(node for node in cluster.nodes if node != source)
    cluster.view(home).define(cluster.xml(name, devices=on_disk(name)), tmp_path)
    return home


def taken_away(cluster: RealCluster, name: str) -> None:
    """The domain and its disk; nothing of either is left anywhere."""
    cluster.remove(name)
    cluster.virsh("vol-delete", name, "default")
    assert holders(cluster, name) == []
    left = [str(file_at(cluster, node, "")) for node in cluster.nodes if leftovers(cluster, node)]
    assert left == [], "parts of copies"


def leftovers(cluster: RealCluster, node: str) -> list[Path]:
    """What unfinished copies left on a node."""
    return [path for path in file_at(cluster, node, ".clusterhost").glob("*") if path.is_file()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", sorted(POINTS))
def test_a_start_that_dies_while_its_image_comes_can_be_repeated(
    doomed: Doomed,
    point: str,
    image: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    cluster, name = doomed.cluster, point.replace(".", "-")
    expected, source = sha256(image), uploaded(cluster, name, image)
    home = away_from_home(cluster, name, source, tmp_path)
    virsh = cluster.view(home)
    doomed.dies_at(point, lambda: virsh.run("start", name, "--paused"))
    assert cluster.running_on(name) == []
    assert listed(cluster) == [name]
    assert sha256(file_at(cluster, source, name)) == expected
    virsh("start", name, "--paused")
    assert cluster.running_on(name) == [home]
    assert sha256(file_at(cluster, home, name)) == expected
    assert listed(cluster) == [name]
    taken_away(cluster, name)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("end", ["source", "target"])
def test_an_agent_that_dies_while_an_image_comes_fails_the_start_and_the_next_one_goes_on(
    cluster: RealCluster, end: str, tmp_path: Path
) -> None:
    virsh, name = cluster.virsh, f"large-{end}"
    virsh("vol-create-as", "default", name, str(LARGE), "--format", "raw", "--allocation", "0")
    (source,) = holders(cluster, name)
    subprocess.run(
        [
            "dd",
            "if=/dev/urandom",
            f"of={file_at(cluster, source, name)}",
            "bs=1M",
            "count=600",
            "conv=notrunc",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    home = away_from_home(cluster, name, source, tmp_path)
    victim = source if end == "source" else home
    with subprocess.Popen(
        ["virsh", "-q", "-c", cluster.view_uri(home), "start", name, "--paused"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as start:
        eventually(lambda: leftovers(cluster, home), 30, "the first bytes are there")
        time.sleep(0.5)
        demo.kill_service(cluster.state, victim, "agent")
        _, told = start.communicate(timeout=90)
    assert start.returncode != 0
    assert f"volume {name} did not get from node {source} to node {home}: node {home}" in told
    assert "are missing" in told
    assert cluster.owner(name) == home
    eventually(
        lambda: all(row["link"] == "up" for row in demo.ask(cluster.state, "node.list")), 60, "all are back"
    )
    eventually(lambda: listed(cluster) == [name], 30, "its pool is active again")
    cluster.view(home).run("start", name, "--paused", seconds=90)
    assert cluster.running_on(name) == [home]
    assert sha256(file_at(cluster, home, name)) == sha256(file_at(cluster, source, name))
    taken_away(cluster, name)
