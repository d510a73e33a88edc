"""What a start lacks, whatever copies there are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr.errors import CopyAway, CopyIncomplete, ImageError, Occupied
from imagemgr.model import Copy, CopyState, Held
from imagemgr.place import Missing, Need, is_there, missing, newest, why_not, written
from placement import Ask, Match, Offer, Policy, place

NODES = ("n1", "n2", "n3")
MIB = 1 << 20
COPIES = st.builds(
    Copy,
    node=st.sampled_from(NODES),
    state=st.sampled_from(CopyState),
    generation=st.integers(0, 3),
    digest=st.sampled_from([b"", b"d" * 32]),
    allocation=st.integers(0, 1 << 40),
)
VOLUMES = st.builds(
    Held,
    name=st.just("disk"),
    shown=st.just("disk"),
    generation=st.integers(0, 3),
    copies=st.lists(COPIES, max_size=3, unique_by=lambda copy: copy.node).map(tuple),
)
USABLE = st.frozensets(st.sampled_from(NODES))


def a_need(*copies: Copy, generation: int = 1, written: bool = True, **more: object) -> Need:
    return Need(b"p", Held("disk", "disk", generation, copies), "/images/disk", written, **more)  # type: ignore[arg-type]


def whole(node: str, generation: int = 1, size: int = MIB) -> Copy:
    return Copy(node, CopyState.WHOLE, generation, b"d" * 32, size, size)


@given(VOLUMES, st.sampled_from(NODES), USABLE)
def test_what_comes_is_the_newest_from_a_node_in_reach_or_an_error_says_who_has_it(
    held: Held, node: str, usable: frozenset[str]
) -> None:
    need = Need(b"p", held, "/images/disk")
    if is_there(held, node):
        assert missing([need], node, usable) == ()
        return
    if not any(copy.node in usable and copy.state is CopyState.WHOLE for copy in newest(held)):
        with pytest.raises(ImageError) as refused:
            missing([need], node, usable)
        assert all(copy.node in str(refused.value) for copy in newest(held))
        return
    found = missing([need], node, usable)
    source = held.at(found[0].source)
    assert source is not None
    assert (source.state, source.generation) == (CopyState.WHOLE, held.generation)
    assert found[0].source in usable - {node}
    assert found[0].size == source.allocation


@given(VOLUMES, st.sampled_from(NODES))
def test_after_a_write_nobody_else_has_the_newest(held: Held, node: str) -> None:
    after = written(held, node)
    assert after.generation == held.generation + 1
    assert {copy.node for copy in newest(after)} <= {node}
    assert [copy.node for copy in after.copies] == [copy.node for copy in held.copies]
    assert all(copy.state is not CopyState.WHOLE for copy in after.copies if copy.node != node)
    mine = after.at(node)
    assert mine is None or (mine.digest, mine.generation) == (b"", after.generation)


@given(VOLUMES, st.lists(st.sampled_from(NODES), max_size=4))
def test_however_often_it_is_written_one_node_at_most_has_the_newest(held: Held, nodes: list[str]) -> None:
    for node in nodes:
        held = written(held, node)
    assert len(newest(held)) <= 1 or not nodes


def test_a_node_with_a_stale_copy_gets_the_newest() -> None:
    old = Copy("n2", CopyState.STALE, 1, b"", MIB, MIB)
    need = a_need(whole("n1", 2), old, generation=2)
    assert missing([need], "n2", NODES) == (Missing(b"p", "disk", "/images/disk", "n1", MIB),)
    assert missing([need], "n1", NODES) == ()


def test_a_copy_that_says_whole_and_is_older_does_not_count() -> None:
    need = a_need(whole("n1", 2), whole("n2", 1), generation=2)
    assert [one.source for one in missing([need], "n2", NODES)] == ["n1"]


def test_the_error_names_the_nodes_that_have_the_newest_and_are_away() -> None:
    lost = replace(whole("n3"), state=CopyState.LOST)
    with pytest.raises(CopyAway, match="volume disk is on n3, out of reach"):
        missing([a_need(lost)], "n1", ("n1", "n2"))
    with pytest.raises(CopyAway, match="is on n1, out of reach"):
        missing([a_need(whole("n1"))], "n2", ("n2", "n3"))


def test_what_nobody_has_all_of_does_not_come() -> None:
    part = Copy("n3", CopyState.COMING, 1)
    with pytest.raises(CopyIncomplete, match="parts of it are on n3"):
        missing([a_need(part)], "n1", NODES)
    with pytest.raises(CopyIncomplete, match="on no node"):
        missing([a_need()], "n1", NODES)


def test_another_volume_of_the_same_name_is_never_written_over() -> None:
    need = a_need(whole("n1"), taken=frozenset(["n2"]))
    with pytest.raises(Occupied, match="has another volume than disk at /images/disk"):
        missing([need], "n2", NODES)
    assert missing([need], "n3", NODES)


def test_one_volume_that_is_needed_twice_comes_once() -> None:
    need = a_need(whole("n1"))
    assert len(missing([need, replace(need, written=False)], "n2", NODES)) == 1


def test_room_is_asked_of_each_pool_for_all_that_must_come() -> None:
    one = Missing(b"p", "a", "/images/a", "n1", 3 * MIB)
    two = Missing(b"p", "b", "/images/b", "n1", 2 * MIB)
    other = Missing(b"q", "c", "/iso/c", "n1", 9 * MIB)
    assert why_not([one, two, other], {b"p": 5 * MIB, b"q": 9 * MIB}) == ""
    assert why_not([one, two], {b"p": 4 * MIB}) == (
        "has 4 MiB left in the pool, the images that must come need 5 MiB"
    )
    assert why_not([one, other], {b"p": 3 * MIB}) == ""


def offers(**coming: int) -> list[Offer]:
    return [
        Offer(node, memory_kib=4 << 20, free_kib=4 << 20, cpus=4, coming=size)
        for node, size in coming.items()
    ]


@given(st.dictionaries(st.sampled_from(NODES), st.integers(0, 1 << 36), min_size=1), st.sampled_from(NODES))
def test_home_wins_unless_another_node_lacks_less(coming: dict[str, int], home: str) -> None:
    outcome = place(Ask("web", 1024, 1, home=home), offers(**coming), Policy())
    assert isinstance(outcome, Match)
    if coming.get(home, -1) == min(coming.values()):
        assert outcome.node == home
    else:
        assert coming[outcome.node] == min(coming.values())


def test_a_node_that_is_much_emptier_wins_over_a_little_that_must_come() -> None:
    near, empty = offers(n1=0, n2=MIB)
    outcome = place(Ask("web", 1024), [replace(near, running=5), empty], Policy())
    assert isinstance(outcome, Match)
    assert outcome.node == "n2"
    assert "1 MiB of its images must come" in outcome.reasons[0].text
    huge = place(Ask("web", 1024), [replace(near, running=5), replace(empty, coming=9 << 30)], Policy())
    assert isinstance(huge, Match)
    assert huge.node == "n1"
