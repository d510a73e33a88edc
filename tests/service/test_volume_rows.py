"""Rows of volumes, and the gaps that uploads leave."""

from hypothesis import given
from hypothesis import strategies as st

from clusterhost.service.volume_rows import (
    INCOMPLETE,
    MAKING,
    Gap,
    cut,
    gap_in,
    held_of,
    leftovers,
    row_of,
    under_way,
    with_copy,
    without_copy,
    written,
)
from clusterhost.store.rows import VolumeRow
from imagemgr.model import Copy, CopyState, Held

POOL = bytes(range(16))
KEPT = st.sampled_from([CopyState.WHOLE, CopyState.COMING, CopyState.STALE])
SIZE = st.integers(0, 2**63 - 1)
COPIES = st.dictionaries(
    st.sampled_from(["n1", "n2", "n3"]),
    st.tuples(KEPT, st.integers(0, 9), st.binary(max_size=32), SIZE, SIZE),
).map(lambda found: tuple(Copy(node, *rest) for node, rest in sorted(found.items())))
HELD = st.builds(Held, st.just("a"), st.sampled_from(["a", "a@n2"]), st.integers(0, 9), COPIES)
GAPS = st.builds(Gap.of, st.integers(0, 100), st.integers(0, 100))


@given(HELD)
def test_a_volume_comes_back_from_its_row_as_it_was(held):
    assert held_of(row_of(POOL, held)) == held


def test_that_a_node_is_away_is_not_kept():
    held = Held("a", "a", 0, (Copy("n1", CopyState.LOST),))
    assert held_of(row_of(POOL, held)).copies[0].state is CopyState.WHOLE


def test_a_row_keeps_the_state_that_it_had():
    before = VolumeRow("k", POOL, "a", "a", state=INCOMPLETE, reason="why")
    after = row_of(POOL, Held("a", "a", 3), before)
    assert (after.state, after.reason, after.generation) == (INCOMPLETE, "why", 3)


@given(HELD)
def test_who_writes_has_the_only_current_copy(held):
    node = held.copies[0].node if held.copies else "n1"
    after = written(with_copy(held, Copy(node)), node)
    mine = after.at(node)
    assert (mine.state, mine.generation, mine.digest) == (CopyState.WHOLE, held.generation + 1, b"")
    assert after.generation == held.generation + 1
    assert all(copy.state is not CopyState.WHOLE for copy in after.copies if copy.node != node)


@given(HELD, st.sampled_from(["n1", "n2", "n3"]))
def test_a_copy_taken_in_and_away_again_leaves_the_others(held, node):
    others = [copy for copy in held.copies if copy.node != node]
    assert list(without_copy(with_copy(held, Copy(node)), node).copies) == others


@given(GAPS)
def test_a_gap_is_read_again_from_the_sentence_that_names_it(gap):
    assert gap_in(under_way(gap, "n1")) == gap
    assert gap_in(cut(gap, "n1", 5, 10, "node n1 is out of reach: bytes 1 to 2")) == gap


def test_a_sentence_without_a_gap_has_none():
    assert gap_in(f"{MAKING}n1 has not been seen to end") is None


@given(GAPS, GAPS)
def test_two_gaps_together_are_filled_by_what_fills_both_and_fill_each(one, other):
    both = one | other
    assert both.fills(one)
    assert both.fills(other)
    assert one.fills(other) == (one | other == one)


def test_the_cut_says_how_much_came():
    text = cut(Gap(0, 10), "n2", 5, 10, "the client went away")
    assert text == "an upload of bytes 0 to 10 to node n2 was cut after 5 of 10 bytes: the client went away"


def test_what_is_left_incomplete_is_forgotten_when_its_node_says_that_there_is_no_file():
    rows = [
        VolumeRow("gone", POOL, "a", "a", state=INCOMPLETE, copies=[["n1", "coming", 0, "", 0, 0]]),
        VolumeRow("there", POOL, "b", "b", state=INCOMPLETE, copies=[["n1", "coming", 0, "", 0, 0]]),
        VolumeRow("away", POOL, "a", "c", state=INCOMPLETE, copies=[["n2", "coming", 0, "", 0, 0]]),
        VolumeRow("whole", POOL, "d", "d", copies=[["n1", "whole", 0, "", 0, 0]]),
    ]
    assert [row.key for row in leftovers(rows, [("n1", ["b"])])] == ["gone"]
