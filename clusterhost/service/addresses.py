"""MACs and addresses of guests' interfaces: given when an interface is defined, kept with it, released after it.

Which address a MAC gets is netmgr.leases' to say; here are the rows, and who must be told.  A row of family 0 is an
interface that has no address from us.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Protocol

import msgspec

from clusterhost.model.cluster import Cluster, format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.errors import NetworkRefused
from clusterhost.service.interfaces import Interface
from clusterhost.service.isolation import Isolation
from clusterhost.service.leasetable import LeaseTable
from clusterhost.service.ledger import Ledger
from clusterhost.service.network_documents import refusals
from clusterhost.service.network_wanted import lease_seconds, reservations
from clusterhost.service.networks import Net, Networks
from clusterhost.service.port_groups import PortGroups
from clusterhost.store.rows import Change, DropLease, LeaseRow, PutLease
from netmgr import macs
from netmgr.leases import GRACE, Book, Grant
from netmgr.model import Lease, LeaseState, Network
from netmgr.wanted import WantedGuest

Key = tuple[bytes, str]
"""Network's uuid and MAC."""


class Teller(Protocol):
    """Tells the nodes (network_nodes.py)."""

    def guest(self, uuid: bytes, guest: WantedGuest, node: str) -> None:
        """A guest of the network, and the node where it runs: empty for none."""

    def guest_gone(self, uuid: bytes, key: str) -> None:
        """The network does not know it any more."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the interfaces of a domain got: a MAC for each (in their order), and the rows that say so."""

    macs: tuple[str, ...]
    changes: tuple[Change, ...]
    networks: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Handed:
    """An address that a MAC has.  prefix: bits; dhcp: servers hand it out, until `expires` (epoch seconds, 0 for ever;
    they renew it as often as they are asked)."""

    mac: str
    address: str
    prefix: int
    version: int
    name: str
    dhcp: bool
    expires: float


class Addresses:
    """Leases of all networks."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        networks: Networks,
        clock: Callable[[], float],
        teller: Teller,
        *,
        prefix: str = macs.PREFIX,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._networks = networks
        self._clock = clock
        self._teller = teller
        self._prefix = prefix
        self._isolation = Isolation(ledger)
        self._groups = PortGroups(ledger)
        self._of_entries: dict[bytes, tuple[Network, Mapping[str, WantedGuest]]] = {}
        self._parsed: dict[str, tuple[LeaseRow, Lease]] = {}

    # -- asking

    def of_network(self, uuid: bytes) -> list[LeaseRow]:
        """All rows of a network."""
        return self._ledger.leases.of_network(uuid)

    def handed(self, uuid: bytes, mac: str = "", node: str = "") -> list[Handed]:
        """Addresses of interfaces on an active network; of one of them, of a node's domains."""
        network = self._networks.by_uuid(uuid).live
        if network is None:
            return []
        rows = self._of_mac(uuid, mac) if mac else self.of_network(uuid)
        shown = (row for row in rows if row.address and row.mac and row.domain)
        return [self._handed(network, row) for row in shown if not node or self._is_at(row.domain, node)]

    def _is_at(self, domain: bytes, node: str) -> bool:
        found = self._cluster.get(domain)
        return found is not None and found.node == node

    def _handed(self, network: Network, row: LeaseRow) -> Handed:
        address = ip_address(row.address)
        prefix = next((ip.bits for ip in network.ips if address in ip.subnet), address.max_prefixlen)
        ip = network.dhcp_of(row.family)
        dhcp = ip.dhcp if ip is not None else None
        seconds = lease_seconds(dhcp, row.mac) if dhcp is not None else 0
        expires = self._clock() + seconds if seconds else 0.0
        return Handed(row.mac, row.address, prefix, row.family, row.name, dhcp is not None, expires)

    def connections(self, uuid: bytes) -> int:
        """Interfaces of running guests on a network."""
        macs_of = {row.mac for row in self.of_network(uuid) if row.domain and self._place(row.domain)}
        return len(macs_of)

    def guests(self, uuid: bytes) -> Iterator[tuple[WantedGuest, str]]:
        """Each guest of a network with the node where it runs, "" for none."""
        by_mac: dict[str, list[LeaseRow]] = {}
        for row in self.of_network(uuid):
            if row.mac and row.state != LeaseState.RELEASED:
                by_mac.setdefault(row.mac, []).append(row)
        entries = self._entries(self._networks.found(uuid))
        for mac, rows in by_mac.items():
            yield (
                self._guest(uuid, mac, rows, entries.get(mac, WantedGuest()).names),
                self._place(rows[0].domain),
            )

    # -- giving and taking

    def give(self, domain: bytes, name: str, interfaces: Iterable[Interface]) -> Given:
        """MACs and addresses for interfaces of a domain; nothing is kept yet.  netmgr's errors when there are none."""
        books: dict[bytes, Book] = {}
        found: list[str] = []
        changes: list[Change] = []
        taken = _Taken(self._ledger.leases)
        me = f"domain {name} ({format_uuid(domain)})"
        for interface in interfaces:
            net = self._networks.by_name(interface.network)
            book = books.setdefault(net.uuid, self._book(net))
            mac = interface.mac or self._new_mac(book, taken)
            taken.claim(mac, me)
            found.append(mac)
            if not self._runs_with(domain, net.uuid, mac):
                changes += self._said(net, mac, interface)
            book, more = self._bind(book, net, mac, domain, name)
            books[net.uuid] = book
            changes += more
        return Given(tuple(found), tuple(changes), frozenset(books))

    def release(self, domain: bytes, keep: Container[Key] = ()) -> tuple[Change, ...]:
        """The domain's interfaces but those (by network and MAC) are gone: their addresses wait for a while."""
        rows = self._ledger.leases.of_domain(domain)
        gone = [row for row in rows if (row.network, row.mac) not in keep]
        cleared = {
            change
            for row in gone
            for change in (
                *self._isolation.said(row.network, row.mac, None, None),
                *self._groups.gone(row.network, row.mac),
            )
        }
        return (*map(self._released, gone), *cleared)

    def isolate(self, interfaces: Mapping[Key, Interface]) -> None:
        """What interfaces that are known say of isolation and port groups now; nodes are told of those that changed."""
        for (network, mac), interface in interfaces.items():
            if changes := self._said(self._networks.by_uuid(network), mac, interface):
                self._ledger.note(*changes)
                self.announce(network, mac)

    def let_go(self, domain: bytes, keep: Container[Key] = ()) -> None:
        """Release them, and tell the nodes."""
        if changes := self.release(domain, keep):
            gone = {(row.network, row.mac): None for row in self._ledger.leases.of_domain(domain)}
            self._ledger.note(*changes)
            for network, mac in gone:
                if (network, mac) not in keep:
                    self.announce(network, mac)

    def _released(self, row: LeaseRow) -> Change:
        """What is reserved for a MAC stays so."""
        if not row.family:
            return DropLease(row.key)
        if row.state == LeaseState.RESERVED:
            return PutLease(replace(row, name="", domain=b""))
        return PutLease(replace(row, state=str(LeaseState.RELEASED), since=self._clock(), domain=b""))

    def forget_old(self) -> None:
        """Released addresses that nobody came back for."""
        now = self._clock()
        old = [
            DropLease(row.key)
            for row in self._ledger.leases.values()
            if row.state == LeaseState.RELEASED and now >= row.since + GRACE
        ]
        if old:
            self._ledger.note(*old)
        for key in [key for key in self._parsed if self._ledger.leases.get(key) is None]:
            del self._parsed[key]

    def moved(self, network: Network) -> tuple[Change, ...]:
        """networks.Leases."""
        rows = [row for row in self.of_network(network.uuid) if row.family]
        book = Book.of(network, map(self._lease, rows), prefix=self._prefix)
        if taken := "; ".join(book.conflicts()):
            raise NetworkRefused(f"network '{network.name}': {taken}", "InUse")
        changes: list[Change] = []
        with refusals():
            for grant in book.moves(self._clock()):
                version = grant.lease.address.version
                owner = self._ledger.leases.get(lease_key(network.uuid, grant.lease.mac, version))
                changes += self._rows(grant, version, owner.domain if owner is not None else b"")
        return tuple(changes)

    # -- an operator's words: what is to be kept; netmgr's errors when it cannot be

    def hold(self, net: Net, address: str) -> tuple[Change, ...]:
        """Nobody gets the address."""
        grant = self._book(net).hold(ip_address(address), self._clock())
        return tuple(self._rows(grant, grant.lease.address.version, b""))

    def reserve(self, net: Net, mac: str, address: str) -> tuple[Change, ...]:
        """The MAC gets the address when it comes."""
        grant = self._book(net).reserve(mac, ip_address(address), self._clock())
        domains = [row.domain for row in self._of_mac(net.uuid, mac) if row.domain]
        return tuple(self._rows(grant, grant.lease.address.version, domains[0] if domains else b""))

    def forget(self, net: Net, address: str) -> tuple[str, tuple[Change, ...]]:
        """Held, reserved or released before, it is anybody's now; the MAC that had it ("" for none)."""
        lease = self._book(net).let_go(ip_address(address))
        key = lease_key(net.uuid, lease.mac or str(lease.address), lease.address.version)
        return lease.mac, (DropLease(key),)

    # -- telling nodes

    def tell(self, domain: bytes) -> None:
        """Tell nodes of all interfaces of a domain, as they are now."""
        rows = self._ledger.leases.of_domain(domain)
        for network, mac in dict.fromkeys((row.network, row.mac) for row in rows):
            self.announce(network, mac)

    def announce(self, network: bytes, mac: str) -> None:
        """Tell nodes what they shall know of a MAC now: its interface, its <host> entry, or nothing."""
        net = self._networks.found(network)
        if guest := self.known(network, mac):
            self._teller.guest(network, *guest)
        elif net is not None and net.live is not None:
            self._teller.guest_gone(network, mac)

    def known(self, network: bytes, key: str) -> tuple[WantedGuest, str] | None:
        """A guest by its key (WantedGuest.key): its interface, or what its <host> entries say; and where it runs."""
        rows = [row for row in self._of_mac(network, key) if row.state != LeaseState.RELEASED]
        net = self._networks.found(network)
        if rows:
            guest = self._guest(network, key, rows, self._entries(net).get(key, WantedGuest()).names)
            return guest, self._place(rows[0].domain)
        entry = self._entries(net).get(key)
        return (entry, "") if entry is not None else None

    def _entries(self, net: Net | None) -> Mapping[str, WantedGuest]:
        """What the <host> entries of an active network say, by a guest's key.  Put together once: there may be a
        thousand, of which a change concerns one."""
        if net is None or net.live is None:
            return {}
        known = self._of_entries.get(net.uuid)
        if known is None or known[0] is not net.live:
            known = self._of_entries[net.uuid] = net.live, _entries(net.live)
        return known[1]

    def _of_mac(self, network: bytes, mac: str) -> list[LeaseRow]:
        keys = (lease_key(network, mac, family) for family in (0, 4, 6))
        return [row for key in keys if (row := self._ledger.leases.get(key)) is not None]

    # -- inventory's follower

    def domain_changed(self, before: Domain | None, now: Domain | None) -> None:
        """It started, ended, moved or went."""
        uuid = (now or before).uuid  # type: ignore[union-attr]
        if now is None:
            self.let_go(uuid)
            return
        was = before.node if before is not None and before.active else ""
        renamed = before is not None and before.name != now.name and self._rename(uuid, now.name)
        if renamed or was != (now.node if now.active else ""):
            self.tell(uuid)

    # -- within

    def _rename(self, domain: bytes, name: str) -> bool:
        rows = [row for row in self._ledger.leases.of_domain(domain) if row.name != name]
        self._ledger.note(*(PutLease(replace(row, name=name)) for row in rows))
        return bool(rows)

    def _bind(self, book: Book, net: Net, mac: str, domain: bytes, name: str) -> tuple[Book, list[Change]]:
        changes: list[Change] = []
        for version in (4, 6):
            grant = book.bind(mac, name, version, self._clock())
            if grant is not None:
                book = book.after(grant)
                changes += self._rows(grant, version, domain)
        if not changes:
            key = lease_key(net.uuid, mac, 0)
            changes.append(
                PutLease(LeaseRow(key, net.uuid, mac, 0, "", name, "bound", self._clock(), domain))
            )
        return book, changes

    def _rows(self, grant: Grant, version: int, domain: bytes) -> list[Change]:
        lease = grant.lease
        dropped: list[Change] = [
            DropLease(lease_key(old.network, old.mac or str(old.address), old.address.version))
            for old in grant.dropped
            if old.mac != lease.mac
        ]
        row = LeaseRow(
            lease_key(lease.network, lease.mac or str(lease.address), version),
            lease.network,
            lease.mac,
            version,
            str(lease.address),
            lease.name,
            str(lease.state),
            lease.since,
            domain,
        )
        return [*dropped, PutLease(row)]

    def _new_mac(self, book: Book, taken: Mapping[str, str]) -> str:
        for version in (4, 6):
            ip = book.network.dhcp_of(version)
            if ip is not None and ip.dhcp is not None and ip.dhcp.ranges:
                return book.new_mac(version, self._clock(), taken)
        # No address to encode: a number that nobody has.
        number = self._ledger.generations.take()
        return macs.mac_of(ip_address(number & 0xFFFFFFFF), self._prefix)

    def _book(self, net: Net) -> Book:
        rows = (row for row in self.of_network(net.uuid) if row.family)
        return Book.of(net.shown, map(self._lease, rows), prefix=self._prefix)

    def _lease(self, row: LeaseRow) -> Lease:
        """Parsed once: a network of a thousand guests has as many, of which a change concerns one."""
        known = self._parsed.get(row.key)
        if known is None or known[0] is not row:
            known = self._parsed[row.key] = row, _lease(row)
        return known[1]

    def _runs_with(self, domain: bytes, network: bytes, mac: str) -> bool:
        """A new definition says nothing about an interface that is in use."""
        return bool(self._place(domain)) and any(row.domain == domain for row in self._of_mac(network, mac))

    def _said(self, net: Net, mac: str, interface: Interface) -> tuple[Change, ...]:
        isolated = self._isolation.said(net.uuid, mac, interface.isolated, net.shown.isolated)
        return (*isolated, *self._groups.said(net, mac, interface.group))

    def _guest(
        self, network: bytes, mac: str, rows: list[LeaseRow], entry_names: tuple[str, ...]
    ) -> WantedGuest:
        """The name in its <host> entry is the first: DHCP tells it that."""
        net = self._networks.found(network)
        addresses = tuple(row.address for row in rows if row.address)
        names = (*entry_names, *(row.name for row in rows if row.name)) if addresses else ()
        return WantedGuest(
            mac=mac,
            addresses=addresses,
            names=tuple(dict.fromkeys(names)),
            isolated=self._isolation.of(network, mac, net.shown.isolated if net is not None else None),
            vlans=self._groups.vlans(net, mac),
        )

    def _place(self, domain: bytes) -> str:
        found = self._cluster.get(domain) if domain else None
        return found.node if found is not None and found.active else ""


class _Taken(Mapping[str, str]):
    """MACs and whose each is: domains', and what was claimed here."""

    def __init__(self, leases: LeaseTable) -> None:
        self._leases = leases
        self._claimed: dict[str, str] = {}

    def claim(self, mac: str, owner: str) -> None:
        """It is the owner's from now on.  netmgr's BadValue, Clash."""
        self._claimed[macs.claim(mac, owner, self)] = owner

    def __getitem__(self, mac: str) -> str:
        if mac in self._claimed:
            return self._claimed[mac]
        row = self._leases.user(mac)
        if row is None:
            raise KeyError(mac)
        return f"domain {row.name} ({format_uuid(row.domain)})"

    def __iter__(self) -> Iterator[str]:
        return iter({*self._claimed, *self._leases.macs_in_use()})

    def __len__(self) -> int:
        return len({*self._claimed, *self._leases.macs_in_use()})


def lease_key(network: bytes, mac: str, family: int) -> str:
    """Key of a row."""
    return f"{network.hex()}/{mac}/{family}"


def _lease(row: LeaseRow) -> Lease:
    return Lease(row.network, ip_address(row.address), row.mac, row.name, LeaseState(row.state), row.since)


def _entries(network: Network) -> Mapping[str, WantedGuest]:
    """One that has an address of either version is in two entries."""
    found: dict[str, WantedGuest] = {}
    for entry in reservations(network, ()):
        other = found.get(entry.key, entry)
        found[entry.key] = msgspec.structs.replace(
            other,
            addresses=tuple(dict.fromkeys((*other.addresses, *entry.addresses))),
            names=entry.names or other.names,
        )
    return found
