"""Traces between networks, to the gateway and out: what is on the way, and what keeps networks apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netmgr.seen import Stranger, Way
from netmgr.walk import Beyond, walk
from netmgr.walk import Way as Walked
from netmgr.wanted import WantedTrunk
from tests.unit.netmgr.ways import (
    BLUE,
    G1,
    G2,
    OUTSIDE,
    RED,
    Break,
    change,
    guest,
    link,
    network,
    stops,
    world,
)

# ---- between networks -------------------------------------------------------------------------------------


def between(one: str, other: str, node: str = "n2", **options: object) -> Walked:
    blue, red = network("blue", 1, one, **options), network("red", 2, other)
    plugs = (guest("g1", "n1", blue, 11), guest("g2", node, red, 12))
    return walk(*plugs, world(plugs, blue, red))


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("none", "route", "network blue is isolated"),
        ("route", "none", "network red is isolated"),
        ("route", "nat", "network red is behind NAT"),
        ("nat", "route", "behind NAT of n1 its answers end at the gateway on n2"),
    ],
)
def test_networks_that_are_kept_apart_say_which_one_does_it(one, other, said):
    way = between(one, other)
    assert stops(way)[1] == "isolation"
    assert said in way.end


@pytest.mark.parametrize(("one", "other"), [("route", "route"), ("open", "route"), ("route", "open")])
def test_routed_networks_reach_each_other_across_nodes(one, other):
    way = between(one, other)
    assert way.whole, way.end
    assert {"gateway", "forwarding", "crossing"} <= {hop.part for hop in way.hops}


def test_behind_nat_a_guest_reaches_routed_ones_on_its_own_node():
    assert between("nat", "route", "n1").whole


def test_a_network_that_goes_out_by_one_device_does_not_reach_others():
    way = between("route", "route", devices=("eth9",))
    assert "network blue goes out by eth9 alone, not by br-red" in way.end


def test_a_neighbour_that_is_not_known_breaks_only_what_is_routed():
    plugs = (guest("g1", "n1", BLUE, 11), guest("g2", "n2", RED, 12))
    spots = change(world(plugs, BLUE, RED), "n1", neighbours={})
    assert stops(walk(*plugs, spots)) == ("n1", "neighbour")


def test_guests_without_addresses_of_one_version_do_not_reach_each_other():
    plugs = (G1, replace(guest("g2", "n2", RED, 12), addresses=("fd00::2",)))
    assert stops(walk(*plugs, world(plugs, BLUE, RED))) == ("", "addresses")


# ---- out --------------------------------------------------------------------------------------------------


def out(mode: str, target: Beyond, spoil: Break = lambda spots: spots, **options: object) -> Walked:
    net = network("blue", 1, mode, **options)
    plug = guest("g1", "n1", net, 11)
    return walk(plug, target, spoil(world((plug,), net)))


def test_the_gateway_is_on_the_guests_own_node():
    way = out("nat", Beyond("10.1.0.1", gateway=True))
    assert way.whole
    assert {hop.node for hop in way.hops} == {"n1"}


def test_a_gateway_that_lost_its_address_is_named():
    way = out(
        "nat", Beyond("10.1.0.1", gateway=True), lambda spots: change(spots, "n1", addresses={"br-blue": ()})
    )
    assert way.end == "it stops at the gateway at n1: br-blue lacks 10.1.0.1/24"


@pytest.mark.parametrize("mode", ["nat", "route", "open"])
def test_networks_that_are_forwarded_reach_out(mode):
    assert out(mode, Beyond(OUTSIDE)).whole


def test_an_isolated_network_does_not_reach_out():
    assert "network blue is isolated" in out("none", Beyond(OUTSIDE)).end


OUTWARD: dict[str, tuple[Break, str]] = {
    "no forwarding": (lambda spots: change(spots, "n1", forwards=()), "forwarding of IPv4 is off"),
    "no route": (
        lambda spots: change(spots, "n1", ways={OUTSIDE: Way(problem="unreachable")}),
        "no route to",
    ),
    "no NAT": (lambda spots: change(spots, "n1", rules={}), "no table clusterhost-br-blue in inet"),
    "a closed chain": (
        lambda spots: change(spots, "n1", strangers=(Stranger("ip filter FORWARD", "forward", True),)),
        "ip filter FORWARD: drops what its rules do not accept",
    ),
}


@pytest.mark.parametrize("name", OUTWARD)
def test_what_a_way_out_needs_of_the_node_is_named_when_it_is_missing(name):
    spoil, said = OUTWARD[name]
    way = out("nat", Beyond(OUTSIDE), spoil)
    assert not way.whole
    assert said in way.end


def test_a_way_out_by_a_device_that_the_network_does_not_take_stops_there():
    assert "goes out by eth7 alone, not by eth0" in out("nat", Beyond(OUTSIDE), devices=("eth7",)).end


# ---- networks on VLANs, and those that are not ours ----------------------------------------------------------


def test_between_nodes_of_a_trunk_the_switch_is_not_known_and_a_trunk_that_is_down_is_named():
    net = network("five", 5, "none", trunk=WantedTrunk("eth1", (5,)), subnets=(), bridge="cht-eth1")
    plugs = (guest("g1", "n1", net, 11), guest("g2", "n2", net, 12))
    spots = world(plugs, net)
    way = walk(*plugs, spots)
    assert stops(way) == ("", "switch")
    assert stops(walk(*plugs, link(spots, "n2", "eth1", up=False))) == ("n2", "trunk")
    near = guest("g3", "n1", net, 13)
    assert walk(plugs[0], near, world((plugs[0], near), net)).whole


def test_a_network_that_is_passed_to_nodes_is_known_up_to_the_tap():
    spots = {name: replace(spot, shall={}) for name, spot in world((G1, G2), BLUE).items()}
    way = walk(G1, G2, spots)
    assert stops(way) == ("n1", "network")
    assert [hop.part for hop in way.hops] == ["interface", "tap", "network"]
