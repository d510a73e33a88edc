"""Limits of a cache as people write them, and which copies go: the least recently used, and no more than must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr.cache import BadLimit, CacheLimit, Spare, by_use, over

SPARES = st.lists(
    st.builds(Spare, st.text("abcdef", min_size=1), st.integers(0, 50), st.floats(0, 100)),
    unique_by=lambda spare: spare.shown,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GiB", 20 << 30),
        ("1.5 MiB", 3 << 19),
        ("1000", 1000),
        ("7B", 7),
        ("0", 0),
        ("30%", 300),
        ("100%", 1000),
    ],
)
def test_a_limit_is_bytes_or_a_share_of_what_there_is(text, size):
    assert CacheLimit.read(text).of(1000) == size


@pytest.mark.parametrize("text", ["", "GiB", "20GB", "-1", "101%", "20 G iB", "none", "1e9", "²GiB"])
def test_what_is_no_limit_is_refused_with_what_is_allowed(text):
    with pytest.raises(BadLimit):
        CacheLimit.read(text)


@given(spares=SPARES, most=st.integers(0, 200), keep=st.sets(st.sampled_from("abcdef")))
def test_what_stays_fits_or_could_not_go_and_nothing_goes_without_need(spares, most, keep):
    going = over(by_use(spares), most, keep)
    left = [spare for spare in spares if spare not in going]
    assert sum(spare.size for spare in left) <= most or all(spare.shown in keep for spare in left)
    assert not any(spare.shown in keep for spare in going)
    if going:
        assert sum(spare.size for spare in left) + going[-1].size > most


@given(spares=SPARES, most=st.integers(0, 200))
def test_whatever_goes_was_used_before_all_that_stay(spares, most):
    order = by_use(spares)
    assert list(over(order, most)) == order[: len(over(order, most))]
