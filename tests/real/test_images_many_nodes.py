"""Shown by 3: an image goes to many nodes and one loses power in the middle: the rest have it, and the one that comes
back takes up what it had.  A cluster of its own, of four nodes; with CLUSTERHOST_TEST_NODES=8 of eight."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterhost.demo import cluster as demo
from imagemgr.transfer.journal import left
from tests.real.conftest import RealCluster
from tests.real.test_images import MIB, file_at, holders, sha256
from tests.support.command import Command
from tests.support.stock import Outcome, eventually

COUNT = int(os.environ.get("CLUSTERHOST_TEST_NODES", "4"))
SIZE = 96 * MIB
SLOW = 12
"""MiB a second that come to the one whose power is cut: what it lacks then takes seconds."""
ENOUGH = 24 * MIB
"""By its journal: it is in the middle, and this does not come again."""
WORDS = MIB
"""Bytes that come beside those of the image."""


@pytest.fixture(scope="module")
def many() -> Iterator[RealCluster]:
    state = Path(tempfile.mkdtemp(prefix="chm-"))
    try:
        info = demo.up(state, COUNT, lambda line: None)
        assert info.endpoint is not None
        yield RealCluster(state, info.endpoint, tuple(f"n{number}" for number in range(1, COUNT + 1)))
    finally:
        demo.down(state, lambda line: None)
        shutil.rmtree(state, ignore_errors=True)


def up(cluster: RealCluster, *nodes: str) -> bool:
    rows = {row["name"]: row["link"] for row in demo.ask(cluster.state, "node.list")}
    return all(rows[node] == "up" for node in nodes)


def limited(cluster: RealCluster, node: str, line: str) -> None:
    """Its agent is started anew with another setting."""
    file = cluster.state / "nodes" / node / "agent.toml"
    file.write_text(f"{file.read_text()}{line}\n")
    before = demo.service_pid(cluster.state, node, "agent")
    demo.kill_service(cluster.state, node, "agent")
    eventually(
        lambda: demo.service_pid(cluster.state, node, "agent") not in (None, before), 20, "it is started"
    )


def distribute(command: Command) -> tuple[Outcome, dict[str, Any]]:
    outcome = command.run("image", "distribute", "big", "--all", "--format", "json")
    assert outcome.out, outcome.err
    return outcome, {row["node"]: row for row in json.loads(outcome.out)}


def cut_in_the_middle(cluster: RealCluster, command: Command, victim: str) -> tuple[Outcome, dict[str, Any]]:
    """What `distribute` says when a node loses its power once it has ENOUGH."""
    told: list[tuple[Outcome, dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: told.append(distribute(command)))
    thread.start()
    deadline = time.monotonic() + 60
    while not any(part.done >= ENOUGH for part in left(file_at(cluster, victim, ""))):
        assert time.monotonic() < deadline
        assert thread.is_alive(), told
        time.sleep(0.02)
    demo.power_cut(cluster.state, victim)
    thread.join(120)
    return told[0]


@pytest.mark.timeout(300)
def test_all_but_one_get_an_image_and_the_one_without_power_goes_on_when_it_is_back(
    many: RealCluster, tmp_path: Path
) -> None:
    command = Command(many.state / "front" / "clusterhost.toml")
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(SIZE // (8 * MIB)):
            file.write(os.urandom(8 * MIB))
    command("image", "import", str(big), "--name", "big")
    (first,) = holders(many, "big")
    *rest, victim = (node for node in many.nodes if node != first)
    others = sorted((first, *rest))
    settings = many.state / "nodes" / victim / "agent.toml"
    usual = settings.read_text()
    limited(many, victim, f"images_receiving_mib = {SLOW}")
    eventually(lambda: up(many, *many.nodes), 60, "all are in reach")

    outcome, rows = cut_in_the_middle(many, command, victim)
    assert outcome.code == 1
    assert {node: row["ok"] for node, row in rows.items()} == {**dict.fromkeys(others, True), victim: False}
    assert f"node {victim}" in rows[victim]["reason"]
    assert f" of {SIZE} bytes are missing" in rows[victim]["reason"]
    expected = sha256(big)
    assert {sha256(file_at(many, node, "big")) for node in others} == {expected}
    assert holders(many, "big") == others

    settings.write_text(usual)
    demo.power_on(many.state, victim)
    eventually(lambda: up(many, victim), 60, "it is in reach")
    told: list[tuple[Outcome, dict[str, Any]]] = []

    def went_on() -> bool:
        """Once its pool is active there again."""
        told.append(distribute(command))
        return bool(told[-1][1][victim]["ok"])

    eventually(went_on, 60, "it has it")
    outcome, rows = told[-1]
    assert outcome.code == 0
    assert 0 < rows[victim]["received_bytes"] <= SIZE - ENOUGH + WORDS
    assert {rows[node]["received_bytes"] for node in others} == {0}
    assert sha256(file_at(many, victim, "big")) == expected
    verified = command.run("image", "verify", "--pool", "default", "--format", "json")
    assert json.loads(verified.out)["findings"] == []
