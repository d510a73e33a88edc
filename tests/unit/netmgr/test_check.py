"""A network alone, beside others, on a node: what is refused, and in which words."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from netmgr import check, xml
from netmgr.errors import Clash, ConfigUnsupported, InUse
from netmgr.model import Network


def network(body: str = "", name: str = "x", bridge: str = "b1") -> Network:
    given = any(word in body for word in ("<bridge", "mode='bridge'", "mode='vepa'", "mode='hostdev'"))
    own = "" if given else f"<bridge name='{bridge}'/>"
    return xml.read(f"<network><name>{name}</name>{own}{body}</network>")


def subnet(text: str, more: str = "", name: str = "x", bridge: str = "b1") -> Network:
    where, _, prefix = text.partition("/")
    family = "family='ipv6' " if ":" in where else ""
    return network(f"<ip {family}address='{where}' prefix='{prefix}'>{more}</ip>", name, bridge)


def hosts(*entries: str) -> Network:
    return subnet("10.0.0.1/24", "<dhcp>" + "".join(f"<host {entry}/>" for entry in entries) + "</dhcp>")


FINE = {
    "bare": network(),
    "default": subnet(
        "192.168.122.1/24", "<dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>"
    ),
    "a name of 15 bytes": network(bridge="b23456789012345"),
    "two subnets": network("<ip address='10.0.0.1' prefix='24'/><ip address='10.0.1.1' prefix='24'/>"),
    "both families": network(
        "<ip address='10.0.0.1' prefix='24'/><ip family='ipv6' address='fd00::1' prefix='64'/>"
    ),
    "smallest subnet": subnet("10.0.0.0/31"),
    "host entries": hosts(
        "mac='52:54:00:00:00:01' ip='10.0.0.5'", "mac='52:54:00:00:00:02' name='b' ip='10.0.0.6'"
    ),
    "records": network(
        "<dns><srv service='_s' protocol='tcp' target='.'/><txt name='a_b.c' value='v=1; q &quot;x&quot;'/>"
        "<host ip='10.0.0.9'><hostname>a.b-c</hostname></host></dns>"
    ),
    "passed on": network("<forward mode='vepa' dev='eth0'/>"),
}

WRONG = {
    "its name has 201 bytes, 200 are allowed": network(name="n" * 201),
    "its name is '..', which no file can have": network(name=".."),
    "its name is '  ', which no file can have": network(name="  "),
    "the bridge name 'b234567890123456' has 16 bytes, allowed are 1 to 15": network(
        bridge="b234567890123456"
    ),
    "the bridge name 'äöüäöüäö' has 16 bytes, allowed are 1 to 15": network(bridge="äöüäöüäö"),
    "the bridge name '' has 0 bytes, allowed are 1 to 15": network(bridge=""),
    "the bridge name 'a b' is none: blanks, '/', ':' and '%' are not allowed": network(bridge="a b"),
    "the bridge name 'a/b' is none: blanks, '/', ':' and '%' are not allowed": network(bridge="a/b"),
    "the bridge name '..' is none: blanks, '/', ':' and '%' are not allowed": network(bridge=".."),
    "the interface name '' has 0 bytes, allowed are 1 to 15": network(
        "<forward mode='vepa'><interface dev=''/></forward>"
    ),
    "the interface name 'e:1' is none: blanks, '/', ':' and '%' are not allowed": network(
        "<forward mode='vepa' dev='e:1'/>"
    ),
    "its mtu is 10, allowed are 68 to 65535": network("<mtu size='10'/>"),
    "its mtu is 70000, allowed are 68 to 65535": network("<mtu size='70000'/>"),
    "its mtu is 1000, allowed are 1280 to 65535": network(
        "<mtu size='1000'/><ip family='ipv6' address='fd00::1' prefix='64'/>"
    ),
    "the address 0.0.0.0 is none that a host can have": subnet("0.0.0.0/24"),
    "the address 224.0.0.1 is none that a host can have": subnet("224.0.0.1/24"),
    "the address 127.0.0.5 is none that a host can have": subnet("127.0.0.5/24"),
    "the address ::1 is none that a host can have": subnet("::1/64"),
    "the address 10.0.0.0 is that of the network 10.0.0.0/24 or its broadcast": subnet("10.0.0.0/24"),
    "the address 10.0.0.255 is that of the network 10.0.0.0/24 or its broadcast": subnet("10.0.0.255/24"),
    "its subnets 10.0.0.0/24 and 10.0.0.0/16 overlap": network(
        "<ip address='10.0.0.1' prefix='24'/><ip address='10.0.1.1' prefix='16'/>"
    ),
    "the <host> address 10.0.1.5 is not in 10.0.0.0/24": hosts("name='a' ip='10.0.1.5'"),
    "the <host> address fd00::1 is not in 10.0.0.0/24": hosts("name='a' ip='fd00::1'"),
    "the <host> address 10.0.0.1 is the gateway's, the network's or the broadcast address": hosts(
        "name='a' ip='10.0.0.1'"
    ),
    "the <host> address 10.0.0.0 is the gateway's, the network's or the broadcast address": hosts(
        "name='a' ip='10.0.0.0'"
    ),
    "two <host> entries have the address 10.0.0.5": hosts("name='a' ip='10.0.0.5'", "name='b' ip='10.0.0.5'"),
    "two <host> entries have the mac 52:54:00:00:00:01": hosts(
        "mac='52:54:0:0:0:1' ip='10.0.0.5'", "mac='52:54:00:00:00:01' ip='10.0.0.6'"
    ),
    "the host name 'a,b' is no name of DNS: letters, digits, '-', '_' and '.' are allowed": hosts(
        "name='a,b' ip='10.0.0.5'"
    ),
    "the domain 'a b' is no name of DNS: letters, digits, '-', '_' and '.' are allowed": network(
        "<domain name='a b'/>"
    ),
    "the hostname '-a' is no name of DNS: letters, digits, '-', '_' and '.' are allowed": network(
        "<dns><host ip='10.0.0.9'><hostname>-a</hostname></host></dns>"
    ),
    "the srv service 'a b' is no name of DNS: letters, digits, '-', '_' and '.' are allowed": network(
        "<dns><srv service='a b' protocol='tcp'/></dns>"
    ),
    "the txt name 'a,b' is no name of DNS: letters, digits, '-', '_' and '.' are allowed": network(
        "<dns><txt name='a,b' value='v'/></dns>"
    ),
    "'v\\nport=0' holds a control character, none is allowed": network(
        "<dns><txt name='a' value='v&#10;port=0'/></dns>"
    ),
    "'/srv\\nx' holds a control character, none is allowed": subnet(
        "10.0.0.1/24", "<tftp root='/srv&#10;x'/>"
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_sound_networks_pass(name: str):
    check.alone(FINE[name])
    assert list(check.problems(FINE[name])) == []


@pytest.mark.parametrize("text", WRONG)
def test_what_no_cluster_can_honour_is_refused_with_the_reason(text: str):
    assert text in list(check.problems(WRONG[text]))
    with pytest.raises(ConfigUnsupported, match=r"^network '"):
        check.alone(WRONG[text])


ROUTE = "</ip><route address='10.9.0.0' prefix='16' gateway='10.0.0.9'/><ip address='10.5.0.1' prefix='24'>"
OTHER = replace(subnet("10.0.0.1/16", name="other"), uuid=b"1" * 16)

BESIDE = [
    (
        subnet("10.0.0.1/24", bridge="b2"),
        InUse,
        "its subnet 10.0.0.0/24 overlaps 10.0.0.0/16 of network 'other'",
    ),
    (subnet("10.0.200.1/24", bridge="b2"), InUse, "overlaps"),
    (subnet("10.0.0.9/8", bridge="b2"), InUse, "overlaps"),
    (subnet("10.0.255.255/32", bridge="b2"), InUse, "overlaps"),
    (subnet("10.0.0.0/32", bridge="b2"), InUse, "overlaps"),
    (network("<forward mode='open'/><ip address='10.0.0.9' prefix='8'/>", bridge="b2"), InUse, "overlaps"),
    (network(), InUse, "the bridge name 'b1' is in use by network 'other'"),
    (
        network(name="other", bridge="b2"),
        Clash,
        "already exists with uuid 31313131-3131-3131-3131-313131313131",
    ),
    (replace(network(bridge="b2"), uuid=b"1" * 16), Clash, "already defined with uuid 31313131"),
    (subnet("10.1.0.1/16", bridge="b2"), None, ""),
    (subnet("fd00::1/64", bridge="b2"), None, ""),
    (network(bridge="b2"), None, ""),
    (network("<forward mode='bridge'/><bridge name='b1'/>"), None, ""),
]


@pytest.mark.parametrize(("mine", "error", "text"), BESIDE, ids=range(len(BESIDE)))
def test_networks_side_by_side_have_names_bridges_and_subnets_of_their_own(mine, error, text):
    if error is None:
        check.beside(mine, [OTHER])
    else:
        with pytest.raises(error, match=text):
            check.beside(mine, [network(name="third", bridge="b3"), OTHER])


def test_no_two_networks_route_the_same_subnet():
    routed = subnet("10.0.0.1/24", ROUTE)
    for other in (
        subnet("10.9.0.1/16", name="o", bridge="b2"),
        network(
            "<ip address='10.3.0.1' prefix='24'/><route address='10.9.0.0' prefix='16' gateway='10.3.0.9'/>",
            "o",
            "b2",
        ),
    ):
        for mine, its in ((routed, other), (other, routed)):
            with pytest.raises(InUse, match=r"10\.9\.0\.0/16"):
                check.beside(mine, [its])
    check.beside(routed, [subnet("10.9.3.1/24", name="o", bridge="b2")])


def test_a_vni_is_one_networks_and_has_24_bits():
    check.vni(7, {8: "other"})
    with pytest.raises(InUse, match="the VNI 8 is in use by network 'other'"):
        check.vni(8, {8: "other"})
    for number in (0, 1 << 24):
        with pytest.raises(ConfigUnsupported, match="allowed are 1 to 16777215"):
            check.vni(number, {})


UUID = b"2" * 16
NODE = check.NodeLinks(
    "n1", {"eth0": b"", "br9": b"", "ours": UUID}, (ip_network("10.0.0.0/24"),), {"lan": "eth0"}
)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<bridge name='ours'/>", []),
        ("<bridge name='new'/>", []),
        ("<bridge name='br9'/>", ["node n1 has a link br9 that is not this network's"]),
        (
            "<bridge name='new'/><ip address='10.0.0.77' prefix='16'/>",
            ["node n1 has addresses in 10.0.0.0/24, which overlaps 10.0.0.0/16"],
        ),
        ("<bridge name='new'/><ip address='10.1.0.1' prefix='16'/>", []),
        (
            "<bridge name='new'/><forward mode='nat' dev='eth7'/><ip address='10.1.0.1' prefix='16'/>",
            ["node n1 has no link eth7 to go out by"],
        ),
        ("<bridge name='new'/><forward mode='route' dev='lan'/><ip address='10.1.0.1' prefix='16'/>", []),
        ("<forward mode='bridge'/><bridge name='br9'/>", []),
        ("<forward mode='bridge'/><bridge name='br8'/>", ["node n1 has no link br8"]),
        (
            "<forward mode='vepa'><interface dev='lan'/><interface dev='eth7'/></forward>",
            ["node n1 has no link eth7"],
        ),
        ("<forward mode='hostdev'><pf dev='eth0'/></forward>", []),
    ],
)
def test_a_node_says_why_it_cannot_have_a_network(body: str, found: list[str]):
    assert list(check.on_node(replace(network(body), uuid=UUID), NODE)) == found


def test_a_device_that_is_called_otherwise_on_a_node_is_named_both_ways():
    node = replace(NODE, names={"lan": "enp3s0"})
    mine = network("<forward mode='vepa' dev='lan'/>")
    assert list(check.on_node(mine, node)) == ["node n1 has no link enp3s0 (its name for lan)"]


@pytest.mark.parametrize(
    ("body", "names", "found"),
    [
        ("<bridge name='br9'/>", {}, ["node n1 has a link br9 that is not this network's"]),
        (
            "<bridge name='new'/><ip address='10.0.0.77' prefix='16'/>",
            {},
            ["node n1 has addresses in 10.0.0.0/24, which overlaps 10.0.0.0/16"],
        ),
        ("<forward mode='vepa' dev='eth7'/>", {}, []),
        ("<forward mode='vepa' dev='eth7'/>", {"eth7": "eth0"}, []),
        (
            "<forward mode='vepa' dev='eth7'/>",
            {"eth7": "no7"},
            ["node n1 has no link no7 (its name for eth7)"],
        ),
        (
            "<bridge name='new'/><forward mode='nat' dev='eth7'/><ip address='10.1.0.1' prefix='16'/>",
            {"eth7": "no7"},
            ["node n1 has no link no7 (its name for eth7) to go out by"],
        ),
    ],
)
def test_what_is_in_the_way_on_one_node_is_told_from_what_it_merely_lacks(
    body: str, names: dict[str, str], found: list[str]
):
    node = replace(NODE, names={**(NODE.names or {}), **names})
    assert list(check.in_the_way(replace(network(body), uuid=UUID), node)) == found
