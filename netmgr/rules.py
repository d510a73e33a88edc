"""What libvirt's network driver refuses of a network that reads well: parts that do not go together.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from netmgr import tags
from netmgr.errors import ConfigUnsupported
from netmgr.model import Mode, Network, VirtualPort


def check(network: Network) -> None:
    """ConfigUnsupported with the first thing that is wrong."""
    for problem in problems(network):
        raise ConfigUnsupported(f"network '{network.name}': {problem}")


def problems(network: Network) -> Iterator[str]:
    """All of it, one sentence each."""
    yield from _beside_mode(network)
    yield from _devices(network)
    yield from _servers(network)
    yield from _port_groups(network)
    yield from _vlans(network)


def _beside_mode(network: Network) -> Iterator[str]:
    if network.mode.has_own_bridge:
        return
    found = (
        ("<ip>", bool(network.ips)),
        ("<mac>", bool(network.mac)),
        ("<domain>", network.domain is not None),
        ("<dns>", network.dns.records),
        ("<bandwidth>", network.bandwidth is not None),
    )
    for name, is_there in found:
        if is_there:
            yield f"{name} is not allowed in mode {network.mode}"


def _devices(network: Network) -> Iterator[str]:
    forward = network.forward
    if network.mode is Mode.HOSTDEV and forward.interfaces:
        yield f"mode hostdev lists the interface {forward.dev}, only PCI addresses and a pf are allowed"
    if network.mode is not Mode.HOSTDEV and forward.devices and not forward.interfaces:
        yield f"mode {network.mode} lists a PCI address, only mode hostdev may"


def _servers(network: Network) -> Iterator[str]:
    for version in (4, 6):
        count = sum(ip.version == version and ip.dhcp is not None for ip in network.ips)
        if count > 1:
            yield f"{count} <ip> of IPv{version} have <dhcp>, one is allowed"


def _port_groups(network: Network) -> Iterator[str]:
    names = [group.name for group in network.portgroups]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"there are {names.count(name)} port groups {name}, one is allowed"
    defaults = [group.name for group in network.portgroups if group.default]
    if len(defaults) > 1:
        yield f"the port groups {', '.join(defaults)} are each the default, one is allowed"


def _vlans(network: Network) -> Iterator[str]:
    places = [("", network.vlan, network.virtualport)]
    for group in network.portgroups:
        port = group.virtualport or network.virtualport
        places.append((f" of port group {group.name}", group.vlan, port))
    for whose, vlan, port in places:
        if vlan is not None and not _can_tag(network.mode, port) and not tags.is_trunked(network):
            yield f"<vlan>{whose} is not possible in mode {network.mode}"


def _can_tag(mode: Mode, port: VirtualPort | None) -> bool:
    if mode in (Mode.PASSTHROUGH, Mode.HOSTDEV):
        return True
    return mode is Mode.BRIDGE and port is not None and port.type == "openvswitch"
