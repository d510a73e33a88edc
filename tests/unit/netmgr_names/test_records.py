"""Records of names outside: what becomes of guests, host entries and services, and in which zone."""

from __future__ import annotations

import pytest

from netmgr.names.records import (
    Naming,
    Nodes,
    Rrset,
    Service,
    canonical,
    in_zone,
    names_of,
    text_data,
    zone_of,
)
from netmgr.wanted import WantedDns, WantedGuest, WantedNetwork, WantedSrv

ZONES = (
    "cluster.test",
    "lab.cluster.test",
    "122.168.192.in-addr.arpa",
    "168.192.in-addr.arpa",
    "8.b.d.0.ip6.arpa",
)
NAMING = Naming.of(ZONES, "Cluster.Test")


def network(*guests: WantedGuest, dns: WantedDns | None = None) -> WantedNetwork:
    uuid = "00000000-0000-4000-8000-000000000001"
    return WantedNetwork(
        uuid, "n", 1, 1, "virbr1", "52:54:00:00:00:01", guests=guests, dns=dns or WantedDns()
    )


def flat(nodes: Nodes) -> set[tuple[str, str, str]]:
    return {
        (name, kind, data)
        for name, node in nodes.items()
        for kind, found in node.items()
        for data in found.data
    }


def test_a_guest_has_its_addresses_forward_and_reverse() -> None:
    guest = WantedGuest("52:54:00:00:00:02", ("192.168.122.5", "0db8::5"), ("Web",))
    assert flat(names_of([network(guest)], NAMING).nodes) == {
        ("web.cluster.test.", "A", "192.168.122.5"),
        ("web.cluster.test.", "AAAA", "db8::5"),
        ("5.122.168.192.in-addr.arpa.", "PTR", "web.cluster.test."),
        ("5" + ".0" * 27 + ".8.b.d.0.ip6.arpa.", "PTR", "web.cluster.test."),
    }


def test_an_address_in_no_reverse_zone_has_a_name_all_the_same() -> None:
    guest = WantedGuest("52:54:00:00:00:02", ("10.0.0.5",), ("web",))
    assert flat(names_of([network(guest)], NAMING).nodes) == {("web.cluster.test.", "A", "10.0.0.5")}


def test_a_network_has_its_own_domain_where_that_is_in_a_zone() -> None:
    guest = WantedGuest("52:54:00:00:00:02", ("10.0.0.5",), ("web",))
    names = {
        domain: next(iter(names_of([network(guest, dns=WantedDns(domain=domain))], NAMING).nodes))
        for domain in ("lab.cluster.test", "x.cluster.test", "home.arpa", "")
    }
    assert names == {
        "lab.cluster.test": "web.lab.cluster.test.",
        "x.cluster.test": "web.x.cluster.test.",
        "home.arpa": "web.cluster.test.",
        "": "web.cluster.test.",
    }


def test_without_a_domain_only_names_inside_a_zone_are_known_outside() -> None:
    guests = [WantedGuest("", ("10.0.0.5",), ("web",)), WantedGuest("", ("10.0.0.6",), ("db.cluster.test",))]
    found = names_of([network(*guests)], Naming.of(ZONES))
    assert (flat(found.nodes), found.left_out) == ({("db.cluster.test.", "A", "10.0.0.6")}, ("web.",))


def test_a_guest_on_two_networks_has_both_addresses_under_its_name() -> None:
    one = network(WantedGuest("", ("192.168.122.5",), ("web",)))
    two = network(WantedGuest("", ("10.0.0.5",), ("web",)))
    assert names_of([one, two], NAMING).nodes["web.cluster.test."] == {
        "A": Rrset(60, frozenset({"192.168.122.5", "10.0.0.5"}))
    }


def test_the_reverse_name_is_the_first_guests_and_a_host_entrys_only_after_that() -> None:
    dns = WantedDns(hosts=(("192.168.122.5", ("alias",)), ("192.168.122.1", ("gate", "router"))))
    nodes = names_of([network(WantedGuest("", ("192.168.122.5",), ("web", "www")), dns=dns)], NAMING).nodes
    assert {entry for entry in flat(nodes) if entry[1] == "PTR"} == {
        ("5.122.168.192.in-addr.arpa.", "PTR", "web.cluster.test."),
        ("1.122.168.192.in-addr.arpa.", "PTR", "gate.cluster.test."),
    }
    assert {"www.cluster.test.", "alias.cluster.test.", "router.cluster.test."} <= set(nodes)


def test_a_host_entry_of_somebody_elses_domain_is_left_out() -> None:
    found = names_of([network(dns=WantedDns(hosts=(("192.0.2.1", ("www.other.test",)),)))], NAMING)
    assert (found.nodes, found.left_out) == ({}, ("www.other.test.",))


@pytest.mark.parametrize("name", ["*", "a b", "-x", "x" * 64, "ä", "a..b", "", "a/b"])
def test_a_name_that_cannot_stand_in_a_zone_is_left_out(name: str) -> None:
    found = names_of([network(WantedGuest("", ("192.168.122.5",), (name,)))], NAMING)
    assert (found.nodes, len(found.left_out)) == ({}, 1)


def test_services_of_a_network_and_of_the_cluster_have_their_records() -> None:
    dns = WantedDns(
        srvs=(
            WantedSrv("ldap", "tcp", target="dir", port=389, priority=1, weight=2),
            WantedSrv("sip", "udp", domain="lab.cluster.test", target="Sip.Example.Test", port=5060),
            WantedSrv("none", "tcp"),
        )
    )
    services = [Service("_libvirt._tcp.cluster.test", "front1.example.test", 16514, 10, 5)]
    assert flat(names_of([network(dns=dns)], NAMING, services).nodes) == {
        ("_ldap._tcp.cluster.test.", "SRV", "1 2 389 dir.cluster.test."),
        ("_sip._udp.lab.cluster.test.", "SRV", "0 0 5060 sip.example.test."),
        ("_none._tcp.cluster.test.", "SRV", "0 0 0 ."),
        ("_libvirt._tcp.cluster.test.", "SRV", "10 5 16514 front1.example.test."),
    }


def test_a_network_without_dns_has_no_names_outside() -> None:
    guest = WantedGuest("", ("192.168.122.5",), ("web",))
    assert names_of([network(guest, dns=WantedDns(enable=False))], NAMING).nodes == {}


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("web.cluster.test.", "cluster.test."),
        ("web.lab.cluster.test.", "lab.cluster.test."),
        ("xlab.cluster.test.", "cluster.test."),
        ("cluster.test.", None),
        ("lab.cluster.test.", None),
        ("test.", None),
        ("5.122.168.192.in-addr.arpa.", "122.168.192.in-addr.arpa."),
        ("5.123.168.192.in-addr.arpa.", "168.192.in-addr.arpa."),
    ],
)
def test_a_name_stands_in_the_longest_zone_and_never_is_one(name: str, zone: str | None) -> None:
    assert zone_of(name, NAMING.zones) == zone


def test_each_name_stands_in_one_zone() -> None:
    guests = [
        WantedGuest("", (f"192.168.{net}.5",), (f"web{net}", f"w{net}.lab.cluster.test"))
        for net in (121, 122)
    ]
    nodes = names_of([network(*guests)], NAMING).nodes
    parts = [dict(in_zone(nodes, zone, NAMING.zones)) for zone in NAMING.zones]
    assert [len(part) for part in parts] == [2, 2, 1, 1, 0]
    assert {name for part in parts for name in part} == set(nodes)


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        ("AAAA", "2001:DB8:0:0::1", "2001:db8::1"),
        ("PTR", "Web.Cluster.Test.", "web.cluster.test."),
        ("SRV", "0 0 1 Web.Test.", "0 0 1 web.test."),
        ("TXT", '"As It Is"', '"As It Is"'),
    ],
)
def test_what_a_server_says_is_read_as_we_write_it(kind: str, theirs: str, ours: str) -> None:
    assert canonical(kind, theirs) == ours


def test_a_text_stands_where_a_host_entry_of_that_name_would() -> None:
    dns = WantedDns(txts=(("motd", 'say "hi"'), ("key.lab.cluster.test", "gr\u00fcn"), ("x.example", "no")))
    found = names_of([network(dns=dns)], NAMING)
    assert flat(found.nodes) == {
        ("motd.cluster.test.", "TXT", r'"say \"hi\""'),
        ("key.lab.cluster.test.", "TXT", r'"gr\195\188n"'),
    }
    assert found.left_out == ("x.example.",)


def test_a_long_text_is_cut_into_strings_of_255_bytes() -> None:
    first, second = text_data("a" * 300).split()
    assert (len(first), len(second)) == (257, 47)
