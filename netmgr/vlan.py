"""Networks on VLANs of a device: whose bridge it is, and which steps lead there.  Pure.

A device can be a port of one bridge only, so all networks of a device share one (a trunk), which goes with the last of
them.  A port of it is in no VLAN until it is told which, so nothing passes before.  A network may have a link of its
own for its tag instead (device.TAG), in a bridge of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address

from netmgr import nft
from netmgr.plan import Actual, Refused
from netmgr.steps import (
    CreateSwitch,
    CreateVlanLink,
    DeleteLink,
    DropRules,
    FilterVlans,
    Forget,
    MarkLink,
    ReleaseLink,
    RenameLink,
    SetKernel,
    SetLink,
    SetVlans,
    Step,
    StopServer,
)
from netmgr.wanted import WantedGuest, WantedNetwork, WantedTag, temporary_name

TRUNK_MARK = "clusterhost-trunk:"
"""What the bridge of a trunk carries as its alias, with its device: it is no single network's."""
_TAP = "fe:"
"""How MACs of guests' links at the host begin; what else is a port of a trunk is somebody's own."""
_LONGEST = 15


@dataclass(frozen=True, slots=True)
class Link:
    """A link.  master: index of the bridge it is a port of, 0 for none; vlans: of a port.

    parent, tag: of a link for one VLAN; filters, first_tag: of a bridge, the latter for ports that come."""

    name: str
    index: int = 0
    kind: str = ""
    alias: str = ""
    mac: str = ""
    up: bool = False
    master: int = 0
    parent: int = 0
    tag: int = 0
    filters: bool = False
    first_tag: int = 0
    vlans: frozenset[WantedTag] = frozenset()
    addresses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wires:
    """All links of a node."""

    links: tuple[Link, ...]

    def named(self, name: str) -> Link | None:
        """The link of a name."""
        return next((link for link in self.links if link.name == name), None)

    def name_of(self, index: int) -> str:
        """The name of a link that is there."""
        return next((link.name for link in self.links if link.index == index), f"link {index}")


@dataclass(frozen=True, slots=True)
class Trunk:
    """A bridge that networks of a device share.  taps: MAC of a guest's link at the host -> its VLANs."""

    bridge: str
    device: str
    tags: frozenset[int]
    taps: Mapping[str, tuple[WantedTag, ...]]

    @property
    def mark(self) -> str:
        """The alias of its bridge."""
        return TRUNK_MARK + self.device


def trunk_name(device: str) -> str:
    """Name of the bridge on a device, as the network's document calls that: the same on all nodes."""
    return _short(f"ct-{device}", device)


def single_name(device: str, tag: int) -> str:
    """Name of the bridge of a network that has a link of its own."""
    return _short(f"cs-{device}.{tag}", f"{device}.{tag}")


def link_name(device: str, tag: int) -> str:
    """Name of a link for one VLAN."""
    return _short(f"{device}.{tag}", f"{device}.{tag}")


def tap_mac(mac: str) -> str:
    """The MAC that libvirt gives a guest's link at the host."""
    return _TAP + mac[3:]


def trunk_of(bridge: str, sharing: Iterable[tuple[WantedNetwork, Mapping[str, WantedGuest]]]) -> Trunk | None:
    """What the networks that have a bridge want of it together, None when there are none.

    Refused when they name different devices."""
    device = ""
    tags: set[int] = set()
    taps: dict[str, tuple[WantedTag, ...]] = {}
    for network, guests in sharing:
        trunk = network.trunk
        if trunk is None or trunk.single or network.bridge != bridge:
            continue
        if device and trunk.device != device:
            raise Refused(f"networks on bridge {bridge} name the devices {device} and {trunk.device}")
        device = trunk.device
        tags |= set(trunk.tags)
        taps |= {tap_mac(guest.mac): guest.vlans for guest in guests.values() if guest.mac}
    return Trunk(bridge, device, frozenset(tags), taps) if device else None


def may_share(one: WantedNetwork, other: WantedNetwork) -> bool:
    """Networks that have the same bridge."""
    return all(found.trunk is not None and not found.trunk.single for found in (one, other))


def unused(aliases: Iterable[tuple[str, str]], bridges: frozenset[str]) -> tuple[Step, ...]:
    """Trunks of ours that no network has any more; their devices stay.  aliases: (name, alias) of all links."""
    return tuple(
        DeleteLink(name) for name, alias in aliases if alias.startswith(TRUNK_MARK) and name not in bridges
    )


# ---- a bridge that filters --------------------------------------------------------------------------------


def trunk_steps(trunk: Trunk, wires: Wires, owed: frozenset[str] = frozenset()) -> tuple[Step, ...]:
    """None when all is well.  owed: links that shall be ports again.  Refused when something is in the way."""
    device, bridge = _device(trunk.device, wires), wires.named(trunk.bridge)
    if bridge is not None and not bridge.alias.startswith(TRUNK_MARK):
        raise Refused(f"a link {bridge.name} is on the node already, without our mark; its name is needed")
    if device.master and (bridge is None or device.master != bridge.index):
        other = wires.name_of(device.master)
        raise Refused(f"{device.name} is a port of {other} on the node already, it can be of one bridge only")
    _without_addresses(device)
    return tuple(_trunk(trunk, device, bridge, wires, owed))


def _trunk(
    trunk: Trunk, device: Link, bridge: Link | None, wires: Wires, owed: frozenset[str]
) -> Iterator[Step]:
    if bridge is None:
        temporary = temporary_name(trunk.bridge, "trunk")
        if wires.named(temporary) is not None:
            yield DeleteLink(temporary)  # somebody was interrupted
        yield CreateSwitch(temporary, filters=True)
        yield from _finished(temporary, trunk.bridge, trunk.mark)
    else:
        yield from _mended(trunk, bridge, wires)
    at = bridge.index if bridge is not None else -1
    if device.master != at:
        yield SetLink(device.name, master=trunk.bridge)
    shall = frozenset(WantedTag(tag) for tag in trunk.tags)
    yield from _vlans(device.name, shall, device.vlans if device.master == at else frozenset())
    for tap in sorted(wires.links, key=lambda link: link.name):
        if tap.mac.startswith(_TAP) and tap.index != device.index:
            yield from _tap(trunk, tap, at, owed)
    if not device.up:
        yield SetLink(device.name, up=True)
    if bridge is None or not bridge.up:
        yield SetLink(trunk.bridge, up=True)


def _mended(trunk: Trunk, bridge: Link, wires: Wires) -> Iterator[Step]:
    """Of a bridge that is there: it filters, and its old device is none of its ports."""
    if not bridge.filters or bridge.first_tag:
        yield FilterVlans(bridge.name)
    if bridge.alias != trunk.mark:
        before = wires.named(bridge.alias.removeprefix(TRUNK_MARK))
        if before is not None and before.master == bridge.index:
            yield ReleaseLink(before.name)
        yield MarkLink(bridge.name, trunk.mark)


def _tap(trunk: Trunk, tap: Link, at: int, owed: frozenset[str]) -> Iterator[Step]:
    here, returns = tap.master == at, tap.name in owed and not tap.master
    if returns:
        yield SetLink(tap.name, master=trunk.bridge)
    if here or returns:
        yield from _vlans(
            tap.name, frozenset(trunk.taps.get(tap.mac, ())), tap.vlans if here else frozenset()
        )


def _vlans(port: str, shall: frozenset[WantedTag], has: frozenset[WantedTag]) -> Iterator[Step]:
    there = tuple(sorted(shall - has, key=lambda tag: tag.id))
    gone = tuple(sorted({tag.id for tag in has} - {tag.id for tag in shall}))
    if there or gone:
        yield SetVlans(port, there, gone)


# ---- a link of its own ------------------------------------------------------------------------------------


def single_steps(wanted: WantedNetwork, wires: Wires, owed: frozenset[str] = frozenset()) -> tuple[Step, ...]:
    """The same for a network with a link of its own for its tag."""
    trunk = wanted.trunk
    assert trunk is not None
    device, tag = _device(trunk.device, wires), trunk.tags[0]
    name = link_name(trunk.device, tag)
    for there in (wires.named(wanted.bridge), wires.named(name)):
        if there is not None and there.alias != wanted.mark:
            raise Refused(
                f"a link {there.name} is on the node already, without our mark; network {wanted.name} needs that name"
            )
    return tuple(_single(wanted, device, tag, name, wires, owed))


def _single(
    wanted: WantedNetwork, device: Link, tag: int, name: str, wires: Wires, owed: frozenset[str]
) -> Iterator[Step]:
    bridge, link = wires.named(wanted.bridge), wires.named(name)
    for what in ("bridge", "vlan"):
        if wires.named(temporary_name(wanted.uuid, what)) is not None:
            yield DeleteLink(temporary_name(wanted.uuid, what))
    if bridge is None:
        temporary = temporary_name(wanted.uuid, "bridge")
        yield CreateSwitch(temporary, filters=False)
        yield from _finished(temporary, wanted.bridge, wanted.mark)
    if link is not None and (link.kind, link.parent, link.tag) != ("vlan", device.index, tag):
        yield DeleteLink(name)
        link = None
    if link is None:
        temporary = temporary_name(wanted.uuid, "vlan")
        yield CreateVlanLink(temporary, device.name, tag)
        yield from _finished(temporary, name, wanted.mark)
    if link is None or bridge is None or link.master != bridge.index:
        yield SetLink(name, master=wanted.bridge)
    loose = {found.name for found in wires.links if not found.master and found.name != name}
    yield from (SetLink(port, master=wanted.bridge) for port in sorted(owed & loose))
    up = {found.name for found in (device, link, bridge) if found is not None and found.up}
    yield from (SetLink(one, up=True) for one in (device.name, name, wanted.bridge) if one not in up)


# ---- common -----------------------------------------------------------------------------------------------


def leftovers(wanted: WantedNetwork, wires: Wires, actual: Actual) -> tuple[Step, ...]:
    """What a network has from when it was something else, goes."""
    trunk = wanted.trunk
    keep = {wanted.bridge}
    if trunk is not None and trunk.single:
        keep.add(link_name(trunk.device, trunk.tags[0]))
    stale = [link.name for link in wires.links if link.alias == wanted.mark and link.name not in keep]
    steps: list[Step] = [StopServer()] if actual.running else []
    steps += [DeleteLink(name) for name in stale]
    if actual.rules_of:
        steps.append(DropRules(nft.removal(actual.rules_of)))
    if actual.files:
        steps.append(Forget())
    return tuple(steps)


def _device(name: str, wires: Wires) -> Link:
    found = wires.named(name)
    if found is None:
        raise Refused(f"there is no link {name} on the node")
    return found


def _without_addresses(device: Link) -> None:
    """A port's frames are the bridge's: the node would no longer be reached by what it has there."""
    own = sorted(text for text in device.addresses if not ip_address(text).is_link_local)
    if own:
        raise Refused(
            f"{device.name} has the node's address {own[0]}, which it would lose as a trunk: give the node a link"
            " of its own, or the network a VLAN link (see docs/networks.md)"
        )


def _finished(temporary: str, name: str, mark: str) -> Sequence[Step]:
    """A link gets its name only when it carries our mark.  It speaks for nobody, the node has no part in it."""
    return (
        MarkLink(temporary, mark),
        RenameLink(temporary, name),
        SetKernel(f"net/ipv6/conf/{name}/disable_ipv6", "1"),
    )


def _short(name: str, of: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    return f"ct-{blake2b(of.encode(), digest_size=6).hexdigest()}"
