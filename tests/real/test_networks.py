"""Shown by 1 to 4 of networks: real guests on three nodes share a network, move with it, and nodes heal it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import FRONT, FRONT_ADDRESS, layout, node_address
from clusterhost.demo.processes import kill
from tests.real.test_outages import whole_again
from tests.support.command import Command
from tests.support.guest import Console
from tests.support.packets import ACK, REQUEST, Watch, dhcp
from tests.support.realnets import ISOLATED, UDHCPC, Guests, Net, pings_lost, web_server
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

HEAL_SECONDS = 10


def test_guests_share_a_network_across_nodes(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, tmp_path: Path
) -> None:
    blue = network("blue", 1)
    where = {"b1": "n1", "b2": "n2", "b3": "n3", "b4": "n1"}
    addresses = {name: guests.start(node, name, blue) for name, node in where.items()}
    assert sorted(addresses.values()) == [f"10.77.1.{last}" for last in range(100, 104)]
    for name, address in addresses.items():
        guests.settled(name, address)
    for name, other in (("b1", "b2"), ("b2", "b3"), ("b3", "b1"), ("b4", "b1")):
        said = guests.run(name, f"ping -c 2 -W 2 {other}")
        assert f"PING {other} ({addresses[other]})" in said, said
        assert " 2 packets received" in said, said
    with web_server(blue, tmp_path, "from outside"):
        for name in ("b1", "b2"):
            said = guests.run(name, f"wget -q -O - http://{FRONT_ADDRESS}:8123/")
            assert said == "from outside"


def test_a_host_entry_takes_effect_without_disturbing_others(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, tmp_path: Path
) -> None:
    blue = network("blue", 1)
    servers = {node: blue.servers(node) for node in cluster.nodes}
    guests.settled("b1", guests.start("n1", "b1", blue))
    guests.run("b1", "ping -i 0.2 10.77.1.1 > /tmp/out 2>&1 & true")
    entry = "<host mac='52:54:00:77:01:01' name='fixed' ip='10.77.1.42'/>"
    cluster.virsh("net-update", "blue", "add", "ip-dhcp-host", entry, "--live", "--config")
    nic = "<mac address='52:54:00:77:01:01'/><source network='blue'/><model type='virtio'/>"
    nic = f"<interface type='network'>{nic}</interface>"
    cluster.place("n2", "b2", tmp_path, devices=nic)
    cluster.virsh("start", "b2")
    guests.settled("b2", "10.77.1.42")
    assert guests.reaches("b1", "fixed")
    cluster.virsh("net-update", "blue", "delete", "ip-dhcp-host", entry, "--live", "--config")
    said = guests.run("b1", "killall -INT ping; sleep 1; tail -3 /tmp/out")
    assert pings_lost(said) == 0, said
    assert {node: blue.servers(node) for node in cluster.nodes} == servers


def test_a_guest_that_moves_keeps_its_address_and_its_peers(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue = network("blue", 1)
    mover, other = guests.start("n1", "mover", blue), guests.start("n2", "other", blue)
    guests.settled("mover", mover)
    guests.settled("other", other)
    guests.run("mover", f"ping -i 0.1 {other} > /tmp/out 2>&1 & true")
    guests.run("other", f"ping -i 0.1 {mover} > /tmp/out 2>&1 & true")
    time.sleep(2)
    cluster.virsh("migrate", "--live", "--p2p", "mover", cluster.view_uri("n3"), seconds=90)
    assert cluster.running_on("mover") == ["n3"]
    time.sleep(3)
    for name in ("mover", "other"):
        said = guests.run(name, "killall -INT ping; sleep 1; tail -3 /tmp/out")
        print(name, said)
        assert pings_lost(said) <= 20, said
    assert f"inet {mover}/" in guests.run("mover", "ip -4 -o addr show dev eth0")
    demo.stop_service(cluster.state, FRONT, "front-end")
    try:
        with Console(cluster.node_uri("n3"), "mover") as console:
            with Watch(blue.init("n3"), dhcp, sent=True) as at_n3:
                console.run("killall -USR1 udhcpc")  # as if half of its time were over
                eventually(lambda: len(at_n3.seen) >= 2, 10, "an answer")
                assert [message.kind for message in at_n3.seen] == [REQUEST, ACK], at_n3.seen
            assert f"inet {mover}/" in console.run("ip -4 -o addr show dev eth0")
            assert f"lease of {mover} obtained from 10.77.1.1" in console.run(UDHCPC)
            assert " 2 packets received" in console.run(f"ping -c 2 -W 2 {other}")
    finally:
        demo.restart_front(cluster.state)
        whole_again(cluster)


def test_networks_do_not_see_each_other_and_an_isolated_one_ends_at_its_bridge(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue, red = network("blue", 1), network("red", 2, ISOLATED)
    there = guests.start("n1", "b1", blue)
    one, two = guests.start("n1", "r1", red), guests.start("n2", "r2", red)
    for name, address in (("b1", there), ("r1", one), ("r2", two)):
        guests.settled(name, address)
    assert guests.reaches("r1", two)
    assert guests.reaches("b1", FRONT_ADDRESS)
    assert not guests.reaches("r1", FRONT_ADDRESS)
    assert not guests.reaches("r1", there)
    assert not guests.reaches("b1", one)
    assert not guests.reaches("b1", two)


def numbers(net: Net, node: str) -> dict[str, list[int]]:
    """What is made anew has another one: index of a link, pid of a server, handle of a table."""
    links = json.loads(net.inside(node, "ip", "-j", "link"))
    tables = json.loads(net.inside(node, "nft", "-j", "list", "tables"))["nftables"]
    ours = [row["table"] for row in tables if row.get("table", {}).get("name") == f"clusterhost-{net.bridge}"]
    return {
        "break_bridge": [link["ifindex"] for link in links if link["ifname"] == net.bridge],
        "break_overlay": [link["ifindex"] for link in links if link["ifname"] == f"ch{net.vni:x}"],
        "break_server": net.servers(node),
        "break_tables": sorted(table["handle"] for table in ours),
    }


def break_bridge(net: Net, node: str) -> None:
    """Its guests' taps lose their bridge."""
    net.inside(node, "ip", "link", "del", net.bridge)


def break_overlay(net: Net, node: str) -> None:
    """Guests of other nodes are out of reach."""
    net.inside(node, "ip", "link", "del", f"ch{net.vni:x}")


def break_server(net: Net, node: str) -> None:
    """Nobody answers DHCP."""
    killed = net.servers(node)
    assert killed
    for pid in killed:
        kill(pid)
    eventually(lambda: not {*killed} & {*net.servers(node)}, 5, "they are dead")


def break_tables(net: Net, node: str) -> None:
    """No translation, and the gateway's ARP on the overlay."""
    for family in ("inet", "bridge"):
        net.inside(node, "nft", "delete", "table", family, f"clusterhost-{net.bridge}")


def test_what_is_broken_on_a_node_is_whole_within_ten_seconds(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue = network("blue", 1)
    one, two = guests.start("n1", "b1", blue), guests.start("n2", "b2", blue)
    guests.settled("b1", one)
    guests.settled("b2", two)
    for harm in (break_bridge, break_overlay, break_server, break_tables):
        before = numbers(blue, "n1")[harm.__name__]
        assert before
        harm(blue, "n1")  # on a slow machine it may be whole again before we could look
        began = time.monotonic()
        eventually(lambda: blue.whole("n1"), HEAL_SECONDS, f"whole after {harm.__name__}: {blue.left('n1')}")
        assert not {*before} & {*numbers(blue, "n1")[harm.__name__]}, "made anew"
        print(f"{harm.__name__}: whole after {time.monotonic() - began:.2f} s")
        eventually(lambda: guests.reaches("b1", two), HEAL_SECONDS, f"b2 from b1 after {harm.__name__}")
        assert guests.reaches("b2", one)
        assert f"lease of {one} obtained" in guests.run("b1", UDHCPC)
        assert guests.reaches("b1", FRONT_ADDRESS)


def test_guests_whose_bridge_went_while_no_agent_looked_are_plugged_in_again(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, command: Command
) -> None:
    blue = network("blue", 1)
    one, two = guests.start("n1", "b1", blue), guests.start("n2", "b2", blue)
    guests.settled("b1", one)
    guests.settled("b2", two)
    demo.stop_service(cluster.state, "n1", "agent")
    try:
        break_bridge(blue, "n1")
        time.sleep(2)
        assert not blue.whole("n1"), "nobody heals it"
    finally:
        demo.start_service(cluster.state, "n1", "agent")
    eventually(lambda: command.node("n1").get("link") == "up", 30, "n1 is back")
    eventually(lambda: blue.whole("n1"), HEAL_SECONDS, f"whole: {blue.left('n1')}")
    eventually(lambda: guests.reaches("b1", two), HEAL_SECONDS, "b2 from b1")


def test_a_front_end_killed_after_a_start_finds_its_networks(
    cluster: RealCluster, network: Callable[..., Net]
) -> None:
    blue = network("blue", 1)
    front = demo.service_pid(cluster.state, FRONT, "front-end")
    assert front is not None
    servers = {node: blue.servers(node) for node in cluster.nodes}
    demo.kill_service(cluster.state, FRONT, "front-end")
    demo.restart_front(cluster.state)
    assert "blue" in cluster.virsh("net-list", "--name").split()
    eventually(lambda: all(map(blue.whole, cluster.nodes)), 20, "blue on all nodes")
    assert {node: blue.servers(node) for node in cluster.nodes} == servers


def test_operators_see_what_nodes_have_and_who_has_which_address(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, command: Command
) -> None:
    blue = network("blue", 1)
    guests.start("n2", "b1", blue)
    (row,) = [row for row in command.json("network", "list") if row["name"] == "blue"]
    assert (row["nodes_ok"], row["nodes_all"], row["running"], row["reason"]) == (3, 3, 1, "")
    shown = command.json("network", "show", "blue")
    assert [(row["node"], row["ok"]) for row in shown["nodes"]] == [("n1", True), ("n2", True), ("n3", True)]
    command("network", "lease", "hold", "blue", "10.77.1.101")
    command("network", "lease", "reserve", "blue", "52:54:00:77:01:02", "10.77.1.120")
    assert guests.start("n1", "b2", blue) == "10.77.1.102", "what is held is nobody's"
    command("network", "lease", "release", "blue", "10.77.1.101")
    rows = [
        (row["address"], row["name"], row["state"])
        for row in command.json("network", "lease", "list", "blue")
    ]
    assert rows == [
        ("10.77.1.100", "b1", "bound"),
        ("10.77.1.102", "b2", "bound"),
        ("10.77.1.120", "", "reserved"),
    ]
    assert "is bound to b1" in command.fails("network", "lease", "release", "blue", "10.77.1.100")[1]


OWN = """<network><name>blue</name><forward mode='nat'/><bridge name='br-blue'/>
<ip address='192.168.77.1' netmask='255.255.255.0'/></network>"""


def said_of(command: Command, network: str, node: str) -> str:
    """Why a node does not have a network; "" when it has."""
    rows = command.json("network", "show", network)["nodes"]
    return next(row["reason"] for row in rows if row["node"] == node)


def leave(cluster: RealCluster, command: Command, node: str) -> None:
    """Out of the cluster; its agent ends."""
    command("node", "remove", node)
    demo.stop_service(cluster.state, node, "agent")


def join(cluster: RealCluster, command: Command, node: str, *options: str) -> None:
    """Into the cluster with a new key."""
    address = node_address(node)
    answer = command.json("node", "add", node, "--migration-address", address, *options)
    directory = layout(cluster.state).machine(node)
    (directory / "agent" / "agent.key").unlink()
    config = directory / "agent.toml"
    config.write_text(re.sub(r'token = ".*"', f'token = "{answer["token"]}"', config.read_text()))
    demo.start_service(cluster.state, node, "agent")
    eventually(lambda: command.node(node).get("link") == "up", 20, f"{node} is back")
    assert command.node(node)["cell"] == cluster.nodes.index(node), "CPU numbers in definitions mean it again"


def test_a_node_with_a_network_of_that_name_says_so_or_lends_it(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, command: Command, tmp_path: Path
) -> None:
    blue = network("blue", 1)
    own = cluster.node("n3")
    leave(cluster, command, "n3")
    assert blue.lacks("n3"), blue.left("n3")
    (tmp_path / "own.xml").write_text(OWN)
    own("net-define", str(tmp_path / "own.xml"))
    own("net-start", "blue")
    own("net-autostart", "blue")
    before = own("net-dumpxml", "blue", "--inactive")
    try:
        join(cluster, command, "n3")
        eventually(lambda: "answered" not in said_of(command, "blue", "n3"), 10, "n3 has answered")
        assert said_of(command, "blue", "n1") == ""
        assert re.search("without our mark|of its own", said_of(command, "blue", "n3")), said_of(
            command, "blue", "n3"
        )
        cluster.virsh.define(cluster.xml("b1", network="blue"), tmp_path)
        said = command.json("placement", "explain", "b1")["reasons"]
        assert [reason["ok"] for reason in said if reason["node"] == "n3"] == [False], said
        assert own("net-dumpxml", "blue", "--inactive") == before
        leave(cluster, command, "n3")
        assert own("net-dumpxml", "blue", "--inactive") == before
        join(cluster, command, "n3", "--take-over")
        eventually(lambda: blue.whole("n3"), 10, f"blue on n3: {blue.left('n3')}")
        guests.settled("b3", guests.start("n3", "b3", blue))
        cluster.remove("b3")
        leave(cluster, command, "n3")
        assert own("net-dumpxml", "blue", "--inactive") == before
        assert "yes" in own("net-info", "blue")
        assert own("net-list", "--name", "--autostart").split() == ["blue"]
    finally:
        own.run("net-destroy", "blue")
        own.run("net-undefine", "blue")
    join(cluster, command, "n3")
    eventually(lambda: blue.whole("n3"), 10, f"blue on n3: {blue.left('n3')}")
