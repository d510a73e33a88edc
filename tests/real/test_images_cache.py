"""Copies that nodes could do without: bytes that a node has do not come again, what is above the limit goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real import test_images
from tests.real.test_images import Volume, file_at, holders, room, sha256
from tests.real.test_images_command import rows_of
from tests.support.command import Command
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

image, volume = test_images.image, test_images.volume


@pytest.fixture
def unlimited(command: Command) -> Iterator[None]:
    """No limit is left."""
    yield
    command("pool", "set", "default", "--cache-limit", "default")


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("unlimited")
def test_an_image_that_is_there_twice_comes_once_and_the_older_of_both_goes_above_the_limit(
    cluster: RealCluster, command: Command, image: Path, volume: Volume
) -> None:
    digest = sha256(image)
    for name in ("one", "again"):
        command("image", "import", str(image), "--name", volume(name))
    received = {}
    for name in ("one", "again"):
        rows = rows_of(command, "distribute", name, "--all")
        assert all(row["ok"] for row in rows.values())
        received[name] = [row["received_bytes"] for row in rows.values()]
    assert sum(received["one"]) > 0
    assert received["again"] == [0] * len(cluster.nodes)
    assert [sha256(file_at(cluster, node, "again")) for node in cluster.nodes] == [digest] * len(
        cluster.nodes
    )

    pinned = cluster.nodes[1]
    assert command("image", "pin", "one", "--node", pinned) == f"one is pinned on {pinned}"
    limit = f"{room(image) * 3 // 2}B"
    command("pool", "set", "default", "--cache-limit", limit)
    eventually(
        lambda: holders(cluster, "one") == [pinned], 60, "the older image goes from nodes that need it not"
    )
    assert holders(cluster, "again") == list(cluster.nodes)
    assert command.json("pool", "show", "default")["cache_limit"] == limit
    (copy,) = command.json("image", "copies", "one")
    assert (copy["node"], copy["pinned"], copy["state"]) == (pinned, True, "whole")
    assert all(copy["last_used"] for copy in command.json("image", "copies", "again"))
    told = command.json("image", "show", "one")["journal"]
    evicted = [line for line in told if line["kind"] == "evict image"]
    ours = evicted[: len(cluster.nodes) - 1]
    assert [line["who"] for line in ours] == ["cache"] * (len(cluster.nodes) - 1)
    assert all(line["text"].endswith(f"the limit is {limit}") for line in ours)
    jobs = [job for job in command.json("job", "list") if job["kind"] == "evict"]
    assert {job["state"] for job in jobs} == {"done"}
    code, text = command.fails("image", "evict", "one", "--node", pinned)
    assert (code, "is pinned on node" in text) == (1, True)
