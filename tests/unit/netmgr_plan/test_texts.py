"""What is written for nftables and dnsmasq, and what is refused because it would end up there."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json, structs

from netmgr import dnsmasq, nft
from netmgr.wanted import (
    Unfit,
    WantedDns,
    WantedGuest,
    WantedNat,
    WantedNetwork,
    WantedRoute,
    WantedSrv,
    WantedSubnet,
    check,
    check_guest,
    overlay_name,
    temporary_name,
    vxlan_mtu,
)

UUID = "11111111-2222-3333-4444-555555555501"
FOUR = WantedSubnet("192.168.1.1/24", dhcp=True)
SIX = WantedSubnet("fd00:7::1/64")
NET = WantedNetwork(
    uuid=UUID,
    name="net1",
    serial=1,
    vni=257,
    bridge="virbr1",
    mac="52:54:00:aa:bb:01",
    mode="nat",
    subnets=(FOUR,),
)


def having(**changes: Any) -> WantedNetwork:
    """The network with changes."""
    return structs.replace(NET, **changes)


def rules(wanted: WantedNetwork, chain: str) -> list[str]:
    """The lines of one chain."""
    text = nft.ruleset(wanted).split(f"chain {chain} {{\n")[1].split("}\n\t}")[0]
    lines = [line.strip() for line in text.split("\n")]
    return lines[1 : lines.index("}")]


def test_nat_lets_out_and_answers_in_and_refuses_the_rest() -> None:
    assert rules(NET, "forward") == [
        'iifname != "virbr1" oifname != "virbr1" accept',
        'iifname "virbr1" oifname "virbr1" accept',
        'oifname "virbr1" ip daddr 192.168.1.0/24 ct state established,related accept',
        'iifname "virbr1" ip saddr 192.168.1.0/24 accept',
        'oifname "virbr1" reject with icmpx type port-unreachable',
        'iifname "virbr1" reject with icmpx type port-unreachable',
    ]
    assert rules(NET, "postrouting") == [
        "ip saddr 192.168.1.0/24 ip daddr 224.0.0.0/24 return",
        "ip saddr 192.168.1.0/24 ip daddr 255.255.255.255 return",
        "ip saddr 192.168.1.0/24 ip daddr != 192.168.1.0/24 meta l4proto { tcp, udp } masquerade to :1024-65535",
        "ip saddr 192.168.1.0/24 ip daddr != 192.168.1.0/24 masquerade",
    ]


def test_nat_to_a_range_of_addresses_and_ports_by_one_link() -> None:
    nat = WantedNat("203.0.113.5", "203.0.113.9", 5000, 6000)
    wanted = having(nat=nat, devices=("eth0", "eth1"))
    away = 'oifname { "eth0", "eth1" } ip saddr 192.168.1.0/24 ip daddr != 192.168.1.0/24'
    assert rules(wanted, "postrouting")[2:] == [
        f"{away} meta l4proto {{ tcp, udp }} snat ip to 203.0.113.5-203.0.113.9:5000-6000",
        f"{away} snat ip to 203.0.113.5-203.0.113.9",
    ]
    assert rules(wanted, "forward")[2].startswith('iifname { "eth0", "eth1" } oifname "virbr1"')


def test_ipv6_is_translated_only_when_asked() -> None:
    assert "ip6" not in "".join(rules(having(subnets=(FOUR, SIX)), "postrouting"))
    text = "".join(rules(having(subnets=(FOUR, SIX), nat=WantedNat(ipv6=True)), "postrouting"))
    assert "ip6 saddr fd00:7::/64 ip6 daddr != fd00:7::/64 masquerade" in text


def test_route_lets_in_what_is_for_its_subnets() -> None:
    assert 'oifname "virbr1" ip daddr 192.168.1.0/24 accept' in rules(having(mode="route"), "forward")
    assert "postrouting 100" not in nft.ruleset(having(mode="route"))


def test_an_isolated_network_forwards_nothing_and_an_open_one_filters_nothing() -> None:
    verdicts = [line.split()[-1] for line in rules(having(mode="none"), "forward")]
    assert verdicts == ["accept", "accept", "port-unreachable", "port-unreachable"]
    assert rules(having(mode="open"), "forward") == []


def test_dhcp_crosses_the_overlay_where_we_serve_none() -> None:
    """A network without addresses belongs to its guests, one of which may serve it."""
    assert "udp dport" in nft.ruleset(NET)
    assert "udp dport" not in nft.ruleset(having(subnets=()))
    assert "udp dport" not in nft.ruleset(having(subnets=(structs.replace(FOUR, dhcp=False),)))


def test_the_filter_of_the_overlay() -> None:
    text = nft.ruleset(having(subnets=(FOUR, SIX))).split("table bridge clusterhost-virbr1 {\n")[1]
    assert [line.strip() for line in text.splitlines()] == [
        "chain gateway {",
        "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop",
        "ether type != { ip, ip6 } drop",
        "icmpv6 type { 133, 134, 135, 136, 137 } drop",
        "}",
        "chain kind-arp {",
        "arp saddr ip { 192.168.1.1 } drop",
        "arp daddr ip { 192.168.1.1 } drop",
        "}",
        "chain kind-ip {",
        "udp dport { 67, 68 } drop",
        "}",
        "chain kind-ip6 {",
        "udp dport { 546, 547 } drop",
        "icmpv6 type { 133, 134 } drop",
        (
            "icmpv6 type { 135, 136 } @th,64,128 "
            "{ 0xfd000007000000000000000000000001, 0xfe80000000000000505400fffeaabb01 } drop"
        ),
        "}",
        "chain overlay {",
        "ether saddr 52:54:00:aa:bb:01 goto gateway",
        "ether type vmap { arp : goto kind-arp, ip : goto kind-ip, ip6 : goto kind-ip6 }",
        "}",
        "chain into {",
        "type filter hook prerouting priority -300; policy accept;",
        'iifname != "ch101" accept',
        "ether daddr 52:54:00:aa:bb:01 drop",
        "goto overlay",
        "}",
        "chain out {",
        "type filter hook postrouting priority 300; policy accept;",
        'oifname != "ch101" accept',
        "goto overlay",
        "}",
        "}",
    ]


def test_the_tables_are_replaced_in_one_transaction() -> None:
    lines = nft.ruleset(NET).splitlines()
    assert lines[:4] == [
        "add table inet clusterhost-virbr1",
        "delete table inet clusterhost-virbr1",
        "add table bridge clusterhost-virbr1",
        "delete table bridge clusterhost-virbr1",
    ]


def test_a_link_local_address_is_made_of_the_mac() -> None:
    assert nft.link_local("52:54:00:aa:bb:01") == "fe80::5054:ff:feaa:bb01"


def test_a_configuration_of_dnsmasq() -> None:
    dns = WantedDns(
        domain="lab.test",
        local_only=True,
        forward_plain_names=False,
        forwarders=(("", "9.9.9.9"), ("corp.test", "10.0.0.53"), ("nobody.test", "")),
        srvs=(WantedSrv("ldap", "tcp", "", "db.lab.test", 389, 1, 2), WantedSrv("none", "udp", "lab.test")),
        txts=(("note.lab.test", "hello there"),),
    )
    subnet = structs.replace(
        FOUR, boot_file="pxe.0", boot_server="192.168.1.9", tftp_root="/srv/tftp", local_ptr=True
    )
    wanted = having(dns=dns, subnets=(subnet, SIX), options=("log-queries",))
    assert dnsmasq.config(wanted, "/s", 1450).splitlines() == [
        "strict-order",
        "bind-dynamic",
        "except-interface=lo",
        "interface=virbr1",
        "no-hosts",
        "pid-file=/s/pid",
        "dhcp-leasefile=/s/leases",
        "no-resolv",
        "server=9.9.9.9",
        "server=/corp.test/10.0.0.53",
        "server=/nobody.test/",
        "domain-needed",
        "local=//",
        "domain=lab.test",
        "expand-hosts",
        "local=/lab.test/",
        'txt-record=note.lab.test,"hello there"',
        "srv-host=_ldap._tcp.lab.test,db.lab.test,389,1,2",
        "srv-host=_none._udp.lab.test",
        "hostsdir=/s/names.d",
        "dhcp-range=192.168.1.0,static,255.255.255.0,3600",
        "local=/1.168.192.in-addr.arpa/",
        "enable-tftp",
        "tftp-root=/srv/tftp",
        "dhcp-boot=pxe.0,,192.168.1.9",
        "dhcp-range=fd00:7::,ra-only,64",
        "dhcp-no-override",
        "dhcp-authoritative",
        "dhcp-hostsdir=/s/dhcp.d",
        "dhcp-lease-max=65536",
        "dhcp-option-force=option:mtu,1450",
        "enable-ra",
        "ra-param=virbr1,mtu:1450,60",
        "log-queries",
    ]


def test_an_isolated_network_has_no_router_and_asks_nobody() -> None:
    text = dnsmasq.config(having(mode="none", subnets=(FOUR, SIX)), "/s", 1450)
    assert "no-resolv\n" in text
    assert "dhcp-option=option:router\n" in text
    assert "ra-param=virbr1,mtu:1450,0,0\n" in text


def test_a_guest_has_its_own_files() -> None:
    guest = WantedGuest("02:00:00:00:00:01", ("192.168.1.10", "fd00:7::10"), ("web.lab", "www"), lease=60)
    assert dnsmasq.guest_files(NET, guest) == {
        "dhcp.d/02-00-00-00-00-01": "02:00:00:00:00:01,192.168.1.10,[fd00:7::10],web,120\n",
        "names.d/02-00-00-00-00-01": "192.168.1.10 web.lab www\nfd00:7::10 web.lab www\n",
    }
    by_id = WantedGuest(client_id="00:01:02", addresses=("fd00:7::11",))
    assert dnsmasq.guest_files(NET, by_id) == {"dhcp.d/id-00-01-02": "id:00:01:02,[fd00:7::11]\n"}
    assert dnsmasq.guest_files(NET, WantedGuest("02:00:00:00:00:01")) == {}


@pytest.mark.parametrize("name", ["a b", "a,b", "a\nb", "grün", "-a", "", "a" * 300, "#x"])
def test_a_guest_whose_name_is_none_still_has_its_address(name: str) -> None:
    guest = WantedGuest("02:00:00:00:00:01", ("192.168.1.10",), (name, "www"))
    check_guest(guest)
    assert dnsmasq.guest_files(NET, guest) == {
        "dhcp.d/02-00-00-00-00-01": "02:00:00:00:00:01,192.168.1.10\n",
        "names.d/02-00-00-00-00-01": "192.168.1.10 www\n",
    }


@pytest.mark.parametrize("name", ["4", "10m", "3d", "infinite", "Ignore", "_a", "a" * 64])
def test_a_name_that_dnsmasq_would_misread_is_no_host_name(name: str) -> None:
    guest = WantedGuest("02:00:00:00:00:01", ("192.168.1.10",), (name,))
    found = dnsmasq.guest_files(NET, guest)
    assert found["dhcp.d/02-00-00-00-00-01"] == "02:00:00:00:00:01,192.168.1.10\n"
    assert found["names.d/02-00-00-00-00-01"] == f"192.168.1.10 {name}\n"


def test_what_is_said_of_a_guest_in_two_places_is_put_together() -> None:
    guests = (
        WantedGuest("02:00:00:00:00:01", ("192.168.1.10",), ("web",), place="10.0.0.2"),
        WantedGuest("02:00:00:00:00:01", ("fd00:7::10",), ("web", "www"), serial=4),
    )
    (found,) = having(guests=guests).by_key().values()
    assert (found.addresses, found.names) == (("192.168.1.10", "fd00:7::10"), ("web", "www"))
    assert (found.place, found.serial) == ("10.0.0.2", 4)


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("192.168.1.0/24", ["1.168.192.in-addr.arpa"]),
        ("172.16.0.0/14", [f"{n}.172.in-addr.arpa" for n in (16, 17, 18, 19)]),
        ("192.0.2.128/31", ["128.2.0.192.in-addr.arpa", "129.2.0.192.in-addr.arpa"]),
        ("fd00:7::/32", ["7.0.0.0.0.0.d.f.ip6.arpa"]),
    ],
)
def test_reverse_zones(subnet: str, zones: list[str]) -> None:
    assert dnsmasq.reverse_zones(subnet) == zones


@given(st.integers(0, 2**32 - 1), st.integers(8, 32), st.data())
def test_every_address_of_a_subnet_is_in_its_reverse_zones(
    start: int, prefix: int, data: st.DataObject
) -> None:
    network = ip_network((start, prefix), strict=False)
    address = network[data.draw(st.integers(0, network.num_addresses - 1))]
    zones = dnsmasq.reverse_zones(str(network))
    assert (
        sum(address.reverse_pointer == zone or address.reverse_pointer.endswith(f".{zone}") for zone in zones)
        == 1
    )


def test_leases_are_read_and_freed() -> None:
    text = (
        "1700000000 02:00:00:00:00:01 192.168.1.10 web 01:02\n"
        "duid 00:01:00:01:aa\n"
        "0 77 fd00:7::10 web 00:03:00:01:02:00:00:00:00:01\n"
        "cut of"
    )
    found = dnsmasq.leases(text)
    assert found["192.168.1.10"] == dnsmasq.Lease("192.168.1.10", "02:00:00:00:00:01", 1700000000)
    owners = {address: lease.owner for address, lease in found.items()}
    own = WantedGuest("02:00:00:00:00:01", ("192.168.1.10", "fd00:7::10"))
    other = structs.replace(own, mac="02:00:00:00:00:02")
    assert dnsmasq.in_the_way(owners, [own]) == frozenset()
    assert dnsmasq.in_the_way(owners, [other]) == {"192.168.1.10", "fd00:7::10"}
    left = dnsmasq.without(text, frozenset({"192.168.1.10"}))
    assert "192.168.1.10" not in left
    assert "duid" in left


BAD = [
    {"uuid": "x"},
    {"bridge": "a" * 16},
    {"bridge": ""},
    {"bridge": 'a"; drop'},
    {"bridge": "a/b"},
    {"bridge": ".."},
    {"vni": 0},
    {"vni": 1 << 24},
    {"mode": "bridge"},
    {"mac": "52:54:00:AA:BB:01"},
    {"mac": "01:00:5e:00:00:01"},
    {"local": "nowhere"},
    {"peers": ("10.0.0.300",)},
    {"devices": ("eth 0",)},
    {"subnets": (WantedSubnet("192.168.1.1/33"),)},
    {"subnets": (structs.replace(FOUR, options=("3\ndhcp-script=/bin/sh",)),)},
    {"subnets": (structs.replace(FOUR, boot_file="a,b"),)},
    {"routes": (WantedRoute("10.0.0.0/8", "x"),)},
    {"routes": (WantedRoute("10.0.0.1/8", "192.168.1.2"),)},
    {"nat": WantedNat("x")},
    {"dns": WantedDns(domain="a b")},
    {"dns": WantedDns(txts=(("n", 'a"b'),))},
    {"dns": WantedDns(txts=(("n", "a\nb"),))},
    {"dns": WantedDns(hosts=(("1.2.3.4", ("a\nb",)),))},
    {"dns": WantedDns(forwarders=(("", "x"),))},
    {"dns": WantedDns(srvs=(WantedSrv("a,b", "tcp"),))},
    {"options": ("a\nb",)},
    {"guests": (WantedGuest("02:00:00:00:00:01", ("x",)),)},
    {"guests": (WantedGuest("", ()),)},
    {"guests": (WantedGuest("02:00:00:00:00:01", place="n2"),)},
    {"guests": (WantedGuest(client_id="../x"),)},
]


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_what_would_break_a_file_or_a_rule_is_refused(changes: dict[str, Any]) -> None:
    check(NET)
    with pytest.raises(Unfit):
        check(having(**changes))


def test_a_guest_is_checked_as_a_networks_are() -> None:
    check_guest(WantedGuest("02:00:00:00:00:01", ("10.0.0.1",), ("web", "_dmarc.x-1.lab"), "10.0.0.2"))
    with pytest.raises(Unfit):
        check_guest(WantedGuest("02:00:00:00:00:0g"))


def test_names_of_links_fit_and_differ() -> None:
    assert overlay_name((1 << 24) - 1) == "chffffff"
    names = {
        temporary_name(uuid, what)
        for uuid in (UUID, UUID.replace("1", "2"))
        for what in ("bridge", "overlay")
    }
    assert len(names) == 4
    assert max(map(len, names)) <= 15


def test_the_overlay_takes_its_share_of_the_mtu() -> None:
    assert (vxlan_mtu(1500, "10.0.0.1"), vxlan_mtu(1500, "fd00::1")) == (1450, 1430)


def test_a_wanted_network_goes_through_json() -> None:
    assert json.decode(json.encode(NET), type=WantedNetwork) == NET


@pytest.mark.parametrize(
    ("bridge", "table"),
    [("virbr0", "clusterhost-virbr0"), ("br@1", "clusterhost-br/401"), ("br+1", "clusterhost-br/2b1")],
)
def test_a_table_is_named_after_the_bridge(bridge: str, table: str) -> None:
    assert nft.table_name(bridge) == table
