"""Which steps lead from what a node has of a network to what it shall have.  Pure.

The order matters: rules stand before the overlay can carry anything, and a link gets its name only when it carries our
mark, so that whatever interrupts us, the next run knows what is ours.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import ip_address, ip_network

from netmgr import dnsmasq, isolation, nft, shaping
from netmgr.steps import (
    Address,
    Bridged,
    CreateBridge,
    CreateOverlay,
    DeleteLink,
    DropFile,
    DropRules,
    Entry,
    Forget,
    FreeLeases,
    LoadRules,
    MarkLink,
    Neighbour,
    ReloadServer,
    Remote,
    RenameLink,
    Route,
    SetEntries,
    SetKernel,
    SetLink,
    SetPort,
    SetQueue,
    StartServer,
    Step,
    StopServer,
    WriteFile,
)
from netmgr.wanted import WantedGuest, WantedNetwork, fitting_mtu, temporary_name

ANY_MAC = "00:00:00:00:00:00"
"""In the overlay's table: where frames for unknown and for many go."""


class Refused(Exception):
    """The node has something in the way that is not ours; nothing was changed."""


# ---- what a node has --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A link.  master: index of the bridge it is a port of, 0 for none.  vni, local, port: of a VXLAN link.

    isolated: of a port.  queued: a bridge sends by a rate."""

    name: str
    index: int = 0
    kind: str = ""
    alias: str = ""
    mac: str = ""
    mtu: int = 0
    up: bool = False
    master: int = 0
    vni: int = 0
    local: str = ""
    port: int = 0
    learning: bool = True
    suppress: bool = False
    isolated: bool = False
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Actual:
    """What a node has of one network.

    strays: links of this network that are neither; loose: links without a master, or with a stray for one; addresses:
    of the bridge, with prefix; routes: (destination, gateway, metric) by the bridge; remote: MAC -> underlay addresses
    in the overlay's table; bridged: MACs that the bridge sends to the overlay; neighbours: address -> MAC, permanent
    ones of the bridge; taps: its ports but the overlay, and loose links; queue: how the bridge sends;
    tables: names of ours that are there; rules: digest of the script they were loaded from, ""
    when they were changed since; rules_of: the bridge that they were loaded for; files: of the server, name -> text;
    leases: address -> owner; unset: kernel settings to be made good."""

    bridge: Link | None = None
    overlay: Link | None = None
    strays: tuple[Link, ...] = ()
    ports: frozenset[str] = frozenset()
    loose: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    routes: frozenset[tuple[str, str, int]] = frozenset()
    remote: Mapping[str, frozenset[str]] = field(default_factory=dict)
    bridged: frozenset[str] = frozenset()
    neighbours: Mapping[str, str] = field(default_factory=dict)
    taps: tuple[isolation.Tap, ...] = ()
    queue: shaping.Queue | None = None
    tables: frozenset[str] = frozenset()
    rules: str = ""
    rules_of: str = ""
    running: bool = False
    server_config: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, str] = field(default_factory=dict)
    unset: frozenset[tuple[str, str]] = frozenset()


# ---- a whole network --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """What a plan needs to know of the node: what fits through the overlay (bytes), the server's directory, and links
    that shall be ports of the bridge."""

    mtu: int
    directory: str
    ports: frozenset[str] = frozenset()


def steps_to(
    wanted: WantedNetwork, guests: Mapping[str, WantedGuest], actual: Actual, place: Place
) -> tuple[Step, ...]:
    """None when all is well.  Refused when a link of a name that we need is somebody else's."""
    _refuse_foreign(wanted, actual)
    mtu = fitting_mtu(wanted, place.mtu)
    joining = place.ports & actual.loose - actual.ports
    taps = [tap for tap in actual.taps if tap.name in actual.ports or tap.name in joining]
    ports, apart = isolation.settle(wanted, guests.values(), taps, joining)
    return (
        *(DeleteLink(link.name) for link in actual.strays),
        *_bridge(wanted, actual, mtu),
        *_queue(wanted, actual),
        *_rules(wanted, guests, actual, ports),
        *_overlay(wanted, guests, actual, mtu),
        *(SetLink(port, master=wanted.bridge) for port in sorted(joining)),
        *apart,
        *_routes(wanted, actual),
        *_server(wanted, guests, actual, place.directory, mtu),
    )


def steps_away(wanted: WantedNetwork, actual: Actual) -> tuple[Step, ...]:
    """Remove every trace of a network; what is not ours stays."""
    links = [
        link for link in (actual.overlay, actual.bridge) if link is not None and link.alias == wanted.mark
    ]
    steps: list[Step] = [StopServer()] if actual.running else []
    steps += [DeleteLink(link.name) for link in (*links, *actual.strays)]
    for bridge in sorted({actual.rules_of} - {"", wanted.bridge}):
        steps.append(DropRules(nft.removal(bridge)))
    if actual.tables:
        steps.append(DropRules(nft.removal(wanted.bridge)))
    return (*steps, Forget())


def settings(wanted: WantedNetwork) -> dict[str, str]:
    """Kernel settings that a network needs, path below /proc/sys -> value; those of a link exist only with it."""
    versions = {subnet.version for subnet in wanted.subnets}
    found = {}
    if wanted.mode in ("nat", "route", "open"):
        if 4 in versions:
            found["net/ipv4/ip_forward"] = "1"
        if 6 in versions:
            found["net/ipv6/conf/all/forwarding"] = "1"
    return found | bridge_settings(wanted) | overlay_settings(wanted)


def bridge_settings(wanted: WantedNetwork) -> dict[str, str]:
    """All nodes have the same gateway: no duplicate shall be looked for, and no other router listened to."""
    silent = "0" if any(subnet.version == 6 for subnet in wanted.subnets) else "1"
    values = {"accept_dad": "0", "accept_ra": "0", "autoconf": "0", "disable_ipv6": silent}
    return {f"net/ipv6/conf/{wanted.bridge}/{name}": value for name, value in values.items()}


def overlay_settings(wanted: WantedNetwork) -> dict[str, str]:
    """The overlay's link is a port: it speaks for nobody."""
    return {f"net/ipv6/conf/{wanted.overlay}/disable_ipv6": "1"}


def _refuse_foreign(wanted: WantedNetwork, actual: Actual) -> None:
    for link in (actual.bridge, actual.overlay):
        if link is not None and link.alias != wanted.mark:
            owner = f"marked {link.alias!r}" if link.alias else "without our mark"
            raise Refused(
                f"a link {link.name} is on the node already, {owner}; network {wanted.name} needs that name"
            )


def _bridge(wanted: WantedNetwork, actual: Actual, mtu: int) -> Iterator[Step]:
    name, found = wanted.bridge, actual.bridge
    if found is None:
        if actual.running:
            yield StopServer()  # it serves the link that is gone
        temporary = temporary_name(wanted.uuid, "bridge")
        yield CreateBridge(temporary, wanted.mac, mtu)
        yield MarkLink(temporary, wanted.mark)
        yield RenameLink(temporary, name)
        # One gateway on all nodes: no duplicate shall be looked for, and no other router listened to.
        silent = "0" if any(subnet.version == 6 for subnet in wanted.subnets) else "1"
        for setting, value in (
            ("disable_ipv6", silent),
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("accept_dad", "0"),
        ):
            yield SetKernel(f"net/ipv6/conf/{name}/{setting}", value)
        yield SetLink(name, up=True)
    elif (found.mac, found.mtu, found.up) != (wanted.mac, mtu, True):
        yield SetLink(name, mac=wanted.mac, mtu=mtu, up=True)
    shall = {subnet.address for subnet in wanted.subnets}
    yield from (SetKernel(path, value) for path, value in sorted(actual.unset))
    yield from (Address(name, address, gone=True) for address in sorted(actual.addresses - shall))
    yield from (Address(name, address) for address in sorted(shall - actual.addresses))


def _queue(wanted: WantedNetwork, actual: Actual) -> Iterator[Step]:
    shall = shaping.queue(wanted.inbound)
    found = actual.queue if actual.bridge is not None else None
    if shall is None and found is not None:
        yield SetQueue(wanted.bridge)
    elif shall is not None and (found is None or not found.is_like(shall)):
        yield SetQueue(wanted.bridge, shall.rate, shall.ceil, shall.burst)


def _rules(
    wanted: WantedNetwork, guests: Mapping[str, WantedGuest], actual: Actual, ports: isolation.Ports
) -> Iterator[Step]:
    script = nft.ruleset(wanted, tuple(guests.values()), ports)
    if moved := actual.rules_of not in ("", wanted.bridge):
        yield DropRules(nft.removal(actual.rules_of))
    if moved or digest(script) != actual.rules:
        yield LoadRules(script)


def _overlay(
    wanted: WantedNetwork, guests: Mapping[str, WantedGuest], actual: Actual, mtu: int
) -> Iterator[Step]:
    name, found = wanted.overlay, actual.overlay
    remote, bridged, neighbours = actual.remote, actual.bridged, actual.neighbours
    if actual.bridge is None:
        bridged, neighbours = frozenset(), {}
    if found is not None and not _fits(wanted, found):
        yield DeleteLink(name)
        found = None
    if found is None:
        remote, bridged = {}, frozenset()
        temporary = temporary_name(wanted.uuid, "overlay")
        yield CreateOverlay(temporary, wanted.vni, wanted.local, wanted.port, mtu)
        yield MarkLink(temporary, wanted.mark)
        yield RenameLink(temporary, name)
        yield from (SetKernel(path, value) for path, value in overlay_settings(wanted).items())
    joined = found is not None and actual.bridge is not None and found.master == actual.bridge.index
    if not joined:
        bridged = frozenset()
        yield SetLink(name, master=wanted.bridge)
    if found is None or not joined or found.learning or found.suppress != wanted.suppress:
        yield SetPort(name, wanted.suppress)
    if entries := tuple(_entries(wanted, guests, remote, bridged, neighbours)):
        yield SetEntries(wanted.bridge, name, entries)
    if found is None or not found.up or found.mtu != mtu:
        yield SetLink(name, mtu=mtu, up=True)


def _fits(wanted: WantedNetwork, link: Link) -> bool:
    return (link.kind, link.vni, link.local, link.port) == ("vxlan", wanted.vni, wanted.local, wanted.port)


def _entries(
    wanted: WantedNetwork,
    guests: Mapping[str, WantedGuest],
    remote: Mapping[str, frozenset[str]],
    bridged: frozenset[str],
    neighbours: Mapping[str, str],
) -> Iterator[Entry]:
    away = {guest.mac: guest for guest in guests.values() if guest.place and guest.mac}
    shall = {ANY_MAC: frozenset(wanted.peers)} | {
        mac: frozenset({guest.place}) for mac, guest in away.items()
    }
    for mac in sorted(remote.keys() - shall.keys()):
        yield from (Remote(mac, to, gone=True) for to in sorted(remote[mac]))
    for mac in sorted(shall):
        yield from _to(mac, shall[mac], remote.get(mac, frozenset()))
    yield from (Bridged(mac, gone=True) for mac in sorted(bridged - away.keys()))
    yield from (Bridged(mac) for mac in sorted(away.keys() - bridged))
    known = {address: mac for mac, guest in away.items() for address in reachable(wanted, guest)}
    gone = sorted(neighbours.keys() - known.keys())
    yield from (Neighbour(address, neighbours[address], gone=True) for address in gone)
    yield from (
        Neighbour(address, mac) for address, mac in sorted(known.items()) if neighbours.get(address) != mac
    )


def _to(mac: str, shall: frozenset[str], found: frozenset[str]) -> Iterator[Remote]:
    if mac == ANY_MAC:
        yield from (Remote(mac, to, also=True) for to in sorted(shall - found))
    elif shall != found and len(found) <= 1:
        # Replaced at one stroke, so that no frame is flooded meanwhile.
        yield from (Remote(mac, to) for to in shall)
        return
    else:
        yield from (Remote(mac, to, also=True) for to in sorted(shall - found))
    yield from (Remote(mac, to, gone=True) for to in sorted(found - shall))


def reachable(wanted: WantedNetwork, guest: WantedGuest) -> Iterator[str]:
    """A guest's addresses that the kernel can keep on the bridge: without an IPv6 subnet it speaks no IPv6 there."""
    six = any(subnet.version == 6 for subnet in wanted.subnets)
    for address in guest.addresses:
        if six or ip_address(address).version == 4:
            yield str(ip_address(address))


def _routes(wanted: WantedNetwork, actual: Actual) -> Iterator[Step]:
    shall = {
        (str(ip_network(route.destination)), str(ip_address(route.gateway)), route.metric)
        for route in wanted.routes
    }
    yield from (Route(wanted.bridge, *route, gone=True) for route in sorted(actual.routes - shall))
    yield from (Route(wanted.bridge, *route) for route in sorted(shall - actual.routes))


def _server(
    wanted: WantedNetwork, guests: Mapping[str, WantedGuest], actual: Actual, directory: str, mtu: int
) -> Iterator[Step]:
    if not dnsmasq.is_needed(wanted):
        if actual.running:
            yield StopServer()
        if actual.files:
            yield Forget()
        return
    shall = dnsmasq.files(wanted, guests.values())
    config = dnsmasq.config(wanted, directory, mtu)
    stale = [name for name in sorted(actual.files) if shall.get(name) != actual.files[name]]
    yield from (DropFile(name) for name in stale if name not in shall)
    yield from (
        WriteFile(name, text) for name, text in sorted(shall.items()) if actual.files.get(name) != text
    )
    held = dnsmasq.in_the_way(actual.leases, guests.values())
    running = actual.running and actual.bridge is not None
    if running and actual.server_config == config and not held:
        if stale:
            yield ReloadServer()
        return
    yield from _restart(config, held, running=running)


def _restart(config: str, held: frozenset[str], *, running: bool = True) -> Iterator[Step]:
    if running:
        yield StopServer()
    if held:
        yield FreeLeases(held)
    yield StartServer(config)


# ---- one guest --------------------------------------------------------------------------------------------


def guest_steps(
    wanted: WantedNetwork,
    old: WantedGuest | None,
    new: WantedGuest | None,
    leases: Mapping[str, str],
    config: str,
    guests: Mapping[str, WantedGuest],
) -> tuple[Step, ...]:
    """A guest that came, changed, moved or went: a few entries and files, whatever the network's size.

    Nothing else of the node is looked at, so what was there before may be there still or be gone: all of it can be
    repeated.  A change of isolation is for steps_to.  config: of the server, which is started anew when it holds an
    address of the guest for somebody else.  guests: all, after the change."""
    entries = tuple(_moved(wanted, old, new, guests))
    steps: list[Step] = [SetEntries(wanted.bridge, wanted.overlay, entries)] if entries else []
    if dnsmasq.is_needed(wanted):
        before = dnsmasq.guest_files(wanted, old) if old is not None else {}
        after = dnsmasq.guest_files(wanted, new) if new is not None else {}
        steps += [DropFile(name) for name in sorted(before.keys() - after.keys())]
        steps += [WriteFile(name, text) for name, text in sorted(after.items()) if before.get(name) != text]
        if new is not None and (held := dnsmasq.in_the_way(leases, (new,))):
            steps += _restart(config, held)
        elif any(after.get(name) != text for name, text in before.items()):
            steps.append(ReloadServer())
    return tuple(steps)


def _moved(
    wanted: WantedNetwork,
    old: WantedGuest | None,
    new: WantedGuest | None,
    guests: Mapping[str, WantedGuest],
) -> Iterator[Entry]:
    before = dict.fromkeys(reachable(wanted, old), old.mac) if old is not None and old.place else {}
    after = dict.fromkeys(reachable(wanted, new), new.mac) if new is not None and new.place else {}
    if new is not None and new.place and new.mac:
        if old is None or old.place != new.place:
            yield Remote(new.mac, new.place)
            yield Bridged(new.mac)
    elif old is not None and old.place and old.mac:
        yield Bridged(old.mac, gone=True)
        yield Remote(old.mac, old.place, gone=True)
    if left := before.keys() - after.keys():
        # Somebody else may have got an address before this one was said to have lost it.
        left -= {one for guest in guests.values() if guest.place for one in _shared(left, guest)}
        yield from (Neighbour(address, before[address], gone=True) for address in sorted(left))
    yield from (
        Neighbour(address, mac)
        for address, mac in sorted(after.items())
        if mac and before.get(address) != mac
    )


def _shared(addresses: Container[str], guest: WantedGuest) -> Iterator[str]:
    """Which of the addresses a guest has; to parse those of a thousand guests would take ten milliseconds."""
    for address in guest.addresses:
        plain = str(ip_address(address)) if ":" in address else address
        if plain in addresses:
            yield plain


def digest(text: str) -> str:
    """Stands for a script that was loaded."""
    return blake2b(text.encode(), digest_size=16).hexdigest()
