"""Isolated guests of a network: their ports on a node, and the rules that keep them apart across nodes.  Pure.

On one node the bridge itself keeps ports apart that are marked as isolated; libvirt marks them when it plugs a guest
in, and we keep it so.  What crosses the overlay has lost that mark: it is known by its MAC, and where it may be
delivered by the mark of the port.  An isolated port may therefore send through the overlay by its guest's MAC alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netmgr.steps import SetApart
from netmgr.wanted import WantedGuest, WantedNetwork

_GUEST_TAP = "fe:"
"""What libvirt puts in the place of the first byte of a guest's MAC for the MAC of its tap."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A link that is a port of the bridge, or shall be one again.  isolated: it carries the mark."""

    name: str
    mac: str
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """Names of a bridge's ports.  apart: those that are, or are about to be, isolated; open: the others."""

    apart: frozenset[str] = frozenset()
    open: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """For nftables' bridge family: sets, rules for all that comes from the overlay or goes there, rules for what is
    forwarded between ports."""

    sets: tuple[str, ...] = ()
    overlay: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()


def settle(
    wanted: WantedNetwork, guests: Iterable[WantedGuest], taps: Iterable[Tap], rejoined: frozenset[str]
) -> tuple[Ports, tuple[SetApart, ...]]:
    """Which ports are isolated, and the steps that make it so.

    A port that no guest is known for stays as whoever plugged it in made it.  rejoined: taps that lost their bridge,
    and their mark with it."""
    tails = {guest.mac[3:]: guest.isolated for guest in guests if guest.mac}
    apart: set[str] = set()
    free: set[str] = set()
    steps = []
    for tap in sorted(taps, key=lambda tap: tap.name):
        known = tails.get(tap.mac[3:]) if tap.mac.startswith(_GUEST_TAP) else None
        is_so = tap.isolated and tap.name not in rejoined
        if known is None:
            known = tap.isolated if tap.name not in rejoined else wanted.isolated
        if known != is_so:
            steps.append(SetApart(tap.name, known))
        (apart if known else free).add(tap.name)
    return Ports(frozenset(apart), frozenset(free)), tuple(steps)


def rules(wanted: WantedNetwork, guests: Iterable[WantedGuest], ports: Ports) -> Rules:
    """None where nobody is isolated.  A port that we have not seen yet gets nothing from isolated guests of other nodes
    until we have."""
    named = sorted(guest.mac for guest in guests if guest.mac and guest.isolated != wanted.isolated)
    if not named:
        # All are isolated: nothing of one guest is for another one.  Or nobody is.
        return Rules(overlay=("drop",)) if wanted.isolated else Rules()
    known, other = ("!= @free", "@free") if wanted.isolated else ("@isolated", "!= @isolated")
    one = " ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00" if wanted.isolated else ""
    return Rules(
        sets=(
            f"set {'free' if wanted.isolated else 'isolated'} {{ type ether_addr; {_elements(named)}}}",
            f"set apart {{ type ifname; {_elements(_quoted(ports.apart))}}}",
            f"set open {{ type ifname; {_elements(_quoted(ports.open))}}}",
        ),
        overlay=(f"ether saddr {known} ether daddr {known}{one} drop",),
        forward=(
            f'iifname "{wanted.overlay}" ether saddr {known} oifname != @open drop',
            f'oifname "{wanted.overlay}" iifname @apart ether saddr {other} drop',
        ),
    )


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in sorted(names)]


def _elements(found: list[str]) -> str:
    return f"elements = {{ {', '.join(found)} }} " if found else ""
