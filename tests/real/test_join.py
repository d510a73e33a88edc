"""Shown by 10: a machine with only sshd and libvirtd joins, works, is drained and leaves; tokens of agents."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.control import keys
from clusterhost.demo import cluster as demo
from clusterhost.demo import machines
from clusterhost.demo.layout import FRONT_ADDRESS, layout
from clusterhost.demo.processes import machine_init
from tests.support.command import Command
from tests.support.guest import Console
from tests.support.stock import EventLog, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

ADDRESS = "10.111.0.14"


@pytest.fixture(scope="module")
def command(cluster: RealCluster) -> Command:
    return Command(cluster.state / "front" / "clusterhost.toml")


@pytest.fixture(scope="module")
def machine(cluster: RealCluster) -> Iterator[str]:
    """n4, which only its name in /etc/hosts joins with the cluster; its URI over ssh."""
    uri = demo.add_bare_node(cluster.state, "n4")
    yield uri
    demo.remove_node(cluster.state, "n4")


@pytest.fixture
def member(command: Command, machine: str) -> Iterator[str]:
    """n4 as a node whose agent runs beside the front end."""
    command("node", "add", "n4", "--uri", machine, "--migration-address", ADDRESS)
    try:
        eventually(lambda: command.node("n4")["link"] == "up", 20, "n4 is up")
        yield "n4"
    finally:
        command.run("node", "remove", "n4", "--force")


@pytest.fixture
def visitor(cluster: RealCluster, member: str, tmp_path: Path) -> Iterator[str]:
    """A domain that is defined on n4."""
    cluster.view("n4").define(cluster.xml("visitor"), tmp_path)
    yield "visitor"
    cluster.remove("visitor")


def agents_beside(cluster: RealCluster, name: str) -> list[int]:
    """Processes that are the agent of that node beside the front end."""
    return processes_with(f"{cluster.state}/front/state/agents/{name}/agent.toml")


def processes_with(text: str) -> list[int]:
    """Processes with this in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_login_there_reads_nothing_of_the_root_of_this_machine(cluster: RealCluster, machine: str) -> None:
    """A ~/.bashrc that waits for something would hold up every connection by ssh."""
    front = machine_init(cluster.state, layout(cluster.state).front)
    words = ("ssh", "-o", "BatchMode=yes", "root@n4", 'echo "$HOME $0"; ls -A "$HOME"')
    inside = ("nsenter", "-t", str(front), "-n", "-m", "-u")
    done = subprocess.run([*inside, *words], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == [str(cluster.state / "nodes" / "n4" / "home"), "sh"]


@pytest.mark.timeout(120)
def test_a_machine_with_only_sshd_and_libvirtd_joins_and_runs_a_domain(
    cluster: RealCluster,
    command: Command,
    member: str,
    visitor: str,
    events: Callable[[str], EventLog],
) -> None:
    shown = command.json("node", "show", "n4")
    assert shown["agent_uri"] == "qemu+ssh://root@n4/system"
    assert (shown["has_files"], shown["hostname"], shown["migration_address"]) == (False, "n4", ADDRESS)
    cells = re.findall(r"^ *(\d+):", cluster.virsh("freecell", "--all"), re.MULTILINE)
    assert cells == ["0", "1", "2", str(shown["cell"])]
    assert shown["cell"] < 20

    log = events(cluster.endpoint)
    cluster.virsh("start", visitor)
    assert command("domain", "where", visitor) == "n4"
    assert cluster.node("n4").names() == {visitor}
    log.until(r"'lifecycle' for domain '?visitor'?: Started")
    with Console(cluster.endpoint, visitor) as console:
        before = console.count()
        assert console.run("echo $((6 * 7))") == "42"

    command("domain", "move", visitor, "--to", "n1")
    assert cluster.node("n1").names() == {visitor}
    assert cluster.node("n4").names("--all") == set()
    words = ("migrate", "--live", visitor, cluster.view_uri("n4"), "--persistent", "--undefinesource")
    cluster.view("n1")(*words)
    assert command("domain", "where", visitor) == "n4"
    with Console(cluster.endpoint, visitor) as console:
        assert console.count() > before


@pytest.mark.timeout(120)
def test_a_machine_with_only_sshd_and_libvirtd_is_drained_and_leaves(
    cluster: RealCluster, command: Command, member: str, visitor: str
) -> None:
    cluster.virsh("start", visitor)
    number = cluster.virsh("domid", visitor)
    with Console(cluster.endpoint, visitor) as console:
        before = console.count()
    drained = command.run("node", "drain", "n4")
    assert drained.code == 0, drained.err
    assert re.search(r"visitor: \d+ of \d+ MiB|visitor runs on n[123]", drained.err)
    assert command("domain", "where", visitor) in cluster.nodes
    assert cluster.virsh("domid", visitor) == number
    with Console(cluster.endpoint, visitor) as console:
        assert console.count() > before
    assert (command.node("n4")["admin"], command.node("n4")["domains"]) == ("disabled", 0)

    assert len(agents_beside(cluster, "n4")) == 1
    command("node", "remove", "n4")
    assert agents_beside(cluster, "n4") == []
    assert not (cluster.state / "front" / "state" / "agents" / "n4").exists()
    assert command.node("n4") == {}
    assert cluster.node("n4").names("--all") == set()
    assert "running" in cluster.virsh("domstate", visitor)
    code, text = command.fails("node", "show", "n4")
    assert (code, text) == (3, "error: no node named 'n4'; known: n1, n2, n3")


@pytest.mark.timeout(120)
def test_a_node_that_is_removed_by_force_gets_its_autostart_back(
    cluster: RealCluster, command: Command, machine: str, tmp_path: Path
) -> None:
    own = cluster.node("n4")
    own.define(cluster.xml("resident"), tmp_path)
    own("autostart", "resident")
    try:
        command("node", "add", "n4", "--uri", machine, "--migration-address", ADDRESS)
        eventually(lambda: "resident" in cluster.virsh.names("--all"), 20, "what was there is adopted")
        eventually(lambda: autostart(own) == "disable", 10, "its libvirtd no longer starts it by itself")
        assert autostart(cluster.virsh) == "enable"
        code, text = command.fails("node", "remove", "n4")
        assert (code, text) == (1, "error: node n4 has 1 domains (resident): drain it first")
        command("node", "remove", "n4", "--force")
        assert autostart(own) == "enable"
        assert "resident" not in cluster.virsh.names("--all")
    finally:
        command.run("node", "remove", "n4", "--force")
        own.run("undefine", "resident")


def autostart(virsh: Callable[..., str]) -> str:
    """What dominfo says of it."""
    return re.findall(r"^Autostart:\s+(\w+)$", virsh("dominfo", "resident"), re.MULTILINE)[0]


@pytest.mark.timeout(120)
def test_a_managed_save_is_not_lost_on_a_node_whose_files_nobody_can_read(
    cluster: RealCluster, command: Command, member: str, tmp_path: Path
) -> None:
    cluster.view("n4").define(cluster.xml("asleep"), tmp_path)
    try:
        cluster.virsh("start", "asleep")
        cluster.virsh("managedsave", "asleep")
        code, text = command.fails("node", "drain", "n4")
        assert code == 1
        assert text.startswith("error: 1 of 1 domains stay on node n4: asleep: ")
        assert "managed save" in text
        assert command.node("n4")["admin"] == "draining"
        assert "yes" in re.findall(r"Managed save:.*", cluster.node("n4")("dominfo", "asleep"))[0]
    finally:
        cluster.remove("asleep")


@pytest.mark.timeout(120)
def test_a_node_over_ssh_that_falls_silent_is_noticed_and_comes_back(
    cluster: RealCluster, command: Command, member: str, tmp_path: Path
) -> None:
    cluster.view("n4").define(cluster.xml("far"), tmp_path)
    try:
        cluster.virsh("start", "far")
        demo.partition(cluster.state, "n4")
        try:
            eventually(lambda: command.node("n4")["link"] == "libvirtd-down", 10, "it is noticed")
            assert "far" in cluster.virsh.names()
            assert "node n4 has no libvirtd that answers since" in cluster.virsh.fails("suspend", "far")
            code, text = command.fails("domain", "move", "far", "--to", "n1")
            assert (code, text[:46]) == (5, "error: node n4 has no libvirtd that answers si")
        finally:
            demo.heal(cluster.state, "n4")
        eventually(lambda: command.node("n4")["link"] == "up", 40, "it is back")
        command("domain", "move", "far", "--to", "n1")
        assert cluster.running_on("far") == ["n1"]
    finally:
        cluster.remove("far")


@pytest.mark.timeout(60)
def test_an_address_where_nobody_listens_is_told_in_sshs_words(
    cluster: RealCluster, command: Command, machine: str
) -> None:
    command("node", "add", "n4", "--uri", "qemu+ssh://root@n4:2222/system")
    try:
        eventually(lambda: command.node("n4")["link"] == "libvirtd-down", 20, "it is told")
        eventually(lambda: "Connection refused" in command.node("n4")["reason"], 10, "with the reason")
        assert "ssh to n4 ended: ssh: connect to host n4" in command.node("n4")["reason"]
    finally:
        command("node", "remove", "n4")


# ---- agents with tokens -------------------------------------------------------------------------------------


@dataclass
class RunningAgent:
    """`clusterhost agent` on n4 with a state of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it, if it has not ended by itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


class Agents:
    """start("a", node="n4", token=...) runs one on the machine n4; all are ended after the test."""

    def __init__(self, state: Path, tmp_path: Path) -> None:
        self._layout = layout(state)
        self._tmp_path = tmp_path
        self._started: list[RunningAgent] = []

    @property
    def server_key(self) -> str:
        return keys.load(self._layout.front / "state" / "control.key").public

    def start(self, label: str, **settings: str) -> RunningAgent:
        directory = self._tmp_path / label
        directory.mkdir(exist_ok=True)
        settings = {
            "uri": "qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
            "control": f"tcp://{FRONT_ADDRESS}:16600",
            "bulk": f"tcp://{FRONT_ADDRESS}:16601",
            "state_dir": str(directory),
            "peer_dir": str(directory / "peers"),
            **settings,
        }
        config = directory / "agent.toml"
        config.write_text("[agent]\n" + "".join(f"{key} = '{value}'\n" for key, value in settings.items()))
        init = next(fact.pid for fact in demo.status(self._layout.state) if fact.name == "n4")
        inside = ("nsenter", "-t", str(init), "-n", "-m", "-u")
        log = directory / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*inside, sys.executable, "-m", "clusterhost", "agent", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **machines.environment(self._layout)},
            )
        self._started.append(RunningAgent(process, log))
        return self._started[-1]

    def close(self) -> None:
        for agent in self._started:
            agent.stop()
        # The DHCP servers of its networks outlive an agent, and here the machine, whose links alone they were in.
        for pid in processes_with(f"--conf-file={self._tmp_path}/"):
            os.kill(pid, signal.SIGTERM)


@pytest.fixture
def agents(cluster: RealCluster, machine: str, tmp_path: Path) -> Iterator[Agents]:
    made = Agents(cluster.state, tmp_path)
    yield made
    made.close()


@pytest.fixture
def joined(command: Command, agents: Agents) -> Iterator[tuple[RunningAgent, str]]:
    """n4 with an agent of its own, and the token that it used."""
    token = command("node", "add", "n4", "--migration-address", ADDRESS)
    agent = agents.start("first", node="n4", token=token)
    try:
        eventually(lambda: command.node("n4")["link"] == "up", 20, "it has joined")
    except AssertionError as error:
        error.add_note(agent.said())
        command.run("node", "remove", "n4", "--force")
        raise
    yield agent, token
    command.run("node", "remove", "n4", "--force")


@pytest.mark.timeout(90)
def test_a_token_lets_one_agent_in_once(
    cluster: RealCluster, command: Command, agents: Agents, joined: tuple[RunningAgent, str]
) -> None:
    first, token = joined
    second = agents.start("second", node="n4", token=token)
    eventually(lambda: "the join token was already used or withdrawn" in second.said(), 15, "it is refused")
    refused = command.json("node", "show", "n4")["refused"]
    assert len(refused) == 1
    assert f"a connection from {ADDRESS}: its join token was already used or withdrawn" in refused[0]
    assert command.node("n4")["link"] == "up"
    code, text = command.fails("node", "add", "n4")
    assert (code, text) == (2, "error: node n4 is in the cluster already")

    # The one that joined has its own key now: it needs no token to come back.
    first.stop()
    second.stop()
    eventually(lambda: command.node("n4")["link"] == "out-of-reach", 10, "it is gone")
    agents.start("first", node="n4", server_key=agents.server_key)
    eventually(lambda: command.node("n4")["link"] == "up", 10, "it is back")


@pytest.mark.timeout(90)
def test_an_agent_cannot_take_the_name_of_another_node(
    command: Command, agents: Agents, joined: tuple[RunningAgent, str]
) -> None:
    token = command("node", "add", "n5")
    try:
        thief = agents.start("thief", node="n2", token=token)
        text = "its key is for node n5, not for node n2"
        eventually(lambda: text in thief.said(), 15, "its token is refused")
        assert text in command.json("node", "show", "n2")["refused"][-1]
        assert command.node("n2")["link"] == "up"
        thief.stop()
        assert command.node("n5")["link"] == "never-connected"

        first, _ = joined
        first.stop()
        liar = agents.start("first", node="n1", server_key=agents.server_key)
        text = "its key is that of node n4, not of node n1"
        eventually(lambda: text in liar.said(), 15, "its key is refused")
        assert text in command.json("node", "show", "n1")["refused"][-1]
        assert command.node("n1")["link"] == "up"
    finally:
        command("node", "remove", "n5")


@pytest.mark.timeout(90)
def test_a_wrong_key_is_refused_and_told_on_both_sides(command: Command, agents: Agents) -> None:
    stranger = agents.start("stranger", node="n1", server_key=agents.server_key)
    eventually(lambda: "the front end refused this agent's key" in stranger.said(), 15, "it is refused")
    refused = command.json("status")["refused"]
    assert f"a connection from {ADDRESS}: its key is not known" in refused[-1]

    lost = agents.start("lost", node="n1", server_key=keys.new_pair().public)
    eventually(lambda: "no connection to the front end" in lost.said(), 15, "it trusts no other front end")

    broken = agents.start("broken", node="n1", token="AAAA")
    assert broken.process.wait(10) == 1
    assert broken.said().splitlines()[-1].startswith("error: ")
    assert "join token" in broken.said()
    assert command.node("n1")["link"] == "up"


@pytest.mark.timeout(60)
def test_the_agent_beside_the_front_end_ends_and_returns_with_it(
    cluster: RealCluster, command: Command, member: str
) -> None:
    before = agents_beside(cluster, "n4")
    assert len(before) == 1
    pid = demo.service_pid(cluster.state, "front", "front-end")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: not set(before) & set(agents_beside(cluster, "n4")), 10, "the agent ends with its front end"
    )
    eventually(lambda: cluster.virsh.run("uri").code == 0, 20, "the front end answers again")
    eventually(lambda: command.node("n4").get("link") == "up", 20, "n4 is back")
    eventually(
        lambda: all(command.node(node)["link"] == "up" for node in cluster.nodes), 20, "all nodes are back"
    )
    assert len(agents_beside(cluster, "n4")) == 1
