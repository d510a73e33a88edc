"""What a document leaves open and libvirt fills in, and what the libvirtd of a node is given.  Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from hashlib import blake2b

from netmgr import tags, xml
from netmgr.errors import InUse
from netmgr.model import Bridge, Forward, Mode, Network
from netmgr.wanted import NAMESPACE

BRIDGE_TEMPLATE = "virbr%d"
MOST_BRIDGES = 1 << 16


def complete(network: Network, uuid: bytes, mac: str, taken: Container[str]) -> Network:
    """The network with uuid, and (where the bridge is ours) the bridge's name and MAC, where it has none.

    taken: names of bridges that it cannot have.  A name with %d gets the first number that makes it free.  InUse."""
    network = replace(network, uuid=network.uuid or uuid)
    if not network.mode.has_own_bridge:
        return network
    name = network.bridge.name or BRIDGE_TEMPLATE
    if "%d" in name:
        name = _free_name(name, taken)
    return replace(network, bridge=replace(network.bridge, name=name), mac=network.mac or mac)


def _free_name(template: str, taken: Container[str]) -> str:
    for number in range(MOST_BRIDGES):
        name = template.replace("%d", str(number), 1)
        if name not in taken:
            return name
    raise InUse(f"all {MOST_BRIDGES} bridge names of '{template}' are in use")


def shadow(network: Network, names: Mapping[str, str] | None = None) -> str:
    """The document of the network that stands for ours at a node's libvirtd; see for_libvirtd."""
    return xml.write(for_libvirtd(network, names))


def for_libvirtd(network: Network, names: Mapping[str, str] | None = None) -> Network:
    """What a node's libvirtd is given: the same name and uuid, with our mark as metadata.

    A network with a bridge of ours (also for VLANs) becomes one in bridge mode; another is passed on, with the node's
    `names` for its devices.  Port groups stay, but for VLANs where libvirt could have none."""
    if tags.is_trunked(network):
        given = _bridged(network, tags.bridge_name(network))
    elif network.mode.has_own_bridge:
        given = _bridged(network, network.bridge.name)
    else:
        given = _passed(network, names or {})
    # libvirt writes a definition in its own way, which cannot be compared: the mark names the content.
    digest = blake2b(xml.write(given).encode(), digest_size=16).hexdigest()
    return replace(given, metadata=(f'<ch:shadow xmlns:ch="{NAMESPACE}" digest="{digest}"/>',))


def _bridged(network: Network, bridge: str) -> Network:
    return Network(
        network.name,
        network.uuid,
        forward=Forward(Mode.BRIDGE),
        bridge=Bridge(bridge, mac_table=network.bridge.mac_table),
        portgroups=tuple(replace(group, vlan=None) for group in network.portgroups),
        isolated=network.isolated,
        trust_rx_filters=network.trust_rx_filters,
    )


def _passed(network: Network, names: Mapping[str, str]) -> Network:
    forward = network.forward
    here = replace(
        forward,
        interfaces=tuple(names.get(name, name) for name in forward.interfaces),
        pf=names.get(forward.pf, forward.pf),
    )
    bridge = replace(network.bridge, name=names.get(network.bridge.name, network.bridge.name))
    return replace(network, metadata=None, forward=here, bridge=bridge, kept=())
