"""Which address a MAC gets: rules that hold whatever happens, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netmgr import xml
from netmgr.errors import Exhausted, NetworkError
from netmgr.leases import Book
from netmgr.model import Address, Lease, LeaseState, Network

UUID = bytes(16)
HOSTS = {"52:54:00:00:00:00": "10.0.0.3", "52:54:00:00:00:01": "10.0.0.200"}
NEVER = {ip_address(text) for text in ("10.0.0.0", "10.0.0.1", "10.0.0.6", "10.0.0.255", "fd00::", "fd00::1")}
"""The gateways', a router's, the ends of the subnets."""


def small_network() -> Network:
    """Ten addresses of IPv4 in two ranges, four of IPv6, with a gateway, a router and <host> entries among them."""
    hosts = "".join(f"<host mac='{mac}' ip='{address}'/>" for mac, address in HOSTS.items())
    text = (
        "<network><name>x</name><ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.1' end='10.0.0.7'/>"
        f"<range start='10.0.0.252' end='10.0.0.254'/>{hosts}</dhcp></ip>"
        "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::' end='fd00::3'/></dhcp></ip>"
        "<route address='10.9.0.0' prefix='16' gateway='10.0.0.6'/></network>"
    )
    return replace(xml.read(text), uuid=UUID)


NETWORK = small_network()
MACS = st.integers(0, 15).map(lambda number: f"52:54:00:00:00:{number:02x}")
VERSIONS = st.sampled_from((4, 6))
ADDRESSES = st.one_of(
    st.integers(0, 12).map(lambda number: ip_address("10.0.0.0") + number),
    st.integers(248, 258).map(lambda number: ip_address("10.0.0.0") + number),
    st.integers(0, 6).map(lambda number: ip_address("fd00::") + number),
)


class Office(RuleBasedStateMachine):
    """All that can happen to the leases of a network, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book.of(NETWORK, (), grace=10)
        self.now = 0.0
        self.had: dict[tuple[str, int], Address] = {}

    @rule(mac=MACS, version=VERSIONS)
    def bind(self, mac: str, version: int) -> None:
        old = self.book.of_mac(mac, version)
        try:
            grant = self.book.bind(mac, "g", version, self.now)
        except Exhausted:
            assert not list(self.book.free(version, self.now))
            return
        except NetworkError:
            assert mac in HOSTS
            return
        assert grant is not None
        there = self.book.leases.get(grant.lease.address)
        assert there is None or there.mac == mac or there in grant.dropped
        assert there is None or there.mac == mac or not there.in_use
        if old is not None and mac not in HOSTS:
            assert grant.lease.address == old.address, "a MAC that comes back has its old address"
        self.book = self.book.after(grant)
        assert self.book.bind(mac, "g", version, self.now) == replace(grant, dropped=()), (
            "once more is the same"
        )

    @rule(mac=MACS)
    def release(self, mac: str) -> None:
        for lease in self.book.release(mac, self.now):
            self.book = Book.of(NETWORK, {**self.book.leases, lease.address: lease}.values(), grace=10)

    @rule(address=ADDRESSES)
    def hold(self, address: Address) -> None:
        try:
            self.book = self.book.after(self.book.hold(address, self.now))
        except NetworkError:
            return
        assert self.book.leases[address].state is LeaseState.HELD

    @rule(mac=MACS, address=ADDRESSES)
    def reserve(self, mac: str, address: Address) -> None:
        try:
            self.book = self.book.after(self.book.reserve(mac, address, self.now))
        except NetworkError:
            return
        assert self.book.of_mac(mac, address.version).address == address

    @rule(address=ADDRESSES)
    def let_go(self, address: Address) -> None:
        try:
            self.book = self.book.without([self.book.let_go(address)])
        except NetworkError:
            return
        assert address not in self.book.leases

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        self.book = self.book.without(self.book.over(self.now))

    @invariant()
    def one_address_for_each_mac_and_family(self) -> None:
        keys = [(lease.mac, lease.address.version) for lease in self.book.leases.values() if lease.mac]
        assert len(keys) == len(set(keys))

    @invariant()
    def host_entries_and_the_networks_own_are_nobody_elses(self) -> None:
        for address, lease in self.book.leases.items():
            assert address not in NEVER
            assert str(address) not in HOSTS.values() or HOSTS.get(lease.mac) == str(address)

    @invariant()
    def a_new_mac_is_nobodys_and_its_address_free(self) -> None:
        try:
            mac = self.book.new_mac(4, self.now, {})
        except Exhausted:
            return
        grant = self.book.bind(mac, "g", 4, self.now)
        assert grant is not None
        assert grant.lease.address.packed == bytes.fromhex(mac.replace(":", ""))[2:]
        assert self.book.is_free(grant.lease.address, self.now)


TestOffice = Office.TestCase
TestOffice.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_what_happens_to_others_in_whatever_order_changes_nobodys_address(order: list[int], gone: set[int]):
    leases = [
        Lease(UUID, ip_address(address), f"52:54:00:00:00:{index + 8:02x}", "g")
        for index, address in enumerate(
            ("10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.7", "10.0.0.252", "fd00::2")
        )
    ]
    book = Book.of(NETWORK, leases, grace=10)
    expected = {index: leases[index].address for index in range(6)}
    for index in order:
        mac, version = leases[index].mac, leases[index].address.version
        if index in gone:
            for lease in book.release(mac, 5):
                book = Book.of(NETWORK, {**book.leases, lease.address: lease}.values(), grace=10)
        grant = book.bind(mac, "g", version, 6)
        assert grant is not None
        book = book.after(grant)
    assert {
        index: book.of_mac(leases[index].mac, leases[index].address.version).address for index in range(6)
    } == expected


@given(st.permutations(range(9)))
def test_as_many_get_an_address_as_there_are_and_the_same_addresses_whoever_comes_first(order: list[int]):
    book = Book.of(NETWORK, (), grace=10)
    given_out = []
    for index in order:
        try:
            grant = book.bind(f"52:54:00:00:00:{index + 8:02x}", "g", 4, 0)
        except Exhausted:
            continue
        assert grant is not None
        book = book.after(grant)
        given_out.append(str(grant.lease.address).rpartition(".")[2])
    assert given_out == ["2", "4", "5", "7", "252", "253", "254"]


@given(st.lists(ADDRESSES, max_size=20))
def test_leases_of_another_network_change_nothing(addresses: list[Address]):
    others = [Lease(b"another network.", address, "52:54:00:00:00:09", "g") for address in addresses]
    mine = Book.of(NETWORK, (), grace=10).bind("52:54:00:00:00:09", "g", 4, 0)
    assert Book.of(NETWORK, others, grace=10).bind("52:54:00:00:00:09", "g", 4, 0) == mine
