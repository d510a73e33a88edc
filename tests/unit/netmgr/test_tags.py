"""<vlan> of a network on a device: who gets which tag, what is refused, and what a node's libvirtd is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netmgr import check, fill, rules, tags, xml
from netmgr.errors import ConfigUnsupported, InUse
from netmgr.model import Network
from netmgr.wanted import WantedTag, WantedTrunk

ALONE = "<metadata><ch:vlan-link xmlns:ch='urn:clusterhost:network:1'/></metadata>"
TEN = "<vlan><tag id='10'/></vlan>"
ACCESS_10 = (WantedTag(10, native=True, untagged=True),)


def network(body: str, dev: str = "eth1", name: str = "x") -> Network:
    forward = f"<forward mode='bridge' dev='{dev}'/>"
    read = xml.read(f"<network><name>{name}</name>{forward}{body}</network>")
    return replace(read, uuid=name.encode().ljust(16))


def trunk(*ids: str) -> str:
    return "<vlan trunk='yes'>" + "".join(f"<tag id={one}/>" for one in ids) + "</vlan>"


def group(name: str, vlan: str, more: str = "") -> str:
    return f"<portgroup name='{name}'{more}>{vlan}</portgroup>"


@pytest.mark.parametrize(
    ("body", "named", "expected"),
    [
        (TEN, "", ACCESS_10),
        (trunk("'10' nativeMode='untagged'", "'20'"), "", (*ACCESS_10, WantedTag(20))),
        (trunk("'10' nativeMode='tagged'", "'20'"), "", (WantedTag(10, native=True), WantedTag(20))),
        (trunk("'10'", "'20'"), "", (WantedTag(10), WantedTag(20))),
        (TEN + group("g", "<vlan><tag id='20'/></vlan>"), "", ACCESS_10),
        (TEN + group("g", "<vlan><tag id='20'/></vlan>"), "g", (WantedTag(20, native=True, untagged=True),)),
        (TEN + group("g", ""), "g", ACCESS_10),
        (TEN + group("g", "<vlan><tag id='20'/></vlan>", " default='yes'"), "",
         (WantedTag(20, native=True, untagged=True),)),
        (group("g", TEN), "", ()),
        (group("g", TEN), "unknown", ()),
        (ALONE + TEN, "", ()),
        ("", "", ()),
    ],
)  # fmt: skip
def test_a_guest_is_in_the_vlans_of_its_group_or_else_of_its_network(
    body: str, named: str, expected: tuple[WantedTag, ...]
) -> None:
    assert tags.of_guest(network(body), named) == expected


def test_a_trunk_carries_the_tags_of_the_network_and_its_groups() -> None:
    found = network(TEN + group("a", trunk("'20'", "'10'")) + group("b", "<vlan><tag id='30'/></vlan>"))
    assert tags.trunk(found) == WantedTrunk("eth1", (10, 20, 30))
    assert tags.bridge_name(found) == "ct-eth1"
    assert tags.trunk(network(ALONE + TEN)) == WantedTrunk("eth1", (10,), single=True)
    assert tags.bridge_name(network(ALONE + TEN)) == "cs-eth1.10"


@pytest.mark.parametrize("device", ["eth1", "enp129s0f1np1", "x" * 15])
def test_names_of_bridges_fit_and_differ(device: str) -> None:
    trunked, single = network(TEN, device), network(ALONE + TEN, device)
    names = {tags.bridge_name(trunked), tags.bridge_name(single), device}
    assert len(names) == 3
    assert all(len(name) <= 15 for name in names)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<virtualport type='openvswitch'/>" + TEN,
        group("g", "<virtualport type='openvswitch'/>" + TEN),
    ],
)
def test_what_switches_of_others_do_is_left_to_them(body: str) -> None:
    assert not tags.is_trunked(network(body))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<vlan><tag id='0'/></vlan>", "the VLAN tag is 0, allowed are 1 to 4094"),
        ("<vlan><tag id='4095'/></vlan>", "the VLAN tag is 4095, allowed are 1 to 4094"),
        (trunk("'10'", "'10'"), "a <vlan> has the tag 10 more than once"),
        (ALONE + trunk("'10'", "'20'"), "for one tag; it names a trunk of 2"),
        (ALONE + TEN + group("g", TEN), "its port group g can have no other <vlan>"),
    ],
)
def test_vlans_that_no_node_could_make_are_refused(body: str, words: str) -> None:
    with pytest.raises(ConfigUnsupported, match=words):
        check.alone(network(body))


def test_a_network_with_vlans_has_one_device() -> None:
    forward = "<forward mode='bridge'><interface dev='eth1'/><interface dev='eth2'/></forward>"
    found = xml.read(f"<network><name>x</name>{forward}{TEN}</network>")
    with pytest.raises(ConfigUnsupported, match="it has VLANs and 2 interfaces, one is allowed"):
        check.alone(found)


@pytest.mark.parametrize("mode", ["nat", "route", "private", "vepa"])
def test_elsewhere_vlans_are_refused_as_libvirt_does(mode: str) -> None:
    own = mode in ("nat", "route")
    device, ip = ("", "<ip address='10.0.0.1' prefix='24'/>") if own else ("dev='eth1'", "")
    found = xml.read(f"<network><name>x</name><forward mode='{mode}' {device}/>{TEN}{ip}</network>")
    with pytest.raises(ConfigUnsupported, match="<vlan> is not possible in mode"):
        rules.check(found)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (TEN, TEN, "VLAN 10 of eth1 is in use by network 'y'"),
        (TEN, group("g", TEN), "VLAN 10 of eth1 is in use by network 'y'"),
        (ALONE + TEN, TEN, "VLAN 10 of eth1 is in use by network 'y'"),
        (ALONE + TEN, trunk("'10'", "'20'"), "VLAN 10 of eth1 is in use by network 'y'"),
        (TEN, trunk("'10'", "'20'"), ""),
        (TEN, "<vlan><tag id='20'/></vlan>", ""),
        (ALONE + TEN, ALONE + "<vlan><tag id='20'/></vlan>", ""),
        (TEN, "", ""),
    ],
)
def test_a_tag_of_a_device_is_one_networks(one: str, other: str, clash: str) -> None:
    second = network(other, name="y")
    if clash:
        with pytest.raises(InUse, match=clash):
            check.beside(network(one), [second])
    else:
        check.beside(network(one), [second])
    check.beside(network(one), [network(other, "eth2", "y")])


def test_a_nodes_libvirtd_plugs_guests_into_our_bridge_and_knows_no_vlan() -> None:
    found = network(TEN + group("all", trunk("'10'", "'20'"), " default='yes'"))
    given = fill.for_libvirtd(found, {"eth1": "enp3s0"})
    assert (given.mode.value, given.bridge.name, given.forward.interfaces) == ("bridge", "ct-eth1", ())
    assert given.vlan is None
    assert [(each.name, each.default, each.vlan) for each in given.portgroups] == [("all", True, None)]
