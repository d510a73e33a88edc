"""Guests on several nodes are on one network: layer 2, addresses, names, the way out, and none of it elsewhere."""

from __future__ import annotations

import subprocess
import time

import msgspec
import pytest

from netmgr.wanted import WantedDns, WantedGuest, WantedNetwork, WantedSrv
from tests.cluster.netmgr.lab import OUTSIDE, Guest, Lab, Node, at, member, network

pytestmark = pytest.mark.real

DNS = WantedDns(
    domain="lab.test",
    local_only=True,
    hosts=(("192.168.1.200", ("printer",)),),
    srvs=(WantedSrv("ldap", "tcp", "lab.test", "web.lab.test", 389, 1, 2),),
    txts=(("note.lab.test", "hello there"),),
)


class Cluster:
    """Nodes with one network, and a guest for each of its guests."""

    def __init__(self, lab: Lab, wanted: WantedNetwork, count: int = 2) -> None:
        self.lab = lab
        self.nodes = tuple(lab.node(number) for number in range(1, count + 1))
        self.wanted = wanted
        self.guests: dict[str, Guest] = {}

    def add(self, wanted: WantedNetwork, *guests: WantedGuest) -> WantedNetwork:
        """Set a network with guests at every node, and plug them in."""
        whole = msgspec.structs.replace(wanted, guests=guests)
        for node in self.nodes:
            node.set(at(whole, node, self.nodes))
        for guest in guests:
            name = guest.names[0] if guest.names else f"g{guest.mac[-2:]}"
            node = next(node for node in self.nodes if node.address == guest.place)
            self.guests[name] = self.lab.guest(name, node, wanted, guest.mac)
        return whole

    def place(self, uuid: str, guest: WantedGuest, node: Node, serial: int) -> None:
        """Tell every node where a guest is now."""
        for each in self.nodes:
            place = "" if each is node else node.address
            each.guest(uuid, msgspec.structs.replace(guest, place=place, serial=serial))


def two_guests(lab: Lab, count: int = 2, **changes: object) -> tuple[Cluster, Guest, Guest]:
    """web on the first node, db on the second."""
    cluster = Cluster(lab, network(1, dns=DNS, **changes), count)
    one, two = cluster.nodes[:2]
    cluster.add(cluster.wanted, member(1, 10, one, "web"), member(1, 11, two, "db"))
    return cluster, cluster.guests["web"], cluster.guests["db"]


def test_dhcp_gives_the_address_of_the_table_on_every_node(lab: Lab) -> None:
    _, web, db = two_guests(lab)
    given = {guest.name[-2:]: guest.dhcp() for guest in (web, db)}
    assert given["eb"]["ip"] == "192.168.1.10"
    assert given["db"]["ip"] == "192.168.1.11"
    for answer in given.values():
        assert (answer["router"], answer["server"], answer["mtu"]) == ("192.168.1.1", "192.168.1.1", "1450")
        assert answer["domain"] == "lab.test"
    assert given["eb"]["name"] == "web"
    assert web.pings("192.168.1.11", count=3)
    assert db.pings("192.168.1.10", count=3)


def test_a_mac_that_nobody_knows_gets_no_answer(lab: Lab) -> None:
    cluster, web, _ = two_guests(lab)
    stranger = lab.guest("odd", cluster.nodes[0], cluster.wanted, "02:00:00:00:00:99")
    with pytest.raises(AssertionError, match="DHCP answers"):
        stranger.dhcp()
    assert web.dhcp()["ip"] == "192.168.1.10"


def test_unicast_goes_to_the_right_node_alone(lab: Lab) -> None:
    cluster, web, db = two_guests(lab, 3)
    for guest, address in ((web, "192.168.1.10/24"), (db, "192.168.1.11/24")):
        guest.fixed(address)
    assert web.pings("192.168.1.11", count=2)
    third = cluster.nodes[2]
    with third.sniffing(cluster.wanted.overlay) as seen:
        assert web.pings("192.168.1.11", count=10)
    assert [frame for frame in seen if frame["kind"] in ("ip", "arp")] == [], (
        "a known address is not even asked for"
    )


def test_what_nobody_knows_is_asked_of_every_node(lab: Lab) -> None:
    cluster, web, db = two_guests(lab)
    web.fixed("192.168.1.10/24")
    db.fixed("192.168.1.11/24", "192.168.1.77/24")
    assert web.pings("192.168.1.77", count=2), "a second address of a guest, in nobody's table"
    extra = lab.guest("new", cluster.nodes[1], cluster.wanted, "02:00:00:00:00:77")
    extra.fixed("192.168.1.78/24")
    assert web.pings("192.168.1.78", count=2), "a MAC in nobody's table"


def test_the_same_gateway_is_on_every_node(lab: Lab) -> None:
    cluster, web, db = two_guests(lab)
    for guest, address in ((web, "192.168.1.10/24"), (db, "192.168.1.11/24")):
        guest.fixed(address)
        assert guest.pings("192.168.1.1")
        assert cluster.wanted.mac in guest("ip", "neigh", "show", "192.168.1.1")


@pytest.mark.parametrize("kind", ["a", "ptr", "srv", "txt"])
def test_names_resolve_on_every_node(lab: Lab, kind: str) -> None:
    _, web, db = two_guests(lab)
    questions = {
        "a": [
            ("db.lab.test", "192.168.1.11"),
            ("web", "192.168.1.10"),
            ("printer.lab.test", "192.168.1.200"),
        ],
        "ptr": [("192.168.1.11", "db.lab.test"), ("192.168.1.10", "web.lab.test")],
        "srv": [("_ldap._tcp.lab.test", "web.lab.test")],
        "txt": [("note.lab.test", "hello there")],
    }
    for guest, address in ((web, "192.168.1.10/24"), (db, "192.168.1.11/24")):
        guest.fixed(address)
        for question, answer in questions[kind]:
            assert answer in guest.asks(question, "192.168.1.1", kind), guest.name


def test_a_moved_guest_renews_at_its_new_node_and_its_pings_go_on(lab: Lab) -> None:
    cluster, web, db = two_guests(lab)
    one, two = cluster.nodes
    assert web.dhcp()["ip"] == "192.168.1.10"
    assert db.dhcp()["ip"] == "192.168.1.11"
    assert web.pings("192.168.1.11")
    db.move(one, cluster.wanted.bridge)
    cluster.place(cluster.wanted.uuid, member(1, 11, one, "db"), one, 2)
    assert web.pings("192.168.1.11", count=3)
    assert db.renew() | {"event": ""} == db.told(1) | {"event": ""}
    assert db.told(2)["event"] == "renew"
    assert db.pings(OUTSIDE)
    db.move(two, cluster.wanted.bridge)
    cluster.place(cluster.wanted.uuid, member(1, 11, two, "db"), two, 3)
    assert web.pings("192.168.1.11", count=3)
    assert db.renew()["ip"] == "192.168.1.11"


def test_few_pings_are_lost_when_a_guest_moves(lab: Lab) -> None:
    cluster, web, db = two_guests(lab, 3)
    for guest, address in ((web, "192.168.1.10/24"), (db, "192.168.1.11/24")):
        guest.fixed(address)
    assert web.pings("192.168.1.11")
    pinging = web.start(
        "ping", "-n", "-i", "0.1", "-c", "60", "-W", "1", "192.168.1.11", stdout=subprocess.PIPE
    )
    for serial, node in enumerate((cluster.nodes[2], cluster.nodes[0], cluster.nodes[1]), 2):
        time.sleep(1)
        db.move(node, cluster.wanted.bridge)
        cluster.place(cluster.wanted.uuid, member(1, 11, node, "db"), node, serial)
    out, _ = pinging.communicate(timeout=20)
    received = int(out.split(" received")[0].split()[-1])
    print(f"three moves: {60 - received} of 60 pings lost")
    assert received >= 45


def test_nat_reaches_the_outside_and_hides_the_inside(lab: Lab) -> None:
    _, web, db = two_guests(lab)
    for guest, address in ((web, "192.168.1.10/24"), (db, "192.168.1.11/24")):
        guest.fixed(address, gateway="192.168.1.1")
        assert guest.pings(OUTSIDE, count=2), "the outside has no route to 192.168.1.0/24"
    lab.outside("ip", "route", "add", "192.168.1.0/24", "via", "203.0.113.11")
    assert not lab.outside.pings("192.168.1.10"), "nobody comes in uninvited"


def test_an_isolated_network_reaches_its_own_and_nobody_else(lab: Lab) -> None:
    _, web, db = two_guests(lab, mode="none")
    given = web.dhcp()
    assert given["router"] == ""
    db.fixed("192.168.1.11/24")
    assert web.pings("192.168.1.11")
    assert web.pings("192.168.1.1")
    web("ip", "route", "add", "default", "via", "192.168.1.1")
    for node in db.lab.spaces:
        if isinstance(node, Node):  # as another network there may have set
            node("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert not web.pings(OUTSIDE)


def test_two_networks_do_not_see_each_other(lab: Lab) -> None:
    cluster, web, db = two_guests(lab)
    one, two = cluster.nodes
    cluster.add(network(2), member(2, 10, one, "red"), member(2, 11, two, "blue"))
    red, blue = cluster.guests["red"], cluster.guests["blue"]
    for guest, address in (
        (web, "192.168.1.10"),
        (db, "192.168.1.11"),
        (red, "192.168.2.10"),
        (blue, "192.168.2.11"),
    ):
        guest.fixed(f"{address}/24", gateway=address.rsplit(".", 1)[0] + ".1")
    assert red.pings("192.168.2.11")
    assert web.pings("192.168.1.11")
    for address in ("192.168.2.10", "192.168.2.11"):
        assert not web.pings(address)
        assert not db.pings(address)
    assert not red.pings("192.168.1.10")
    # Nor when one takes an address of the other's subnet.
    red("ip", "addr", "add", "192.168.1.66/24", "dev", "eth0")
    assert not red.pings("192.168.1.10", "-I", "192.168.1.66")


def test_routed_guests_are_reached_through_any_node(lab: Lab) -> None:
    _, web, db = two_guests(lab, mode="route")
    for guest, address in ((web, "192.168.1.10/24"), (db, "192.168.1.11/24")):
        guest.fixed(address, gateway="192.168.1.1")
    lab.outside("ip", "route", "add", "192.168.1.0/24", "via", "203.0.113.11")
    assert lab.outside.pings("192.168.1.10", count=2)
    assert lab.outside.pings("192.168.1.11", count=3), "in through the first node, to a guest of the second"
    assert db.pings(OUTSIDE)


def test_the_gateway_and_dhcp_never_cross_the_overlay(lab: Lab) -> None:
    cluster, web, db = two_guests(lab, mode="route")
    one, two = cluster.nodes
    lab.outside("ip", "route", "add", "192.168.1.0/24", "via", "203.0.113.11")
    with one.sniffing(cluster.wanted.overlay) as first, two.sniffing(cluster.wanted.overlay) as second:
        for guest in (web, db):
            assert guest.dhcp()["router"] == "192.168.1.1"
            guest("ip", "neigh", "flush", "dev", "eth0")
            assert guest.pings("192.168.1.1", count=2)
        one(
            "ping", "-c", "1", "-W", "1", "192.168.1.123", check=False
        )  # has the node itself ask for somebody
        db("busybox", "arping", "-c", "2", "-I", "eth0", "192.168.1.1", check=False)
        db("busybox", "arping", "-c", "1", "-I", "eth0", "192.168.1.77", check=False)
        assert web.pings("192.168.1.11")
        assert lab.outside.pings("192.168.1.11")
    for frames in (first, second):
        assert any(frame["kind"] == "ip" for frame in frames)
        assert any(frame["kind"] == "arp" for frame in frames), (
            "of guests for unknown addresses: it does work"
        )
        for frame in frames:
            assert "192.168.1.1" not in frame.get("arp", ()), frame
            assert not {67, 68} & set(frame.get("udp", ())), frame
            assert frame["to"] != cluster.wanted.mac, frame
            if frame["from"] == cluster.wanted.mac:
                assert frame["kind"] == "ip", frame
                assert frame["ip"][0] == OUTSIDE, frame


def test_a_frame_as_large_as_the_guest_was_told_passes_whole(lab: Lab) -> None:
    _, web, db = two_guests(lab)
    for guest in (web, db):
        assert guest.dhcp()["mtu"] == "1450"
    assert web.pings("192.168.1.11", "-M", "do", "-s", str(1450 - 28))
    assert not web.pings("192.168.1.11", "-M", "do", "-s", str(1451 - 28))
    assert web.pings(OUTSIDE, "-M", "do", "-s", str(1450 - 28))
    assert web.pings("192.168.1.1", "-M", "do", "-s", str(1450 - 28))
