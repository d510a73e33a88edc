"""IPv6 of a network on several nodes: announced by each node alone, or given by DHCPv6 from the table."""

from __future__ import annotations

import sys

import pytest

from netmgr.nft import link_local
from netmgr.wanted import WantedNat, WantedSubnet
from tests.cluster.netmgr.lab import Lab, at, member, network, until

pytestmark = pytest.mark.real

PREFIX = "fd00:7::"
ROUTER_ADVERTISEMENT = 134


def lab_of_two(lab: Lab, *, dhcp: bool):  # type: ignore[no-untyped-def]
    """web and db on two nodes, with both families."""
    nodes = (lab.node(1), lab.node(2))
    subnets = (WantedSubnet("192.168.1.1/24", dhcp=True), WantedSubnet(f"{PREFIX}1/64", dhcp=dhcp))
    guests = tuple(
        member(1, last, node, name, addresses=(f"192.168.1.{last}", f"{PREFIX}{last}"))
        for last, node, name in ((10, nodes[0], "web"), (11, nodes[1], "db"))
    )
    wanted = network(1, subnets=subnets, guests=guests, nat=WantedNat(ipv6=True))
    for node in nodes:
        node.set(at(wanted, node, nodes))
        node("ip", "addr", "add", f"2001:db8::1{node.number}/64", "dev", "out0", "nodad")
    lab.outside("ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    made = [
        lab.guest(guest.names[0], node, wanted, guest.mac, mtu=1500)
        for guest, node in zip(guests, nodes, strict=True)
    ]
    return wanted, nodes, made


def test_guests_make_their_addresses_from_what_their_own_node_announces(lab: Lab) -> None:
    wanted, nodes, (web, db) = lab_of_two(lab, dhcp=False)
    addresses = {}
    for guest in (web, db):
        addresses[guest] = link_local(guest.mac).replace("fe80::", PREFIX)
        until(lambda guest=guest: addresses[guest] in guest("ip", "-6", "addr"), 15, "an address of its own")
        until(lambda guest=guest: "tentative" not in guest("ip", "-6", "addr"), 10, "that is nobody else's")
        routes = guest("ip", "-6", "route", "show", "default")
        assert link_local(wanted.mac) in routes, "the same router on every node"
        assert guest("cat", "/proc/sys/net/ipv6/conf/eth0/mtu").strip() == "1450"
    with nodes[0].sniffing(wanted.overlay) as first, nodes[1].sniffing(wanted.overlay) as second:
        for guest, other in ((web, db), (db, web)):
            assert guest.pings(addresses[other], count=2)
            assert guest.pings(f"{PREFIX}1"), "the gateway"
            assert guest.pings("2001:db8::1"), "through NAT"
            guest("ip", "-6", "neigh", "flush", "dev", "eth0")
            assert guest.pings(link_local(wanted.mac) + "%eth0")
    for frame in (*first, *second):
        assert frame["from"] != wanted.mac, frame
        assert frame["to"] != wanted.mac, frame
        assert frame.get("icmp6") != ROUTER_ADVERTISEMENT, frame


def test_dhcpv6_gives_the_address_of_the_table_on_every_node(lab: Lab) -> None:
    wanted, nodes, (web, db) = lab_of_two(lab, dhcp=True)
    with nodes[0].sniffing(wanted.overlay) as frames:
        for guest, last in ((web, 10), (db, 11)):
            until(
                lambda guest=guest: "tentative" not in guest("ip", "-6", "addr"), 10, "a link-local address"
            )
            command = (sys.executable, "-m", "tests.cluster.netmgr.dhcp6", "eth0", guest.mac)
            assert guest(*command).strip() == f"{PREFIX}{last}"
            guest.fixed(f"{PREFIX}{last}/64")
        assert web.pings(f"{PREFIX}11", count=2)
        assert db.pings(f"{PREFIX}10", count=2)
    assert not any({546, 547} & set(frame.get("udp", ())) for frame in frames)


def test_known_ipv6_neighbours_are_not_asked_for_elsewhere(lab: Lab) -> None:
    wanted, nodes, (web, db) = lab_of_two(lab, dhcp=True)
    web.fixed(f"{PREFIX}10/64")
    db.fixed(f"{PREFIX}11/64")
    with nodes[0].sniffing(wanted.overlay) as frames:
        assert web.pings(f"{PREFIX}11", count=2)
    asked = [frame for frame in frames if frame.get("icmp6") == 135 and frame["to"].startswith("33:33")]
    assert [frame for frame in asked if frame["ip"][0] == f"{PREFIX}10"] == []


def test_routed_ipv6_guests_are_reached_through_any_node(lab: Lab) -> None:
    wanted, nodes, (_web, db) = lab_of_two(lab, dhcp=True)
    for node in nodes:
        node.set(at(network(1, **{**_fields(wanted), "mode": "route", "serial": 2}), node, nodes))
    db.fixed(f"{PREFIX}11/64", gateway=f"{PREFIX}1")
    lab.outside("ip", "route", "add", f"{PREFIX}/64", "via", "2001:db8::11")
    until(lambda: lab.outside.pings(f"{PREFIX}11"), 10, "a routed guest answers")


def _fields(wanted):  # type: ignore[no-untyped-def]
    return {name: getattr(wanted, name) for name in wanted.__struct_fields__}
