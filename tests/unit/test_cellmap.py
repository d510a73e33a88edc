"""CPU and cell numbers between the cluster and a node: there and back they are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.model.cellmap import (
    CellMap,
    Place,
    Wish,
    format_set,
    from_bits,
    own_cells,
    own_cpus,
    parse_set,
    to_bits,
)
from clusterhost.model.errors import InvalidArgument


def cell_map(*widths: int) -> CellMap:
    """Nodes n1, n2 ... with cells 0, 2, 4 ... (others were removed) and these many CPUs, all of them online."""
    places = [
        Place(f"n{n + 1}", 2 * n, sum(widths[:n]), width, frozenset(range(width)))
        for n, width in enumerate(widths)
    ]
    return CellMap(tuple(places))


THREE = cell_map(2, 4, 2)
N1, N2, N3 = THREE.places


@st.composite
def maps(draw: st.DrawFn) -> CellMap:
    """Up to five nodes, some with CPUs offline, some with several cells of their own."""
    places, first = [], 0
    for n in range(draw(st.integers(1, 5))):
        width = draw(st.integers(1, 6))
        online = draw(st.frozensets(st.integers(0, width - 1), min_size=1))
        numa = frozenset(range(draw(st.integers(1, 3))))
        places.append(Place(f"n{n + 1}", n, first, width, online, numa))
        first += width
    return CellMap(tuple(places))


@given(st.data())
def test_splitting_what_was_shifted_gives_the_same_numbers(data: st.DataObject) -> None:
    cells = data.draw(maps())
    place = data.draw(st.sampled_from(cells.places))
    own = data.draw(st.frozensets(st.integers(0, place.width + 3), min_size=1))
    bound = data.draw(
        st.none()
        | st.frozensets(st.sampled_from(sorted(cells.cells))).map(lambda found: found | {place.cell})
    )
    wish = cells.wish_of_cpus(cells.shown_cpus(place, own, bound))
    expected = own | place.own if place.covered(own) else own
    assert own_cpus(wish, place) == expected
    if not place.covered(own):
        assert wish.within in (place.cell, None)
        assert (wish.within is None) == (not own & place.own)
    else:
        assert wish.cells == (None if bound in (None, cells.cells) else bound)


@given(st.data())
def test_what_a_client_asked_for_is_what_it_is_shown(data: st.DataObject) -> None:
    cells = data.draw(maps())
    asked = data.draw(st.frozensets(st.integers(0, cells.present - 1), min_size=1))
    try:
        wish = cells.wish_of_cpus(asked)
    except InvalidArgument:
        return
    candidates = [
        place
        for place in cells.places
        if (wish.within in (None, place.cell)) and (wish.cells is None or place.cell in wish.cells)
    ]
    for place in candidates:
        shown = cells.shown_cpus(place, own_cpus(wish, place), wish.cells)
        online = {place.first + number for place in cells.places for number in place.online}
        assert shown & online == asked & online


@given(st.data())
def test_cells_come_back_as_they_were_asked_for(data: st.DataObject) -> None:
    cells = data.draw(maps())
    place = data.draw(st.sampled_from(cells.places))
    asked = data.draw(st.frozensets(st.integers(0, 7), min_size=1).map(lambda found: found | {place.cell}))
    wish = cells.wish_of_cells(asked)
    assert cells.shown_cells(place, own_cells(wish, place), wish.cells) == (wish.cells or cells.cells)


def test_whole_nodes_are_a_choice_and_parts_of_one_are_its_own_numbers() -> None:
    assert THREE.wish_of_cpus(range(8)) == Wish()
    assert THREE.wish_of_cpus({2, 3, 4, 5, 6, 7}) == Wish(cells=frozenset({2, 4}))
    assert THREE.wish_of_cpus({3, 5}) == Wish(within=2, own=frozenset({1, 3}))
    assert THREE.wish_of_cpus({6}) == Wish(within=4, own=frozenset({0}))


def test_parts_of_several_nodes_are_refused_with_the_borders() -> None:
    for asked in ({0, 2}, {0, 1, 2}, {1, 6, 7}):
        with pytest.raises(InvalidArgument, match="n1 0-1, n2 2-5, n3 6-7"):
            THREE.wish_of_cpus(asked)


def test_numbers_past_the_last_stay_past_the_last() -> None:
    wish = THREE.wish_of_cpus({6, 8, 11})
    assert own_cpus(wish, N3) == {0, 2, 5}
    assert THREE.shown_cpus(N3, {0, 2, 5}) == {6, 8, 11}
    nothing = THREE.wish_of_cpus({9})
    assert nothing.empty
    assert own_cpus(nothing, N2) == {5}


def test_all_of_a_node_is_all_of_the_nodes_that_were_named() -> None:
    assert THREE.shown_cpus(N1, {0, 1}) == frozenset(range(8))
    assert THREE.shown_cpus(N1, {0, 1}, frozenset({0, 4})) == {0, 1, 6, 7}
    assert THREE.shown_cells(N3, {0}) == {0, 2, 4}
    assert THREE.shown_cells(N3, {0}, frozenset({4})) == {4}
    assert THREE.shown_cells(N3, ()) == frozenset()


def test_some_of_a_nodes_own_cells_are_that_node() -> None:
    place = Place("big", 4, 6, 8, frozenset(range(8)), frozenset({0, 1}))
    cells = CellMap((N1, N2, place))
    assert cells.shown_cells(place, {1}) == {4}


def test_an_offline_cpu_does_not_make_a_pinning() -> None:
    place = Place("n1", 0, 0, 4, frozenset({0, 1, 2}))
    cells = CellMap((place, Place("n2", 1, 4, 4, frozenset(range(4)))))
    assert cells.shown_cpus(place, {0, 1, 2}) == frozenset(range(8))
    assert cells.wish_of_cpus({0, 1, 2}) == Wish(cells=frozenset({0}))


@given(st.frozensets(st.integers(0, 16383)))
def test_a_cpuset_reads_as_it_was_written(numbers: frozenset[int]) -> None:
    if numbers:
        assert parse_set(format_set(numbers)) == numbers
    assert from_bits(to_bits(numbers, 2048)) == numbers


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "3-1", "^1-2", "1,,2", "16384", "0x1", "١"])
def test_what_libvirt_refuses_is_no_cpuset(text: str) -> None:
    assert parse_set(text) is None


def test_a_cpuset_may_leave_numbers_out() -> None:
    assert parse_set("0-3,^2, 8") == {0, 1, 3, 8}


def test_bits_that_do_not_fit_are_left_out() -> None:
    assert to_bits({0, 7, 8, 40}, 2) == b"\x81\x01"
