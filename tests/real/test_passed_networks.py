"""Networks that are passed to nodes: bridges and links that nodes have, under other names, and guests that move."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import FRONT, layout
from clusterhost.demo.processes import machine_init
from tests.support.command import Command
from tests.support.guest import Console
from tests.support.realnets import Guests
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

HEAL_SECONDS = 10
BRIDGED = "<forward mode='bridge'/><bridge name='br-lan'/>"
MACVTAP = "<forward dev='wan' mode='bridge'><interface dev='wan'/></forward>"
NIC = """<interface type='network'><mac address='02:00:0a:09:08:{:02x}'/>
<source network='{}'/><model type='virtio'/></interface>"""


class Site:
    """Networks and links of nodes that a test makes and that go with it."""

    def __init__(self, cluster: RealCluster, command: Command, tmp_path: Path) -> None:
        self.cluster = cluster
        self._command = command
        self._tmp_path = tmp_path
        self._links: list[tuple[str, str]] = []
        self._networks: list[tuple[str, str]] = []
        self._mapped: list[tuple[str, str]] = []

    def inside(self, node: str, words: str, *, check: bool = True) -> str:
        """Run a command in the node's network."""
        command = ["nsenter", "-t", str(self._init(node)), "-n", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert not check or done.returncode == 0, f"{words} on {node}: {done.stderr}"
        return done.stdout

    def bridge(self, node: str, name: str) -> None:
        """A bridge that is the node's own."""
        self._links.append((node, name))
        self.inside(node, f"ip link add {name} type bridge")
        self.inside(node, f"ip link set {name} up")

    def cable(self, one: str, name: str, other: str, its: str) -> None:
        """A cable from the one node's link `name` to the other's `its`."""
        self._links.append((one, name))
        self.inside(one, f"ip link add {name} type veth peer name {its}x")
        self.inside(one, f"ip link set {its}x netns {self._init(other)}")
        self.inside(other, f"ip link set {its}x name {its} up")
        self.inside(one, f"ip link set {name} up")

    def plug(self, node: str, link: str, bridge: str) -> None:
        """Make a link a port of a bridge."""
        self.inside(node, f"ip link set {link} master {bridge}")

    def document(self, name: str, body: str) -> str:
        """Path of a file with the network's document."""
        path = self._tmp_path / f"{name}.xml"
        path.write_text(f"<network><name>{name}</name>{body}</network>")
        return str(path)

    def network(self, name: str, body: str, uri: str = "") -> None:
        """An active network, at the endpoint if no uri is given."""
        virsh = self.cluster.node(uri) if uri else self.cluster.virsh
        self._networks.append((uri, name))
        virsh("net-define", self.document(name, body))
        virsh("net-start", name)

    def start(self, node: str, name: str, network: str, number: int) -> str:
        """A guest on a node; returns its address, which nobody hands out."""
        address = f"10.9.8.{number}"
        nic = NIC.format(number, network)
        self.cluster.place(node, name, self._tmp_path, devices=nic)
        self.cluster.virsh("start", name)
        assert name in self.cluster.node(node).names()
        with Console(self.cluster.endpoint, name, seconds=60) as console:
            console.run(f"ip addr add {address}/24 dev eth0")
        return address

    def map(self, node: str, name: str, link: str) -> str:
        """What the node calls a link; ended after the test."""
        self._mapped.append((node, name))
        return self._command("node", "set", node, "--map-interface", f"{name}={link}")

    def said(self, name: str) -> dict[str, str]:
        """What each node says of a network, "" for all is well."""
        rows = self._command.json("network", "show", name)["nodes"]
        return {row["node"]: row["reason"] for row in rows}

    def close(self) -> None:
        """Take everything away."""
        for name in self.cluster.virsh.names("--all"):
            self.cluster.remove(name)
        for uri, name in self._networks:
            virsh = self.cluster.node(uri) if uri else self.cluster.virsh
            virsh.run("net-destroy", name)
            virsh.run("net-undefine", name)
        for node, name in self._mapped:
            self._command.run("node", "set", node, "--map-interface", f"{name}=")
        for node, name in self._links:
            if self._is_there(node):
                self.inside(node, f"ip link del {name}", check=False)  # a node that was off has it no more

    def _is_there(self, node: str) -> bool:
        paths = layout(self.cluster.state)
        return machine_init(paths.state, paths.machine(node)) is not None

    def _init(self, node: str) -> int:
        paths = layout(self.cluster.state)
        found = machine_init(paths.state, paths.machine(node))
        assert found is not None, f"{node} is off"
        return found


@pytest.fixture
def site(cluster: RealCluster, command: Command, tmp_path: Path) -> Iterator[Site]:
    found = Site(cluster, command, tmp_path)
    yield found
    found.close()


@pytest.fixture
def office(site: Site) -> Site:
    """n1 and n2 have bridges of one LAN, under different names; n3 has none."""
    site.bridge("n1", "br-lan")
    site.bridge("n2", "br-office")
    site.cable("n1", "eth7", "n2", "eth8")
    site.plug("n1", "eth7", "br-lan")
    site.plug("n2", "eth8", "br-office")
    return site


def test_a_network_that_no_node_can_have_is_refused_at_define(cluster: RealCluster, site: Site) -> None:
    said = cluster.virsh.fails("net-define", site.document("lan", BRIDGED))
    why = "; ".join(f"node {node} has no link br-lan" for node in cluster.nodes)
    assert f"error: unsupported configuration: network 'lan': {why}" in said
    assert "lan" not in cluster.virsh("net-list", "--all", "--name").split()


def test_a_bridge_of_the_nodes_own_is_no_name_for_one_of_ours(cluster: RealCluster, site: Site) -> None:
    for node in cluster.nodes:
        site.bridge(node, "br-lan")
    path = site.document("ours", "<bridge name='br-lan'/><ip address='10.9.9.1' prefix='24'/>")
    assert "node n1 has a link br-lan that is not this network's" in cluster.virsh.fails("net-define", path)
    assert "ours" not in cluster.virsh("net-list", "--all", "--name").split()


def test_a_node_has_it_by_its_own_name_for_the_bridge(
    cluster: RealCluster, office: Site, command: Command
) -> None:
    office.network("lan", BRIDGED)
    lacking = {node: f"node {node} has no link br-lan" for node in ("n2", "n3")}
    assert office.said("lan") == {"n1": "", **lacking}
    assert office.map("n2", "br-lan", "br-office") == "node n2: br-lan=br-office"
    assert office.said("lan") == {"n1": "", "n2": "", "n3": lacking["n3"]}
    assert command.json("node", "show", "n2")["interfaces"] == ["br-lan=br-office"]
    assert cluster.node("n1")("net-info", "lan").split()[-1] == "br-lan"
    assert cluster.node("n2")("net-info", "lan").split()[-1] == "br-office"
    assert "lan" not in cluster.node("n3")("net-list", "--all", "--name").split()
    assert cluster.virsh("net-info", "lan").split()[-1] == "br-lan"
    assert office.map("n2", "br-lan", "") == "node n2: every link has the name that networks give it"
    assert office.said("lan") == {"n1": "", **lacking}


def test_guests_on_two_nodes_talk_over_the_nodes_bridges_and_move(
    cluster: RealCluster, office: Site, guests: Guests, command: Command
) -> None:
    office.map("n2", "br-lan", "br-office")
    office.network("lan", BRIDGED)
    one, two = office.start("n1", "g1", "lan", 1), office.start("n2", "g2", "lan", 2)
    rows = command.json("placement", "explain", "g1")["reasons"]
    assert {row["node"]: row["text"] for row in rows}["n3"] == (
        "cannot have network lan: node n3 has no link br-lan"
    )
    assert guests.reaches("g1", two)
    assert "bridge='br-lan'" in cluster.virsh("dumpxml", "g1")
    assert len(cluster.virsh("net-port-list", "lan").split()) == 2
    assert "<network connections='2'>" in cluster.virsh("net-dumpxml", "lan")
    cluster.virsh("migrate", "--live", "g1", cluster.view_uri("n2"), seconds=90)
    assert cluster.running_on("g1") == ["n2"]
    assert "bridge='br-office'" in cluster.virsh("dumpxml", "g1")
    assert guests.reaches("g1", two)
    command("domain", "move", "g2", "--to", "n1")
    assert guests.reaches("g2", one)


def apart(site: Site, one: str, other: str) -> None:
    """The next links of these nodes have different numbers: all nodes of the demo have one /dev, where a macvtap's
    device is called by its link's number."""

    def number(node: str) -> int:
        site.inside(node, "ip link add spare type bridge")
        found = int(site.inside(node, "ip -o link show spare").split(":")[0])
        site.inside(node, "ip link del spare")
        return found

    first = number(one)
    while abs(number(other) - first) < 20:
        pass


def test_guests_share_links_of_nodes_by_macvtap_and_move(
    cluster: RealCluster, site: Site, guests: Guests, command: Command
) -> None:
    site.cable("n1", "enp1", "n2", "ens9")
    apart(site, "n1", "n2")
    site.map("n1", "wan", "enp1")
    site.map("n2", "wan", "ens9")
    site.network("outside", MACVTAP)
    assert site.said("outside") == {"n1": "", "n2": "", "n3": "node n3 has no link wan"}
    site.start("n1", "g1", "outside", 1)
    two = site.start("n2", "g2", "outside", 2)
    assert guests.reaches("g1", two)
    shown = cluster.virsh("net-dumpxml", "outside")
    assert "<network connections='2'>" in shown
    assert "<interface dev='wan' connections='2'/>" in shown
    assert "connections" not in cluster.virsh("net-dumpxml", "outside", "--inactive")
    assert "Bridge" not in cluster.virsh("net-info", "outside")
    assert "<interface dev='enp1' connections='1'/>" in cluster.node("n1")("net-dumpxml", "outside")
    assert "dev='ens9' mode='bridge'" in cluster.virsh("dumpxml", "g2")
    command("domain", "move", "g1", "--to", "n2")
    assert "dev='ens9' mode='bridge'" in cluster.virsh("dumpxml", "g1")
    assert guests.reaches("g1", two)
    assert "<interface dev='wan' connections='2'/>" in cluster.virsh("net-dumpxml", "outside")


def test_what_a_node_loses_of_it_comes_back_and_its_guests_stay_plugged_in(
    cluster: RealCluster, office: Site, guests: Guests
) -> None:
    office.network("lan", BRIDGED)
    node = cluster.node("n1")

    def active() -> bool:
        return "lan" in node("net-list", "--name").split()

    node("net-destroy", "lan")
    eventually(active, HEAL_SECONDS, "lan is active again")
    node("net-destroy", "lan")
    node("net-undefine", "lan")
    eventually(active, HEAL_SECONDS, "lan is there again")
    office.start("n1", "g1", "lan", 1)
    ports = cluster.virsh("net-port-list", "lan")
    group = "<portgroup name='slow' default='yes'><vlan><tag id='5'/></vlan></portgroup>"
    refused = cluster.virsh.fails("net-update", "lan", "add", "portgroup", group, "--live")
    assert "<vlan>" in refused
    cluster.virsh("net-update", "lan", "add", "portgroup", "<portgroup name='slow'/>", "--live", "--config")
    assert "<portgroup name='slow'>" in node("net-dumpxml", "lan")
    assert cluster.virsh("net-port-list", "lan") == ports != ""
    cluster.virsh("net-destroy", "lan")
    assert "lan" not in node("net-list", "--all", "--name").split()


def test_a_nodes_own_network_of_that_name_stays_and_the_node_says_so(
    cluster: RealCluster, office: Site
) -> None:
    office.network("lan", BRIDGED, "n1")
    own = cluster.node("n1")("net-dumpxml", "lan")
    office.map("n2", "br-lan", "br-office")
    office.network("lan", BRIDGED)
    said = office.said("lan")
    assert "has a network lan" in said["n1"]
    assert said["n2"] == ""
    cluster.virsh("net-destroy", "lan")
    assert cluster.node("n1")("net-dumpxml", "lan") == own


def test_a_port_of_open_vswitch_and_its_vlans_are_passed_as_they_are(
    cluster: RealCluster, office: Site
) -> None:
    """Without Open vSwitch in this kernel no guest can start on it; what libvirtd is given can be seen."""
    body = (
        f"{BRIDGED}<virtualport type='openvswitch'/>"
        "<portgroup name='two' default='yes'>"
        "<vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='47'/></vlan>"
        "<bandwidth><inbound average='1000'/></bandwidth></portgroup>"
    )
    office.network("switched", body)
    shown, there = (
        "\n".join(line for line in text.splitlines() if "uuid" not in line and "metadata" not in line)
        for text in (
            cluster.virsh("net-dumpxml", "switched"),
            re.sub(r"\s*<ch:shadow.*/>", "", cluster.node("n1")("net-dumpxml", "switched")),
        )
    )
    assert shown == there
    assert "<virtualport type='openvswitch'/>" in shown


def test_functions_of_a_link_without_any_are_refused_with_libvirts_reason(
    cluster: RealCluster, office: Site
) -> None:
    path = office.document("functions", "<forward mode='hostdev' managed='yes'><pf dev='eth7'/></forward>")
    cluster.virsh("net-define", path)
    try:
        said = cluster.virsh.fails("net-start", "functions")
        assert "node n1: its libvirtd: " in said
        assert "node n2 has no link eth7" in said
        assert "inactive" in cluster.virsh("net-list", "--all")
        assert "functions" not in cluster.node("n1")("net-list", "--all", "--name").split()
    finally:
        cluster.virsh("net-undefine", "functions")


def test_a_node_with_nothing_of_ours_has_it_too_and_guests_come_and_go(
    cluster: RealCluster, office: Site, guests: Guests, command: Command
) -> None:
    uri = demo.add_bare_node(cluster.state, "n4")
    try:
        command("node", "add", "n4", "--uri", uri, "--migration-address", "10.111.0.14")
        eventually(lambda: command.node("n4")["link"] == "up", 30, "n4 is up")
        office.bridge("n4", "br-far")
        office.cable("n1", "eth5", "n4", "eth6")
        office.plug("n1", "eth5", "br-lan")
        office.plug("n4", "eth6", "br-far")
        office.map("n4", "br-lan", "br-far")
        office.network("lan", BRIDGED)
        assert office.said("lan")["n4"] == ""
        office.start("n1", "g1", "lan", 1)
        two = office.start("n4", "g2", "lan", 2)
        assert guests.reaches("g1", two)
        command("domain", "move", "g1", "--to", "n4")
        assert "bridge='br-far'" in cluster.virsh("dumpxml", "g1")
        assert guests.reaches("g1", two)
        for name in ("g1", "g2"):
            cluster.remove(name)
        command("node", "remove", "n4")
        assert cluster.node("n4")("net-list", "--all", "--name").split() == []
    finally:
        command.run("node", "remove", "n4", "--force")
        demo.remove_node(cluster.state, "n4")


def test_a_node_that_was_cut_off_has_it_again_while_the_front_end_is_away(
    cluster: RealCluster, office: Site
) -> None:
    office.network("lan", BRIDGED)
    demo.stop_service(cluster.state, FRONT, "front-end")
    try:
        demo.power_cut(cluster.state, "n1")
        demo.power_on(cluster.state, "n1")
        eventually(
            lambda: "lan" in cluster.node("n1").run("net-list", "--name").out.split(),
            30,
            "lan is active on n1",
        )
    finally:
        demo.restart_front(cluster.state)
