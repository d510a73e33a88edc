"""The clusterhost command against a real cluster: lists, moves, drain, reasons, jobs, doctor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command import Command
from tests.support.guest import Console
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]

KEYS = {
    "node list": "name cell admin link domains running cpus memory_kib free_kib since reason",
    "node show n1": (
        "name cell admin link domains running cpus memory_kib free_kib since reason libvirt_uri agent_uri "
        "hostname model memory mhz numa_nodes sockets cores threads libvirt_version hypervisor_version "
        "hypervisor_type migration_address underlay underlay_mtu has_files boot_id joined refused clashes "
        "interfaces"
    ),
    "domain list": "id name uuid state node vcpus max_memory_kib autostart persistent",
    "domain show steady": (
        "id name uuid state node vcpus max_memory_kib autostart persistent node_id generation managed_save "
        "why journal"
    ),
    "domain where steady": "domain node running",
    "network diagram": "cluster networks nodes guests",
    "placement explain steady": "domain node chosen reasons",
    "job list": "id kind object state done total text started finished",
    "job show 1": "id kind object state done total text started finished",
    "status": (
        "cluster uuid hostname epoch nodes nodes_up domains running open_intents moves clashes refused"
    ),
    "doctor front": "check level found mend",
}


@pytest.mark.timeout(120)
def test_json_has_the_same_keys_always(command: Command, make: Make) -> None:
    make("steady", start=True)
    command("domain", "move", "steady")
    for words, wanted in KEYS.items():
        found = command.json(*words.split())
        rows = found if isinstance(found, list) else [found]
        assert rows, words
        for row in rows:
            assert sorted(row) == sorted(wanted.split()), words
    reason = command.json("placement", "explain", "steady")["reasons"][0]
    assert sorted(reason) == ["node", "ok", "score", "text", "verdict"]


FAILURES = [
    ("node show n9", 3, "error: no node named 'n9'"),
    ("node drain n9", 3, "error: no node named 'n9'"),
    ("node remove n9", 3, "error: no node named 'n9'"),
    ("node add n1", 2, "error: node n1 is in the cluster already"),
    ("node add no/name", 2, "error: 'no/name' is no node name"),
    ("domain show nobody", 3, "error: no domain with the name, uuid or id 'nobody'"),
    ("domain move nobody --to n1", 3, "error: no domain with the name, uuid or id 'nobody'"),
    ("placement explain nobody", 3, "error: no domain with the name, uuid or id 'nobody'"),
    ("job show 99999", 3, "error: no job 99999"),
]


@pytest.mark.parametrize(("words", "code", "text"), FAILURES, ids=[row[0] for row in FAILURES])
def test_an_error_is_one_sentence(command: Command, words: str, code: int, text: str) -> None:
    outcome = command.run(*words.split())
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(text)
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.timeout(120)
def test_a_disabled_node_gets_no_new_domain_and_keeps_what_it_has(
    cluster: RealCluster, command: Command, make: Make, gone: Callable[[str], str], tmp_path: Path
) -> None:
    cluster.virsh("start", cluster.place("n2", gone("stays"), tmp_path))
    assert command("node", "disable", "n2") == "node n2 disabled"
    names = [make(f"new{number}", start=number < 2) for number in range(4)]
    assert {command("domain", "where", name) for name in names} == {"n1", "n3"}
    assert cluster.node("n2").names() == {"stays"}
    reasons = {row["node"]: row["text"] for row in command.json("placement", "explain", "new0")["reasons"]}
    assert reasons["n2"] == "it is disabled"
    code, text = command.fails("domain", "move", "new0", "--to", "n9")
    assert (code, text) == (3, "error: no node named 'n9'; known: n1, n2, n3")
    command("node", "enable", "n2")
    assert command.node("n2")["admin"] == "enabled"


@pytest.mark.timeout(60)
def test_a_domain_that_fits_nowhere_is_told_the_reason_of_every_node(
    cluster: RealCluster, command: Command, make: Make
) -> None:
    make("huge", memory_mib=900_000)
    text = cluster.virsh.fails("start", "huge")
    assert re.search(r"no node can take huge: .*n1.*: has \d+ MiB free, huge needs 900000 MiB", text)
    told = command.json("placement", "explain", "huge")
    assert told["chosen"] == ""
    assert sorted(row["node"] for row in told["reasons"]) == ["n1", "n2", "n3"]
    assert not any(row["ok"] for row in told["reasons"])
    assert all(
        re.fullmatch(r"has \d+ MiB free, huge needs 900000 MiB", row["text"]) for row in told["reasons"]
    )
    assert command("placement", "explain", "huge").startswith(
        f"huge is on {told['node']}; no node can run it"
    )


@pytest.mark.timeout(120)
def test_a_domain_moves_live_and_as_a_definition(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    cluster.place("n1", gone("goer"), tmp_path)
    assert command("domain", "move", "goer", "--to", "n2") == "domain goer is on n2"
    assert cluster.owner("goer") == "n2"
    cluster.virsh("start", "goer")
    assert cluster.running_on("goer") == ["n2"]
    with Console(cluster.endpoint, "goer") as console:
        before = console.count()
    code, text = command.fails("domain", "move", "goer", "--to", "n3", "--offline")
    assert (code, text) == (1, "error: domain 'goer' is running: only a live move is possible")
    moved = command.run("domain", "move", "goer", "--to", "n3")
    assert (moved.code, moved.out) == (0, "domain goer is on n3")
    assert "goer runs on n3" in moved.err
    assert cluster.running_on("goer") == ["n3"]
    assert command.json("domain", "where", "goer") == {"domain": "goer", "node": "n3", "running": True}
    with Console(cluster.endpoint, "goer") as console:
        assert console.count() > before
    told = command.json("placement", "explain", "goer")
    assert (told["node"], told["chosen"]) == ("n3", "n3")
    job = command.json("job", "list")[0]
    assert (job["kind"], job["object"], job["state"]) == ("move", "goer", "done")
    assert command.json("job", "show", str(job["id"])) == job
    shown = command.json("domain", "show", "goer")
    assert "definition moved from node n1 to node n2" in [line["text"] for line in shown["journal"]]


@pytest.mark.timeout(120)
def test_a_start_leaves_a_home_that_is_full(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], tmp_path: Path
) -> None:
    memory = command.node("n1")["memory_kib"] // 1024
    cluster.place("n1", gone("late"), tmp_path, memory_mib=256)
    cluster.place("n1", gone("filler"), tmp_path, memory_mib=memory - 200)
    cluster.virsh("start", "filler")
    cluster.virsh("start", "late")
    assert command("domain", "where", "late") in ("n2", "n3")
    told: dict[str, Any] = command.json("placement", "explain", "late")
    reasons = {row["node"]: row["text"] for row in told["reasons"]}
    assert re.fullmatch(r"has \d+ [KM]iB free, late needs 256 MiB", reasons["n1"])


def test_the_doctor_finds_a_whole_cluster_well(cluster: RealCluster, command: Command) -> None:
    found = command.json("doctor", "front")
    assert {row["check"] for row in found} >= {
        "configuration",
        "front end",
        "clients",
        "agents",
        "control key",
    }
    assert {row["found"] for row in found if row["check"] == "agents"} >= {
        f"{node} is connected" for node in cluster.nodes
    }
    assert all(row["mend"] for row in found if row["level"] != "good" and row["level"] != "ok")
    at_node = command.run("doctor", "node", "--uri", cluster.node_uri("n1"), "--remote", "-f", "json")
    assert at_node.code == 0, at_node.out
    silent = command.run("doctor", "node", "--uri", "qemu+unix:///system?socket=/nowhere", "--remote")
    assert silent.code == 1
    assert "libvirtd" in silent.out


def test_the_demo_tells_what_its_machines_do(cluster: RealCluster, command: Command) -> None:
    rows = command.json("demo", "status", "--state", str(cluster.state))
    assert [row["name"] for row in rows][:3] == ["n1", "n2", "n3"]
    assert {row["state"] for row in rows} == {"on"}
    assert rows[0]["uri"] == cluster.node_uri("n1")


def test_every_node_is_listed_with_its_cell_and_its_memory(cluster: RealCluster, command: Command) -> None:
    rows = command.json("node", "list")
    assert [(row["name"], row["cell"], row["link"]) for row in rows] == [
        (name, number, "up") for number, name in enumerate(cluster.nodes)
    ]
    assert all(row["memory_kib"] > row["free_kib"] > 0 for row in rows)
    assert command("node", "list").splitlines()[0].split()[:2] == ["Name", "Cell"]
    assert command.json("node", "show", "n2")["migration_address"]


def test_a_domain_is_found_by_name_uuid_and_id(cluster: RealCluster, command: Command, make: Make) -> None:
    name = make("found", start=True)
    node = cluster.owner(name)
    row = next(row for row in command.json("domain", "list") if row["name"] == name)
    for word in (name, row["uuid"], str(row["id"])):
        assert command("domain", "where", word) == f"{node}"
    assert command.json("domain", "show", name)["state"] == "running"
    assert row["max_memory_kib"] == 96 * 1024


def test_a_move_is_live_and_leaves_a_job_behind(cluster: RealCluster, command: Command, make: Make) -> None:
    name = make("moved", start=True)
    before = cluster.virsh("domid", name)
    target = next(node for node in cluster.nodes if node != cluster.owner(name))
    assert command("domain", "move", name, "--to", target) == f"domain {name} is on {target}"
    assert cluster.running_on(name) == [target]
    assert cluster.virsh("domid", name) == before
    job = next(row for row in command.json("job", "list") if row["object"] == name)
    assert (job["kind"], job["state"]) == ("move", "done")
    assert command.json("job", "show", str(job["id"]))["finished"]


def test_a_definition_moves_while_its_domain_is_off(
    cluster: RealCluster, command: Command, make: Make
) -> None:
    name = make("parked")
    target = next(node for node in cluster.nodes if node != cluster.owner(name))
    command("domain", "move", name, "--to", target)
    assert cluster.owner(name) == target


def test_placement_gives_a_reason_for_every_node(cluster: RealCluster, command: Command, make: Make) -> None:
    name = make("placed", start=True)
    told = command.json("placement", "explain", name)
    assert told["node"] == cluster.owner(name)
    assert {reason["node"] for reason in told["reasons"]} == set(cluster.nodes)
    assert all(reason["text"] for reason in told["reasons"])
    assert name in command("placement", "explain", name)


def test_a_disabled_node_keeps_its_domains_and_gets_no_more(
    cluster: RealCluster, command: Command, make: Make
) -> None:
    name = make("stays", start=True)
    node = cluster.owner(name)
    command("node", "disable", node)
    try:
        assert {cluster.owner(make(f"new{number}", start=True)) for number in range(2)}.isdisjoint({node})
        assert cluster.running_on(name) == [node]
    finally:
        command("node", "enable", node)


def test_what_is_not_there_is_said_with_its_exit_code(command: Command) -> None:
    for words in (("node", "show", "n9"), ("domain", "where", "nobody"), ("node", "drain", "n9")):
        ended = command.run(*words)
        assert ended.code == 3, (words, ended.err)
        assert ended.err.startswith("error: ")
        assert len(ended.err.splitlines()) == 1


def test_the_doctor_finds_a_whole_cluster_healthy(cluster: RealCluster, command: Command) -> None:
    found = command.json("doctor", "front")
    assert [row for row in found if row["level"] == "bad"] == []
    assert sum(row["check"] == "agents" for row in found) == len(cluster.nodes)
    own = command.json("doctor", "node", "--remote", "--uri", cluster.node_uri("n1"))
    assert {row["check"] for row in own} >= {"libvirtd", "version", "hypervisor", "hostname", "autostart"}
    assert all(row["level"] == "good" for row in own), own


@pytest.mark.timeout(120)
def test_the_doctor_names_the_node_that_is_cut_off(cluster: RealCluster, command: Command) -> None:
    state = ("--state", str(cluster.state))
    command("demo", "partition", "n3", *state)
    try:
        eventually(lambda: command.run("doctor", "front").code == 1, 20, "the doctor sees the node lost")
        assert "n3 is out-of-reach" in command.run("doctor", "front").out
        rows = command.json("demo", "status", *state)
        assert [row["state"] for row in rows] == ["on", "on", "partitioned"]
    finally:
        command("demo", "heal", "n3", *state)
    eventually(lambda: command.run("doctor", "front").code == 0, 30, "the node is back")


def test_the_status_counts_nodes_and_domains(cluster: RealCluster, command: Command, make: Make) -> None:
    make("counted", start=True)
    status = command.json("status")
    assert (status["nodes"], status["nodes_up"]) == (3, 3)
    assert (status["domains"], status["running"]) == (1, 1)
    assert command("status").startswith("cluster: ")
