"""A trace names the part of the way that is missing, and nothing that is whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmgr import nft
from netmgr.hops import State
from netmgr.plan import ANY_MAC
from netmgr.seen import Crossed, Rules, Stranger, Way
from netmgr.vlan import tap_mac
from netmgr.walk import walk
from tests.unit.netmgr.ways import (
    BLUE,
    G1,
    G2,
    THERE,
    Break,
    Spots,
    change,
    guest,
    link,
    stops,
    world,
)

ENTRIES = {ANY_MAC: (THERE,), G2.mac: (THERE,)}
BREAKS: dict[str, tuple[Break, tuple[str, str], str]] = {
    "tap is gone": (lambda spots: link(spots, "n1", "vnet11"), ("n1", "tap"), "there is no link vnet11"),
    "tap is down": (lambda spots: link(spots, "n2", "vnet12", up=False), ("n2", "tap"), "vnet12 is down"),
    "no guest at the tap": (
        lambda spots: link(spots, "n2", "vnet12", carrier=False),
        ("n2", "tap"),
        "no carrier",
    ),
    "tap elsewhere": (
        lambda spots: link(spots, "n1", "vnet11", master="virbr7"),
        ("n1", "port"),
        "vnet11 is a port of virbr7, not of br-blue",
    ),
    "port is blocked": (
        lambda spots: link(spots, "n1", "vnet11", forwarding=False),
        ("n1", "port"),
        "passes nothing on",
    ),
    "bridge is gone": (
        lambda spots: link(spots, "n2", "br-blue"),
        ("n2", "bridge"),
        "there is no link br-blue",
    ),
    "bridge is down": (
        lambda spots: link(spots, "n1", "br-blue", up=False),
        ("n1", "bridge"),
        "br-blue is down",
    ),
    "bridge is somebody's": (
        lambda spots: link(spots, "n1", "br-blue", alias=""),
        ("n1", "bridge"),
        "without our mark",
    ),
    "overlay is gone": (lambda spots: link(spots, "n1", "ch1"), ("n1", "overlay"), "there is no link ch1"),
    "overlay is down": (lambda spots: link(spots, "n2", "ch1", up=False), ("n2", "overlay"), "ch1 is down"),
    "overlay of another address": (
        lambda spots: link(spots, "n1", "ch1", local="10.9.9.9"),
        ("n1", "overlay"),
        "VNI 1 of 10.9.9.9",
    ),
    "overlay off the bridge": (
        lambda spots: link(spots, "n2", "ch1", master=""),
        ("n2", "overlay"),
        "ch1 is a port of no bridge",
    ),
    "no entry at all": (
        lambda spots: change(spots, "n1", remote={"ch1": {}}),
        ("n1", "entry"),
        f"no entry for {G2.mac}, and none for all",
    ),
    "entry to another node": (
        lambda spots: change(spots, "n1", remote={"ch1": ENTRIES | {G2.mac: ("10.0.0.3",)}}),
        ("n1", "entry"),
        f"go to 10.0.0.3, the guest is at {THERE}",
    ),
    "no entry back": (lambda spots: change(spots, "n2", remote={"ch1": {}}), ("n2", "entry"), G1.mac),
    "neighbour of another MAC": (
        lambda spots: change(spots, "n1", neighbours={"br-blue": {"10.1.0.12": G1.mac}}),
        ("n1", "neighbour"),
        f"{G1.mac} for 10.1.0.12, not {G2.mac}",
    ),
    "no route between nodes": (
        lambda spots: change(spots, "n1", ways={THERE: Way(problem="Network is unreachable")}),
        ("n1", "underlay"),
        "Network is unreachable",
    ),
    "frames are lost one way": (
        lambda spots: change(
            change(spots, "n1", crossed=Crossed(True, False)), "n2", crossed=Crossed(False, False)
        ),
        ("", "crossing"),
        "no frame came from n1 to n2",
    ),
    "frames are lost": (
        lambda spots: change(
            change(spots, "n1", crossed=Crossed()), "n2", crossed=Crossed(problem="x is down")
        ),
        ("", "crossing"),
        "no frame came from n1 to n2 or from n2 to n1 (n2: x is down)",
    ),
    "the guest is silent": (
        lambda spots: change(spots, "n2", replied=""),
        ("n2", "guest"),
        "does not answer ARP",
    ),
    "another one answers": (
        lambda spots: change(spots, "n2", replied=G1.mac),
        ("n2", "guest"),
        f"{G1.mac} answers for the address of {G2.mac}",
    ),
    "rules were changed": (
        lambda spots: change(spots, "n2", rules={BLUE.uuid: Rules(nft.FAMILIES)}),
        ("n2", "rules"),
        "somebody changed table",
    ),
    "somebody's rules drop all": (
        lambda spots: change(spots, "n1", strangers=(Stranger("bridge filter FORWARD", "forward", True),)),
        ("n1", "other rules"),
        "bridge filter FORWARD",
    ),
}
ODDITIES: dict[str, tuple[Break, str]] = {
    "no entry but for all": (
        lambda spots: change(spots, "n1", remote={"ch1": {ANY_MAC: (THERE,)}}),
        "entry at n1",
    ),
    "no entry for all": (
        lambda spots: change(spots, "n1", remote={"ch1": {G2.mac: (THERE,)}}),
        "entry at n1",
    ),
    "no neighbour": (lambda spots: change(spots, "n2", neighbours={}), "neighbour at n2"),
    "no table": (lambda spots: change(spots, "n1", rules={}), "rules at n1"),
    "rules of an older order": (
        lambda spots: change(spots, "n1", rules={BLUE.uuid: Rules(nft.FAMILIES, "0" * 16)}),
        "rules at n1",
    ),
    "too small an underlay": (
        lambda spots: change(spots, "n1", ways={THERE: Way("eth0", mtu=1450)}),
        "underlay at n1",
    ),
    "gateway of another MAC": (
        lambda spots: link(spots, "n2", "br-blue", mac="52:54:00:ff:ff:ff"),
        "bridge at n2",
    ),
    "rules of others": (
        lambda spots: change(spots, "n1", strangers=(Stranger("bridge x y", "forward", drops=1),)),
        "other rules at n1",
    ),
}


def blue() -> Spots:
    return world((G1, G2), BLUE)


def test_a_way_that_has_all_its_parts_is_whole():
    way = walk(G1, G2, blue(), probe=True)
    assert [hop for hop in way.hops if hop.state is not State.OK] == []
    assert (way.whole, way.end) == (True, "the way is whole")
    assert [(hop.node, hop.part) for hop in way.hops][:2] == [("n1", "interface"), ("n1", "tap")]
    assert (way.hops[-1].node, way.hops[-1].part) == ("n2", "guest")


@pytest.mark.parametrize("name", BREAKS)
def test_the_trace_stops_at_what_is_broken_and_says_what_was_found(name):
    spoil, where, said = BREAKS[name]
    way = walk(G1, G2, spoil(blue()), probe=True)
    assert not way.whole
    assert stops(way) == where
    assert said in way.end


@pytest.mark.parametrize("name", ODDITIES)
def test_what_works_but_is_not_as_it_shall_be_is_named(name):
    spoil, where = ODDITIES[name]
    way = walk(G1, G2, spoil(blue()))
    assert way.whole
    assert way.end == f"the way is whole, but not all as it shall be: {where}"


@given(st.sets(st.sampled_from(sorted(BREAKS)), min_size=1))
def test_whatever_breaks_together_the_way_is_not_whole_and_ends_at_a_part_that_is_not_fine(names):
    spots = blue()
    for name in sorted(names):
        # Two of them may take the same link away.
        try:
            spots = BREAKS[name][0](spots)
        except KeyError:
            continue
    way = walk(G1, G2, spots, probe=True)
    assert not way.whole
    assert stops(way)[1] in {part for _, (_, part), _ in BREAKS.values()}


@given(st.data())
def test_a_node_that_sees_only_a_part_of_what_was_asked_never_makes_a_whole_way_of_a_missing_link(data):
    spots = blue()
    node = data.draw(st.sampled_from(sorted(spots)))
    names = st.sets(st.sampled_from(sorted(spots[node].sight.links)), min_size=1)
    for name in data.draw(names):
        spots = link(spots, node, name)
    assert not walk(G1, G2, spots).whole


def test_a_node_that_does_not_answer_is_told_with_its_reason_and_what_is_known_elsewhere_stays_known():
    spots = blue()
    spots["n2"] = replace(spots["n2"], sight=None, silent="node n2 is out of reach since 10:00:00")
    way = walk(G1, G2, spots)
    assert not way.whole
    assert way.end.startswith("it is not known at the bridge at n2: node n2 is out of reach")
    states = {(hop.node, hop.part): hop.state for hop in way.hops}
    assert states["n1", "entry"] is State.OK
    assert states["n2", "tap"] is State.UNKNOWN
    assert "node n2 is out of reach since 10:00:00" in {hop.found for hop in way.hops}


def test_guests_of_one_node_meet_on_its_bridge_alone():
    near = guest("g3", "n1", BLUE, 13)
    way = walk(G1, near, world((G1, near), BLUE))
    assert way.whole
    assert {hop.node for hop in way.hops} == {"n1"}
    assert "overlay" not in {hop.part for hop in way.hops}


@pytest.mark.parametrize(
    ("plug", "said"),
    [
        (replace(G2, running=False), "domain g2 is not running"),
        (replace(G2, link_up=False), "is set down"),
    ],
)
def test_a_guest_that_cannot_take_part_is_where_the_way_stops(plug, said):
    way = walk(G1, plug, world((G1, G2), BLUE))
    assert stops(way) == ("n2", "interface")
    assert said in way.end


def test_a_guest_whose_definition_is_not_told_is_found_by_the_mac_of_its_tap():
    plug = replace(G2, tap="", problem="libvirtd does not answer")
    spots = link(blue(), "n2", "vnet12", mac=tap_mac(G2.mac), up=False)
    way = walk(G1, plug, spots)
    assert stops(way) == ("n2", "tap")
    assert "vnet12 is down" in way.end
    states = {(hop.node, hop.part): hop.state for hop in walk(G1, plug, blue()).hops}
    assert (states["n2", "port"], states["n2", "tap"]) == (State.UNKNOWN, State.UNKNOWN)


@pytest.mark.parametrize(("bound", "end"), [(True, "whole"), (False, "not all as it shall be: filter at n2")])
def test_a_filter_is_named_and_one_that_its_node_has_not_bound_too(bound, end):
    way = walk(G1, replace(G2, filter="clean-traffic", bound=bound), blue())
    assert way.end.endswith(end)
    assert [hop.node for hop in way.hops if hop.part == "filter"] == ["n2"]


def test_a_source_that_does_not_run_has_no_way_at_all():
    way = walk(replace(G1, running=False), G2, blue())
    assert [hop.part for hop in way.hops] == ["interface"]


def test_isolated_guests_stop_at_the_isolation_on_two_nodes_and_on_one():
    way = walk(G1, G2, world((G1, G2), BLUE, isolated=True))
    assert stops(way) == ("n1", "isolation")
    near = guest("g3", "n1", BLUE, 13)
    spots = world((G1, near), BLUE)
    for plug in (G1, near):
        spots = link(spots, "n1", plug.tap, isolated=True)
    assert stops(walk(G1, near, spots)) == ("n1", "isolation")
    assert walk(G1, near, link(spots, "n1", near.tap, isolated=False)).whole
