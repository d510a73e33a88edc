"""Networks on VLANs of a device: what nodes are told of trunk and guests, and what an update may not take."""

from __future__ import annotations

import uuid

import pytest

from clusterhost.model.errors import NetworkRefused
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from netmgr import xml
from netmgr.orders import Found, SetGuest, SetNetwork
from netmgr.wanted import WantedTag, WantedTrunk
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml

DEFINE = BY_NAME["remote:DOMAIN_DEFINE_XML"]
MAC = "52:54:00:01:02:03"
LAN = """<network><name>{}</name><forward mode='bridge' dev='e1'/>{}
<portgroup name='twenty'><vlan><tag id='{}'/></vlan></portgroup></network>"""
TEN = "<vlan><tag id='10'/></vlan>"
ADD, PORTGROUP = 3, 9
"""virNetworkUpdateCommand, virNetworkUpdateSection"""


def access(tag: int) -> tuple[WantedTag, ...]:
    return (WantedTag(tag, native=True, untagged=True),)


async def start(front: Front, name: str = "lan", vlan: str = TEN, second: int = 20) -> bytes:
    for node in front.machines:
        front.nodes.found[node] = Found({"e1": "", "enp3s0": ""})
    networks = front.world.networking.networks
    net = await networks.define(ANYONE, LAN.format(name, vlan, second), validate=False)
    await networks.start(ANYONE, net.uuid)
    await front.quiet()
    return net.uuid


async def domain(front: Front, group: str, one: bytes) -> None:
    source = f"<source network='lan'{f' portgroup={group!r}' if group else ''}/>"
    nic = f"<interface type='network'><mac address='{MAC}'/>{source}</interface>"
    text = domain_xml("web", one).replace("</domain>", f"<devices>{nic}</devices></domain>")
    payload = lv.RemoteDomainDefineXmlArgs(text).to_bytes()
    assert (await front.world.numbering.define(ANYONE, DEFINE, payload, text)).ok
    await front.quiet()


def last(front: Front, node: str, kind: type) -> object:
    return [order for name, order in front.nodes.network_orders if name == node and isinstance(order, kind)][
        -1
    ]


def told(front: Front) -> list[tuple[WantedTag, ...]]:
    """The VLANs that nodes were last told of the guest."""
    found = [last(front, node, SetGuest) for node in front.machines]
    return [order.guest.vlans for order in found if isinstance(order, SetGuest) and order.guest is not None]


async def test_nodes_get_a_trunk_by_their_own_name_and_a_network_for_libvirtd_without_vlans(tmp_path):
    async with running(tmp_path) as front:
        await front.world.networking.interface_map.change("n2", {"e1": "enp3s0"}, "test")
        await start(front)
        orders = [last(front, node, SetNetwork) for node in ("n1", "n2")]
        assert [order.network.trunk for order in orders] == [
            WantedTrunk("e1", (10, 20)),
            WantedTrunk("enp3s0", (10, 20)),
        ]
        given = xml.read(orders[1].shadow)
        assert (given.bridge.name, given.vlan, given.portgroups[0].vlan) == ("ct-e1", None, None)


async def test_nodes_know_the_vlans_of_a_guest_before_it_starts_and_after_a_crash(tmp_path):
    one = uuid.uuid4().bytes
    async with running(tmp_path) as front:
        uuid_ = await start(front)
        await domain(front, "", one)
        assert told(front) == [access(10)] * 3
        await domain(front, "twenty", one)
        assert told(front) == [access(20)] * 3
        await front.crash()
        await front.start()
        (guest,) = [guest for guest, _ in front.world.networking.addresses.guests(uuid_)]
        assert guest.vlans == access(20)


async def test_an_update_may_not_take_a_tag_that_is_another_networks(tmp_path):
    async with running(tmp_path) as front:
        await start(front)
        other = await start(front, "other", "<vlan><tag id='30'/></vlan>", 40)
        networks = front.world.networking.networks
        group = "<portgroup name='more'><vlan><tag id='{}'/></vlan></portgroup>"
        with pytest.raises(NetworkRefused, match="VLAN 10 of e1 is in use by network 'lan'"):
            await networks.update(ANYONE, other, ADD, PORTGROUP, -1, group.format(10), 0)
        await networks.update(ANYONE, other, ADD, PORTGROUP, -1, group.format(50), 0)
        await front.quiet()
        found = last(front, "n1", SetNetwork)
        assert isinstance(found, SetNetwork)
        assert found.network.trunk == WantedTrunk("e1", (30, 40, 50))
