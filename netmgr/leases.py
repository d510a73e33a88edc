"""Which address a MAC gets: its <host> entry, its old lease, what it encodes, the next free one.  Pure.

A Book is what is spoken for in one network.  It decides and never changes: a Grant says which rows come and go, and
`after` is the book with them.  Times are seconds since the epoch, given by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from netmgr import macs
from netmgr.errors import ConfigUnsupported, InUse, OperationInvalid
from netmgr.free import exhausted
from netmgr.model import Address, DhcpHost, DhcpRange, Ip, Lease, LeaseState, Network

GRACE = 3600.0
"""Seconds for which a released address waits for its MAC to come back."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease, and those that it takes the place of: they go first."""

    lease: Lease
    dropped: tuple[Lease, ...] = ()


@dataclass(frozen=True)
class Book:
    """A network and its leases by address.  grace: seconds; prefix: of MACs that encode an address.

    slaac: an interface has the address that it may make itself of its MAC, where the network has IPv6 without DHCP; a
    guess, as many guests make themselves another one."""

    network: Network
    leases: Mapping[Address, Lease]
    grace: float = GRACE
    prefix: str = macs.PREFIX
    slaac: bool = False

    @classmethod
    def of(
        cls, network: Network, leases: Iterable[Lease], grace: float = GRACE, prefix: str = macs.PREFIX
    ) -> Book:
        """A book of rows; those of other networks are left out."""
        mine = {lease.address: lease for lease in leases if lease.network == network.uuid}
        return cls(network, mine, grace, prefix)

    def after(self, grant: Grant) -> Book:
        """The book with a grant in it."""
        leases = {where: lease for where, lease in self.leases.items() if lease not in grant.dropped}
        return replace(self, leases={**leases, grant.lease.address: grant.lease})

    def without(self, gone: Iterable[Lease]) -> Book:
        """The book without some."""
        away = {lease.address for lease in gone}
        return replace(self, leases={key: lease for key, lease in self.leases.items() if key not in away})

    # -- asking

    def of_mac(self, mac: str, version: int) -> Lease | None:
        """What a MAC has, or had, or is kept for it."""
        return self._by_mac.get((mac, version))

    def host_of(self, mac: str, name: str, version: int) -> DhcpHost | None:
        """The <host> entry for a MAC; one without a MAC is for the guest of that name."""
        ip = self.network.dhcp_of(version)
        hosts = ip.dhcp.hosts if ip is not None and ip.dhcp is not None else ()
        by_name = None
        for host in hosts:
            owner = host.mac or macs.mac_in_client_id(host.id)
            if owner == mac:
                return host
            if not owner and not host.id and host.name and host.name == name:
                by_name = by_name or host
        return by_name

    def is_free(self, address: Address, now: float) -> bool:
        """Anybody may have it: nobody's by the definition, and no lease but one whose grace is over."""
        lease = self.leases.get(address)
        return address not in self.kept and (lease is None or self.is_over(lease, now))

    def is_over(self, lease: Lease, now: float) -> bool:
        """Released, and its grace time is over."""
        return lease.state is LeaseState.RELEASED and now >= lease.since + self.grace

    def over(self, now: float) -> tuple[Lease, ...]:
        """Leases that may be forgotten."""
        return tuple(lease for lease in self.leases.values() if self.is_over(lease, now))

    @cached_property
    def kept(self) -> frozenset[Address]:
        """Addresses that no MAC gets from a range: the host's own, of routers, of <host> entries, of subnets."""
        found: set[Address] = {*self.network.gateways, *(route.gateway for route in self.network.routes)}
        for ip in self.network.ips:
            found.update(_ends(ip))
            if ip.dhcp is not None:
                found.update(host.ip for host in ip.dhcp.hosts)
        return frozenset(found)

    @cached_property
    def _by_mac(self) -> dict[tuple[str, int], Lease]:
        return {(lease.mac, lease.address.version): lease for lease in self.leases.values() if lease.mac}

    # -- giving

    def bind(self, mac: str, name: str, version: int, now: float) -> Grant | None:
        """The address of an interface of guest `name`; None where the network gives none to it.

        The same again for a MAC that is bound.  Exhausted; InUse when the address of its <host> entry is another's."""
        old = self.of_mac(mac, version)
        address = self._address(mac, name, version, now, old)
        if address is None:
            return None
        lease = Lease(self.network.uuid, address, mac, name, LeaseState.BOUND, now)
        if old is not None and old.address == address and old.state is not LeaseState.RELEASED:
            lease = replace(old, name=name)
        return Grant(lease, self._replaced(lease, old))

    def _address(self, mac: str, name: str, version: int, now: float, old: Lease | None) -> Address | None:
        host = self.host_of(mac, name, version)
        if host is not None:
            self._must_be_free(host.ip, mac)
            return host.ip
        if old is not None and self._still_good(old):
            return old.address
        ip = self.network.dhcp_of(version)
        if ip is None or ip.dhcp is None:
            return self._own(mac, version) if self.slaac else None
        if not ip.dhcp.ranges:
            return None
        encoded = macs.address_in(mac, ip.subnet, self.prefix)
        if encoded is not None and _in(encoded, ip.dhcp.ranges) and self.is_free(encoded, now):
            return encoded
        return self.next_free(version, now)

    def _own(self, mac: str, version: int) -> Address | None:
        """What a guest gives itself where routers are announced and no server is."""
        for ip in self.network.ips:
            if ip.version == version:
                address = macs.slaac(ip.subnet, mac)
                if address is not None and address not in self.kept and self._is_its(address, mac):
                    return address
        return None

    def _is_its(self, address: Address, mac: str) -> bool:
        lease = self.leases.get(address)
        return lease is None or lease.mac == mac

    def _still_good(self, lease: Lease) -> bool:
        """Its address is in a subnet yet, and nobody else's by the definition; an operator's word needs no range."""
        if lease.address in self.kept or not any(lease.address in subnet for subnet in self.network.subnets):
            return False
        ip = self.network.dhcp_of(lease.address.version)
        if lease.state is LeaseState.RESERVED or ip is None or ip.dhcp is None:
            return True
        return _in(lease.address, ip.dhcp.ranges)

    def _must_be_free(self, address: Address, mac: str) -> None:
        lease = self.leases.get(address)
        if lease is None or lease.mac == mac or lease.state is LeaseState.RELEASED:
            return
        whose = f"{lease.state} to {lease.name or lease.mac}" if lease.mac else str(lease.state)
        raise InUse(f"network '{self.network.name}': the address {address} is {whose}, {mac} cannot have it")

    def _replaced(self, lease: Lease, old: Lease | None) -> tuple[Lease, ...]:
        there = self.leases.get(lease.address)
        gone = [item for item in (old, there) if item is not None and item.address != lease.address]
        if there is not None and there.mac != lease.mac:
            gone.append(there)
        return tuple(gone)

    def free(self, version: int, now: float) -> Iterator[Address]:
        """Addresses that may be given out: those that nobody had, then those whose grace was over first."""
        ip = self.network.dhcp_of(version)
        ranges = ip.dhcp.ranges if ip is not None and ip.dhcp is not None else ()
        # Numbers, as there may be thousands to be passed over.
        spoken = {int(where) for where in (*self.leases, *self.kept) if where.version == version}
        for item in ranges:
            kind = type(item.start)
            free = (number for number in range(int(item.start), int(item.end) + 1) if number not in spoken)
            yield from map(kind, free)
        for lease in sorted(self.over(now), key=lambda lease: (lease.since, int(lease.address))):
            if _in(lease.address, ranges) and lease.address not in self.kept:
                yield lease.address

    def next_free(self, version: int, now: float) -> Address:
        """The first of them; Exhausted, which says what is free and where."""
        for address in self.free(version, now):
            return address
        raise exhausted(self.network, version, self.leases.values(), self.kept, now - self.grace)

    def new_mac(self, version: int, now: float, taken: Mapping[str, str]) -> str:
        """A MAC for an interface without one: it encodes the first free address whose MAC nobody has.

        taken: MAC -> whose it is, of the cluster.  Exhausted; ConfigUnsupported in a network that gives none."""
        ip = self.network.dhcp_of(version)
        if ip is None or ip.dhcp is None or not ip.dhcp.ranges:
            raise ConfigUnsupported(f"network '{self.network.name}' has no range of IPv{version} addresses")
        for address in self.free(version, now):
            mac = macs.mac_of(address, self.prefix)
            if mac not in taken and (mac, version) not in self._by_mac and not self._is_hosts(mac):
                return mac
        raise exhausted(self.network, version, self.leases.values(), self.kept, now - self.grace)

    def _is_hosts(self, mac: str) -> bool:
        return any(self.host_of(mac, "", version) is not None for version in (4, 6))

    # -- ending, and an operator's words

    def release(self, mac: str, now: float) -> tuple[Lease, ...]:
        """The interface is gone: its leases wait for it during the grace time, what is reserved for it for ever."""
        found = (self.of_mac(mac, version) for version in (4, 6))
        return tuple(
            replace(lease, name="")
            if lease.state is LeaseState.RESERVED
            else replace(lease, state=LeaseState.RELEASED, since=now)
            for lease in found
            if lease is not None and lease.in_use
        )

    def hold(self, address: Address, now: float) -> Grant:
        """Nobody gets it until it is let go.  InUse, ConfigUnsupported."""
        self._must_be_ours(address)
        self._must_be_free(address, "")
        if address in self.kept:
            raise InUse(
                f"network '{self.network.name}': the address {address} is spoken for in its definition"
            )
        lease = Lease(self.network.uuid, address, state=LeaseState.HELD, since=now)
        return Grant(lease, self._replaced(lease, None))

    def reserve(self, mac: str, address: Address, now: float) -> Grant:
        """The MAC gets this address when it comes; what it has now goes.  InUse, ConfigUnsupported."""
        self._must_be_ours(address)
        self._must_be_free(address, mac)
        host = self.host_of(mac, "", address.version)
        if address in self.kept and (host is None or host.ip != address):
            raise InUse(
                f"network '{self.network.name}': the address {address} is spoken for in its definition"
            )
        if host is not None and host.ip != address:
            raise InUse(f"network '{self.network.name}': {mac} has the address {host.ip} by its <host> entry")
        old = self.of_mac(mac, address.version)
        if old is not None and old.in_use and old.address != address:
            raise InUse(f"network '{self.network.name}': {mac} is bound to {old.address}")
        name = old.name if old is not None and old.in_use else ""
        lease = Lease(self.network.uuid, address, mac, name, LeaseState.RESERVED, now)
        return Grant(lease, self._replaced(lease, old))

    def let_go(self, address: Address) -> Lease:
        """The lease that is to be forgotten at an operator's word.  OperationInvalid for one that is in use."""
        lease = self.leases.get(address)
        if lease is None:
            raise OperationInvalid(f"network '{self.network.name}': nobody has the address {address}")
        if lease.in_use:
            text = f"the address {address} is bound to {lease.name or lease.mac}, detach the interface first"
            raise OperationInvalid(f"network '{self.network.name}': {text}")
        return lease

    def _must_be_ours(self, address: Address) -> None:
        if not any(address in subnet for subnet in self.network.subnets):
            subnets = ", ".join(str(subnet) for subnet in self.network.subnets) or "none"
            raise ConfigUnsupported(
                f"network '{self.network.name}' has no subnet with {address}, it has {subnets}"
            )

    # -- after the definition changed

    def conflicts(self) -> Iterator[str]:
        """Addresses of the definition that another MAC is bound to, one sentence each."""
        for lease in self.leases.values():
            if lease.address not in self.kept or not lease.in_use:
                continue
            host = self.host_of(lease.mac, lease.name, lease.address.version)
            if host is None or host.ip != lease.address:
                yield f"the address {lease.address} is bound to {lease.name or lease.mac}"

    def moves(self, now: float) -> Iterator[Grant]:
        """What bound interfaces get now where their <host> entry says otherwise.  InUse."""
        for lease in tuple(self.leases.values()):
            if lease.in_use:
                host = self.host_of(lease.mac, lease.name, lease.address.version)
                if host is not None and host.ip != lease.address:
                    grant = self.bind(lease.mac, lease.name, lease.address.version, now)
                    assert grant is not None
                    yield grant


def _ends(ip: Ip) -> tuple[Address, ...]:
    """The addresses of a subnet that are no interface's; in the smallest all are."""
    subnet = ip.subnet
    if subnet.num_addresses <= 2:
        return ()
    if subnet.version == 6:
        return (subnet.network_address,)
    return subnet.network_address, subnet.broadcast_address


def _in(address: Address, ranges: tuple[DhcpRange, ...]) -> bool:
    return any(address in item for item in ranges)
