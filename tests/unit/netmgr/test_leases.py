"""Which address a MAC gets: examples, one for each rule."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netmgr import xml
from netmgr.errors import BadValue, Clash, ConfigUnsupported, Exhausted, InUse, OperationInvalid
from netmgr.leases import Book, Grant
from netmgr.macs import address_in, claim, mac_in_client_id, mac_of, slaac, whole_client_id
from netmgr.model import Lease, LeaseState, Network

UUID = bytes(range(16))
HOST = "<host mac='52:54:00:00:00:99' name='fixed' ip='10.0.0.12'/>"
ONE, TWO, THREE, FIXED = (f"52:54:00:00:00:{number}" for number in ("01", "02", "03", "99"))


def network(dhcp: str = "<range start='10.0.0.10' end='10.0.0.13'/>" + HOST, more: str = "") -> Network:
    """A network of 10.0.0.0/24 with that in its <dhcp>."""
    text = (
        f"<network><name>x</name><ip address='10.0.0.1' prefix='24'><dhcp>{dhcp}</dhcp></ip>{more}</network>"
    )
    return replace(xml.read(text), uuid=UUID)


def book(*leases: Lease, **changes: str) -> Book:
    """A book with leases and a grace time of 100 seconds."""
    return Book.of(network(**changes), leases, grace=100)


def lease(
    address: str, mac: str = "", state: LeaseState = LeaseState.BOUND, since: float = 0, name: str = "g"
) -> Lease:
    return Lease(UUID, ip_address(address), mac, name if state is LeaseState.BOUND else "", state, since)


def bound(found: Book, mac: str, name: str = "g", now: float = 0, version: int = 4) -> Grant:
    grant = found.bind(mac, name, version, now)
    assert grant is not None
    return grant


def test_a_mac_gets_the_address_of_its_host_entry():
    assert str(bound(book(), FIXED).lease.address) == "10.0.0.12"


def test_a_host_entry_wins_over_an_old_lease():
    old = lease("10.0.0.10", FIXED)
    grant = bound(book(old), FIXED)
    assert str(grant.lease.address) == "10.0.0.12"
    assert grant.dropped == (old,)


def test_a_host_entry_with_a_name_alone_is_for_the_guest_of_that_name():
    dhcp = "<range start='10.0.0.10' end='10.0.0.13'/><host name='web' ip='10.0.0.200'/>"
    assert str(bound(book(dhcp=dhcp), ONE, "web").lease.address) == "10.0.0.200"
    assert str(bound(book(dhcp=dhcp), ONE, "other").lease.address) == "10.0.0.10"


def test_a_mac_that_comes_back_gets_its_old_address():
    away = lease("10.0.0.13", ONE, LeaseState.RELEASED, since=0)
    for now in (50, 5000):
        grant = bound(book(away), ONE, now=now)
        assert (str(grant.lease.address), grant.lease.state, grant.lease.since) == ("10.0.0.13", "bound", now)


def test_an_old_address_that_the_range_has_no_more_is_given_up():
    old = lease("10.0.0.77", ONE)
    grant = bound(book(old), ONE)
    assert str(grant.lease.address) == "10.0.0.10"
    assert grant.dropped == (old,)


def test_an_old_address_that_became_anothers_by_the_definition_is_given_up():
    for address in ("10.0.0.12", "10.0.0.1"):
        old = lease(address, ONE)
        grant = bound(book(old, dhcp="<range start='10.0.0.1' end='10.0.0.13'/>" + HOST), ONE)
        assert (str(grant.lease.address), grant.dropped) == ("10.0.0.2", (old,))


def test_a_bound_mac_keeps_its_lease_and_since_when():
    old = lease("10.0.0.11", ONE, since=7)
    grant = bound(book(old), ONE, now=50)
    assert grant == Grant(old)


def test_a_new_mac_gets_the_first_free_address():
    assert str(bound(book(lease("10.0.0.10", TWO)), ONE).lease.address) == "10.0.0.11"


def test_a_mac_that_encodes_a_free_address_gets_it():
    assert str(bound(book(), "02:00:0a:00:00:0d").lease.address) == "10.0.0.13"
    assert str(bound(book(), "02:00:0a:00:00:0c").lease.address) == "10.0.0.10", (
        "that one is of a <host> entry"
    )
    assert str(bound(book(), "02:00:0a:00:00:63").lease.address) == "10.0.0.10", "that one is in no range"


def test_a_released_address_is_given_to_others_only_after_its_grace_time_and_last():
    away = lease("10.0.0.10", TWO, LeaseState.RELEASED, since=0)
    assert str(bound(book(away), ONE, now=99).lease.address) == "10.0.0.11"
    assert str(bound(book(away), ONE, now=101).lease.address) == "10.0.0.11"
    full = book(away, lease("10.0.0.11", THREE), lease("10.0.0.13", "52:54:00:00:00:04"))
    with pytest.raises(Exhausted):
        full.bind(ONE, "g", 4, 99)
    grant = bound(full, ONE, now=100)
    assert str(grant.lease.address) == "10.0.0.10"
    assert grant.dropped == (away,)


def test_a_full_range_says_what_is_free_and_where():
    leases = (
        lease("10.0.0.10", TWO),
        lease("10.0.0.11", state=LeaseState.HELD),
        lease("10.0.0.13", THREE, LeaseState.RELEASED, since=7),
    )
    with pytest.raises(Exhausted) as caught:
        book(*leases).bind(ONE, "g", 4, 50)
    assert str(caught.value) == (
        "network 'x' has no free address in 10.0.0.10 to 10.0.0.13"
        " (of 4: 1 bound, 1 held, 1 released, 1 for <host> entries or the network itself)"
        "; the first of the released is free in 57 s"
        "; free in the subnet, but in no range: 10.0.0.2 to 10.0.0.9, 10.0.0.14 to 10.0.0.254"
    )


def test_what_is_free_is_told_of_ranges_that_overlap_too():
    dhcp = "<range start='10.0.0.2' end='10.0.0.9'/><range start='10.0.0.3' end='10.0.0.4'/>"
    with pytest.raises(Exhausted, match=r"in no range: 10\.0\.0\.10 to 10\.0\.0\.254$"):
        book(
            *(lease(f"10.0.0.{number}", f"52:54:00:00:01:{number:02x}") for number in range(2, 10)), dhcp=dhcp
        ).bind(ONE, "g", 4, 0)


def test_the_gateway_the_ends_of_a_subnet_and_routers_are_never_given():
    dhcp = "<range start='10.0.0.1' end='10.0.0.4'/>"
    route = "<route address='10.9.0.0' prefix='16' gateway='10.0.0.2'/>"
    assert str(bound(book(dhcp=dhcp, more=route), ONE).lease.address) == "10.0.0.3"
    small = xml.read(
        "<network><name>x</name><ip address='10.0.0.1' prefix='30'><dhcp>"
        "<range start='10.0.0.1' end='10.0.0.2'/></dhcp></ip></network>"
    )
    found = Book.of(small, ())
    assert [str(address) for address in found.free(4, 0)] == ["10.0.0.2"]


def test_a_network_without_ranges_gives_addresses_to_host_entries_only():
    assert book(dhcp=HOST).bind(ONE, "g", 4, 0) is None
    assert str(bound(book(dhcp=HOST), FIXED).lease.address) == "10.0.0.12"


def test_a_host_entry_whose_address_another_has_is_an_error_that_says_who():
    with pytest.raises(InUse, match=r"10\.0\.0\.12 is bound to web"):
        book(lease("10.0.0.12", ONE, name="web")).bind(FIXED, "g", 4, 0)


def test_a_held_address_is_given_to_nobody_until_it_is_let_go():
    held = book().after(book().hold(ip_address("10.0.0.10"), 3))
    assert str(bound(held, ONE).lease.address) == "10.0.0.11"
    free = held.without([held.let_go(ip_address("10.0.0.10"))])
    assert str(bound(free, ONE).lease.address) == "10.0.0.10"


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.0", "10.0.0.12", "10.0.0.255"])
def test_what_the_definition_speaks_for_cannot_be_held(address: str):
    with pytest.raises(InUse):
        book().hold(ip_address(address), 0)


def test_only_addresses_of_its_subnets_can_be_held():
    with pytest.raises(ConfigUnsupported, match=r"no subnet with 10\.1\.0\.1, it has 10\.0\.0\.0/24"):
        book().hold(ip_address("10.1.0.1"), 0)


def test_what_is_in_use_is_neither_held_nor_let_go():
    found = book(lease("10.0.0.10", ONE, name="web"))
    with pytest.raises(InUse, match="bound to web"):
        found.hold(ip_address("10.0.0.10"), 0)
    with pytest.raises(OperationInvalid, match="bound to web, detach"):
        found.let_go(ip_address("10.0.0.10"))
    with pytest.raises(OperationInvalid, match="nobody has"):
        found.let_go(ip_address("10.0.0.11"))


def test_a_reserved_address_waits_for_its_mac_before_and_after_and_may_be_in_no_range():
    found = book().after(book().reserve(ONE, ip_address("10.0.0.99"), 5))
    grant = bound(found, ONE, now=9)
    assert (str(grant.lease.address), grant.lease.state, grant.lease.name) == ("10.0.0.99", "reserved", "g")
    (gone,) = found.after(grant).release(ONE, 10)
    assert (str(gone.address), gone.state, gone.name) == ("10.0.0.99", "reserved", "")


def test_a_reservation_takes_the_place_of_what_the_mac_had_before_but_not_of_what_it_has():
    old = lease("10.0.0.10", ONE, LeaseState.RELEASED)
    assert book(old).reserve(ONE, ip_address("10.0.0.11"), 0).dropped == (old,)
    with pytest.raises(InUse, match=r"bound to 10\.0\.0\.10"):
        book(lease("10.0.0.10", ONE)).reserve(ONE, ip_address("10.0.0.11"), 0)
    kept = book(lease("10.0.0.10", ONE)).reserve(ONE, ip_address("10.0.0.10"), 0).lease
    assert kept.state is LeaseState.RESERVED
    assert kept.in_use


@pytest.mark.parametrize(("mac", "address"), [(ONE, "10.0.0.12"), (FIXED, "10.0.0.10"), (ONE, "10.0.0.11")])
def test_what_another_has_cannot_be_reserved(mac: str, address: str):
    with pytest.raises(InUse):
        book(lease("10.0.0.11", TWO)).reserve(mac, ip_address(address), 0)


def test_release_waits_for_the_mac_in_both_families():
    both = book(lease("10.0.0.10", ONE), lease("fd00::5", ONE), lease("10.0.0.11", TWO))
    assert {(str(item.address), item.state) for item in both.release(ONE, 5)} == {
        ("10.0.0.10", LeaseState.RELEASED),
        ("fd00::5", LeaseState.RELEASED),
    }
    assert both.release(THREE, 5) == ()


def test_what_is_over_may_be_forgotten():
    away = lease("10.0.0.10", ONE, LeaseState.RELEASED, since=0)
    assert book(away).over(99) == ()
    assert book(away).over(100) == (away,)


def test_after_an_update_bound_interfaces_get_what_their_host_entry_says():
    found = book(lease("10.0.0.10", FIXED, since=3), lease("10.0.0.11", TWO))
    (grant,) = found.moves(9)
    assert (str(grant.lease.address), grant.lease.since) == ("10.0.0.12", 9)


def test_conflicts_name_the_addresses_of_the_definition_that_others_have():
    found = book(lease("10.0.0.12", ONE, name="web"), lease("10.0.0.1", TWO, name="db"))
    assert list(found.conflicts()) == [
        "the address 10.0.0.12 is bound to web",
        "the address 10.0.0.1 is bound to db",
    ]
    assert list(book(lease("10.0.0.12", FIXED)).conflicts()) == []


# -- IPv6

SIX = (
    "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::10' end='fd00::12'/>"
    "<host id='0:3:0:1:52:54:0:0:0:1' ip='fd00::aa'/><host name='web' ip='fd00::bb'/>"
    "<host id='0:4:1' ip='fd00::cc'/></dhcp></ip>"
)


def test_ipv6_gets_its_address_from_the_range_or_from_an_entry_by_client_id_or_name():
    found = book(more=SIX)
    assert str(bound(found, ONE, version=6).lease.address) == "fd00::aa"
    assert str(bound(found, TWO, "web", version=6).lease.address) == "fd00::bb"
    assert str(bound(found, TWO, version=6).lease.address) == "fd00::10"


def test_where_no_dhcp6_is_the_address_that_a_guest_makes_itself_may_be_guessed():
    found = book(more="<ip family='ipv6' address='fd00::1' prefix='64'/>")
    assert found.bind("52:54:00:12:34:56", "g", 6, 0) is None
    found = replace(found, slaac=True)
    assert str(bound(found, "52:54:00:12:34:56", version=6).lease.address) == "fd00::5054:ff:fe12:3456"
    odd = book(more="<ip family='ipv6' address='fd00::1' prefix='80'/>")
    odd = replace(odd, slaac=True)
    assert odd.bind("52:54:00:12:34:56", "g", 6, 0) is None


def test_an_address_that_another_mac_has_is_no_guests_own():
    taken = lease("fd00::5054:ff:fe12:3456", TWO)
    found = book(taken, more="<ip family='ipv6' address='fd00::1' prefix='64'/>")
    assert found.bind("52:54:00:12:34:56", "g", 6, 0) is None


def test_a_network_of_one_family_gives_none_of_the_other():
    assert book().bind(ONE, "g", 6, 0) is None


# -- MACs


def test_a_new_mac_encodes_the_first_free_address_and_gets_it():
    mac = book().new_mac(4, 0, {})
    assert mac == "02:00:0a:00:00:0a"
    assert str(bound(book(), mac).lease.address) == "10.0.0.10"


def test_a_new_mac_is_nobodys_in_the_cluster():
    assert book().new_mac(4, 0, {"02:00:0a:00:00:0a": "web"}) == "02:00:0a:00:00:0b"


def test_a_new_mac_is_not_that_of_a_host_entry_or_of_one_who_may_come_back():
    dhcp = "<range start='10.0.0.10' end='10.0.0.13'/><host mac='02:00:0a:00:00:0a' ip='10.0.0.99'/>"
    back = lease("10.0.0.77", "02:00:0a:00:00:0b", LeaseState.RELEASED)
    assert book(back, dhcp=dhcp).new_mac(4, 0, {}) == "02:00:0a:00:00:0c"


def test_a_new_mac_needs_a_free_address_and_a_range():
    full = book(lease("10.0.0.10", ONE), lease("10.0.0.11", TWO), lease("10.0.0.13", THREE))
    with pytest.raises(Exhausted):
        full.new_mac(4, 0, {})
    with pytest.raises(ConfigUnsupported, match="no range of IPv4"):
        book(dhcp=HOST).new_mac(4, 0, {})


def test_the_prefix_of_macs_can_be_set():
    assert mac_of(ip_address("10.1.2.3"), "06:aa") == "06:aa:0a:01:02:03"
    assert Book.of(network(), (), prefix="06:aa").new_mac(4, 0, {}) == "06:aa:0a:00:00:0a"


@pytest.mark.parametrize("prefix", ["", "02", "02:00:00", "xx:00", "01:00"])
def test_a_prefix_must_be_two_bytes_of_no_group(prefix: str):
    with pytest.raises(BadValue):
        mac_of(ip_address("10.1.2.3"), prefix)


def test_a_mac_belongs_to_one_interface_of_the_cluster():
    owners = {"52:54:00:00:00:01": "web"}
    assert claim("52:54:0:0:0:2", "db", owners) == "52:54:00:00:00:02"
    assert claim("52:54:00:00:00:01", "web", owners) == "52:54:00:00:00:01"
    with pytest.raises(Clash, match="52:54:00:00:00:01 is web's already, db needs another"):
        claim("52:54:0:0:0:1", "db", owners)
    with pytest.raises(BadValue, match="group"):
        claim("01:54:00:00:00:01", "db", owners)


def test_macs_in_client_ids_are_found():
    assert mac_in_client_id("0:3:0:1:52:54:0:0:0:1") == "52:54:00:00:00:01"
    assert mac_in_client_id("00:01:00:01:aa:bb:cc:dd:52:54:00:00:00:01") == "52:54:00:00:00:01"
    assert [mac_in_client_id(text) for text in ("", "0:4:1", "x", "0:3:0:1:1", "300:1")] == [""] * 5


def test_encoded_addresses_are_of_a_subnet():
    (four,) = network().subnets
    six = xml.read(f"<network><name>x</name>{SIX}</network>").subnets[0]
    assert str(address_in("02:00:0a:00:00:0d", four)) == "10.0.0.13"
    assert address_in("02:00:0b:00:00:0d", four) is None
    assert address_in("52:54:0a:00:00:0d", four) is None
    assert str(address_in("02:00:00:00:00:10", six)) == "fd00::10"
    assert mac_of(ip_address("fd00::10")) == "02:00:00:00:00:10"
    assert slaac(four, ONE) is None


def test_a_client_id_is_written_with_two_digits_for_each_byte():
    assert whole_client_id("0:3:0:1:52:54:0:AA:6:2") == "00:03:00:01:52:54:00:aa:06:02"
    assert whole_client_id("") == ""
