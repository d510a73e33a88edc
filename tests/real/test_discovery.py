"""Shown by 5: DNS tells agents where the front end is, and people where the cluster is; BIND with TSIG."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.control import keys
from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import FRONT, FRONT_ADDRESS, layout, node_address
from clusterhost.demo.processes import machine_init
from tests.support.bind import FORWARD, Bind, needs_bind
from tests.support.command import Command
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = [needs_bind, pytest.mark.timeout(240)]

SETTINGS = """
[names]
server = "{server}"
port = {port}
key_file = "{key}"
zones = "cluster.test"
domain = "cluster.test"
hosts = "first.cluster.test second.cluster.test"
resync = 1
"""
NODE = "n3"


def inside(cluster: RealCluster, machine: str) -> tuple[str, ...]:
    """Words in front of a command that is to run in a machine's network."""
    paths = layout(cluster.state)
    return "nsenter", "-t", str(machine_init(paths.state, paths.machine(machine))), "-n"


@pytest.fixture
def bind(cluster: RealCluster, tmp_path: Path) -> Iterator[Bind]:
    """A server that the machines of the demo reach; the front end tells it where it is while the test lasts."""
    server = Bind(tmp_path, zones=(FORWARD,), inside=inside(cluster, FRONT), address=FRONT_ADDRESS)
    config = layout(cluster.state).front / "clusterhost.toml"
    before = config.read_text()
    try:
        server.start()
        # Nobody listens at the first machine: a node is there.
        server.by_hand(
            f"update add first.{FORWARD} 5 A {node_address('n1')}",
            f"update add second.{FORWARD} 5 A {node_address('n2')}",
        )
        config.write_text(
            before + SETTINGS.format(server=FRONT_ADDRESS, port=server.port, key=server.key_file)
        )
        demo.restart_front(cluster.state)
        yield server
    finally:
        server.stop()
        config.write_text(before)
        demo.restart_front(cluster.state)


@pytest.fixture
def outsider(cluster: RealCluster, command: Command, bind: Bind) -> Iterator[Path]:
    """The configuration of a node's agent that is out of the cluster; its own again after the test."""
    directory = layout(cluster.state).machine(NODE)
    config = directory / "agent.toml"
    before = config.read_text()
    command("node", "remove", NODE)
    demo.stop_service(cluster.state, NODE, "agent")
    (directory / "agent" / "agent.key").unlink()
    yield config
    demo.stop_service(cluster.state, NODE, "agent")
    command.run("node", "remove", NODE)
    answer = command.json("node", "add", NODE, "--migration-address", node_address(NODE))
    (directory / "agent" / "agent.key").unlink(missing_ok=True)
    before = re.sub(r'token = ".*"', f'token = "{answer["token"]}"', before)
    config.write_text(before)
    demo.start_service(cluster.state, NODE, "agent")
    eventually(lambda: command.node(NODE).get("link") == "up", 30, f"{NODE} is back")


def test_an_agent_joins_and_stays_by_what_dns_says(
    cluster: RealCluster, command: Command, bind: Bind, outsider: Path
) -> None:
    srv = f"_clusterhost._tcp.{FORWARD}"
    eventually(lambda: bind.dig("SRV", srv, "+short").count("16600") == 2, 20, "the front end told DNS")
    answer = command.json("node", "add", NODE, "--migration-address", node_address(NODE))
    text = re.sub(r"(?m)^(control|bulk|token) = .*\n", "", outsider.read_text())
    nameserver = f'nameserver = "{FRONT_ADDRESS}:{bind.port}"\n'
    outsider.write_text(f'{text}{nameserver}token = "{answer["token"]}"\n')
    demo.start_service(cluster.state, NODE, "agent")
    log = layout(cluster.state).machine(NODE) / "log" / "agent.log"
    for wrong in ("n1", "n2"):
        dialled = f"no connection to the front end at tcp://{node_address(wrong)}:16600"
        eventually(lambda dialled=dialled: dialled in log.read_text(), 30, dialled)
    assert command.node(NODE)["link"] != "up"
    # The second machine is where the front end is, from now on.
    bind.by_hand(f"update delete second.{FORWARD} A", f"update add second.{FORWARD} 5 A {FRONT_ADDRESS}")
    eventually(lambda: command.node(NODE).get("link") == "up", 30, "it has joined")
    assert cluster.view(NODE)("hostname")
    # Its own key is known now: it needs no token any more.
    front = keys.read_token(answer["token"]).server_key
    outsider.write_text(f"{text}{nameserver}control = 'srv:cluster.test'\nserver_key = '{front}'\n")
    demo.stop_service(cluster.state, NODE, "agent")
    demo.start_service(cluster.state, NODE, "agent")
    eventually(lambda: command.node(NODE).get("link") == "up", 30, "it is back by its settings")
    demo.restart_front(cluster.state)
    eventually(lambda: command.node(NODE).get("link") == "up", 30, "it is back after the front end")


def test_people_are_told_the_uri_of_a_domain(cluster: RealCluster, bind: Bind) -> None:
    srv = f"_libvirt._tcp.{FORWARD}"
    eventually(lambda: bind.dig("SRV", srv, "+short").count(" 22 ") == 2, 20, "the front end told DNS")
    words = ["-m", "clusterhost", "endpoint", "--domain", "cluster.test"]
    words += ["--nameserver", f"{FRONT_ADDRESS}:{bind.port}"]

    def said(*more: str) -> list[str]:
        command = [*inside(cluster, "n1"), sys.executable, *words, *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert said() == ["qemu+ssh://first.cluster.test/system"]
    assert said("--all") == [f"qemu+ssh://{host}.cluster.test/system" for host in ("first", "second")]
    assert said("--transport", "tls") == ["qemu+tls://first.cluster.test:22/system"]
