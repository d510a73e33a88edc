"""Networks put together: documents, leases, guests, nodes.  Wires and translates; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from clusterhost.model.cluster import format_uuid
from clusterhost.service.addresses import Addresses
from clusterhost.service.context import Context
from clusterhost.service.events import EventBus
from clusterhost.service.guests import Guests
from clusterhost.service.interface_map import InterfaceMap, names_of
from clusterhost.service.interfaces import Interfaces
from clusterhost.service.network_changes import Altered, altered
from clusterhost.service.network_documents import NetworkDocuments
from clusterhost.service.network_nodes import NetworkNodes, underlay_address
from clusterhost.service.network_orders import order
from clusterhost.service.network_ports import NetworkPorts
from clusterhost.service.network_survey import NetworkSurvey, Surveyed
from clusterhost.service.network_uses import NetworkUses
from clusterhost.service.network_wanted import Underlay, wanted
from clusterhost.service.networks import MetadataEvent, Net, NetworkEvent, Networks
from clusterhost.service.numbering import Definitions
from clusterhost.service.outside import OutsideNames, services_of
from clusterhost.service.ports import ClusterEvent
from clusterhost.store.rows import Change
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from netmgr import tags
from netmgr.model import Network
from netmgr.orders import PassNetwork, SetNetwork
from netmgr.wanted import WantedGuest, WantedNetwork

LIFECYCLE = BY_NAME["remote:NETWORK_EVENT_LIFECYCLE"]
METADATA = BY_NAME["remote:NETWORK_EVENT_CALLBACK_METADATA_CHANGE"]


FORGET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Networking:
    """What front ends use."""

    networks: Networks
    addresses: Addresses
    guests: Guests
    nodes: NetworkNodes
    ports: NetworkPorts
    outside: OutsideNames
    interface_map: InterfaceMap
    uses: NetworkUses

    def load(self) -> None:
        """What the store has."""
        self.networks.load()

    async def run(self) -> None:
        """For ever: forget addresses that nobody came back for; keep the names outside."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.outside.run(), name="names")
            while True:
                await asyncio.sleep(FORGET_SECONDS)
                self.addresses.forget_old()


@dataclass(frozen=True, slots=True)
class _Told:
    """Who hears of changes: the nodes, and who keeps the names outside."""

    nodes: NetworkNodes
    outside: OutsideNames
    surveyor: NetworkSurvey
    difference: Callable[[Net, tuple[Change, ...]], Altered | None]

    async def survey(self) -> Surveyed:
        return await self.surveyor.ask()

    async def follow(self, uuid: bytes) -> None:
        self.outside.look()
        await self.nodes.follow(uuid)

    async def altered(self, was: Net, moved: tuple[Change, ...]) -> None:
        self.outside.look()
        await self.nodes.follow(was.uuid, self.difference(was, moved))

    def guest(self, uuid: bytes, guest: WantedGuest, node: str) -> None:
        self.outside.look()
        self.nodes.guest(uuid, guest, node)

    def guest_gone(self, uuid: bytes, key: str) -> None:
        self.outside.look()
        self.nodes.guest_gone(uuid, key)


def build(context: Context, domains: Definitions, bus: EventBus, clock: Callable[[], float]) -> Networking:
    """All of it, listening to the inventory."""

    def wanted_at(uuid: bytes, underlay: Underlay, node: str) -> SetNetwork | PassNetwork | None:
        net = networks.found(uuid)
        if net is None or net.live is None:
            return None
        there = list(_guests_at(addresses, context, uuid, node))
        return order(net, underlay, there, names_of(context.ledger, node))

    def passed(uuid: bytes) -> bool:
        net = networks.found(uuid)
        return net is not None and net.live is not None and not tags.is_made(net.live)

    async def unfit(uuid: bytes, node: str) -> str:
        return await survey.problem(networks.by_uuid(uuid).shown, node)

    async def renamed(node: str, links: set[str]) -> None:
        await nodes.retell(
            [net.uuid for net in networks.all() if net.live and links & _links(net.live)], node
        )

    def known() -> list[bytes]:
        return [net.uuid for net in networks.all() if net.active]

    def named() -> Iterator[WantedNetwork]:
        for net in networks.all():
            if net.live is not None and net.live.mode.has_own_bridge:
                yield wanted(net, Underlay("", ()), [guest for guest, _ in addresses.guests(net.uuid)])

    nodes = NetworkNodes(context, wanted_at, known, passed, unfit)
    survey = NetworkSurvey(context)
    settings, owner = context.settings, format_uuid(context.cluster.uuid)
    prefix = settings.networks.mac_prefix
    outside = OutsideNames(settings.names, named, owner, clock, services_of(settings))
    told = _Told(nodes, outside, survey, lambda was, moved: _altered(networks, addresses, was, moved))
    networks = Networks(context, NetworkDocuments(), told)
    addresses = Addresses(context.cluster, context.ledger, networks, clock, told, prefix=prefix)
    networks.leases = addresses
    guests = Guests(context, networks, addresses, domains)
    networks.listeners.append(lambda event: bus.publish(_event(event)))
    networks.listeners.append(guests.network_changed)
    bus.subscribe(guests.happened)
    context.inventory.followers.append(guests)
    context.inventory.watchers.append(nodes)
    context.placing.lacking = partial(_lacking, networks, nodes, context)
    ports, interface_map = NetworkPorts(context, networks, nodes.ready), InterfaceMap(context, renamed)
    uses = NetworkUses(context, networks)
    return Networking(networks, addresses, guests, nodes, ports, outside, interface_map, uses)


def _links(network: Network) -> set[str]:
    """What it calls links of nodes."""
    return {*network.forward.interfaces, network.forward.pf, network.bridge.name}


def _altered(networks: Networks, addresses: Addresses, was: Net, moved: tuple[Change, ...]) -> Altered | None:
    return altered(was, networks.by_uuid(was.uuid), moved, partial(addresses.known, was.uuid))


def _guests_at(addresses: Addresses, context: Context, uuid: bytes, node: str) -> Iterator[WantedGuest]:
    """Guests with their places as a node sees them."""
    for guest, place in addresses.guests(uuid):
        there = "" if place in ("", node) else underlay_address(context.cluster.node(place))
        yield msgspec.structs.replace(guest, place=there)


def _lacking(networks: Networks, nodes: NetworkNodes, context: Context, xml: str) -> Mapping[str, str]:
    """Nodes that cannot have a network on which a domain has an interface, and why."""
    active = {net.name: net.uuid for net in networks.all() if net.active}
    found = Interfaces.of(xml, active.__contains__) if active else None
    names = {one.network for one in found.all()} if found is not None else set()
    return {
        node.name: f"cannot have network {name}: {problem}"
        for name in sorted(names)
        for node in context.cluster.cells()
        if (problem := nodes.problem(active[name], node.name))
    }


def _event(event: NetworkEvent | MetadataEvent) -> ClusterEvent:
    handle = messages.RemoteNonnullNetwork(name=event.name, uuid=event.uuid)
    if isinstance(event, MetadataEvent):
        said = messages.RemoteNetworkEventCallbackMetadataChangeMsg(0, handle, event.kind, event.uri)
        return ClusterEvent(METADATA.program_id, METADATA.number, said.to_bytes(), event.uuid, "")
    message = messages.RemoteNetworkEventLifecycleMsg(callbackID=0, net=handle, event=event.kind, detail=0)
    return ClusterEvent(LIFECYCLE.program_id, LIFECYCLE.number, message.to_bytes(), event.uuid, "")
