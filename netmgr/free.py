"""What is free in a network, in words: for the refusal that says where to look.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from netmgr.errors import Exhausted
from netmgr.model import Address, DhcpRange, Ip, Lease, LeaseState, Network

SPANS = 4
"""As many are named; more would hide the rest of the sentence."""


def exhausted(
    network: Network, version: int, leases: Iterable[Lease], kept: frozenset[Address], since: float
) -> Exhausted:
    """The refusal, for a network with ranges of that version.

    since: the time before which a released address had to be released to be free now."""
    ip = network.dhcp_of(version)
    ranges = ip.dhcp.ranges if ip is not None and ip.dhcp is not None else ()
    inside = [lease for lease in leases if any(lease.address in item for item in ranges)]
    words = ", ".join(_span(item.start, item.end) for item in ranges)
    total = len({number for item in ranges for number in range(int(item.start), int(item.end) + 1)})
    text = f"network '{network.name}' has no free address in {words} ({_count(inside, total)})"
    if waiting := [lease.since - since for lease in inside if lease.state is LeaseState.RELEASED]:
        text += f"; the first of the released is free in {min(waiting):.0f} s"
    outside = [] if ip is None else list(_outside(ip, ranges, kept | {lease.address for lease in leases}))
    if outside:
        more = ", ..." if len(outside) > SPANS else ""
        named = ", ".join(_span(first, last) for first, last in outside[:SPANS])
        text += f"; free in the subnet, but in no range: {named}{more}"
    else:
        text += "; the subnet has no other free address"
    return Exhausted(text)


def _count(inside: list[Lease], total: int) -> str:
    counts = Counter(str(lease.state) for lease in inside)
    parts = [f"{counts[state]} {state}" for state in LeaseState if counts[state]]
    if rest := total - len(inside):
        parts.append(f"{rest} for <host> entries or the network itself")
    return f"of {total}: {', '.join(parts)}"


def _span(first: Address, last: Address) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _outside(
    ip: Ip, ranges: tuple[DhcpRange, ...], taken: frozenset[Address]
) -> Iterator[tuple[Address, Address]]:
    """Spans of a subnet that no range has and nobody took, in order."""
    subnet = ip.subnet
    blocks = [(int(item.start), int(item.end)) for item in ranges]
    blocks += [(int(address), int(address)) for address in taken if address in subnet]
    kind, begin = type(subnet.network_address), int(subnet.network_address)
    for start, end in sorted(blocks):
        if begin < start:
            yield kind(begin), kind(start - 1)
        begin = max(begin, end + 1)
    if begin <= int(subnet.broadcast_address):
        yield kind(begin), subnet.broadcast_address
