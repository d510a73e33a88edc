"""From whatever a node has, the steps lead to what is wanted, and stop there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from netmgr import plan, steps
from netmgr.plan import Link, Refused, guest_steps, steps_away, steps_to
from netmgr.wanted import (
    WantedGuest,
    WantedNetwork,
    WantedRoute,
    WantedSubnet,
    temporary_name,
)
from tests.unit.netmgr_plan.world import PLACE, World

UUID = "11111111-2222-3333-4444-555555555501"
FOUR = WantedSubnet("192.168.1.1/24", dhcp=True)
SIX = WantedSubnet("fd00:7::1/64")
BASE = WantedNetwork(
    uuid=UUID, name="net1", serial=1, vni=257, bridge="virbr1", mac="52:54:00:aa:bb:01", local="10.0.0.1"
)
PEERS = ("10.0.0.2", "10.0.0.3")

macs = st.integers(1, 4).map(lambda number: f"02:00:00:00:00:{number:02x}")
guests = st.builds(
    WantedGuest,
    mac=macs,
    addresses=st.integers(10, 13).map(lambda last: (f"192.168.1.{last}", f"fd00:7::{last}")),
    names=st.sampled_from([(), ("web",), ("db", "db.lab")]),
    place=st.sampled_from(["", *PEERS]),
    isolated=st.booleans(),
)
networks = st.builds(
    lambda mode, subnets, peers, routes, mtu, bridge, vni: structs.replace(
        BASE, mode=mode, subnets=subnets, peers=peers, routes=routes, mtu=mtu, bridge=bridge, vni=vni
    ),
    st.sampled_from(["none", "nat", "route", "open"]),
    st.sampled_from([(), (FOUR,), (SIX,), (FOUR, SIX)]),
    st.lists(st.sampled_from(PEERS), unique=True).map(tuple),
    st.sampled_from([(), (WantedRoute("10.9.0.0/16", "192.168.1.9"),)]),
    st.sampled_from([0, 1400]),
    st.sampled_from(["virbr1", "virbr2"]),
    st.sampled_from([257, 258]),
)
members = st.lists(guests, max_size=4, unique_by=lambda guest: guest.mac).map(
    lambda found: {guest.key: guest for guest in found}
)


def settle(world: World, wanted: WantedNetwork, found: dict[str, WantedGuest]) -> tuple[steps.Step, ...]:
    """Do all that is to be done."""
    world.wanted = wanted
    todo = steps_to(wanted, found, world.actual(), PLACE)
    for step in todo:
        world.perform(step)
    return todo


def at_once(wanted: WantedNetwork, found: dict[str, WantedGuest]) -> World:
    """A new node with the network."""
    world = World(wanted)
    settle(world, wanted, found)
    return world


def compared(world: World) -> object:
    """What two worlds are compared by: numbers of links tell only how often they were made."""
    links = [replace(link, index=0, master=bool(link.master)) for _, link in sorted(world.links.items())]
    return links, world.seen


@given(networks, members)
def test_what_is_as_wanted_needs_no_step(wanted: WantedNetwork, found: dict[str, WantedGuest]) -> None:
    world = at_once(wanted, found)
    assert steps_to(wanted, found, world.actual(), PLACE) == ()


@given(networks, members, networks, members)
def test_a_change_ends_where_a_new_node_would(
    old: WantedNetwork, before: dict[str, WantedGuest], new: WantedNetwork, after: dict[str, WantedGuest]
) -> None:
    world = at_once(old, before)
    settle(world, new, after)
    assert steps_to(new, after, world.actual(), PLACE) == ()
    assert compared(world) == compared(at_once(new, after))


@given(networks, members, networks, members, st.integers(0, 60))
def test_a_change_that_is_broken_off_anywhere_is_completed(
    old: WantedNetwork,
    before: dict[str, WantedGuest],
    new: WantedNetwork,
    after: dict[str, WantedGuest],
    count: int,
) -> None:
    world = at_once(old, before)
    world.wanted = new
    for step in steps_to(new, after, world.actual(), PLACE)[:count]:
        world.perform(step)
    settle(world, new, after)
    assert compared(world) == compared(at_once(new, after))


@given(networks, members, st.integers(0, 60), st.integers(0, 10))
def test_removal_leaves_nothing_however_often_it_is_broken_off(
    wanted: WantedNetwork, found: dict[str, WantedGuest], made: int, removed: int
) -> None:
    world = World(wanted)
    for step in steps_to(wanted, found, world.actual(), PLACE)[:made]:
        world.perform(step)
    for count in (removed, 60):
        for step in steps_away(wanted, world.actual())[:count]:
            world.perform(step)
    assert world.links == {}
    assert (world.seen.tables, world.seen.files, world.seen.running) == (frozenset(), {}, False)


@given(networks, members, macs, st.one_of(st.none(), guests))
def test_one_guests_change_ends_where_the_whole_plan_would(
    wanted: WantedNetwork, found: dict[str, WantedGuest], mac: str, new: WantedGuest | None
) -> None:
    old = found.get(mac)
    new = structs.replace(new, mac=mac, isolated=bool(old and old.isolated)) if new else None
    if old is None and new is not None:
        new = structs.replace(new, isolated=False)
    if old is not None and old.isolated and new is None:
        return  # for the whole plan, which sees to the rules
    others = {key: guest for key, guest in found.items() if key != mac}
    if new is not None and any(set(new.addresses) & set(guest.addresses) for guest in others.values()):
        return  # an address has one owner: leases see to that
    if len({address for guest in found.values() for address in guest.addresses}) < 2 * len(found):
        return
    after = others | ({mac: new} if new else {})
    world = at_once(wanted, found)
    for step in guest_steps(wanted, old, new, {}, "", after):
        world.perform(step)
    assert steps_to(wanted, after, world.actual(), PLACE) == ()


def test_an_address_that_was_given_away_before_it_was_left_stays_with_its_new_owner() -> None:
    wanted = structs.replace(BASE, subnets=(FOUR,))
    first = WantedGuest("02:00:00:00:00:01", ("192.168.1.10",), place=PEERS[0])
    second = structs.replace(first, mac="02:00:00:00:00:02")
    todo = guest_steps(wanted, first, None, {}, "", {second.key: second})
    entries = [entry for step in todo if isinstance(step, steps.SetEntries) for entry in step.entries]
    assert not any(isinstance(entry, steps.Neighbour) for entry in entries)


@given(networks, members, st.data())
def test_whatever_is_lost_comes_back(
    wanted: WantedNetwork, found: dict[str, WantedGuest], data: st.DataObject
) -> None:
    world = at_once(wanted, found)
    lost = data.draw(st.sampled_from([*world.links, "rules", "server", "entries", "addresses", "files"]))
    if lost in world.links:
        world.perform(steps.DeleteLink(lost))
    changes = {
        "rules": {"rules": ""},
        "server": {"running": False, "server_config": ""},
        "entries": {"remote": {}, "bridged": frozenset(), "neighbours": {}},
        "addresses": {"addresses": frozenset(), "routes": frozenset()},
        "files": {"files": {}},
    }
    world.seen = replace(world.seen, **changes.get(lost, {}))
    settle(world, wanted, found)
    assert compared(world) == compared(at_once(wanted, found))


def test_ports_that_lost_their_bridge_are_ports_again() -> None:
    world = at_once(BASE, {})
    world.links["vm-a"] = Link("vm-a", 50, master=world.links["virbr1"].index)
    world.links["vm-b"] = Link("vm-b", 51)
    world.perform(steps.DeleteLink("virbr1"))
    place = replace(PLACE, ports=frozenset({"vm-a", "not-there"}))
    for step in steps_to(BASE, {}, world.actual(), place):
        world.perform(step)
    assert world.links["vm-a"].master == world.links["virbr1"].index
    assert world.links["vm-b"].master == 0


@pytest.mark.parametrize("name", [BASE.bridge, BASE.overlay])
@pytest.mark.parametrize("alias", ["", "clusterhost:another", "by hand"])
def test_a_link_of_somebody_else_is_refused_before_any_step(name: str, alias: str) -> None:
    world = World(BASE, {name: Link(name, 5, alias=alias)})
    with pytest.raises(Refused, match=f"a link {name} is on the node already"):
        steps_to(BASE, {}, world.actual(), PLACE)
    assert steps_away(BASE, world.actual()) == (steps.Forget(),)


def test_a_link_left_by_its_temporary_name_is_taken_away_first() -> None:
    name = temporary_name(UUID, "bridge")
    world = World(BASE, {name: Link(name, 5, kind="bridge")})
    assert settle(world, BASE, {})[0] == steps.DeleteLink(name)
    assert set(world.links) == {"virbr1", "ch101"}


def test_a_guest_that_moves_is_one_replaced_entry() -> None:
    old = WantedGuest("02:00:00:00:00:01", ("192.168.1.10",), ("web",), place=PEERS[0])
    new = structs.replace(old, place=PEERS[1])
    wanted = structs.replace(BASE, subnets=(FOUR,))
    (step,) = guest_steps(wanted, old, new, {}, "", {})
    assert isinstance(step, steps.SetEntries)
    assert step.entries == (steps.Remote(old.mac, PEERS[1]), steps.Bridged(old.mac))


def test_a_lease_of_somebody_else_has_the_server_start_anew() -> None:
    wanted = structs.replace(BASE, subnets=(FOUR,))
    guest = WantedGuest("02:00:00:00:00:01", ("192.168.1.10",))
    held = {"192.168.1.10": "02:00:00:00:00:99", "192.168.1.11": "02:00:00:00:00:98"}
    todo = guest_steps(wanted, None, guest, held, "config", {})
    freed = steps.FreeLeases(frozenset({"192.168.1.10"}))
    assert todo[-3:] == (steps.StopServer(), freed, steps.StartServer("config"))
    own = {"192.168.1.10": guest.mac}
    assert not any(
        isinstance(step, steps.StopServer) for step in guest_steps(wanted, None, guest, own, "", {})
    )


def test_rules_stand_before_the_overlay_is_made() -> None:
    kinds = [type(step) for step in steps_to(BASE, {}, World(BASE).actual(), PLACE)]
    assert kinds.index(steps.LoadRules) < kinds.index(steps.CreateOverlay)
    assert plan.digest("a") != plan.digest("b")
