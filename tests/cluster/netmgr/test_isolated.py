"""Isolated guests see the gateway and who is not isolated, and nothing of each other, on one node and across nodes."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from netmgr.wanted import WantedGuest
from tests.cluster.netmgr.lab import OUTSIDE, Guest, Lab, Node, at, member, network

pytestmark = pytest.mark.real

NOBODY = "192.168.1.250"
STRANGER = "02:00:00:00:00:99"


class Parted:
    """Two nodes with web and web2 on the first, db and free on the second; all but free are isolated."""

    def __init__(self, lab: Lab, *, all_isolated: bool = False) -> None:
        self.lab = lab
        self._nobodies = itertools.count(100)  # what was asked for before is asked for more slowly
        self.wanted = network(1, isolated=all_isolated)
        one, two = self.nodes = (lab.node(1), lab.node(2))
        places = {"web": one, "web2": one, "db": two, "free": two}
        self.members = {
            name: member(1, last, places[name], name, isolated=name != "free")
            for last, name in enumerate(places, 10)
        }
        whole = msgspec.structs.replace(self.wanted, guests=tuple(self.members.values()))
        for node in self.nodes:
            node.set(at(whole, node, self.nodes))
        self.guests = {name: self._plug(name, places[name]) for name in places}
        self.heal()

    def _plug(self, name: str, node: Node) -> Guest:
        """As libvirt does: the tap has the guest's MAC, but for its first byte."""
        known = self.members[name]
        guest = self.lab.guest(name, node, self.wanted, known.mac)
        node("ip", "link", "set", guest.tap, "address", f"fe{known.mac[2:]}")
        guest.fixed(f"{known.addresses[0]}/24", gateway="192.168.1.1")
        return guest

    def heal(self) -> None:
        for node in self.nodes:
            node.obey("heal")

    def tell(self, name: str, **changes: object) -> None:
        guest: WantedGuest = msgspec.structs.replace(self.members[name], serial=5, **changes)
        for node in self.nodes:
            place = "" if guest.place == node.address else guest.place
            node.guest(self.wanted.uuid, msgspec.structs.replace(guest, place=place))

    def reaches(self, one: str, other: str) -> bool:
        """Both ways, by address."""
        there, back = (
            self.guests[source].pings(self.members[target].addresses[0])
            for source, target in ((one, other), (other, one))
        )
        assert there == back, (one, other, there, back)
        return there

    def hears(self, name: str, source: str) -> bool:
        """What another guest says to all arrives at its tap."""
        guest, speaker = self.guests[name], self.guests[source]
        with guest.node.sniffing(guest.tap) as frames:
            speaker.pings(f"192.168.1.{next(self._nobodies)}")
        return any(frame["from"] == speaker.mac for frame in frames)

    def check(self) -> None:
        """Everything that isolation says."""
        for one, other in (("web", "web2"), ("web", "db"), ("web2", "db")):
            assert not self.reaches(one, other), (one, other)
            assert not self.hears(other, one), (one, other)
        for name in ("web", "db"):
            assert self.reaches(name, "free"), name
            assert self.hears("free", name), name
            assert self.hears(name, "free"), name
            assert self.guests[name].pings("192.168.1.1")
            assert self.guests[name].pings(OUTSIDE)


@pytest.mark.parametrize("all_isolated", [False, True], ids=["some guests", "all but one"])
def test_isolated_guests_see_the_gateway_and_others_but_not_each_other(lab: Lab, all_isolated: bool) -> None:
    Parted(lab, all_isolated=all_isolated).check()


def test_isolation_heals(lab: Lab) -> None:
    parted = Parted(lab)
    one = parted.nodes[0]
    tap = parted.guests["web"].tap
    one("bridge", "link", "set", "dev", tap, "isolated", "off")
    assert parted.reaches("web", "web2")
    parted.heal()
    assert not parted.reaches("web", "web2")
    one("ip", "link", "del", parted.wanted.bridge)
    parted.heal()  # the ports join again, and are known as what they are at the next look
    parted.heal()
    one("nft", "flush", "table", "bridge", f"clusterhost-{parted.wanted.bridge}")
    parted.heal()
    parted.check()
    assert one.obey("heal")["steps"] == []


def test_isolation_changes_while_a_guest_runs(lab: Lab) -> None:
    parted = Parted(lab)
    parted.tell("db", isolated=False)
    assert parted.reaches("web", "db")
    assert parted.hears("db", "web")
    parted.tell("db", isolated=True)
    assert not parted.reaches("web", "db")
    assert not parted.hears("db", "web")


def test_an_isolated_guest_gains_nothing_by_another_mac(lab: Lab) -> None:
    parted = Parted(lab)
    web = parted.guests["web"]
    web("ip", "link", "set", "eth0", "address", STRANGER)
    with parted.nodes[1].sniffing(parted.wanted.overlay) as frames:
        assert not web.pings(parted.members["db"].addresses[0])
        assert not web.pings(NOBODY)
    assert [frame for frame in frames if frame["from"] == STRANGER] == []
