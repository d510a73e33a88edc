"""Which part of a network nodes need to hear of after a change of its document, where that is not all of it.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from clusterhost.service.network_wanted import Underlay, wanted
from clusterhost.service.networks import Net
from clusterhost.store.rows import Change, DropLease, PutLease
from netmgr import fill
from netmgr.wanted import WantedDns, WantedGuest, WantedNetwork

Known = Callable[[str], tuple[WantedGuest, str] | None]
"""By its key: a guest and the node where it runs ("" for none), None for one that the network does not know."""


@dataclass(frozen=True, slots=True)
class Altered:
    """dns: None when it is as it was; guests: each with the node where it runs; gone: their keys."""

    dns: WantedDns | None
    guests: tuple[tuple[WantedGuest, str], ...]
    gone: tuple[str, ...]


def altered(was: Net, now: Net, moved: Iterable[Change], known: Known) -> Altered | None:
    """The difference between what nodes were told and what they shall have; None when it is more than names and a few
    guests.  moved: leases that changed with the document."""
    if was.live is None or now.live is None or not now.live.mode.has_own_bridge:
        return None
    before, after = (wanted(net, Underlay("", ()), ()) for net in (was, now))
    if _without(before) != _without(after) or fill.shadow(was.live, {}) != fill.shadow(now.live, {}):
        return None
    keys = {guest.key for guest in {*before.guests} ^ {*after.guests}} | set(_macs(moved))
    found = {key: known(key) for key in sorted(keys)}
    return Altered(
        after.dns if before.dns != after.dns else None,
        tuple(guest for guest in found.values() if guest is not None),
        tuple(key for key, guest in found.items() if guest is None),
    )


def _without(network: WantedNetwork) -> WantedNetwork:
    return replace(network, serial=0, guests=(), dns=WantedDns())


def _macs(moved: Iterable[Change]) -> Iterable[str]:
    """A row's key says whose it is (addresses.lease_key); one that is held is nobody's."""
    for change in moved:
        if isinstance(change, PutLease) and change.row.mac:
            yield change.row.mac
        elif isinstance(change, DropLease):
            yield change.key.split("/")[1]
