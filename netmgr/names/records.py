"""Which DNS records the cluster wants to have outside: of guests, host entries, services.  Pure.

Names are absolute: lower case, with the dot at their end.  A record's data is text as in a zone file, with absolute
names, addresses in their short form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from netmgr.wanted import WantedDns, WantedNetwork, WantedSrv

OURS = ("A", "AAAA", "PTR", "SRV")
"""Types that we write, beside texts and our mark, and the only ones that we remove."""
MARK = "TXT"
"""Type of the record that says whose a name is; texts have it, too."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_TYPES = {4: "A", 6: "AAAA"}


@dataclass(frozen=True, slots=True)
class Rrset:
    """The records of one type at a name.  ttl: seconds."""

    ttl: int
    data: frozenset[str]


Node = Mapping[str, Rrset]
"""What a name has, by type."""
Nodes = Mapping[str, Node]
"""Names and what they have."""


@dataclass(frozen=True, slots=True)
class Naming:
    """zones: those that the server lets us write, forward and reverse; of two that fit, the longer one is meant.
    domain: for networks whose own domain is in none of them, "" for none.  ttl: seconds."""

    zones: tuple[str, ...]
    domain: str = ""
    ttl: int = 60

    @classmethod
    def of(cls, zones: Iterable[str], domain: str = "", ttl: int = 60) -> Naming:
        """From names as people write them."""
        return cls(tuple(dict.fromkeys(map(absolute, zones))), absolute(domain) if domain else "", ttl)


@dataclass(frozen=True, slots=True)
class Service:
    """A server of the cluster itself, for SRV; name: `_libvirt._tcp.DOMAIN`, target: a host's full name."""

    name: str
    target: str
    port: int
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class WantedNames:
    """left_out: names that can stand in none of the zones, each once, in their order."""

    nodes: Nodes
    left_out: tuple[str, ...] = ()


def mark_of(owner: str) -> str:
    """The data of the record that says that a name is ours; owner: the cluster's uuid."""
    return f'"clusterhost-owner={owner}"'


def mark_with_texts(owner: str) -> str:
    """The same of a name all of whose texts are ours, too."""
    return f'"clusterhost-owner={owner} texts"'


def text_data(value: str) -> str:
    """A text as in a zone file: strings of 255 bytes at most, with escapes for what is not printable ASCII."""
    raw = value.encode("utf-8", "surrogateescape")
    parts = [raw[start : start + 255] for start in range(0, len(raw), 255)] or [b""]
    return " ".join(f'"{"".join(map(_escaped, part))}"' for part in parts)


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03d}"


def absolute(name: str) -> str:
    """Lower case, with the final dot."""
    return name.lower().rstrip(".") + "."


def is_in(name: str, domain: str) -> bool:
    """A name below a domain, or the domain itself."""
    return domain == "." or name == domain or name.endswith("." + domain)


def zone_of(name: str, zones: Iterable[str]) -> str | None:
    """The longest of the zones that a name is in; None: in none, or the zone's own name, which is never ours."""
    found = max((zone for zone in zones if is_in(name, zone)), key=len, default=None)
    return None if found == name else found


def reverse_name(address: str) -> str:
    """Where the PTR of an address stands."""
    return ip_address(address).reverse_pointer + "."


def canonical(kind: str, data: str) -> str:
    """Data as we write it, so that what a server says compares."""
    if kind in ("A", "AAAA"):
        return str(ip_address(data))
    return data.lower() if kind in ("PTR", "SRV") else data


def names_of(
    networks: Iterable[WantedNetwork], naming: Naming, services: Iterable[Service] = ()
) -> WantedNames:
    """All records of these networks and services.

    A name with several addresses has them all; an address has one PTR: of the first guest, else host entry, that has
    it.  Networks with their DNS switched off have no names outside either."""
    book = _Book(naming)
    chosen = [network for network in networks if network.dns.enable]
    for network in chosen:
        domain = book.domain(network.dns)
        for guest in network.guests:
            for name in guest.names:
                book.host(name, domain, guest.addresses)
    for network in chosen:
        domain = book.domain(network.dns)
        for address, names in network.dns.hosts:
            for name in names:
                book.entry(name, domain, address)
        for srv in network.dns.srvs:
            book.srv(srv, domain)
        for name, value in network.dns.txts:
            book.text(name, domain, value)
    for service in services:
        book.service(service)
    return book.result()


class _Book:
    """Collects records; lives for one call."""

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._found: dict[str, dict[str, set[str]]] = {}
        self._left_out: dict[str, None] = {}

    def domain(self, dns: WantedDns) -> str:
        own = absolute(dns.domain) if dns.domain else ""
        inside = own and any(is_in(own, zone) for zone in self._naming.zones)
        return own if inside else self._naming.domain

    def host(self, name: str, domain: str, addresses: Iterable[str]) -> None:
        """A name of a guest, that is below the domain unless it says so itself."""
        self._addresses(self._full(name, domain), addresses)

    def entry(self, name: str, domain: str, address: str) -> None:
        """A host entry: with dots it is a full name, of somebody else's zone it may be, too."""
        dotted = "." in name.rstrip(".")
        self._addresses(absolute(name) if dotted else self._full(name, domain), (address,))

    def srv(self, srv: WantedSrv, domain: str) -> None:
        below = absolute(srv.domain) if srv.domain else domain
        target = "."
        if srv.target:
            target = absolute(srv.target) if "." in srv.target else f"{srv.target.lower()}.{below}"
        name = f"_{srv.service}._{srv.protocol}.{below}".lower()
        self.service(Service(name, target, srv.port, srv.priority, srv.weight))

    def text(self, name: str, domain: str, value: str) -> None:
        """With dots it is a full name, as that of a host entry."""
        dotted = "." in name.rstrip(".")
        self.add(absolute(name) if dotted else self._full(name, domain), MARK, text_data(value))

    def service(self, service: Service) -> None:
        """A record of a service; the target "." says that there is none."""
        target = absolute(service.target)
        if target != "." and not is_fit(target):
            self._leave_out(service.name)
        else:
            data = f"{service.priority} {service.weight} {service.port} {target}"
            self.add(absolute(service.name), "SRV", data)

    def add(self, name: str, kind: str, data: str) -> bool:
        """A record, if it can stand in one of the zones."""
        if not is_fit(name) or zone_of(name, self._naming.zones) is None:
            return self._leave_out(name)
        self._found.setdefault(name, {}).setdefault(kind, set()).add(data)
        return True

    def result(self) -> WantedNames:
        ttl = self._naming.ttl
        nodes = {
            name: {kind: Rrset(ttl, frozenset(data)) for kind, data in kinds.items()}
            for name, kinds in self._found.items()
        }
        return WantedNames(nodes, tuple(self._left_out))

    def _full(self, name: str, domain: str) -> str:
        full = absolute(name)
        if not domain or (full != domain and is_in(full, domain)):
            return full
        return full + (domain if domain != "." else "")

    def _addresses(self, name: str, addresses: Iterable[str]) -> None:
        for text in addresses:
            address = ip_address(text)
            if not self.add(name, _TYPES[address.version], str(address)):
                return
            reverse = reverse_name(text)
            if zone_of(reverse, self._naming.zones) is not None and reverse not in self._found:
                self.add(reverse, "PTR", name)

    def _leave_out(self, name: str) -> bool:
        self._left_out[name] = None
        return False


def is_fit(name: str) -> bool:
    """An absolute name that can be written as it is: no wildcard, no escapes."""
    return len(name) <= 254 and all(_LABEL.fullmatch(label) for label in name.removesuffix(".").split("."))


def in_zone(nodes: Nodes, zone: str, zones: Iterable[str]) -> Iterator[tuple[str, Node]]:
    """Those names that stand in this of the zones."""
    every = tuple(zones)
    return ((name, node) for name, node in nodes.items() if zone_of(name, every) == zone)
