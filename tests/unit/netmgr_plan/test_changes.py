"""A part of a network that changed leads where the whole would have led."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from netmgr import changes, steps
from netmgr.apply.journal import Journal, Kept
from netmgr.changes import NetworkChange
from netmgr.plan import steps_to
from netmgr.wanted import GuestGone, WantedDns, WantedGuest, WantedNetwork
from tests.unit.netmgr_plan.test_plan import BASE, FOUR, PEERS, UUID, at_once
from tests.unit.netmgr_plan.world import PLACE

NET = structs.replace(BASE, serial=5, subnets=(FOUR,))
GUESTS = [
    WantedGuest(f"02:00:00:00:00:0{n}", (f"192.168.1.1{n}",), (f"g{n}",), place, serial=n)
    for n, place in enumerate(("", *PEERS), 1)
]
HOSTS = (("192.168.1.90", ("a",)), ("192.168.1.91", ("b", "c")))

known = st.lists(st.sampled_from(GUESTS), unique=True).map(tuple)
names = st.lists(st.sampled_from(HOSTS), unique=True).map(lambda hosts: WantedDns(hosts=tuple(hosts)))


def performed(before: Kept, change: NetworkChange) -> tuple[Kept, tuple[steps.Step, ...]]:
    """What is kept then, and the steps that a keeper takes."""
    after = before.after(change)
    pairs = [(before.guests.get(guest.key), after.guests.get(guest.key)) for guest in change.about]
    return after, changes.steps(before.network, after.network, pairs, {}, "", after.guests)


@given(names, known, names, known, st.booleans())
def test_after_a_part_nothing_of_the_whole_is_left_to_do(
    dns: WantedDns,
    found: tuple[WantedGuest, ...],
    later: WantedDns,
    come: tuple[WantedGuest, ...],
    moves: bool,
) -> None:
    before = Kept.of(structs.replace(NET, dns=dns, guests=found))
    place = PEERS[0] if moves else ""
    guests = tuple(structs.replace(guest, serial=9, place=place) for guest in come)
    gone = tuple(GuestGone(guest.key, 9) for guest in GUESTS if guest not in come)
    change = NetworkChange(UUID, 5, 9, later, guests, gone)
    world = at_once(before.network, before.guests)
    after, todo = performed(before, change)
    for step in todo:
        world.perform(step)
    assert changes.same_config(before.network, after.network)
    assert steps_to(after.network, after.guests, world.actual(), PLACE) == ()


def test_a_name_that_goes_has_the_server_read_its_files_once() -> None:
    before = Kept.of(structs.replace(NET, dns=WantedDns(hosts=HOSTS), guests=tuple(GUESTS)))
    gone = tuple(GuestGone(guest.key, 9) for guest in GUESTS)
    _, todo = performed(before, NetworkChange(UUID, 5, 9, WantedDns(hosts=HOSTS[:1]), gone=gone))
    assert [type(step) for step in todo].count(steps.ReloadServer) == 1
    assert isinstance(todo[-1], steps.ReloadServer)


def test_a_text_record_is_of_the_servers_configuration() -> None:
    after = structs.replace(NET, dns=WantedDns(txts=(("a", "b"),)))
    assert not changes.same_config(NET, after)
    assert changes.same_config(NET, structs.replace(NET, dns=WantedDns(hosts=HOSTS)))


def test_what_is_known_of_a_guest_since_then_is_not_undone() -> None:
    newer = structs.replace(GUESTS[0], place=PEERS[1], serial=12)
    before = Kept.of(structs.replace(NET, guests=(newer,)))
    after = before.after(NetworkChange(UUID, 5, 9, guests=(structs.replace(newer, place="", serial=9),)))
    assert after.guests == {newer.key: newer}
    assert (after.version, after.serial) == (9, 12)


def test_a_part_is_one_line_that_is_read_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    many = [structs.replace(GUESTS[0], mac=f"02:00:00:00:01:{n:02x}") for n in range(200)]
    kept = Kept.of(structs.replace(NET, guests=tuple(many)))
    journal.write(kept)
    size = (tmp_path / f"{UUID}.network").stat().st_size
    change = NetworkChange(UUID, 5, 9, WantedDns(hosts=HOSTS), (GUESTS[1],), (GuestGone(many[0].key, 9),))
    kept = kept.after(change)
    journal.append(kept, change)
    assert (tmp_path / f"{UUID}.network").stat().st_size - size < 500
    found: Kept = Journal(tmp_path).load()[UUID]
    assert (found.network, found.guests, found.version) == (kept.network, kept.guests, 9)
    assert isinstance(found.whole, WantedNetwork)
