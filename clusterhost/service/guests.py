"""Interfaces of domains on the cluster's networks: their MACs and addresses come before the definition reaches a node.

In front of Domains.define and create_xml, of hot-plug, and beside the inventory.  Which address is addresses.py's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidOperation, NetworkNotFound, NetworkRefused
from clusterhost.service.addresses import Addresses, Handed
from clusterhost.service.context import Context
from clusterhost.service.interfaces import Interface, Interfaces
from clusterhost.service.network_documents import refusals
from clusterhost.service.networks import DEFINED, STARTED, MetadataEvent, NetworkEvent, Networks
from clusterhost.service.numbering import Definitions, with_xml
from clusterhost.service.ports import Answer, Caller, ClusterEvent
from clusterhost.service.xml import new_uuid, read_identity, with_uuid
from compat.libvirt.schema import BY_NAME, Procedure

DEVICE_REMOVED = "remote:DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED"
REMOVED = (BY_NAME[DEVICE_REMOVED].program_id, BY_NAME[DEVICE_REMOVED].number)
UPDATE = "DOMAIN_UPDATE_DEVICE_FLAGS"
CONFIG = 2
"""VIR_DOMAIN_AFFECT_CONFIG"""


@dataclass(frozen=True, slots=True)
class Plugged:
    """An interface of a running domain.  device: the node's link."""

    device: str
    mac: str
    addresses: tuple[Handed, ...]


class Guests:
    """Definitions with addresses."""

    def __init__(
        self, context: Context, networks: Networks, addresses: Addresses, domains: Definitions
    ) -> None:
        self._context = context
        self._networks = networks
        self._addresses = addresses
        self._domains = domains
        self._in_hand: Counter[bytes] = Counter()

    async def define(self, caller: Caller, procedure: Procedure, payload: bytes, xml: str) -> Answer:
        """As Domains.define; NetworkRefused when an interface cannot have what it asks for."""
        return await self._with_addresses(
            procedure,
            payload,
            xml,
            lambda payload, xml: self._domains.define(caller, procedure, payload, xml),
        )

    async def create_xml(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, flags: int
    ) -> Answer:
        """As Domains.create_xml."""
        return await self._with_addresses(
            procedure,
            payload,
            xml,
            lambda payload, xml: self._domains.create_xml(caller, procedure, payload, xml, flags),
            starts=True,
        )

    def check_start(self, uuid: bytes) -> None:
        """A defined domain is about to start.  InvalidOperation when a network of its is not active."""
        row = self._context.ledger.domains.get(uuid)
        found = Interfaces.of(row.xml, self._known) if row is not None else None
        if found is not None:
            self._must_be_active(found)

    async def plug(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        """Relay a call that plugs a device in or changes it; an interface on a network of ours gets its MAC (a new one
        only) and address before.  NetworkRefused."""
        return await self._context.tasks.finish(self._plug(caller, procedure, payload, uuid), "plug")

    async def unplug(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        """Relay a call that takes a device away, and look what is left: no event tells of a definition's."""
        return await self._context.tasks.finish(self._unplug(caller, procedure, payload, uuid), "unplug")

    async def plugged(self, domain: Domain) -> list[Plugged]:
        """The interfaces of a running domain on networks of ours, as its node has them now.  NodeError."""
        found = Interfaces.of(await self._context.virt.live_xml(domain.node, domain.uuid), self._known)
        return [self._plugged(interface) for interface in (found.all() if found is not None else ())]

    # -- inventory's follower

    def defined(self, uuid: bytes, xml: str) -> None:
        """A node told of a definition: interfaces that came behind our back are known from now on, gone ones go."""
        self._redefined(uuid, xml)

    def domain_changed(self, before: Domain | None, now: Domain | None) -> None:
        """See Addresses; what was plugged into a run only is gone with it."""
        self._addresses.domain_changed(before, now)
        if now is None or before is None or not before.active or now.active:
            return
        row = self._context.ledger.domains.get(now.uuid)
        if row is not None and row.xml:
            self._settle(now, row.xml)

    def happened(self, event: ClusterEvent) -> None:
        """EventBus: a device is gone when its guest has let go of it."""
        if (event.program, event.procedure) == REMOVED:
            self._look(event.uuid)

    # -- within

    async def _plug(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        context = self._context
        domain = context.cluster.by_uuid(uuid, caller.view)
        context.reachable(domain.node)
        assert procedure.args is not None
        args: Any = procedure.args.from_bytes(payload)
        found = Interfaces.of(args.xml, self._known)
        if found is None:
            return await self._pass_on(domain, procedure, payload)
        context.cluster.begin(uuid)
        try:
            with self._handling(uuid):
                args = await self._with_address(procedure, domain, args, found)
                return await self._pass_on(domain, procedure, args.to_bytes())
        finally:
            context.cluster.end(uuid)
            self._look(uuid)

    async def _pass_on(self, domain: Domain, procedure: Procedure, payload: bytes) -> Answer:
        deadline = self._context.settings.calls.long_deadline or None
        return await self._context.virt.pass_on(domain.node, procedure, payload, domain.uuid, deadline)

    async def _unplug(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        context = self._context
        domain = context.cluster.by_uuid(uuid, caller.view)
        context.reachable(domain.node)
        context.cluster.begin(uuid)
        try:
            return await self._pass_on(domain, procedure, payload)
        finally:
            context.cluster.end(uuid)
            self._look(uuid)

    async def _with_address(self, procedure: Procedure, domain: Domain, args: Any, found: Interfaces) -> Any:
        """The arguments with a MAC for a new interface.  One that is to be changed is found by what it has."""
        interfaces = found.all()
        if domain.active and getattr(args, "flags", 0) != CONFIG:
            self._must_be_active(found)
        if procedure.name == UPDATE and not all(each.mac for each in interfaces):
            return args
        with refusals():
            given = self._addresses.give(domain.uuid, domain.name, interfaces)
        await self._context.ledger.commit(*given.changes)
        self._addresses.tell(domain.uuid)
        return msgspec.structs.replace(args, xml=found.with_macs(given.macs))

    def _must_be_active(self, found: Interfaces) -> None:
        for interface in found.all():
            net = self._networks.by_name(interface.network)
            if not net.active:
                raise InvalidOperation(f"network '{interface.network}' is not active")
            if interface.floor and net.shown.mode.has_own_bridge:
                # What one node guarantees is nothing to a guest's peers on others; libvirtd would refuse it too.
                text = f"Invalid use of 'floor' on interface with MAC address {interface.mac}"
                text += f" - network '{net.name}' spans nodes"
                raise NetworkRefused(text, "OperationUnsupported")

    def _plugged(self, interface: Interface) -> Plugged:
        net = self._networks.by_name(interface.network)
        handed = self._addresses.handed(net.uuid, interface.mac)
        return Plugged(interface.device, interface.mac, tuple(handed))

    # -- after something changed

    def network_changed(self, event: NetworkEvent | MetadataEvent) -> None:
        """networks.listeners: one that came (again) has the interfaces that named it before it was there."""
        if not isinstance(event, NetworkEvent) or event.kind not in (DEFINED, STARTED):
            return
        for row in list(self._context.ledger.domains.values()):
            if event.name in row.xml and "network" in row.xml:
                self._redefined(row.uuid, row.xml)

    def _look(self, uuid: bytes) -> None:
        self._context.tasks.spawn(self._look_at(uuid), "interfaces")

    async def _look_at(self, uuid: bytes) -> None:
        """Ask the node what the domain has."""
        domain = self._context.cluster.get(uuid)
        if domain is None or self._in_hand[uuid]:
            return
        virt, texts = self._context.virt, []
        if domain.active:
            texts.append(await virt.live_xml(domain.node, uuid))
        if domain.persistent:
            texts.append(await virt.inactive_xml(domain.node, uuid))
        now = self._context.cluster.get(uuid)
        if now is not None and not self._in_hand[uuid] and (now.node, now.id) == (domain.node, domain.id):
            self._settle(now, *texts)

    def _settle(self, domain: Domain, *texts: str) -> None:
        """These documents are all that the domain has."""
        interfaces: dict[tuple[bytes, str], Interface] = {}
        for text in texts:
            found = Interfaces.of(text, self._known)
            for each in found.all() if found is not None else ():
                if each.mac:
                    # What runs comes first: it is what nodes shall know.
                    interfaces.setdefault((self._networks.by_name(each.network).uuid, each.mac), each)
        have = {(row.network, row.mac) for row in self._context.ledger.leases.of_domain(domain.uuid)}
        if new := [each for key, each in interfaces.items() if key not in have]:
            with contextlib.suppress(ClusterError), refusals():  # its address is another's: it stays without
                self._context.ledger.note(*self._addresses.give(domain.uuid, domain.name, new).changes)
                self._addresses.tell(domain.uuid)
        self._addresses.isolate({key: each for key, each in interfaces.items() if key in have})
        if not self._in_hand[domain.uuid]:
            self._addresses.let_go(domain.uuid, keep=interfaces)

    async def _with_addresses(
        self,
        procedure: Procedure,
        payload: bytes,
        xml: str,
        act: Callable[[bytes, str], Awaitable[Answer]],
        *,
        starts: bool = False,
    ) -> Answer:
        found = Interfaces.of(xml, self._known)
        if found is None:
            return await act(payload, xml)
        if starts:
            self._must_be_active(found)
        identity = read_identity(xml)
        uuid, name = identity.uuid or new_uuid(), identity.name or ""
        with refusals():
            given = self._addresses.give(uuid, name, found.all())
        xml = found.with_macs(given.macs)
        if identity.uuid is None:
            xml = with_uuid(xml, uuid)
        before = {(row.network, row.mac) for row in self._context.ledger.leases.of_domain(uuid)}
        try:
            with self._handling(uuid):
                await self._context.ledger.commit(*given.changes)
                self._addresses.tell(uuid)
                answer = await act(with_xml(procedure, payload, xml), xml)
        except ClusterError:
            # What an intent may yet make is found again by `defined`.
            self._addresses.let_go(uuid, before)
            raise
        if not answer.ok:
            self._addresses.let_go(uuid, before)
        elif before:
            self._redefined(uuid, xml)
        return answer

    def _redefined(self, uuid: bytes, xml: str) -> None:
        domain = self._context.cluster.get(uuid)
        if domain is not None and domain.active:
            self._look(uuid)
        elif domain is not None:
            self._settle(domain, xml)

    @contextlib.contextmanager
    def _handling(self, uuid: bytes) -> Iterator[None]:
        """What it gets is not in its documents yet."""
        self._in_hand[uuid] += 1
        try:
            yield
        finally:
            self._in_hand[uuid] -= 1
            if not self._in_hand[uuid]:
                del self._in_hand[uuid]

    def _known(self, name: str) -> bool:
        try:
            self._networks.by_name(name)
        except NetworkNotFound:
            return False
        return True
