"""Receivers that ask by the swarm's choice get everything, from others where they can."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr import swarm
from imagemgr.swarm import SPARED, Holding, Swarm

SETS = st.sets(st.integers(0, 60))


def one_of(chunks: int) -> set[int]:
    return {index for index in range(chunks.bit_length()) if chunks >> index & 1}


@given(SETS)
def test_a_set_is_read_as_it_was_written(indices: set[int]):
    chunks = swarm.mask_of(indices)
    assert one_of(chunks) == indices
    assert swarm.mask(swarm.bits(chunks, 61)) == chunks


@given(SETS, st.integers(0, 2**32))
def test_all_that_is_missing_is_asked_of_one_sender_once_in_order_from_a_place(wanted: set[int], salt: int):
    plan = Swarm(swarm.mask_of(wanted), 61, salt)
    assert plan.next_for("a", 0) is None
    plan.learn("a", Holding(whole=True))
    asked = []
    while (index := plan.next_for("a", 0)) is not None:
        asked.append(index)
    assert sorted(asked) == sorted(wanted)
    assert tuple(asked) == plan.coming
    rotated = deque(sorted(wanted))
    while rotated and rotated[0] != asked[0]:
        rotated.rotate(-1)
    assert asked == list(rotated)
    assert all(index >= salt % 61 for index in asked[:1]) or all(index < salt % 61 for index in wanted)


@given(SETS, SETS, SETS, SETS)
def test_an_incomplete_source_is_asked_for_what_it_has_the_rarest_first(
    wanted: set[int], mine: set[int], one: set[int], two: set[int]
):
    plan = Swarm(swarm.mask_of(wanted), 61)
    for name, has in (("a", mine), ("b", one), ("c", two)):
        plan.learn(name, Holding(chunks=swarm.mask_of(has)))
    asked = []
    while (index := plan.next_for("a", 0)) is not None:
        asked.append((index in one) + (index in two))
    assert set(plan.coming) == wanted & mine
    assert asked == sorted(asked)


@given(SETS, SETS, SETS)
def test_a_whole_source_is_spared_what_others_have_until_nothing_comes(
    wanted: set[int], has: set[int], coming: set[int]
):
    plan = Swarm(swarm.mask_of(wanted), 61)
    plan.learn("whole", Holding(whole=True))
    plan.learn("part", Holding(chunks=swarm.mask_of(has), coming=swarm.mask_of(coming)))
    while plan.next_for("whole", SPARED) is not None:
        pass
    assert set(plan.coming) == wanted - has - coming
    while plan.next_for("whole", SPARED + 0.1) is not None:
        pass
    assert set(plan.coming) == wanted


@given(SETS)
def test_what_a_lost_source_was_asked_for_is_asked_of_another(wanted: set[int]):
    plan = Swarm(swarm.mask_of(wanted), 61)
    for name in "ab":
        plan.learn(name, Holding(whole=True))
    got = set()
    for turn in range(len(wanted)):
        index = plan.next_for("ab"[turn % 2], 0)
        assert index is not None
        if turn % 2:
            plan.arrived(index, 0)
            got.add(index)
    plan.lose("a")
    assert one_of(plan.missing) == wanted - got
    assert plan.next_for("a", 0) is None
    while plan.next_for("b", 0) is not None:
        pass
    assert set(plan.coming) == wanted - got


@given(st.integers(2, 8), st.integers(1, 60), st.lists(st.integers(0, 2**32), min_size=8, max_size=8))
def test_many_receivers_all_get_everything_and_the_first_sender_sends_each_chunk_once(
    receivers: int, count: int, salts: list[int]
):
    """In turns: each asks the sender for one chunk, then whoever else it likes for one; all know all at once."""
    plans = [Swarm((1 << count) - 1, count, salt) for salt in salts[:receivers]]
    sent = 0
    for _ in range(2 * count + 2):
        for at, plan in enumerate(plans):
            plan.learn("first", Holding(whole=True))
            for other, its in enumerate(plans):
                if other != at:
                    has = ((1 << count) - 1) & ~its.missing
                    plan.learn(other, Holding(chunks=has, coming=swarm.mask_of(its.coming)))
            if (index := plan.next_for("first", 0)) is not None:
                sent += 1
                plan.arrived(index, 0)
            for other in range(receivers):
                if (index := plan.next_for(other, 0)) is not None:
                    plan.arrived(index, 0)
    assert not any(plan.missing for plan in plans)
    assert sent == count


def rounds(plans: list[Swarm], count: int) -> Iterator[int]:
    """In each the source sends everybody one chunk, and what one has all others get; what the others have just asked
    for they hear a round later.  How many the source sent."""
    while any(plan.missing for plan in plans):
        here = [Holding(chunks=~plan.missing & (1 << count) - 1) for plan in plans]
        pairs = [(plan, other) for plan in plans for other in range(len(plans)) if plans[other] is not plan]
        for plan, other in pairs:
            plan.learn(other, here[other])
        asked = [(plan, index) for plan in plans if (index := plan.next_for("source", 0.0)) is not None]
        for plan, index in asked:
            plan.arrived(index, 0.0)
        yield len(asked)
        for plan, other in pairs:
            while (index := plan.next_for(other, 0.0)) is not None:
                plan.arrived(index, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_receivers_that_choose_at_the_same_moment_seldom_ask_the_whole_source_for_the_same(seed: int):
    count, dice = 256, random.Random(seed)
    plans = [Swarm((1 << count) - 1, count, dice.getrandbits(32)) for _ in range(8)]
    for plan in plans:
        plan.learn("source", Holding(whole=True))
    assert count <= sum(rounds(plans, count)) <= 1.5 * count
