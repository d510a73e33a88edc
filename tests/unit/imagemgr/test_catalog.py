"""The namespace of a pool: every file is in it once, whatever the order, and names stay."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from imagemgr.catalog import Catalog, Listed, catalog, one_place
from imagemgr.model import Copy, CopyState, Held

WHOLE, COMING, STALE, LOST = CopyState.WHOLE, CopyState.COMING, CopyState.STALE, CopyState.LOST
NODES = ["n1", "n2", "n3"]
A, B = b"A" * 32, b"B" * 32

files = st.builds(
    Listed,
    st.sampled_from(["a", "b", "a@n2", "a@n2@n2", ".hidden"]),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([b"", A, B]),
)
listings_of_nodes = st.dictionaries(
    st.sampled_from(NODES), st.lists(files, max_size=5, unique_by=lambda file: file.name), max_size=3
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[tuple[Held, ...], dict[str, list[Listed]]]:
    """What came about by itself: a catalog of earlier listings, some of its copies changed, and listings now."""
    known = []
    for volume in catalog((), draw(listings_of_nodes)).volumes:
        generation = draw(st.integers(0, 1))
        copies = tuple(
            replace(copy, state=draw(st.sampled_from(CopyState)), generation=draw(st.integers(0, generation)))
            for copy in volume.copies
        )
        known.append(replace(volume, generation=generation, copies=copies))
    return tuple(known), draw(listings_of_nodes)


def shown(found: Catalog) -> dict[str, list[tuple[str, str]]]:
    return {
        volume.shown: [(copy.node, copy.state.value) for copy in volume.copies] for volume in found.volumes
    }


def test_a_file_on_one_node_is_adopted():
    found = catalog((), {"n1": [Listed("a", 10, 4)], "n2": []})
    assert found.volumes == (Held("a", "a", 0, (Copy("n1", WHOLE, 0, b"", 10, 4),)),)
    assert found.adopted == (("a", "n1"),)
    assert found.listed == found.volumes
    assert not found.clashing


def test_the_same_content_on_two_nodes_is_one_volume():
    found = catalog((), {"n2": [Listed("a", digest=A)], "n1": [Listed("a", digest=A)]})
    assert shown(found) == {"a": [("n1", "whole"), ("n2", "whole")]}


def test_other_content_under_one_name_is_shown_beside_it():
    found = catalog((), {"n2": [Listed("a", digest=B)], "n1": [Listed("a", digest=A)]})
    assert shown(found) == {"a": [("n1", "whole")], "a@n2": [("n2", "whole")]}
    assert [volume.name for volume in found.clashing] == ["a"]
    unread = catalog((), {"n1": [Listed("a")], "n2": [Listed("a")]})
    assert list(shown(unread)) == ["a", "a@n2"]


def test_a_third_node_joins_the_volume_that_has_its_content():
    three = {"n1": [Listed("a", digest=A)], "n2": [Listed("a", digest=B)], "n3": [Listed("a", digest=B)]}
    assert shown(catalog((), three)) == {"a": [("n1", "whole")], "a@n2": [("n2", "whole"), ("n3", "whole")]}


def test_a_file_whose_own_name_looks_like_a_clash_keeps_it():
    found = catalog((), {"n1": [Listed("a")], "n2": [Listed("a"), Listed("a@n2")]})
    assert {volume.shown: volume.name for volume in found.volumes} == {
        "a": "a",
        "a@n2": "a@n2",
        "a@n2@n2": "a",
    }


def test_what_is_known_keeps_its_name_though_a_node_before_it_has_another():
    known = Held("a", "a", 0, (Copy("n2", WHOLE),))
    found = catalog([known], {"n1": [Listed("a")], "n2": [Listed("a")]})
    assert shown(found) == {"a": [("n2", "whole")], "a@n1": [("n1", "whole")]}


def test_a_name_stays_when_the_other_of_it_is_gone():
    known = [Held("a", "a", 0, (Copy("n1"),)), Held("a", "a@n2", 0, (Copy("n2"),))]
    found = catalog(known, {"n1": [], "n2": [Listed("a")]})
    assert shown(found) == {"a@n2": [("n2", "whole")]}
    assert found.gone == (("a", "n1"),)


def test_what_is_coming_is_not_listed_and_not_gone():
    known = Held("a", "a", 0, (Copy("n1", COMING), Copy("n2", COMING)))
    found = catalog([known], {"n1": [Listed("a")], "n2": []})
    assert found.volumes == (known,)
    assert not found.listed
    assert not found.adopted
    assert found.incomplete == (("a", "n1"),)


def test_a_node_that_is_away_loses_its_copies_until_it_is_back():
    known = Held("a", "a", 1, (Copy("n1", WHOLE, 1), Copy("n2", STALE, 0), Copy("n3", COMING, 1)))
    away = catalog([known], {})
    assert shown(away) == {"a": [("n1", "lost"), ("n2", "stale"), ("n3", "coming")]}
    assert not away.listed
    back = catalog(away.volumes, {"n1": [Listed("a")], "n2": [Listed("a")], "n3": []})
    assert shown(back) == {"a": [("n1", "whole"), ("n2", "stale"), ("n3", "coming")]}


def test_a_copy_that_comes_back_after_others_were_written_is_stale():
    known = Held("a", "a", 2, (Copy("n1", LOST, 1), Copy("n2", WHOLE, 2)))
    found = catalog([known], {"n1": [Listed("a", 5)], "n2": [Listed("a", 7)]})
    assert shown(found) == {"a": [("n1", "stale"), ("n2", "whole")]}
    assert [copy.capacity for copy in found.volumes[0].copies] == [5, 7]


def test_a_stale_copy_stays_stale_until_somebody_brings_it_up_to_date():
    known = Held("a", "a", 2, (Copy("n1", STALE, 2), Copy("n2", WHOLE, 2)))
    found = catalog([known], {"n1": [Listed("a")], "n2": [Listed("a")]})
    assert shown(found) == {"a": [("n1", "stale"), ("n2", "whole")]}


def test_a_new_file_with_the_current_content_becomes_a_copy_of_this_generation():
    known = Held("a", "a", 3, (Copy("n1", WHOLE, 3, A), Copy("n3", STALE, 2, B)))
    found = catalog([known], {"n1": [Listed("a")], "n2": [Listed("a", digest=A)], "n3": [Listed("a")]})
    assert found.volumes[0].at("n2") == Copy("n2", WHOLE, 3, A)
    old = catalog([known], {"n1": [Listed("a")], "n2": [Listed("a", digest=B)], "n3": [Listed("a")]})
    assert list(shown(old)) == ["a", "a@n2"]


def test_hidden_files_are_no_volumes():
    found = catalog((), {"n1": [Listed(".clusterhost"), Listed(".x.part"), Listed("a")]})
    assert list(shown(found)) == ["a"]
    assert found.ignored == ((".clusterhost", "n1"), (".x.part", "n1"))


def test_a_shared_pool_is_one_place():
    listings = {"n2": [Listed("a", 1), Listed("b")], "n1": [Listed("a", 2)]}
    assert one_place(listings) == {"": (Listed("a", 2), Listed("b"))}
    assert shown(catalog((), one_place(listings))) == {"a": [("", "whole")], "b": [("", "whole")]}
    assert one_place({}) == {}
    known = catalog((), one_place(listings)).volumes
    assert shown(catalog(known, one_place({}))) == {"a": [("", "lost")], "b": [("", "lost")]}


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_what_is_told_does_not_matter(world: tuple[tuple[Held, ...], dict], chance):
    known, listings = world
    mixed = [(node, chance.sample(listed, len(listed))) for node, listed in listings.items()]
    chance.shuffle(mixed)
    assert catalog(chance.sample(known, len(known)), dict(mixed)) == catalog(known, listings)


@given(worlds())
def test_every_file_is_in_the_namespace_once(world: tuple[tuple[Held, ...], dict]):
    known, listings = world
    found = catalog(known, listings)
    there = {(file.name, node) for node, listed in listings.items() for file in listed}
    places = [(volume.name, copy.node) for volume in found.volumes for copy in volume.copies]
    assert len(places) == len(set(places))
    assert there == {place for place in places if place in there} | set(found.ignored)
    absent = set(places) - there
    states = {(v.name, copy.node): copy.state for v in found.volumes for copy in v.copies}
    assert all(states[place] is COMING or place[1] not in listings for place in absent)


@given(worlds())
def test_names_are_unique_and_stay(world: tuple[tuple[Held, ...], dict]):
    known, listings = world
    found = catalog(known, listings)
    names = [volume.shown for volume in found.volumes]
    assert len(names) == len(set(names))
    assert names == sorted(names)
    before = {(volume.name, copy.node): volume.shown for volume in known for copy in volume.copies}
    for volume in found.volumes:
        for copy in volume.copies:
            assert before.get((volume.name, copy.node), volume.shown) == volume.shown


@given(worlds())
def test_asked_again_nothing_is_new(world: tuple[tuple[Held, ...], dict]):
    known, listings = world
    once = catalog(known, listings)
    again = catalog(once.volumes, listings)
    assert again.volumes == once.volumes
    assert (again.adopted, again.gone) == ((), ())


@given(worlds())
def test_only_whole_copies_of_the_current_generation_are_listed(world: tuple[tuple[Held, ...], dict]):
    known, listings = world
    found = catalog(known, listings)
    for volume in found.volumes:
        for copy in volume.copies:
            if copy.state is WHOLE:
                assert copy.node in listings
                assert copy.generation == volume.generation
    incomplete = {
        (volume.name, copy.node) for volume in known for copy in volume.copies if copy.state is COMING
    }
    listed = {(v.name, copy.node) for v in found.volumes for copy in v.copies if copy.state is WHOLE}
    assert not incomplete & listed
