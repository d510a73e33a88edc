"""<vlan> of networks on a device, which nodes make with bridges or links of ours: what is possible, who has which tag.
Pure.

libvirt has VLANs for passthrough, hostdev and Open vSwitch only; elsewhere it refuses them.  A network in mode bridge
that forwards to a device gets its guests' VLANs from us.
"""

from __future__ import annotations

from collections.abc import Iterator

from netmgr import vlan
from netmgr.model import Mode, Network, PortGroup, Vlan
from netmgr.wanted import LAST_TAG, WantedTag, WantedTrunk
from netmgr.xml.document import parse

LINK = "{urn:clusterhost:network:1}vlan-link"
"""The element of <metadata> that asks for a link of the network's own (DEVICE.TAG)."""


def is_trunked(network: Network) -> bool:
    """Its VLANs are ours to make."""
    if network.mode is not Mode.BRIDGE or not network.forward.interfaces or network.bridge.name:
        return False
    return bool(_vlans(network)) and not _ports(network)


def is_made(network: Network) -> bool:
    """Nodes have links of ours for it; any other is libvirt's alone."""
    return network.mode.has_own_bridge or is_trunked(network)


def is_single(network: Network) -> bool:
    """It asks for a link of its own."""
    return any(parse(text).tag == LINK for text in network.metadata or ())


def bridge_name(network: Network) -> str:
    """The bridge that nodes plug guests of a network into, on all nodes the same; "" for none."""
    if not is_trunked(network):
        return network.bridge.name
    device = network.forward.dev
    return vlan.single_name(device, _tags(network)[0]) if is_single(network) else vlan.trunk_name(device)


def trunk(network: Network) -> WantedTrunk:
    """What nodes shall have for it, with the document's name of the device."""
    return WantedTrunk(network.forward.dev, _tags(network), is_single(network))


def of_guest(network: Network, group: str) -> tuple[WantedTag, ...]:
    """VLANs of an interface that names a port group, "" for none; as in libvirt the group's go before the network's."""
    if not is_trunked(network) or is_single(network):
        return ()
    found = _group(network, group)
    said = found.vlan if found is not None and found.vlan is not None else network.vlan
    if said is None:
        return ()
    if not said.trunk:
        return (WantedTag(said.tags[0].id, native=True, untagged=True),)
    return tuple(WantedTag(tag.id, bool(tag.native), tag.native == "untagged") for tag in said.tags)


def _group(network: Network, name: str) -> PortGroup | None:
    if name:
        return next((group for group in network.portgroups if group.name == name), None)
    return next((group for group in network.portgroups if group.default), None)


# ---- what is not possible ---------------------------------------------------------------------------------


def problems(network: Network) -> Iterator[str]:
    """Why nodes could not have the VLANs of a network that is_trunked, one sentence each."""
    if not is_trunked(network):
        return
    if len(network.forward.interfaces) > 1:
        yield f"it has VLANs and {len(network.forward.interfaces)} interfaces, one is allowed"
    for found in _vlans(network):
        tags = [tag.id for tag in found.tags]
        for tag in tags:
            if not 1 <= tag <= LAST_TAG:
                yield f"the VLAN tag is {tag}, allowed are 1 to {LAST_TAG}"
        for tag in sorted({tag for tag in tags if tags.count(tag) > 1}):
            yield f"a <vlan> has the tag {tag} more than once"
    if is_single(network):
        groups = [group.name for group in network.portgroups if group.vlan is not None]
        if groups:
            yield f"it has a VLAN link of its own, its port group {groups[0]} can have no other <vlan>"
        if network.vlan is not None and network.vlan.trunk:
            yield f"it has a VLAN link of its own, for one tag; it names a trunk of {len(network.vlan.tags)}"


def clashes(one: Network, other: Network) -> Iterator[str]:
    """What of one is the other's already.  Trunks may carry what others have: that is what they are for."""
    if not (is_trunked(one) and is_trunked(other)) or one.forward.dev != other.forward.dev:
        return
    # The link takes all frames of its tag before any bridge sees them.
    whole = is_single(one) or is_single(other)
    mine, its = (set(_tags(found) if whole else _access(found)) for found in (one, other))
    for tag in sorted(mine & its):
        yield f"VLAN {tag} of {one.forward.dev} is in use by network '{other.name}'"


def _access(network: Network) -> tuple[int, ...]:
    return tuple(found.tags[0].id for found in _vlans(network) if not found.trunk)


def _tags(network: Network) -> tuple[int, ...]:
    return tuple(sorted({tag.id for found in _vlans(network) for tag in found.tags}))


def _vlans(network: Network) -> tuple[Vlan, ...]:
    every = (network.vlan, *(group.vlan for group in network.portgroups))
    return tuple(found for found in every if found is not None)


def _ports(network: Network) -> bool:
    """Switches that have VLANs of their own are to be used."""
    every = (network.virtualport, *(group.virtualport for group in network.portgroups))
    return any(found is not None and found.type for found in every)
