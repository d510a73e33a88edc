"""The store is backed up while domains run, lost, restored: the cluster is whole, and knows what happened since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.support.command import Command
from tests.support.guest import Console
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]
FRONT = ("front", "front-end")


@pytest.fixture
def command(cluster: RealCluster) -> Command:
    return Command(cluster.state / "front" / "clusterhost.toml")


def all_up(cluster: RealCluster, command: Command) -> bool:
    """The front end answers and has every node."""
    outcome = command.run("status", "--format", "json")
    return outcome.code == 0 and '"nodes_up": 3' in outcome.out


@pytest.mark.timeout(180)
def test_a_lost_database_is_restored_and_the_cluster_is_whole(
    cluster: RealCluster, command: Command, make: Make, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    make("stays", start=True)
    make("runs", start=True)
    make("off")
    virsh("autostart", "off")
    make("leaves")
    number = virsh("domid", "stays")
    backup = tmp_path / "cluster.db"
    assert command("backup", str(backup)).startswith(f"wrote {backup}, ")
    assert backup.stat().st_mode & 0o777 == 0o600
    code, text = command.fails("restore", str(backup))
    assert code == 1
    assert "is in use by process" in text

    since(cluster, command, make)
    target = cluster.owner("runs")
    state = cluster.state / "front" / "state"
    demo.stop_service(cluster.state, *FRONT)
    try:
        for part in ("", "-wal", "-shm"):
            (state / f"clusterhost.db{part}").unlink(missing_ok=True)
        restored = command.json("restore", str(backup))
        assert (restored["nodes"], restored["domains"], restored["kept"]) == (3, 4, None)
    finally:
        demo.start_service(cluster.state, *FRONT)
    eventually(lambda: all_up(cluster, command), 30, "the cluster is back")

    eventually(
        lambda: virsh.names("--all") == {"stays", "runs", "off", "later"}, 10, "what happened since is known"
    )
    assert virsh.names() == {"stays", "runs", "later"}
    assert cluster.owner("runs") == target
    assert command("domain", "where", "runs") == target
    assert virsh("domid", "stays") == number
    assert virsh.names("--all", "--autostart") == {"off"}
    works(cluster, command, make)


def since(cluster: RealCluster, command: Command, make: Make) -> None:
    """What no backup knows of."""
    make("later", start=True)
    command("domain", "move", "runs")
    cluster.virsh("undefine", "leaves")


def works(cluster: RealCluster, command: Command, make: Make) -> None:
    """Orders are obeyed: agents have seen higher epochs and generations than the backup's."""
    virsh = cluster.virsh
    virsh("start", "off")
    with Console(cluster.endpoint, "off", seconds=60) as console:
        assert console.count() > 0
    for name in ("runs", "later"):
        source = cluster.owner(name)
        command("domain", "move", name)
        assert cluster.owner(name) != source
    virsh("destroy", "runs")
    virsh("start", "runs")
    make("new", start=True)
    numbers = {virsh("domid", name) for name in ("stays", "runs", "later", "off", "new")}
    assert len(numbers) == 5


@pytest.mark.timeout(120)
def test_a_backup_that_is_none_is_refused_in_one_sentence(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("[cluster]\n")
    config = tmp_path / "clusterhost.toml"
    config.write_text(f'[cluster]\nstate_dir = "{tmp_path}/state"\n')
    there = Command(config)
    there("init")
    for words, code, text in (
        (("restore", str(other)), 5, f"error: {other} is not a backup that can be read"),
        (("restore", str(tmp_path / "none")), 5, f"error: {tmp_path}/none is not a backup that can be read"),
        (("backup", str(tmp_path / "no" / "where")), 5, "error: cannot copy the database"),
    ):
        outcome = there.run(*words)
        assert (outcome.code, outcome.out) == (code, ""), words
        assert outcome.err.startswith(text)
        assert len(outcome.err.splitlines()) == 1
