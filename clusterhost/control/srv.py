"""Services in DNS: who offers one, in the order in which they shall be tried (RFC 2782).  Speaks DNS alone; blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

ENDPOINT = "_libvirt._tcp"
"""The endpoint, for clients."""
CONTROL, BULK = "_clusterhost._tcp", "_clusterhostbulk._tcp"
"""The front end's [control] control and bulk, for agents."""
SECONDS = 5.0
"""For all questions of one look-up."""


class LookupFailed(Exception):
    """Nobody offers the service, or no server told; the text says what was asked."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A record.  target: a full name with its final dot; addresses: its own, as far as they are known."""

    priority: int
    weight: int
    port: int
    target: str
    addresses: tuple[str, ...] = ()


def ordered(offers: Iterable[Offer], draw: Callable[[int], int]) -> list[Offer]:
    """Lowest priority first; of one priority by weight and chance.  draw(n): a number from 0 to n."""
    left = sorted(offers, key=lambda offer: (offer.priority, offer.weight, offer.target, offer.port))
    found = []
    while left:
        same = [offer for offer in left if offer.priority == left[0].priority]
        chosen = _drawn(same, draw)
        left.remove(chosen)
        found.append(chosen)
    return found


def _drawn(offers: list[Offer], draw: Callable[[int], int]) -> Offer:
    """Those of weight 0 come first, so that they have a small chance."""
    number, total = draw(sum(offer.weight for offer in offers)), 0
    for offer in offers:
        total += offer.weight
        if total >= number:
            return offer
    return offers[-1]


def look_up(service: str, domain: str, nameserver: str = "") -> list[Offer]:
    """Offers in the server's order, with addresses of their targets.  nameserver: `ADDRESS` or `ADDRESS:PORT`; the
    system's when empty.  LookupFailed."""
    # Here, as most agents never ask: it costs memory.
    import dns.exception
    import dns.rdatatype
    import dns.resolver

    name = f"{service}.{domain.rstrip('.')}."
    try:
        resolver = dns.resolver.Resolver(configure=not nameserver)
        if nameserver:
            address, port = _address(nameserver)
            resolver.nameservers, resolver.port = [address], port
        answer = resolver.resolve(name, "SRV", lifetime=SECONDS)
        found = []
        for record in answer:
            target = record.target.to_text().lower()
            # The target "." says: this service is not offered here.
            if target != ".":
                found.append(
                    Offer(record.priority, record.weight, record.port, target, _hosts(resolver, target))
                )
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise LookupFailed(f"no SRV record {name} was found: {error}") from error
    if not found:
        raise LookupFailed(f"the SRV record {name} says that nobody offers the service")
    return found


def _hosts(resolver: object, target: str) -> tuple[str, ...]:
    """Addresses of a name, IPv4 first; none for one that is not known there."""
    import dns.exception
    import dns.resolver

    assert isinstance(resolver, dns.resolver.Resolver)
    found: list[str] = []
    for kind in ("A", "AAAA"):
        try:
            found += [record.address for record in resolver.resolve(target, kind, lifetime=SECONDS)]
        except dns.exception.DNSException:
            continue
    return tuple(found)


def _address(nameserver: str) -> tuple[str, int]:
    """`192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:5353`.  ValueError."""
    host, colon, port = nameserver.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = nameserver, "53"
    return str(ip_address(host.strip("[]"))), int(port)
