"""Shown by 4: the front end or an agent dies in an upload, a clone, a copy, a deletion: nothing is lost, nothing half
done is listed, and after `image verify --repair` every file on every node is a copy of a volume that is listed."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.real import test_images_crashes, test_volumes
from tests.real.test_crash_points import BROKEN_OFF, Doomed
from tests.real.test_volume_crashes import BACK, again, refused
from tests.real.test_volumes import MIB, Stocked, random_file
from tests.support.command import Command
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

doomed, pool = test_images_crashes.doomed, test_volumes.pool
POINTS: dict[str, list[str]] = {
    deed: sorted(point for point in BROKEN_OFF if point.startswith(f"{deed}."))
    for deed in ("upload", "delete", "spread", "evict")
}


def findings(command: Command, pool: Stocked, *words: str) -> list[tuple[str, str, str, str]]:
    """What `image verify` says of the pool: image, node, problem, what was done."""
    outcome = command.run("image", "verify", "--pool", pool.name, *words, "--format", "json")
    assert outcome.out, outcome.err
    found = json.loads(outcome.out)["findings"]
    return sorted((one["image"], one["node"], one["problem"], one["mended"]) for one in found)


def files(pool: Stocked) -> set[tuple[str, str]]:
    """All files below the pool's directory on every node: node and path."""
    places = {node: pool.file(node, "") for node in pool.cluster.nodes}
    return {
        (node, str(path.relative_to(place)))
        for node, place in places.items()
        for path in place.rglob("*")
        if not path.is_dir()
    }


def no_orphans(command: Command, pool: Stocked) -> None:
    """Nothing is found, and the files are those of copies of listed volumes, and no others."""
    assert findings(command, pool) == []
    copies = {
        (copy["node"], name)
        for name in pool.listed()
        for copy in command.json("image", "copies", name, "--pool", pool.name)
    }
    assert files(pool) == copies


@dataclass(frozen=True)
class Scene:
    """A pool, and the front end of its cluster, which dies where it is told to.  where: a directory for files."""

    doomed: Doomed
    command: Command
    pool: Stocked
    where: Path

    def breaks_off(self, point: str, *words: str) -> None:
        """The front end dies in this call of virsh."""
        call = partial(self.pool.virsh.run, *words, "--pool", self.pool.name)
        assert self.doomed.dies_at(point, call).code != 0, "nobody can have told the client"

    def findings(self, *words: str) -> list[tuple[str, str, str, str]]:
        return findings(self.command, self.pool, *words)

    def no_orphans(self) -> None:
        no_orphans(self.command, self.pool)

    def filled(self) -> bytes:
        """A volume "disk" with bytes of its own."""
        data = random_file(self.where, 2 * MIB, "old")
        self.pool.create("disk", "2M")
        self.pool.virsh("vol-upload", "disk", str(data), "--pool", self.pool.name)
        return data.read_bytes()

    def spread(self) -> None:
        """A copy of the volume "disk" to every node."""
        self.command("image", "distribute", "disk", "--all", "--pool", self.pool.name)

    def reads(self) -> bytes:
        """The volume "disk" as a client has it."""
        self.pool.virsh("vol-download", "disk", str(self.where / "read"), "--pool", self.pool.name)
        return (self.where / "read").read_bytes()


@pytest.fixture
def scene(doomed: Doomed, command: Command, pool: Stocked, tmp_path: Path) -> Scene:
    return Scene(doomed, command, pool, tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS["upload"])
def test_an_upload_is_there_or_the_volume_is_said_to_be_incomplete(scene: Scene, point: str) -> None:
    pool, old, new = scene.pool, scene.filled(), random_file(scene.where, 2 * MIB, "new")
    (node,) = pool.holders("disk")
    scene.breaks_off(point, "vol-upload", "disk", str(new))
    there = old if point == "upload.after_intent" else new.read_bytes()
    assert pool.file(node, "disk").read_bytes() == there
    if point == "upload.after_commit":
        assert pool.listed() == ["disk"]
    else:
        assert pool.listed() == []
        why = f"an upload of bytes 0 to the end to node {node} has not been seen to end"
        assert why in refused(pool, scene.where)
        assert scene.findings("--repair") == [("disk", node, "incomplete", "")]
        again(pool, scene.where)
    scene.no_orphans()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["full", "linked"])
def test_a_clone_that_nobody_saw_the_end_of_is_taken_away(scene: Scene, kind: str) -> None:
    pool = scene.pool
    scene.command("pool", "set", pool.name, f"--{kind}-clones")
    pool.create("base", "8M", "--format", "qcow2")
    (node,) = pool.holders("base")
    scene.breaks_off("volume.after_act", "vol-clone", "base", "copy")
    assert pool.listed() == ["base"]
    assert files(pool) == {(node, "base"), (node, "copy")}
    assert scene.findings("--repair") == [("copy", node, "incomplete", "removed")]
    scene.no_orphans()
    pool.virsh("vol-clone", "base", "copy", "--pool", pool.name)
    assert pool.listed() == ["base", "copy"]
    backing = "<backingStore>" in pool.virsh("vol-dumpxml", "copy", "--pool", pool.name)
    assert backing == (kind == "linked")
    scene.no_orphans()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS["delete"])
def test_a_deletion_is_done_or_the_volume_whole_and_can_be_repeated(scene: Scene, point: str) -> None:
    pool, data = scene.pool, scene.filled()
    scene.spread()
    scene.breaks_off(point, "vol-delete", "disk")
    if point == "delete.after_copy":
        assert len(pool.holders("disk")) == 2
        assert pool.listed() == ["disk"]
        assert scene.reads() == data
        scene.no_orphans()
        pool.virsh("vol-delete", "disk", "--pool", pool.name)
    assert pool.listed() == []
    assert "Storage volume not found" in pool.virsh.fails("vol-info", "disk", "--pool", pool.name)
    scene.no_orphans()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", [*POINTS["spread"], *POINTS["evict"]])
def test_copies_that_come_or_go_are_taken_up_and_the_image_is_what_it_was(scene: Scene, point: str) -> None:
    pool, data = scene.pool, scene.filled()
    (first,) = pool.holders("disk")
    words = ["distribute", "disk", "--all"]
    if point in POINTS["evict"]:
        scene.spread()
        words = ["evict", "disk", "--node", pool.cluster.other(first)]
    call = partial(scene.command.run, "image", *words, "--pool", pool.name)
    assert scene.doomed.dies_at(point, call).code != 0
    assert pool.listed() == ["disk"]
    assert scene.reads() == data
    found = scene.findings("--repair")
    assert {tuple(rest) for _, _, *rest in found} <= {("coming", "taken up")}, found
    scene.no_orphans()
    scene.spread()
    assert {pool.file(node, "disk").read_bytes() for node in pool.cluster.nodes} == {data}
    scene.no_orphans()


@pytest.mark.timeout(180)
def test_a_clone_whose_agent_dies_is_made_to_its_end_by_the_node_and_is_no_volume(
    cluster: RealCluster,
    command: Command,
    pool: Stocked,
) -> None:
    pool.create("base", "3G", "--allocation", "0")
    (node,) = pool.holders("base")
    words = ["virsh", "-c", cluster.endpoint, "vol-clone", "base", "copy", "--pool", pool.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as clone:
        eventually(lambda: pool.holders("copy"), 30, "the node has begun")
        demo.kill_service(cluster.state, node, "agent")
        _, told = clone.communicate(timeout=60)
    assert clone.returncode != 0
    assert node in told
    assert pool.listed() in ([], ["base"])
    eventually(
        lambda: all(row["link"] == "up" for row in demo.ask(cluster.state, "node.list")), BACK, "it is back"
    )
    eventually(lambda: pool.listed() == ["base"], 30, "what it has is listed again")

    def removed() -> bool:
        """Not before the node's libvirtd has done it."""
        return findings(command, pool, "--repair") in ([("copy", node, "incomplete", "removed")], [])

    eventually(removed, 60, "what was made is taken away")
    no_orphans(command, pool)
