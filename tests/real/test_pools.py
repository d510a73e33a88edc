"""Pools of the cluster on real nodes: adopted, in the way, missed by a node that was away; errors in every part."""

from __future__ import annotations

import re
import shutil
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from clusterhost.demo import cluster as demo
from tests.real.test_same_errors import NOBODY, outcome
from tests.support.command import Command
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

NAME = "blue"
HOME = f"/var/lib/libvirt/{NAME}"
UUID = str(uuids.UUID(int=0x11112222333344448888999900001111))
DIR = f"<pool type='dir'><name>{NAME}</name><uuid>{UUID}</uuid><target><path>{{}}</path></target></pool>"
NAMELESS = "<pool type='dir'><target><path>/x</path></target></pool>"
NO_BACKEND = "<pool type='rbd'><name>x</name><source><host name='h'/><name>p</name></source></pool>"

Act = Callable[[libvirt.virConnect, libvirt.virStoragePool], object]
ACTS: dict[str, Act] = {
    "lookupByName": lambda c, p: c.storagePoolLookupByName("nobody"),
    "lookupByUUID": lambda c, p: c.storagePoolLookupByUUIDString(NOBODY),
    "lookupByTarget": lambda c, p: c.storagePoolLookupByTargetPath("/nowhere"),
    "lookupByTarget, inactive": lambda c, p: c.storagePoolLookupByTargetPath(HOME + "/"),
    "define flags": lambda c, p: c.storagePoolDefineXML(NAMELESS, 64),
    "define without backend": lambda c, p: c.storagePoolDefineXML(NO_BACKEND),
    "define another uuid": lambda c, p: c.storagePoolDefineXML(
        DIR.format(f"{HOME}-2").replace("11112222", "11112223")
    ),
    "create flags": lambda c, p: c.storagePoolCreateXML(NAMELESS, 64),
    "list flags": lambda c, p: c.listAllStoragePools(1 << 25),
    "capabilities flags": lambda c, p: c.getStoragePoolCapabilities(4),
    "sources flags": lambda c, p: c.findStoragePoolSources("dir", None, 4),
    "sources of an unknown type": lambda c, p: c.findStoragePoolSources("foo", None),
    "XML flags": lambda c, p: p.XMLDesc(64),
    "refresh flags": lambda c, p: p.refresh(64),
    "refresh": lambda c, p: p.refresh(),
    "destroy": lambda c, p: p.destroy(),
    "start flags": lambda c, p: p.create(64),
    "start": lambda c, p: p.create(),
    "start both": lambda c, p: p.create(6),
    "build flags": lambda c, p: p.build(64),
    "build both": lambda c, p: p.build(12),
    "delete flags": lambda c, p: p.delete(64),
    "delete": lambda c, p: p.delete(),
    "undefine": lambda c, p: p.undefine(),
    "of a pool that is gone": lambda c, p: p.info(),
    "autostart of a pool that is gone": lambda c, p: p.setAutostart(1),
    "start of a pool that is gone": lambda c, p: p.create(),
}


@pytest.fixture
def blue(cluster: RealCluster) -> Iterator[None]:
    """Whatever there is of pool blue is gone after the test."""
    yield
    for virsh in (cluster.virsh, *map(cluster.node, cluster.nodes)):
        virsh.run("pool-destroy", NAME)
        virsh.run("pool-undefine", NAME)
    for node in cluster.nodes:
        for path in (HOME, f"{HOME}-2"):
            shutil.rmtree(below(cluster, node, path), ignore_errors=True)


def below(cluster: RealCluster, node: str, path: str) -> Path:
    """Where the host sees a directory that a node has below /var/lib/libvirt."""
    return cluster.state / "nodes" / node / "lib" / Path(path).name


def define(virsh_file: Path, path: str = HOME) -> str:
    """A document in a file."""
    virsh_file.write_text(DIR.format(path))
    return str(virsh_file)


def having(cluster: RealCluster, *flags: str) -> list[str]:
    """Nodes whose own libvirtd lists it."""
    return [
        node for node in cluster.nodes if NAME in cluster.node(node)("pool-list", "--name", *flags).split()
    ]


def nodes(command: Command) -> dict[str, dict[str, object]]:
    """What `clusterhost pool show` says of each node."""
    return {row["node"]: row for row in command.json("pool", "show", NAME)["nodes"]}


def test_every_node_has_the_default_pool_and_the_endpoint_adds_its_room(cluster: RealCluster) -> None:
    connection = libvirt.open(cluster.endpoint)
    try:
        pool = connection.storagePoolLookupByTargetPath("/var/lib/libvirt/images")
        assert (pool.name(), pool.isActive(), pool.autostart(), pool.isPersistent()) == ("default", 1, 1, 1)
        state, capacity, _, _ = pool.info()
        assert state == libvirt.VIR_STORAGE_POOL_RUNNING
        rooms = []
        for node in cluster.nodes:
            own = libvirt.open(cluster.node_uri(node))
            found = own.storagePoolLookupByName("default")
            assert (found.isActive(), found.autostart()) == (1, 1)
            rooms.append(found.info()[1])
            own.close()
        assert capacity == sum(rooms)
    finally:
        connection.close()


@pytest.mark.usefixtures("blue")
def test_the_whole_error_of_a_call_about_pools_is_a_nodes(cluster: RealCluster) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    told = []
    for uri in (cluster.node_uri("n1"), cluster.endpoint):
        connection = libvirt.open(uri)
        pool = connection.storagePoolDefineXML(DIR.format(HOME))
        told.append({name: outcome(act, connection, pool) for name, act in ACTS.items()})
        connection.close()
    wrong = [
        f"{name}: {told[0][name]} at the node, {told[1][name]}"
        for name in ACTS
        if told[0][name] != told[1][name]
    ]
    assert not wrong, "\n".join(wrong)
    assert told[0]["undefine"] == "no error" != told[0]["start"]


@pytest.mark.usefixtures("blue")
def test_a_nodes_own_pool_of_the_same_place_is_adopted_and_outlives_the_clusters(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    cluster.node("n2")("pool-create-as", NAME, "dir", "--target", HOME, "--build")
    own = cluster.node("n2")("pool-uuid", NAME)
    cluster.virsh("pool-create", define(tmp_path / "blue.xml"), "--build")
    found = nodes(command)
    assert {node: (row["ok"], row["active"], row["whose"]) for node, row in found.items()} == {
        "n1": (True, True, "cluster"),
        "n2": (True, True, "node"),
        "n3": (True, True, "cluster"),
    }
    assert cluster.node("n2")("pool-uuid", NAME) == own != UUID
    cluster.virsh("pool-destroy", NAME)
    assert having(cluster, "--all") == []  # all three were transient
    cluster.node("n2")("pool-define-as", NAME, "dir", "--target", HOME)
    cluster.virsh("pool-define", define(tmp_path / "blue.xml"))
    cluster.virsh("pool-start", NAME)
    assert having(cluster) == ["n1", "n2", "n3"]
    cluster.virsh("pool-destroy", NAME)
    cluster.virsh("pool-undefine", NAME)
    assert having(cluster, "--all") == ["n2"]


@pytest.mark.usefixtures("blue")
def test_another_pool_of_the_same_name_on_a_node_refuses_a_new_one(
    cluster: RealCluster, tmp_path: Path
) -> None:
    cluster.node("n3")("pool-define-as", NAME, "dir", "--target", f"{HOME}-2")
    refusal = cluster.virsh.fails("pool-define", define(tmp_path / "blue.xml"))
    assert f"node n3 has a pool '{NAME}' of its own: target {HOME}-2, not {HOME}" in refusal
    assert having(cluster, "--all") == ["n3"]
    assert cluster.virsh.run("pool-info", NAME).code == 1


@pytest.mark.usefixtures("blue")
def test_a_node_that_cannot_is_named_and_told_again(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    below(cluster, "n3", HOME).write_text("a file where a directory should be")
    try:
        cluster.virsh("pool-define", define(tmp_path / "blue.xml"))
        cluster.virsh("pool-build", NAME)
        cluster.virsh("pool-start", NAME)
        assert having(cluster) == ["n1", "n2"]
        row = nodes(command)["n3"]
        assert not row["ok"]
        assert HOME in str(row["reason"])
        listed = next(row for row in command.json("pool", "list") if row["name"] == NAME)
        assert (listed["nodes_ok"], listed["nodes_all"]) == (2, 3)
    finally:
        below(cluster, "n3", HOME).unlink()
    eventually(lambda: having(cluster) == ["n1", "n2", "n3"], 30, "n3 has it too")
    assert below(cluster, "n3", HOME).is_dir()


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("blue")
def test_what_a_node_missed_it_hears_when_its_agent_is_back(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    cluster.virsh("pool-create", define(tmp_path / "blue.xml"), "--build")
    (below(cluster, "n3", HOME) / "disk").write_text("nobody deletes this")
    demo.stop_service(cluster.state, "n3", "agent")
    try:
        eventually(lambda: command.node("n3")["link"] != "up", 30, "n3 is away")
        cluster.virsh("pool-destroy", NAME)
        assert having(cluster) == ["n3"]
        cluster.virsh("pool-define", define(tmp_path / "blue.xml", f"{HOME}-2"))
        cluster.virsh("pool-start", NAME, "--build")
    finally:
        demo.start_service(cluster.state, "n3", "agent")
    eventually(lambda: command.node("n3")["link"] == "up", 30, "n3 is back")
    eventually(lambda: below(cluster, "n3", f"{HOME}-2").is_dir(), 30, "n3 has built the new one")
    eventually(lambda: nodes(command)["n3"]["ok"], 30, "n3 has it")
    assert f"{HOME}-2" in cluster.node("n3")("pool-dumpxml", NAME)
    assert (below(cluster, "n3", HOME) / "disk").exists()


@pytest.mark.usefixtures("blue")
def test_pools_are_there_after_the_front_end_was_killed(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    cluster.virsh("pool-define", define(tmp_path / "blue.xml"))
    cluster.virsh("pool-build", NAME)
    cluster.virsh("pool-start", NAME)
    demo.restart_front(cluster.state)
    assert NAME in cluster.virsh("pool-list", "--name").split()
    assert cluster.virsh("pool-uuid", NAME) == UUID
    eventually(lambda: all(row["ok"] for row in nodes(command).values()), 30, "all nodes have spoken")
    cluster.virsh("pool-refresh", NAME)


@pytest.mark.usefixtures("blue")
def test_a_directory_that_every_node_sees_is_found_and_said_to_be_one_place(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    where = cluster.state / "shared" / NAME
    where.mkdir()
    whole = libvirt.open(cluster.endpoint)

    def seen() -> tuple[object, object, int, list[str], int]:
        """Its kind, how that is known, its room, its volumes and how many marks there are."""
        shown, pool = command.json("pool", "show", NAME), whole.storagePoolLookupByName(NAME)
        volumes = [volume.name() for volume in pool.listAllVolumes()]
        marks = list(where.glob(".clusterhost-shared-*"))
        return shown["kind"], shown["place"], pool.info()[1], volumes, len(marks)

    try:
        cluster.virsh("pool-create", define(tmp_path / "blue.xml", str(where)))
        (where / "disk").write_bytes(bytes(4096))
        cluster.virsh("pool-refresh", NAME)
        room = seen()[2]
        assert seen() == ("shared", "found to be one place", room, ["disk"], 1)
        assert all(row["ok"] for row in nodes(command).values())
        command("pool", "set", NAME, "--local")
        cluster.virsh("pool-refresh", NAME)
        eventually(lambda: seen()[3] == ["disk"], 10, "nodes have read it")
        assert seen() == ("local", "said to be one on each node", room * len(cluster.nodes), ["disk"], 0)
        command("pool", "set", NAME, "--shared")
        assert seen() == ("shared", "said to be one place", room, ["disk"], 1)
        command("pool", "set", NAME, "--local")
        assert list(where.iterdir()) == [where / "disk"]
    finally:
        whole.close()
        cluster.virsh("pool-destroy", NAME)
        shutil.rmtree(where)


@pytest.mark.usefixtures("blue")
def test_directories_of_nodes_are_not_one_place(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    cluster.virsh("pool-create", define(tmp_path / "blue.xml"), "--build")
    code, text = command.fails("pool", "set", NAME, "--shared")
    assert code == 1
    assert re.search(rf"node n\d does not see the file {HOME}/\.clusterhost-shared-", text)
    assert [list(below(cluster, node, HOME).iterdir()) for node in cluster.nodes] == [[], [], []]
    assert command.json("pool", "show", NAME)["kind"] == "local"


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("blue")
def test_a_node_that_does_not_see_a_shared_place_is_left_out(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    where = cluster.state / "shared" / NAME
    where.mkdir()
    try:
        cluster.virsh("pool-define", define(tmp_path / "blue.xml", str(where)))
        cluster.virsh("pool-start", NAME)
        command("pool", "set", NAME, "--shared")
        mark = next(where.glob(".clusterhost-shared-*"))
        mark.rename(where / "hidden")
        demo.kill_service(cluster.state, "n2", "agent")
        eventually(
            lambda: not nodes(command)["n2"]["ok"] and command.node("n2")["link"] == "up", 30, "n2 is asked"
        )
        assert "does not see the file" in str(nodes(command)["n2"]["reason"])
        assert [row["active"] for row in nodes(command).values()] == [True, False, True]
        (where / "hidden").rename(mark)
        eventually(lambda: nodes(command)["n2"]["ok"], 30, "n2 sees it")
    finally:
        cluster.virsh("pool-destroy", NAME)
        cluster.virsh("pool-undefine", NAME)
        shutil.rmtree(where)


def test_a_nodes_view_says_that_it_has_no_events_of_pools(cluster: RealCluster) -> None:
    refusal = cluster.view("n1").fails("pool-event", "--event", "lifecycle", "--timeout", "1")
    assert "not supported by the connection driver" in refusal
    assert "default" in cluster.view("n1")("pool-list", "--name").split()
