"""Who is isolated: ports and rules; rates as the kernel is told them."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from netmgr import isolation, shaping
from netmgr.isolation import Ports, Tap
from netmgr.steps import SetApart
from netmgr.wanted import WantedGuest, WantedNetwork, WantedRate

NET = WantedNetwork("11111111-2222-3333-4444-555555555501", "net1", 1, 1, "virbr1", "52:54:00:aa:bb:01")
ALL = WantedNetwork(NET.uuid, "net1", 1, 1, "virbr1", NET.mac, isolated=True)
WEB = WantedGuest("02:00:00:00:00:01", isolated=True)
FREE = WantedGuest("02:00:00:00:00:02")

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=5)
TAPS = st.lists(
    st.builds(
        Tap,
        NAMES,
        st.sampled_from(["fe:00:00:00:00:01", "fe:00:00:00:00:02", "9a:00:00:00:00:01"]),
        st.booleans(),
    ),
    unique_by=lambda tap: tap.name,
)


@given(taps=TAPS, net=st.sampled_from([NET, ALL]), rejoined=st.frozensets(NAMES))
def test_after_the_steps_nothing_is_left_to_be_done(
    taps: list[Tap], net: WantedNetwork, rejoined: frozenset[str]
) -> None:
    ports, steps = isolation.settle(net, (WEB, FREE), taps, rejoined)
    done = {step.name: step.apart for step in steps}
    after = [
        Tap(tap.name, tap.mac, done.get(tap.name, tap.isolated and tap.name not in rejoined)) for tap in taps
    ]
    assert isolation.settle(net, (WEB, FREE), after, frozenset()) == (ports, ())
    assert ports.apart | ports.open == {tap.name for tap in taps}
    assert not ports.apart & ports.open
    assert {tap.name for tap in after if tap.isolated} == ports.apart


def test_a_tap_is_as_its_guest_and_one_of_nobody_stays_as_it_is() -> None:
    taps = [
        Tap("v1", "fe:00:00:00:00:01"),
        Tap("v2", "fe:00:00:00:00:02", True),
        Tap("v3", "fe:99:00:00:00:09", True),
    ]
    ports, steps = isolation.settle(NET, (WEB, FREE), taps, frozenset())
    assert steps == (SetApart("v1", True), SetApart("v2", False))
    assert ports == Ports(frozenset({"v1", "v3"}), frozenset({"v2"}))


def test_a_tap_of_nobody_that_lost_its_bridge_is_as_the_network() -> None:
    taps = [Tap("v3", "fe:99:00:00:00:09")]
    assert isolation.settle(ALL, (), taps, frozenset({"v3"}))[1] == (SetApart("v3", True),)
    assert isolation.settle(NET, (), taps, frozenset({"v3"}))[1] == ()


def test_rules_name_the_fewer_and_nobody_needs_none() -> None:
    assert isolation.rules(NET, (FREE,), Ports()) == isolation.Rules()
    assert isolation.rules(ALL, (WEB,), Ports()).overlay == ("drop",)
    some = isolation.rules(NET, (WEB, FREE), Ports(frozenset({"v1"}), frozenset({"v2"})))
    assert some.sets[0] == "set isolated { type ether_addr; elements = { 02:00:00:00:00:01 } }"
    assert some.sets[2] == 'set open { type ifname; elements = { "v2" } }'
    most = isolation.rules(ALL, (WEB, FREE), Ports())
    assert most.sets[0] == "set free { type ether_addr; elements = { 02:00:00:00:00:02 } }"
    assert most.forward[0] == 'iifname "ch1" ether saddr != @free oifname != @open drop'


@given(average=st.integers(0, 1 << 64), peak=st.integers(0, 1 << 64), burst=st.integers(0, 1 << 64))
def test_every_rate_is_one_that_the_kernel_can_count(average: int, peak: int, burst: int) -> None:
    found = shaping.queue(WantedRate(average, peak, burst))
    assert (found is None) == (not 0 < average * 1000 <= shaping.UNLIMITED)
    if found is not None:
        assert found.rate == average * 1000 <= found.ceil <= shaping.UNLIMITED
        assert found.is_like(found)
    if limit := shaping.police(WantedRate(average, peak, burst)):
        rate, most = (int(word) for word in limit.replace("/", " ").split() if word.isdigit())
        # net/netfilter/nft_limit.c multiplies by nanoseconds in 64 bits.
        assert (rate + most) * 1_000_000_000 < 1 << 64
        assert most < 1 << 32


def test_the_units_are_libvirts() -> None:
    assert shaping.queue(WantedRate(1000, 2000, 512)) == shaping.Queue(1_000_000, 2_000_000, 512 * 1024)
    assert shaping.police(WantedRate(500, 0, 64)) == "rate over 500000 bytes/second burst 65536 bytes"
    assert shaping.police(WantedRate(500)) == "rate over 500000 bytes/second burst 512000 bytes"
