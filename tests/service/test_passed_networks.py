"""Networks that are passed to nodes: who can have them, by what names of links, what is refused before it begins."""

from __future__ import annotations

import pytest

from clusterhost.model.errors import InvalidArgument, NetworkRefused, NodeNotFound
from clusterhost.service import interface_map
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from netmgr import xml
from netmgr.orders import Found, KeepOnly, PassNetwork, RemoveNetwork, SetGuest, SetNetwork
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml

DEFINE = BY_NAME["remote:DOMAIN_DEFINE_XML"]
LAN = "<network><name>lan</name><forward mode='bridge'/><bridge name='br-lan'/></network>"
WAN = "<network><name>lan</name><forward mode='bridge'><interface dev='e1'/></forward></network>"
GUEST = "<domain><devices><interface type='network'><source network='lan'/></interface></devices></domain>"


def have(front: Front, **links: str) -> None:
    """Nodes can say which links they have: n1="a b"."""
    for name in front.machines:
        front.nodes.found[name] = Found(dict.fromkeys(["lo", *links.get(name, "").split()], ""))


async def start(front: Front, document: str = LAN) -> bytes:
    networks = front.world.networking.networks
    net = await networks.define(ANYONE, document, validate=False)
    await networks.start(ANYONE, net.uuid)
    await front.quiet()
    return net.uuid


def passed(front: Front) -> dict[str, str]:
    """Node -> the bridge or link in the last document that it got."""
    found = {}
    for node, order in front.nodes.network_orders:
        if isinstance(order, PassNetwork):
            given = xml.read(order.shadow)
            found[node] = given.bridge.name or given.forward.dev
    return found


def problems(front: Front, uuid: bytes) -> dict[str, str]:
    return {state.node: state.problem for state in front.world.networking.nodes.states(uuid)}


async def test_a_definition_is_refused_when_every_node_lacks_the_link(tmp_path):
    async with running(tmp_path) as front:
        have(front)
        with pytest.raises(
            NetworkRefused, match="network 'lan': node n1 has no link br-lan; node n2 has"
        ) as said:
            await start(front)
        assert said.value.kind == "ConfigUnsupported"
        assert [net.name for net in front.world.networking.networks.all()] == ["default"]


async def test_a_node_that_cannot_say_or_is_away_may_have_the_link(tmp_path):
    async with running(tmp_path) as front:
        have(front)
        del front.nodes.found["n2"]
        uuid = await start(front)
        assert problems(front, uuid) == {
            "n1": "node n1 has no link br-lan",
            "n2": "",
            "n3": "node n3 has no link br-lan",
        }


async def test_a_bridge_that_one_node_has_for_itself_cannot_be_that_of_a_new_network(tmp_path):
    async with running(tmp_path) as front:
        networks, xml = (
            front.world.networking.networks,
            "<network><name>x</name><bridge name='br0'/></network>",
        )
        have(front, n2="br0")
        with pytest.raises(NetworkRefused, match=r"^network 'x': node n2 has a link br0 that is not") as said:
            await start(front, xml)
        assert said.value.kind == "InUse"
        assert [net.name for net in networks.all() if net.name == "x"] == []
        have(front, n2="br1")
        uuid = await start(front, xml)
        have(front, n2="br0")
        assert (await networks.define(ANYONE, xml, validate=False)).uuid == uuid, "it is no new one"


async def test_a_bridge_without_a_name_gets_one_that_no_node_has(tmp_path):
    async with running(tmp_path) as front:
        have(front, n1="virbr0", n3="virbr1 virbr2")
        uuid = await start(front, "<network><name>x</name><ip address='10.3.0.1' prefix='24'/></network>")
        assert front.world.networking.networks.bridge_name(uuid) == "virbr3"


async def test_a_node_that_lacks_what_was_named_for_it_refuses_a_new_network(tmp_path):
    async with running(tmp_path) as front:
        have(front, n1="e1", n2="e1", n3="e1")
        await front.world.networking.interface_map.change("n2", {"e1": "gone0"}, "test")
        with pytest.raises(NetworkRefused, match=r"node n2 has no link gone0 \(its name for e1\)") as said:
            await start(front, WAN)
        assert said.value.kind == "ConfigUnsupported"
        await front.world.networking.interface_map.change("n2", {"e1": ""}, "test")
        await start(front, WAN)


async def test_nodes_that_lack_the_link_are_not_told_and_get_no_guest(tmp_path):
    async with running(tmp_path) as front:
        have(front, n1="br-lan", n2="br-lan")
        uuid = await start(front)
        assert passed(front) == {"n1": "br-lan", "n2": "br-lan"}
        lacking = "cannot have network lan: node n3 has no link br-lan"
        assert front.world.context.placing.lacking(GUEST) == {"n3": lacking}
        await front.world.networking.networks.destroy(ANYONE, uuid)
        removed = [node for node, order in front.nodes.network_orders if isinstance(order, RemoveNetwork)]
        assert removed == ["n1", "n2", "n3"]


async def test_a_node_is_told_by_its_own_names_and_again_when_they_change(tmp_path):
    async with running(tmp_path) as front:
        have(front, n1="e1", n2="enp3s0 enp4s0", n3="e1")
        uuid = await start(front, WAN)
        names = front.world.networking.interface_map
        await names.change("n2", {"e1": "enp3s0"}, "test")
        assert passed(front) == {"n1": "e1", "n2": "enp3s0", "n3": "e1"}
        assert problems(front, uuid) == {"n1": "", "n2": "", "n3": ""}
        await names.change("n2", {"e1": "enp9s0"}, "test")
        assert problems(front, uuid)["n2"] == "node n2 has no link enp9s0 (its name for e1)"
        front.nodes.network_orders.clear()
        await names.change("n2", {"other": "enp4s0"}, "test")
        assert front.nodes.network_orders == []
        await front.stop()
        await front.start()
        assert interface_map.shown(front.world.ledger, "n2") == ["e1=enp9s0", "other=enp4s0"]
        await front.world.networking.interface_map.change("n2", {"e1": "", "other": ""}, "test")
        assert interface_map.shown(front.world.ledger, "n2") == []
        assert "interfaces" not in front.world.ledger.nodes["n2"].map
        lines = [line.text for line in await front.store.journal(9, "n2") if "interfaces" in line.text]
        assert "its interfaces: e1 is enp3s0" in lines
        with pytest.raises(NodeNotFound):
            await front.world.networking.interface_map.change("n9", {"e1": "e2"}, "test")


@pytest.mark.parametrize(
    "words", [["e1"], ["=e2"], ["e1=a b"], ["e1=e2", "e1=e3"], [], "e1=e2", ["x" * 16 + "=e1"]]
)
def test_what_is_no_mapping_is_refused(words: object):
    with pytest.raises(InvalidArgument):
        interface_map.read(words)


async def test_a_network_with_ways_out_of_ours_goes_out_by_the_nodes_names_too(tmp_path):
    async with running(tmp_path) as front:
        await front.world.networking.interface_map.change("n2", {"e1": "enp3s0"}, "test")
        await start(
            front,
            "<network><name>x</name><forward mode='nat' dev='e1'/><ip address='10.9.0.1' prefix='24'/></network>",
        )
        orders = front.nodes.network_orders
        told = {node: order.network for node, order in orders if isinstance(order, SetNetwork)}
        assert {node: network.devices for node, network in told.items() if network.name == "x"} == {
            "n1": ("e1",),
            "n2": ("enp3s0",),
            "n3": ("e1",),
        }


async def test_a_node_whose_agent_runs_elsewhere_has_networks_that_are_passed_on(tmp_path):
    async with running(tmp_path, beside="n3") as front:
        uuid = await start(front)
        assert "n3" in passed(front)
        assert problems(front, uuid)["n3"] == ""
        assert front.world.context.placing.lacking(GUEST) == {}
        assert front.world.context.placing.lacking(GUEST.replace("'lan'", "'default'")) == {
            "n3": "cannot have network default: its agent runs elsewhere: it cannot make links there"
        }
        kept = {
            node: order.uuids for node, order in front.nodes.network_orders if isinstance(order, KeepOnly)
        }
        assert set(kept) == {"n1", "n2", "n3"}


async def test_guests_of_such_a_network_are_its_nodes_matter_alone(tmp_path):
    async with running(tmp_path) as front:
        await start(front)
        uuid = bytes(range(16))
        text = domain_xml("web", uuid).replace("</domain>", GUEST.removeprefix("<domain>"))
        payload = lv.RemoteDomainDefineXmlArgs(text).to_bytes()
        assert (await front.world.numbering.define(ANYONE, DEFINE, payload, text)).ok
        await front.begin("web")
        await front.quiet()
        assert not [order for _, order in front.nodes.network_orders if isinstance(order, SetGuest)]
        [net] = [net for net in front.world.networking.networks.all() if net.name == "lan"]
        assert front.world.networking.addresses.connections(net.uuid) == 1


async def test_an_update_that_no_node_could_follow_changes_nothing(tmp_path):
    async with running(tmp_path) as front:
        have(front, n1="e1 e2")
        uuid = await start(front, WAN)
        networks = front.world.networking.networks
        with pytest.raises(NetworkRefused, match="node n1 has no link e3"):
            await networks.update(ANYONE, uuid, 3, 7, -1, "<interface dev='e3'/>", 3)
        assert networks.by_uuid(uuid).shown.forward.interfaces == ("e1",)
        await networks.update(ANYONE, uuid, 3, 7, -1, "<interface dev='e2'/>", 3)
        assert networks.by_uuid(uuid).shown.forward.interfaces == ("e1", "e2")
