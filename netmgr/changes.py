"""A small change of a network that a node has: names, a few guests.  Values, and the steps they take.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from netmgr import dnsmasq, plan
from netmgr.steps import FreeLeases, ReloadServer, StartServer, Step, StopServer, WriteFile
from netmgr.wanted import GuestGone, WantedDns, WantedGuest, WantedNetwork

Pair = tuple[WantedGuest | None, WantedGuest | None]
"""A guest before and after."""


class NetworkChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is different since the network was set, or changed like this, with serial `base`.  dns None: as it was."""

    uuid: str
    base: int
    serial: int
    dns: WantedDns | None = None
    guests: tuple[WantedGuest, ...] = ()
    gone: tuple[GuestGone, ...] = ()

    @property
    def about(self) -> tuple[WantedGuest | GuestGone, ...]:
        """Every guest that it names."""
        return (*self.guests, *self.gone)


def steps(
    before: WantedNetwork,
    after: WantedNetwork,
    pairs: Iterable[Pair],
    leases: Mapping[str, str],
    config: str,
    guests: Mapping[str, WantedGuest],
) -> tuple[Step, ...]:
    """As plan.guest_steps, for several guests and hosts of the network's own, when its server's configuration is the
    same before and after."""
    found: list[Step] = []
    for old, new in pairs:
        found += plan.guest_steps(after, old, new, leases, config, guests)
    if dnsmasq.is_needed(after):
        found += _zone(dnsmasq.files(before, ())[dnsmasq.ZONE], dnsmasq.files(after, ())[dnsmasq.ZONE])
    return _at_once(found, config)


def _zone(before: str, after: str) -> Iterable[Step]:
    if before != after:
        yield WriteFile(dnsmasq.ZONE, after)
        if set(before.splitlines()) - set(after.splitlines()):
            yield ReloadServer()


def _at_once(found: list[Step], config: str) -> tuple[Step, ...]:
    """The server is stopped, or told to read, once and last."""
    held = frozenset(address for step in found if isinstance(step, FreeLeases) for address in step.addresses)
    about_server = (StopServer, StartServer, FreeLeases, ReloadServer)
    files = [step for step in found if not isinstance(step, about_server)]
    if held:
        return (*files, StopServer(), FreeLeases(held), StartServer(config))
    return (*files, ReloadServer()) if ReloadServer() in found else tuple(files)


def same_config(before: WantedNetwork, after: WantedNetwork) -> bool:
    """The server goes on with what it was started with."""
    return dnsmasq.config(before, "", 0) == dnsmasq.config(after, "", 0)
