"""What a node is told of a network: its part of ours, or the network itself with the node's names.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from clusterhost.model.cluster import format_uuid
from clusterhost.service.network_wanted import Underlay, wanted
from clusterhost.service.networks import Net
from netmgr import fill, tags
from netmgr.orders import PassNetwork, SetNetwork
from netmgr.wanted import WantedGuest


def order(
    net: Net, underlay: Underlay, guests: Sequence[WantedGuest], names: Mapping[str, str]
) -> SetNetwork | PassNetwork:
    """Of an active network.  guests: with their places as this node sees them; names: what links are called there,
    where that differs."""
    network = net.live
    assert network is not None
    shadow = fill.shadow(network, names)
    if not tags.is_made(network):
        return PassNetwork(format_uuid(net.uuid), net.name, net.row.serial, shadow)
    found = wanted(net, underlay, guests)
    devices = tuple(names.get(name, name) for name in found.devices)
    trunk = found.trunk
    if trunk is not None:
        trunk = replace(trunk, device=names.get(trunk.device, trunk.device))
    return SetNetwork(replace(found, devices=devices, trunk=trunk), shadow=shadow)


def numbered(given: SetNetwork | PassNetwork, serial: int, take_over: bool) -> SetNetwork | PassNetwork:
    """The same with a serial, and whether it goes before the node's own of its name."""
    if isinstance(given, PassNetwork):
        return replace(given, serial=serial, take_over=take_over)
    return replace(given, network=replace(given.network, serial=serial), take_over=take_over)
