"""What of a network at libvirtd changes while guests use it, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmgr import inplace, update, xml
from netmgr.model import Network

GROUPS = ("<portgroup name='{}'/>", "<portgroup name='{}' trustGuestRxFilters='yes'/>")


def passed(*links: str, groups: str = "", mode: str = "bridge") -> Network:
    devices = "".join(f"<interface dev='{link}'/>" for link in links)
    return xml.read(f"<network><name>x</name><forward mode='{mode}'>{devices}</forward>{groups}</network>")


def after(there: Network, wanted: Network) -> Network:
    changes = inplace.updates(there, wanted)
    assert changes is not None
    for change in changes:
        there = update.update(there, change.command, change.section, -1, change.xml)
    return there


@st.composite
def networks(draw: st.DrawFn) -> Network:
    links = draw(st.lists(st.sampled_from(["e1", "e2", "e3"]), unique=True, min_size=1))
    names = draw(st.lists(st.sampled_from("abcd"), unique=True))
    default = draw(st.sampled_from(["", *names]))
    groups = [draw(st.sampled_from(GROUPS)).format(name) for name in names]
    groups = [
        text.replace("<portgroup", "<portgroup default='yes'") if name == default else text
        for name, text in zip(names, groups, strict=True)
    ]
    return passed(*links, groups="".join(groups))


def content(network: Network) -> tuple[object, ...]:
    return set(network.forward.interfaces), set(network.portgroups), inplace.updates(network, network)


@given(networks(), networks())
def test_updates_lead_from_any_such_network_to_any_other(there: Network, wanted: Network) -> None:
    assert content(after(there, wanted)) == content(wanted)


def test_what_is_the_same_needs_none() -> None:
    assert inplace.updates(passed("e1"), passed("e1")) == ()


@pytest.mark.parametrize("wanted", [passed("e1", mode="vepa"), passed("e1", groups="<port isolated='yes'/>")])
def test_another_mode_or_isolation_needs_a_new_network(wanted: Network) -> None:
    assert inplace.updates(passed("e1"), wanted) is None
