"""Networks on VLANs of a device, at a cluster: where the kernel of this machine cannot have them, nodes say so.

That VLANs work is tests/cluster/netmgr/test_vlans.py's, in guests with a kernel that can."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import layout
from clusterhost.demo.processes import machine_init
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(120)

DEVICE = "lan0"
LAN = "<network><name>lan</name>{}<forward mode='bridge' dev='lan0'/><vlan><tag id='10'/></vlan></network>"
LINK = "<metadata><ch:vlan-link xmlns:ch='urn:clusterhost:network:1'/></metadata>"
CANNOT = {"": "this kernel's bridge cannot filter VLANs", LINK: "this kernel has no links for VLANs"}
BRIDGE = {"": "ct-lan0", LINK: "cs-lan0.10"}


class Nodes:
    """Their networks from inside."""

    def __init__(self, cluster: RealCluster) -> None:
        self._paths = layout(cluster.state)
        self.names = cluster.nodes

    def run(self, node: str, words: str) -> subprocess.CompletedProcess[str]:
        init = machine_init(self._paths.state, self._paths.machine(node))
        assert init is not None, f"{node} is off"
        command = ["nsenter", "-t", str(init), "-n", *words.split()]
        return subprocess.run(command, capture_output=True, text=True, timeout=20)

    def links(self, node: str) -> str:
        return self.run(node, "ip -br link").stdout


@pytest.fixture
def nodes(cluster: RealCluster) -> Iterator[Nodes]:
    """All but the last have the device."""
    found = Nodes(cluster)
    for node in found.names[:-1]:
        assert found.run(node, f"ip link add {DEVICE} type veth peer name {DEVICE}x").returncode == 0
    yield found
    cluster.virsh.run("net-destroy", "lan")
    cluster.virsh.run("net-undefine", "lan")
    for node in found.names[:-1]:
        found.run(node, f"ip link del {DEVICE}")


def can(nodes: Nodes, extra: str) -> bool:
    """The kernel has what it takes."""
    what = f"link {DEVICE} name probe0 type vlan id 4000" if extra else "probe0 type bridge vlan_filtering 1"
    made = nodes.run(nodes.names[0], f"ip link add {what}").returncode == 0
    nodes.run(nodes.names[0], "ip link del probe0")
    return made


def test_a_device_that_no_node_has_is_refused_at_define(cluster: RealCluster, tmp_path: Path) -> None:
    path = tmp_path / "lan.xml"
    path.write_text(LAN.format(""))
    said = cluster.virsh.fails("net-define", str(path))
    assert f"node {cluster.nodes[0]} has no link {DEVICE}" in said
    assert "lan" not in cluster.virsh("net-list", "--all", "--name").split()


@pytest.mark.parametrize("extra", ["", LINK], ids=["trunk", "link"])
def test_nodes_have_the_bridge_or_say_why_not(
    cluster: RealCluster, nodes: Nodes, command: Command, tmp_path: Path, extra: str
) -> None:
    path = tmp_path / "lan.xml"
    path.write_text(LAN.format(extra))
    cluster.virsh("net-define", str(path))
    if can(nodes, extra):
        cluster.virsh("net-start", "lan")
        assert all(BRIDGE[extra] in nodes.links(node) for node in nodes.names[:-1])
        reasons = {row["node"]: row["reason"] for row in command.json("network", "show", "lan")["nodes"]}
        assert reasons.pop(nodes.names[-1]) == f"there is no link {DEVICE} on the node"
        assert not any(reasons.values())
        cluster.virsh("net-destroy", "lan")
    else:
        said = cluster.virsh.fails("net-start", "lan")
        assert f"node {nodes.names[0]}: {CANNOT[extra]}" in said
        assert f"node {nodes.names[-1]}: there is no link {DEVICE} on the node" in said
        assert "lan" not in cluster.virsh("net-list", "--name").split()
    assert not any(BRIDGE[extra] in nodes.links(node) for node in nodes.names)
