"""One part of the way between guests: what a node has there against what it shall have.  Pure.

Knows nothing of the way's order.  Every check answers (State, sentence).  ODD: it works, but is not as it shall be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeGuard

from netmgr import nft
from netmgr.plan import ANY_MAC, digest, reachable
from netmgr.seen import Crossed, SeenLink, Sight
from netmgr.vlan import TRUNK_MARK, link_name, tap_mac
from netmgr.wanted import OVERHEAD, WantedNetwork, WantedTrunk


class State(StrEnum):
    """How a part of the way is."""

    OK = "ok"
    ODD = "odd"
    BROKEN = "broken"
    UNKNOWN = "not known"


Found = tuple[State, str]


@dataclass(frozen=True, slots=True)
class Plug:
    """A guest's interface.

    network: its uuid; tap: its link on the node; filter: nwfilter's name; bound: the node has put that on the tap;
    running: the domain is; problem: why the rest is not known."""

    domain: str
    node: str
    network: str
    mac: str
    name: str = ""
    addresses: tuple[str, ...] = ()
    tap: str = ""
    running: bool = True
    link_up: bool = True
    filter: str = ""
    bound: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Spot:
    """A node on the way: what it sees, or why nothing is known of it, and what it shall have (by network's uuid)."""

    node: str
    sight: Sight | None = None
    silent: str = ""
    shall: dict[str, WantedNetwork] = field(default_factory=dict)


def with_tap(plug: Plug, spot: Spot) -> Plug:
    """Where its definition was not told, its link is known by its MAC."""
    if plug.tap or spot.sight is None:
        return plug
    found = (link.name for link in spot.sight.links.values() if link.mac == tap_mac(plug.mac))
    return replace(plug, tap=next(found, ""))


# ---- at the guest -----------------------------------------------------------------------------------------


def interface(plug: Plug) -> Found:
    """What the definition says."""
    if not plug.running:
        return State.BROKEN, f"domain {plug.domain} is not running"
    if plug.problem:
        return State.UNKNOWN, plug.problem
    what = f"{plug.mac} of {plug.domain} on network {plug.name}"
    if not plug.link_up:
        return State.BROKEN, f"the link of {what} is set down"
    return State.OK, f"{what}: {', '.join(plug.addresses) or 'no address of ours'}"


def nwfilter(plug: Plug) -> Found | None:
    """Its filter; None for none."""
    if not plug.filter or not plug.tap:
        return None
    if not plug.bound:
        return State.ODD, f"filter {plug.filter} is not bound to {plug.tap}"
    return State.OK, f"filter {plug.filter} is bound to {plug.tap}; what it lets pass is not looked into"


def tap(sight: Sight, plug: Plug) -> Found:
    """Its link on the node."""
    if not plug.tap:
        return State.UNKNOWN, "its link on the node is not known"
    link = sight.links.get(plug.tap)
    if link is None:
        return State.BROKEN, f"there is no link {plug.tap}"
    if not link.up:
        return State.BROKEN, f"{plug.tap} is down"
    if not link.carrier:
        return State.BROKEN, f"{plug.tap} has no carrier: no guest is at its other end"
    return State.OK, f"{plug.tap} is up"


def port(sight: Sight, plug: Plug, shall: WantedNetwork) -> Found:
    """Where that link is plugged in."""
    link = sight.links.get(plug.tap)
    if link is None:
        return (
            State.UNKNOWN,
            f"there is no link {plug.tap}" if plug.tap else "its link on the node is not known",
        )
    if link.master != shall.bridge:
        return State.BROKEN, f"{plug.tap} is a port of {link.master or 'no bridge'}, not of {shall.bridge}"
    if link.up and not link.forwarding:
        return (
            State.BROKEN,
            f"{shall.bridge} passes nothing on to {plug.tap}: the port's state is not forwarding",
        )
    return State.OK, f"{plug.tap} is a port of {shall.bridge}" + (", isolated" if link.isolated else "")


def replied(sight: Sight, plug: Plug) -> Found:
    """What came of the probe."""
    if not sight.probed:
        return State.UNKNOWN, "it was not asked: no bridge to ask from, or no IPv4 address of ours"
    if not sight.replied:
        return State.BROKEN, f"{plug.domain} does not answer ARP for its address: is its interface set up?"
    if sight.replied != plug.mac:
        return State.BROKEN, f"{sight.replied} answers for the address of {plug.mac}"
    return State.OK, f"{plug.domain} answers ARP for its address"


# ---- at the node ------------------------------------------------------------------------------------------


def bridge(sight: Sight, shall: WantedNetwork) -> Found:
    """The network's bridge."""
    link = sight.links.get(shall.bridge)
    if why := _not_ours(link, shall.bridge, shall):
        return State.BROKEN, why
    assert link is not None
    if shall.trunk is not None:
        return State.OK, f"{shall.bridge} is up, MTU {link.mtu}"
    if link.mac != shall.mac:
        return State.ODD, f"{shall.bridge} has MAC {link.mac}, not the gateway's {shall.mac}"
    if shall.mtu and link.mtu != shall.mtu:
        return State.ODD, f"{shall.bridge} has MTU {link.mtu}, not {shall.mtu}"
    return State.OK, f"{shall.bridge} is up, MTU {link.mtu}"


def rules(sight: Sight, shall: WantedNetwork, *, routed: bool) -> Found:
    """Our tables; where nothing is routed, frames pass without them."""
    found, name = sight.rules.get(shall.uuid), nft.table_name(shall.bridge)
    gone = [family for family in nft.FAMILIES if found is None or family not in found.families]
    if gone:
        text = f"no table {name} in {' and '.join(gone)}"
        return (State.BROKEN if routed and "inet" in gone else State.ODD), text
    assert found is not None
    if not found.digest:
        return State.UNKNOWN, f"somebody changed table {name} since it was loaded"
    guests = tuple(shall.by_key().values())
    # Where some are isolated and others not, rules name the node's ports too.
    same = all(guest.isolated == shall.isolated for guest in guests)
    if same and found.digest != digest(nft.ruleset(shall, guests)):
        return State.ODD, f"table {name} is of an older order"
    return State.OK, f"table {name} is as it was loaded"


def strangers(sight: Sight, *, routed: bool) -> Found | None:
    """Rules of others that packets meet; None when there are none."""
    families = {"bridge"}
    if routed or sight.filters_bridged:
        families |= {"inet", "ip", "ip6"}
    met = [
        chain
        for chain in sight.strangers
        if chain.name.partition(" ")[0] in families and (chain.closed or chain.drops)
    ]
    if closed := [chain.name for chain in met if chain.closed]:
        return State.UNKNOWN, f"{', '.join(closed)}: drops what its rules do not accept, and is not ours"
    if met:
        return State.ODD, f"{', '.join(chain.name for chain in met)}: not ours, and drops or rejects"
    return None


# ---- across -----------------------------------------------------------------------------------------------


def overlay(sight: Sight, shall: WantedNetwork) -> Found:
    """The VXLAN link."""
    link = sight.links.get(shall.overlay)
    if why := _not_ours(link, shall.overlay, shall):
        return State.BROKEN, why
    assert link is not None
    if (link.vni, link.local, link.port) != (shall.vni, shall.local, shall.port):
        return (
            State.BROKEN,
            f"{_vxlan(link)}; it shall be VNI {shall.vni} of {shall.local}, port {shall.port}",
        )
    if link.master != shall.bridge:
        return State.BROKEN, f"{link.name} is a port of {link.master or 'no bridge'}, not of {shall.bridge}"
    if not link.forwarding:
        return (
            State.BROKEN,
            f"{shall.bridge} passes nothing on to {link.name}: the port's state is not forwarding",
        )
    return State.OK, f"{_vxlan(link)}, MTU {link.mtu}"


def entry(sight: Sight, shall: WantedNetwork, mac: str, place: str) -> Found:
    """Where frames for a MAC go; without an entry they take the flood list."""
    table = sight.remote.get(shall.overlay, {})
    found, flood = table.get(mac, ()), table.get(ANY_MAC, ())
    if found and place not in found:
        return State.BROKEN, f"frames for {mac} go to {', '.join(found)}, the guest is at {place}"
    if not found and place not in flood:
        return State.BROKEN, f"{shall.overlay} has no entry for {mac}, and none for all that leads to {place}"
    if not found:
        return State.ODD, f"{shall.overlay} has no entry for {mac}: frames for it go to every node"
    if place not in flood:
        return State.ODD, f"frames for {mac} go to {place}, those for all do not: questions of ARP stay here"
    return State.OK, f"frames for {mac} go to {place}"


def neighbour(sight: Sight, shall: WantedNetwork, plug: Plug, *, routed: bool) -> Found | None:
    """What the bridge knows of a remote guest's addresses: it answers ARP with it; None when it need not know any.

    What the node routes is lost without it, for its own ARP may not cross."""
    guest = shall.by_key().get(plug.mac)
    known, found = sight.neighbours.get(shall.bridge, {}), []
    for address in reachable(shall, guest) if guest is not None else ():
        if known.get(address) == plug.mac:
            found.append(address)
        elif address in known:
            return State.BROKEN, f"{shall.bridge} has {known[address]} for {address}, not {plug.mac}"
        else:
            state = State.BROKEN if routed else State.ODD
            return state, f"{shall.bridge} has no neighbour entry for {address}"
    return (State.OK, f"{shall.bridge} knows {', '.join(found)}") if found else None


def underlay(sight: Sight, shall: WantedNetwork, to: str) -> Found:
    """The route to the other node."""
    way = sight.ways.get(to)
    if way is None:
        return State.UNKNOWN, f"the route to {to} was not asked for"
    if way.problem:
        return State.BROKEN, f"no route to {to}: {way.problem}"
    text = f"{to} by {way.device}" + (f" and {way.gateway}" if way.gateway else "") + f", MTU {way.mtu}"
    link = sight.links.get(shall.overlay)
    need = link.mtu + OVERHEAD[ip_address(to).version] if link is not None else 0
    if need > way.mtu:
        return State.ODD, f"{text}: full frames of {shall.overlay} need {need}"
    return State.OK, text


def crossing(here: Spot, there: Spot) -> Found:
    """Whether frames of both nodes came to the other; either one may know it."""
    first, second = (_crossed(spot) for spot in (here, there))
    if first is None or second is None:
        return State.UNKNOWN, "no frame was sent: one node does not answer"
    forth, back = second.heard or first.answered, first.heard or second.answered
    ways = [(forth, here.node, there.node), (back, there.node, here.node)]
    if lost := [f"from {one} to {other}" for came, one, other in ways if not came]:
        why = "; ".join(
            f"{spot.node}: {found.problem}"
            for spot, found in ((here, first), (there, second))
            if found.problem
        )
        return State.BROKEN, f"no frame came {' or '.join(lost)}" + (f" ({why})" if why else "")
    return State.OK, "a frame of each node came to the other"


def _crossed(spot: Spot) -> Crossed | None:
    return spot.sight.crossed if spot.sight is not None else None


def wire(shall: WantedNetwork) -> str:
    """The link by which a network on VLANs leaves the node."""
    trunk = shall.trunk
    assert trunk is not None
    return link_name(trunk.device, trunk.tags[0]) if trunk.single else trunk.device


def trunk(sight: Sight, shall: WantedNetwork) -> Found:
    """That link.  What is at its other end is nobody's here to see."""
    name = wire(shall)
    link = sight.links.get(name)
    if link is None:
        return State.BROKEN, f"there is no link {name}"
    if not link.up or not link.carrier:
        return State.BROKEN, f"{name} " + ("has no carrier" if link.up else "is down")
    if link.master != shall.bridge:
        return State.BROKEN, f"{name} is a port of {link.master or 'no bridge'}, not of {shall.bridge}"
    return State.OK, f"{name} is a port of {shall.bridge}"


# ---- between networks -------------------------------------------------------------------------------------


def gateway(sight: Sight, shall: WantedNetwork, versions: frozenset[int]) -> Found:
    """The gateway's addresses of these IP versions at the bridge."""
    wanted = [subnet.address for subnet in shall.subnets if subnet.version in versions]
    if not wanted:
        kinds = " and ".join(f"IPv{version}" for version in sorted(versions))
        return State.BROKEN, f"network {shall.name} has no gateway of {kinds}"
    there = sight.addresses.get(shall.bridge, ())
    if gone := [address for address in wanted if address not in there]:
        return State.BROKEN, f"{shall.bridge} lacks {', '.join(gone)}"
    return State.OK, f"{shall.bridge} has {', '.join(wanted)}"


def forwards(sight: Sight, version: int) -> Found:
    """The kernel's own switch."""
    if version not in sight.forwards:
        return State.BROKEN, f"forwarding of IPv{version} is off in the kernel"
    return State.OK, f"the kernel forwards IPv{version}"


def leaves(shall: WantedNetwork, device: str) -> Found:
    """Whether a network's rules let its guests out by a device."""
    if shall.mode == "none":
        return State.BROKEN, f"network {shall.name} is isolated: nothing is forwarded out of it"
    if shall.mode != "open" and shall.devices and device not in shall.devices:
        return (
            State.BROKEN,
            f"network {shall.name} goes out by {', '.join(shall.devices)} alone, not by {device}",
        )
    return State.OK, f"network {shall.name} (mode {shall.mode}) lets it out by {device}"


def enters(shall: WantedNetwork, device: str) -> Found:
    """Whether a network's rules let others' packets in that come from a device."""
    if shall.mode == "none":
        return State.BROKEN, f"network {shall.name} is isolated: nothing is forwarded into it"
    if shall.mode == "nat":
        return State.BROKEN, f"network {shall.name} is behind NAT: only answers come in"
    if shall.mode == "route" and shall.devices and device not in shall.devices:
        return (
            State.BROKEN,
            f"network {shall.name} takes in from {', '.join(shall.devices)} alone, not from {device}",
        )
    return State.OK, f"network {shall.name} (mode {shall.mode}) lets it in"


def isolated(source: Plug, target: Plug, spots: tuple[Spot, Spot], shall: WantedNetwork) -> Found | None:
    """Why two guests of one network may not talk; None when they may."""
    guests = shall.by_key()
    known = [guests.get(plug.mac) for plug in (source, target)]
    marked = [guest.isolated if guest is not None else shall.isolated for guest in known]
    if source.node != target.node:
        return (State.BROKEN, "both are isolated: nothing is passed between them") if all(marked) else None
    ports = [_link(spot, plug.tap) for spot, plug in zip(spots, (source, target), strict=True)]
    if all(link is not None and link.isolated for link in ports):
        return State.BROKEN, "both ports are isolated: nothing is passed between them"
    return None


def _link(spot: Spot, name: str) -> SeenLink | None:
    return spot.sight.links.get(name) if spot.sight is not None else None


def _not_ours(link: SeenLink | None, name: str, shall: WantedNetwork) -> str:
    if link is None:
        return f"there is no link {name}"
    if link.alias != (TRUNK_MARK + shall.trunk.device if _is_shared(shall.trunk) else shall.mark):
        return f"{name} is there, but without our mark for network {shall.name}"
    return "" if link.up else f"{name} is down"


def _is_shared(trunk: WantedTrunk | None) -> TypeGuard[WantedTrunk]:
    return trunk is not None and not trunk.single


def _vxlan(link: SeenLink) -> str:
    return f"{link.name}: VNI {link.vni} of {link.local or 'no address'}, UDP port {link.port}"
