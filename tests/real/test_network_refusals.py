"""Bad input of networks: refused when defined, with libvirt's code and the reason, and nothing is there afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import node_address
from tests.support.command import Command
from tests.support.realnets import NAT, Net
from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster


@dataclass(frozen=True)
class Bad:
    """A document, what is said of it (with the form of libvirt's code), and what a node's own libvirtd says.

    theirs: at its define or start; "" where it takes what no cluster can honour."""

    ours: str
    theirs: str
    ip: str = "<ip address='10.78.9.1' prefix='24'/>"
    mode: str = "<forward mode='nat'/>"
    bridge: str = "br-bad"
    name: str = "bad"
    more: str = ""

    @property
    def xml(self) -> str:
        """As a user writes it."""
        bridge = f"<bridge name='{self.bridge}'/>"
        return f"<network><name>{self.name}</name>{self.more}{self.mode}{bridge}{self.ip}</network>"


def dhcp(inside: str) -> str:
    """A subnet with that in its <dhcp>."""
    return f"<ip address='10.78.9.1' prefix='24'><dhcp>{inside}</dhcp></ip>"


BAD = {
    "overlapping subnets": Bad(
        r"internal error: .* its subnet 10\.77\.1\.128/25 overlaps 10\.77\.1\.0/24 of network 'base'",
        "",  # libvirt looks for the very same subnet alone
        "<ip address='10.77.1.129' prefix='25'/>",
    ),
    "overlapping subnets, one isolated": Bad(
        r"internal error: .* its subnet 10\.77\.1\.0/24 overlaps 10\.77\.1\.0/24 of network 'base'",
        "internal error: Network is already in use by interface br-base",
        "<ip address='10.77.1.2' prefix='24'/>",
        mode="",
    ),
    "a subnet of the nodes": Bad(
        r"internal error: .* node n2 has addresses in 10\.111\.0\.0/24, which overlaps 10\.111\.0\.0/24",
        "internal error: Network is already in use by interface eth0",
        "<ip address='10.111.0.200' prefix='24'/>",
    ),
    "a bridge twice": Bad(
        r"internal error: .* the bridge name 'br-base' is in use by network 'base'",
        r"internal error: bridge name 'br-base' already in use\.",
        bridge="br-base",
    ),
    "a link of the nodes": Bad(
        r"internal error: .* node n1 has a link eth0 that is not this network's",
        "error creating bridge interface eth0: File exists",
        bridge="eth0",
    ),
    "a name over 15 characters": Bad(
        r"unsupported configuration: .* the bridge name 'br-of-16-letters' has 16 bytes, allowed are 1 to 15",
        "error creating bridge interface br-of-16-letters: Numerical result out of range",
        bridge="br-of-16-letters",
    ),
    "a range outside": Bad(
        r"internal error: .* the range 10\.78\.10\.1 to 10\.78\.10\.9 is not within 10\.78\.9\.0/24",
        r"internal error: range 10\.78\.10\.1 - 10\.78\.10\.9 is not entirely within network 10\.78\.9\.1/24",
        dhcp("<range start='10.78.10.1' end='10.78.10.9'/>"),
    ),
    "a range to the broadcast address": Bad(
        r"internal error: .* the range 10\.78\.9\.200 to 10\.78\.9\.255 ends with the broadcast address",
        r"internal error: end of range .* is the broadcast address",
        dhcp("<range start='10.78.9.200' end='10.78.9.255'/>"),
    ),
    "a host entry outside": Bad(
        r"unsupported configuration: .* the <host> address 10\.78\.10\.3 is not in 10\.78\.9\.0/24",
        "",
        dhcp("<host mac='52:54:00:78:09:01' ip='10.78.10.3'/>"),
    ),
    "a device that no node has": Bad(
        r"internal error: .* node n3 has no link eth77 to go out by",
        "",
        mode="<forward mode='nat' dev='eth77'/>",
    ),
    "an MTU too small for IPv6": Bad(
        "unsupported configuration: .* its mtu is 1000, allowed are 1280 to 65535",
        "Failed to add IP address fd00:99::1/64 to br-bad",
        "<mtu size='1000'/><ip family='ipv6' address='fd00:99::1' prefix='64'/>",
    ),
    "a name that is taken": Bad(
        "operation failed: network 'base' already exists with uuid",
        "operation failed: network 'base' already exists with uuid",
        name="base",
        more="<uuid>11111111-2222-4333-8444-555555555555</uuid>",
    ),
}


def has(cluster: RealCluster, net: Net) -> dict[str, str]:
    """What the endpoint and each node have of networks, links and rules."""
    found = {"endpoint": cluster.virsh("net-list", "--all")}
    for node in cluster.nodes:
        links = re.findall(r"^\d+: (\S+?)[@:]", net.inside(node, "ip", "-o", "link"), re.M)
        rules = re.findall("clusterhost-.*", net.inside(node, "nft", "list", "tables"))
        found[node] = f"{sorted(links)} {sorted(rules)} {cluster.node(node)('net-list', '--all')}"
    return found


@pytest.fixture
def on_node(cluster: RealCluster, tmp_path: Path) -> Iterator[Callable[[Bad], str]]:
    """on_node(bad): what a node's own libvirtd says of it; "" when it takes it."""
    node = cluster.node("n3")

    def said(bad: Bad) -> str:
        (tmp_path / "theirs.xml").write_text(bad.xml)
        for words in (("net-define", str(tmp_path / "theirs.xml")), ("net-start", "bad")):
            if (outcome := node.run(*words)).code:
                return outcome.err
        return ""

    yield said
    remove(node)


def remove(virsh: Virsh) -> None:
    """Whatever a document left."""
    virsh.run("net-destroy", "bad")
    virsh.run("net-undefine", "bad")


@pytest.mark.timeout(120)
def test_what_no_cluster_can_have_is_refused_and_leaves_nothing(
    cluster: RealCluster, network: Callable[..., Net], on_node: Callable[[Bad], str], tmp_path: Path
) -> None:
    base = network("base", 1)
    before = has(cluster, base)
    path = tmp_path / "bad.xml"
    wrong = []
    for what, bad in BAD.items():
        path.write_text(bad.xml)
        for verb in ("net-define", "net-create"):
            outcome = cluster.virsh.run(verb, str(path))
            if outcome.code != 1 or not re.search(bad.ours, outcome.err):
                wrong.append(f"{verb} of {what}: {outcome}")
        theirs = on_node(bad)
        if bool(theirs) != bool(bad.theirs) or not re.search(bad.theirs, theirs):
            wrong.append(f"a node says of {what}: {theirs}")
        remove(cluster.node("n3"))
    assert not wrong, "\n".join(wrong)
    assert has(cluster, base) == before


def reasons(command: Command) -> dict[str, str]:
    """Why nodes do not have network blue."""
    rows = command.json("network", "show", "blue")["nodes"]
    return {row["node"]: row["reason"] for row in rows if not row["ok"]}


@pytest.mark.timeout(120)
def test_what_some_nodes_cannot_have_is_told_and_there_once_they_can(
    cluster: RealCluster, command: Command, tmp_path: Path
) -> None:
    blue, virsh = Net(cluster, "blue", 1), cluster.virsh
    path = tmp_path / "blue.xml"
    path.write_text(NAT.format(name=blue.name, bridge=blue.bridge, net=blue.net))
    own = {"n2": blue.bridge, "n3": "own-vxlan"}
    blue.inside("n2", "ip", "link", "add", blue.bridge, "type", "bridge")
    try:
        text = "error: internal error: network 'blue': node n2 has a link br-blue that is not this network's"
        before = has(cluster, blue)
        assert text in virsh.fails("net-define", str(path))
        assert text in virsh.fails("net-create", str(path))
        assert has(cluster, blue) == before
        blue.inside("n2", "ip", "link", "del", blue.bridge)
        virsh("net-define", str(path))
        blue.inside("n2", "ip", "link", "add", blue.bridge, "type", "bridge")
        blue.uuid = virsh("net-uuid", "blue")
        (vni,) = [str(row["vni"]) for row in command.json("network", "list") if row["name"] == "blue"]
        kind = ("type", "vxlan", "id", vni, "dstport", "4789", "local", node_address("n3"))
        blue.inside("n3", "ip", "link", "add", own["n3"], *kind)
        virsh("net-start", "blue")
        said = reasons(command)
        assert said.keys() == own.keys(), said
        assert "br-blue is on the node already, without our mark" in said["n2"]
        assert f"VNI {vni} on UDP port 4789 is in use by another link" in said["n3"]
        assert blue.whole("n1")
        for node, link in own.items():
            blue.inside(node, "ip", "link", "del", link)
        eventually(lambda: all(map(blue.whole, cluster.nodes)), 20, "blue on all nodes")
        eventually(lambda: not reasons(command), 30, "no node complains")
    finally:
        virsh.run("net-destroy", "blue")
        virsh.run("net-undefine", "blue")
        for node, link in own.items():
            blue.inside(node, "ip", "link", "del", link, check=False)
