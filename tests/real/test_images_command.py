"""`clusterhost image`: imported images get to all nodes, go from them, and what a crash leaves is found and mended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterhost.demo import cluster as demo
from tests.real import test_images
from tests.real.test_images import (
    IMAGES,
    MIB,
    SIZE,
    SLACK,
    bound,
    file_at,
    holders,
    on_disk,
    room,
    sha256,
)
from tests.support.command import Command
from tests.support.stock import eventually
from tests.support.webserver import Site, serving

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

image, volume = test_images.image, test_images.volume
Volume = Callable[[str], str]


def listed(cluster: RealCluster) -> list[str]:
    return cluster.virsh("vol-list", "default").split()


def converted(image: Path, directory: Path) -> Path:
    made = directory / "made.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, made], check=True)
    return made


def rows_of(command: Command, *words: str) -> dict[str, Any]:
    """By node, whatever the exit code."""
    outcome = command.run("image", *words, "--format", "json")
    assert outcome.out, outcome.err
    return {row["node"]: row for row in json.loads(outcome.out)}


def findings(command: Command, *words: str) -> list[tuple[str, str, str, str]]:
    outcome = command.run("image", "verify", "--pool", "default", *words, "--format", "json")
    found = json.loads(outcome.out)["findings"]
    assert outcome.code == int(any(not one["mended"] for one in found)), outcome.err
    return [(one["image"], one["node"], one["problem"], one["mended"]) for one in found]


@pytest.mark.timeout(180)
def test_an_imported_image_gets_to_all_nodes_and_goes_from_those_that_do_not_need_it(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    digest = sha256(image)
    command("image", "import", str(image), "--name", volume("golden"), "--checksum", f"sha256:{digest}")
    (first,) = holders(cluster, "golden")
    assert sha256(file_at(cluster, first, "golden")) == digest
    assert room(file_at(cluster, first, "golden")) <= room(image) + SLACK
    assert "golden" in listed(cluster)

    rows = rows_of(command, "distribute", "golden", "--all")
    assert {node: row["ok"] for node, row in rows.items()} == dict.fromkeys(cluster.nodes, True)
    for node in cluster.nodes:
        assert sha256(file_at(cluster, node, "golden")) == digest
        assert room(file_at(cluster, node, "golden")) <= room(image) + SLACK
    copies = command.json("image", "copies", "golden")
    assert [(copy["state"], copy["current"]) for copy in copies] == [("whole", True)] * len(cluster.nodes)
    assert len({copy["digest"] for copy in copies if copy["digest"]}) == 1
    (job,) = [job for job in command.json("job", "list") if job["kind"] == "distribute"][:1]
    assert (job["state"], job["text"]) == ("done", f"{len(cluster.nodes)} nodes have golden")
    assert findings(command, "--again") == []

    others = [node for node in cluster.nodes if node != first]
    reader = gone("reader")
    disk = on_disk("golden").replace("<target", "<readonly/><target")
    cluster.virsh.define(bound(cluster, cluster.xml(reader, devices=disk), others[0]), tmp_path)
    cluster.virsh("start", reader)
    code, text = command.fails("image", "evict", "golden", "--node", others[0])
    assert (code, text) == (
        1,
        f"error: volume 'golden' is in use on node {others[0]}: domain 'reader' runs with it",
    )
    shown = command.json("image", "show", "golden")
    assert [(use["domain"], use["node"], use["active"]) for use in shown["users"]] == [
        (reader, others[0], True)
    ]
    assert shown["format"] == "raw"
    command("image", "evict", "golden", "--node", f"{first},{others[1]}")
    assert holders(cluster, "golden") == [others[0]]
    cluster.virsh("destroy", reader)
    code, text = command.fails("image", "evict", "golden", "--node", others[0])
    assert "has the last newest copy of 'golden' in reach" in text
    back = tmp_path / "back"
    cluster.virsh("vol-download", "golden", str(back), "default")
    assert sha256(back) == digest


@pytest.mark.timeout(120)
def test_an_image_of_a_web_server_that_breaks_off_comes_whole_or_not_at_all(
    cluster: RealCluster,
    command: Command,
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    made = converted(image, tmp_path)
    data = made.read_bytes()
    volume("web.qcow2")
    with serving(Site(data, breaks=[len(data) * 3 // 4])) as site:
        wrong = f"sha256:{'0' * 64}"
        code, text = command.fails("image", "import", site.url, "--name", "web.qcow2", "--checksum", wrong)
        assert (code, "nothing of it is kept" in text) == (1, True)
        assert holders(cluster, "web.qcow2") == []
        assert "web.qcow2" not in listed(cluster)
        site.breaks = [len(data) * 3 // 4]
        said = command(
            "image", "import", site.url, "--name", "web.qcow2", "--checksum", f"sha256:{sha256(made)}"
        )
    assert said.startswith("web.qcow2 is in pool default: qcow2")
    (node,) = holders(cluster, "web.qcow2")
    assert sha256(file_at(cluster, node, "web.qcow2")) == sha256(made)
    eventually(
        lambda: "<format type='qcow2'/>" in cluster.virsh("vol-dumpxml", "web.qcow2", "default"),
        30,
        "its node takes it for qcow2",
    )
    shown = command.json("image", "show", "web.qcow2")
    assert (shown["format"], shown["capacity_bytes"]) == ("qcow2", SIZE)


@pytest.mark.timeout(180)
def test_a_node_whose_power_is_cut_gets_the_image_when_it_is_back(
    cluster: RealCluster,
    command: Command,
    image: Path,
    volume: Volume,
) -> None:
    command("image", "import", str(image), "--name", volume("golden"))
    (first,) = holders(cluster, "golden")
    victim, other = [node for node in cluster.nodes if node != first]
    demo.power_cut(cluster.state, victim)
    try:
        rows = rows_of(command, "distribute", "golden", "--all")
        assert rows[other]["ok"]
        assert not rows[victim]["ok"]
        assert victim in rows[victim]["reason"]
        assert (victim, "unreachable") in [found[1:3] for found in findings(command)]
    finally:
        demo.power_on(cluster.state, victim)
    again = ("image", "distribute", "golden", "--to", victim)
    eventually(lambda: command.run(*again).code == 0, 60, "it has it")
    assert sha256(file_at(cluster, victim, "golden")) == sha256(image)


@pytest.mark.timeout(120)
def test_what_is_left_behind_is_found_and_mended(
    cluster: RealCluster,
    command: Command,
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    node = cluster.nodes[0]
    assert findings(command) == []
    private = file_at(cluster, node, ".clusterhost")
    private.mkdir(exist_ok=True)
    (private / "lost.part").write_bytes(b"x" * 4096)
    volume("cut")
    cluster.virsh("vol-create-as", "default", "cut", str(64 * MIB), "--format", "raw")
    with subprocess.Popen(
        ["virsh", "-c", cluster.endpoint, "vol-upload", "cut", "/dev/stdin", "default"], stdin=subprocess.PIPE
    ) as upload:
        assert upload.stdin is not None
        upload.stdin.write(bytes(MIB))
        upload.stdin.flush()
        time.sleep(1)
        upload.kill()
    (holder,) = holders(cluster, "cut")
    wanted = [("cut", holder, "incomplete", ""), ("lost", node, "part", "")]
    eventually(lambda: findings(command) == wanted, 30, "both are told")
    wanted = [("cut", holder, "incomplete", ""), ("lost", node, "part", "removed")]
    assert findings(command, "--repair") == wanted
    assert not private.exists() or not list(private.iterdir())
    assert findings(command, "--repair", "--delete-incomplete") == [("cut", holder, "incomplete", "removed")]
    assert holders(cluster, "cut") == []
    assert findings(command) == []


@pytest.mark.timeout(120)
def test_a_copy_that_was_changed_behind_the_back_is_told_and_evicted(
    cluster: RealCluster,
    command: Command,
    image: Path,
    volume: Volume,
) -> None:
    command("image", "import", str(image), "--name", volume("golden"))
    command("image", "distribute", "golden", "--all")
    victim = next(node for node in cluster.nodes if node != holders(cluster, "golden")[0])
    with file_at(cluster, victim, "golden").open("r+b") as file:
        file.write(b"changed")
    assert findings(command) == [("golden", victim, "differs", "")]
    command("image", "evict", "golden", "--node", victim)
    command("image", "distribute", "golden", "--to", victim)
    assert findings(command) == []
    assert sha256(file_at(cluster, victim, "golden")) == sha256(image)


@pytest.mark.timeout(180)
def test_an_overlay_in_use_is_flattened(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,
    volume: Volume,
    tmp_path: Path,
) -> None:
    virsh, name = cluster.virsh, gone("flat")
    command("image", "import", str(image), "--name", volume("base"))
    backing = ("--backing-vol", "base", "--backing-vol-format", "raw")
    virsh("vol-create-as", "default", volume("top"), str(SIZE), "--format", "qcow2", *backing)
    assert command.json("image", "show", "top")["depth"] == 2
    (node,) = holders(cluster, "top")
    code, text = command.fails("image", "evict", "base", "--node", node)
    assert (code, "last newest copy" in text) == (1, True)
    command("image", "distribute", "base", "--all")
    code, text = command.fails("image", "evict", "base", "--node", node)
    assert "volume 'top' is an overlay of it" in text
    disk = on_disk("top").replace("type='raw'", "type='qcow2'")
    virsh.define(cluster.xml(name, devices=disk), tmp_path)
    virsh("start", name)
    owner = cluster.owner(name)
    command("image", "flatten", "top")
    shown = command.json("image", "show", "top")
    assert [link["path"] for link in shown["chain"]] == [f"{IMAGES}/top"]
    assert command.json("image", "show", "base")["overlays"] == []
    virsh("destroy", name)
    told = subprocess.run(
        ["qemu-img", "info", file_at(cluster, owner, "top")], capture_output=True, text=True
    )
    assert "backing file" not in told.stdout
