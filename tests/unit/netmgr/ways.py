"""Nodes, networks and guests for tests of traces: all is well until a test changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from msgspec import structs

from netmgr import nft
from netmgr.hops import Plug, Spot, State, wire
from netmgr.plan import ANY_MAC, digest
from netmgr.seen import Crossed, Rules, SeenLink, Sight, Way
from netmgr.vlan import TRUNK_MARK
from netmgr.walk import Way as Walked
from netmgr.wanted import WantedGuest, WantedNetwork, WantedSubnet

HERE, THERE = "10.0.0.1", "10.0.0.2"
PLACES = {"n1": HERE, "n2": THERE}
OUTSIDE = "192.0.2.9"
Spots = dict[str, Spot]


def network(name: str, number: int, mode: str = "route", **options: object) -> WantedNetwork:
    values = {
        "uuid": f"00000000-0000-0000-0000-{number:012d}",
        "name": name,
        "serial": 1,
        "vni": number,
        "bridge": f"br-{name}",
        "mac": f"52:54:00:00:00:{number:02x}",
        "mode": mode,
        "subnets": (WantedSubnet(f"10.{number}.0.1/24", dhcp=True),),
    }
    return WantedNetwork(**(values | options))


def guest(domain: str, node: str, net: WantedNetwork, number: int) -> Plug:
    address = f"10.{net.vni}.0.{number}"
    mac = f"02:00:0a:{net.vni:02x}:00:{number:02x}"
    return Plug(domain, node, net.uuid, mac, net.name, (address,), tap=f"vnet{number}")


def told(net: WantedNetwork, node: str, plugs: tuple[Plug, ...], **flags: bool) -> WantedNetwork:
    """What a node shall have, with its guests."""
    guests = tuple(
        WantedGuest(plug.mac, plug.addresses, place="" if plug.node == node else PLACES[plug.node], **flags)
        for plug in plugs
        if plug.network == net.uuid
    )
    return structs.replace(net, local=PLACES[node], guests=guests)


def sight(node: str, nets: list[WantedNetwork], plugs: tuple[Plug, ...]) -> Sight:
    """A node that has all of it."""
    other = THERE if node == "n1" else HERE
    links = {}
    for net in nets:
        mark = TRUNK_MARK + net.trunk.device if net.trunk else net.mark
        links[net.bridge] = SeenLink(net.bridge, "bridge", mark, net.mac, up=True, mtu=1450)
        if net.trunk:
            links[wire(net)] = SeenLink(wire(net), up=True, carrier=True, master=net.bridge)
        else:
            values = {"vni": net.vni, "local": net.local, "port": net.port, "master": net.bridge}
            links[net.overlay] = SeenLink(
                net.overlay, "vxlan", net.mark, up=True, mtu=1450, forwarding=True, **values
            )
    for plug in plugs:
        if plug.node == node:
            master = next(net.bridge for net in nets if net.uuid == plug.network)
            links[plug.tap] = SeenLink(plug.tap, up=True, carrier=True, master=master, forwarding=True)
    away = {net.uuid: [guest for guest in net.guests if guest.place] for net in nets}
    return Sight(
        links=links,
        addresses={net.bridge: tuple(subnet.address for subnet in net.subnets) for net in nets},
        remote={
            net.overlay: {ANY_MAC: (other,)} | {guest.mac: (guest.place,) for guest in away[net.uuid]}
            for net in nets
        },
        neighbours={
            net.bridge: {address: guest.mac for guest in away[net.uuid] for address in guest.addresses}
            for net in nets
        },
        rules={net.uuid: Rules(nft.FAMILIES, digest(nft.ruleset(net, net.guests))) for net in nets},
        ways={other: Way("eth0", mtu=1500), OUTSIDE: Way("eth0", gateway="10.0.0.254", mtu=1500)},
        forwards=(4, 6),
        crossed=Crossed(True, True),
        probed=True,
        replied=plugs[-1].mac,
    )


def world(plugs: tuple[Plug, ...], *nets: WantedNetwork, **flags: bool) -> Spots:
    found = {}
    for node in PLACES:
        shall = [told(net, node, plugs, **flags) for net in nets]
        found[node] = Spot(node, sight(node, shall, plugs), shall={net.uuid: net for net in shall})
    return found


BLUE, RED = network("blue", 1), network("red", 2)
G1, G2 = guest("g1", "n1", BLUE, 11), guest("g2", "n2", BLUE, 12)


def change(spots: Spots, node: str, **values: object) -> Spots:
    """Other facts at a node."""
    return spots | {node: replace(spots[node], sight=structs.replace(spots[node].sight, **values))}


def link(spots: Spots, node: str, name: str, **values: object) -> Spots:
    """A link that is otherwise, or gone (no values)."""
    links = dict(spots[node].sight.links)
    found = links.pop(name)
    if values:
        links[name] = structs.replace(found, **values)
    return change(spots, node, links=links)


def stops(way: Walked) -> tuple[str, str]:
    """Node and part of the first hop that is not fine."""
    hop = next(hop for state in (State.BROKEN, State.UNKNOWN) for hop in way.hops if hop.state is state)
    assert way.end.endswith(hop.found)
    return hop.node, hop.part


Break = Callable[[Spots], Spots]
