"""A network's <bandwidth> at each node: what guests get from outside of the bridge and send there, kept, taken away."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from netmgr.wanted import WantedRate
from tests.cluster.netmgr.lab import OUTSIDE, Guest, Lab, Space, at, member, network

pytestmark = pytest.mark.real

PORT = 5001
PROGRAM = (sys.executable, "-m", "tests.cluster.netmgr.flow")
AVERAGE = int(os.environ.get("AVERAGE", "1000"))
"""Of what guests receive, in units of 1000 bytes a second; a slow machine asks for less."""
SHAPED = network(1, inbound=WantedRate(AVERAGE, 0, 64), outbound=WantedRate(AVERAGE // 2, 0, 64))


@contextmanager
def serving(space: Space) -> Iterator[None]:
    with space.start(*PROGRAM, "serve", str(PORT), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.kill()


def rate(guest: Guest, way: str, address: str, seconds: float = 3.0) -> float:
    """Units of 1000 bytes a second."""
    return float(guest(*PROGRAM, way, address, str(PORT), str(seconds), seconds=40)) / 1000


def has(guest: Guest, way: str, average: int) -> bool:
    """The connection to the outside gets the average, give or take a fifth; a busy machine may need another try."""
    found = []
    while len(found) < 3:
        found.append(rate(guest, way, OUTSIDE))
        if found[-1] == pytest.approx(average, rel=0.2):
            return True
    raise AssertionError(f"{way}: {found}, not {average}")


def test_a_node_limits_what_its_guests_exchange_with_the_outside_and_not_among_themselves(lab: Lab) -> None:
    one, two = nodes = (lab.node(1), lab.node(2))
    places = {"web": one, "db": one, "far": two}
    members = [member(1, last, node, name) for last, (name, node) in enumerate(places.items(), 10)]
    wanted = msgspec.structs.replace(SHAPED, guests=tuple(members))
    for node in nodes:
        node.set(at(wanted, node, nodes))
    guests = {}
    for known in members:
        guests[known.names[0]] = guest = lab.guest(known.names[0], places[known.names[0]], wanted, known.mac)
        guest.fixed(f"{known.addresses[0]}/24", gateway="192.168.1.1")
    with serving(lab.outside):
        assert has(guests["web"], "get", AVERAGE)
        assert has(guests["web"], "put", AVERAGE // 2)
        assert has(guests["far"], "get", AVERAGE)
    with serving(guests["db"]):
        assert rate(guests["web"], "get", "192.168.1.11", 1.0) > 3 * AVERAGE
        assert rate(guests["far"], "put", "192.168.1.11", 1.0) > 3 * AVERAGE


def test_rates_heal_change_and_go(lab: Lab) -> None:
    node = lab.node(1)
    node.set(SHAPED)
    assert node.obey("heal")["steps"] == []
    assert f"rate {AVERAGE * 8 // 1000}Mbit ceil" in node("tc", "class", "show", "dev", SHAPED.bridge)
    node("tc", "qdisc", "del", "dev", SHAPED.bridge, "root")
    assert node.obey("heal")["steps"] == ["SetQueue"]
    node("tc", "class", "change", "dev", SHAPED.bridge, "classid", "1:1", "htb", "rate", "1mbit")
    assert node.obey("heal")["steps"] == ["SetQueue"]
    node("ip", "link", "del", SHAPED.bridge)
    assert "SetQueue" in node.obey("heal")["steps"]
    assert node.obey("heal")["steps"] == []
    peak = msgspec.structs.replace(SHAPED, serial=2, inbound=WantedRate(500, 4000), outbound=WantedRate())
    assert node.set(peak)["steps"] == ["SetQueue", "LoadRules"]
    assert "rate 4Mbit ceil 32Mbit" in node("tc", "class", "show", "dev", SHAPED.bridge)
    assert "limit" not in node("nft", "list", "ruleset")
    plain = msgspec.structs.replace(SHAPED, serial=3, inbound=WantedRate(), outbound=WantedRate())
    node.set(plain)
    assert "htb" not in node("tc", "qdisc", "show", "dev", SHAPED.bridge)
    assert node.obey("heal")["steps"] == []


def test_every_rate_can_be_had_and_is_recognised(lab: Lab) -> None:
    node = lab.node(1)
    averages = (1, 125, 1_250_000, 5_000_000, 9_999_999, 10_000_001, 1 << 60)
    for serial, (average, burst) in enumerate(itertools.product(averages, (0, 1, 1 << 22, 1 << 60)), 1):
        some = WantedRate(average, 0, burst)
        node.set(msgspec.structs.replace(SHAPED, serial=serial, inbound=some, outbound=some))
        assert node.obey("heal")["steps"] == [], some
