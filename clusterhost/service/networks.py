"""Use cases about one network: define, start, update, destroy, undefine.  Knows documents and rows; what nodes do with
them is in network_nodes.py, addresses are in addresses.py.

Each is done to its end even if its client leaves.  Texts of refusals that a libvirtd gives too are libvirt's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import (
    ClusterError,
    InvalidArgument,
    InvalidOperation,
    NetworkExists,
    NetworkNotFound,
)
from clusterhost.service.context import Context
from clusterhost.service.ports import Caller
from clusterhost.service.xml import new_uuid
from clusterhost.store.crash import crash_point
from clusterhost.store.rows import Change, DropLease, DropNetwork, NetworkRow, PutNetwork
from netmgr import tags
from netmgr.model import Mode, Nat, Network, PortRange

T = TypeVar("T")

DEFINED, UNDEFINED, STARTED, STOPPED = range(4)
"""virNetworkEventLifecycleType"""

LIVE, CONFIG = 1, 2
"""virNetworkUpdateFlags"""

PORTS = PortRange(1024, 65535)

NONE: Mapping[str, int] = MappingProxyType({})

FIRST_VNI, LAST_VNI = 1, (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """What happened to a network.  kind: virNetworkEventLifecycleType."""

    uuid: bytes
    name: str
    kind: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is said of a network.  kind: virNetworkMetadataType; text None takes it away; key: prefix of an element."""

    kind: int
    text: str | None
    key: str | None
    uri: str | None


@dataclass(frozen=True, slots=True)
class MetadataEvent:
    """It was said anew."""

    uuid: bytes
    name: str
    kind: int
    uri: str | None


@dataclass(frozen=True, slots=True)
class Net:
    """A network as clients see it.  config: the persistent definition, live: what is in force; None where there is
    none."""

    row: NetworkRow
    config: Network | None
    live: Network | None

    @property
    def uuid(self) -> bytes:
        """16 raw bytes."""
        return self.row.uuid

    @property
    def name(self) -> str:
        """Unique in the cluster."""
        return self.row.name

    @property
    def active(self) -> bool:
        """Guests can be plugged in."""
        return self.live is not None

    @property
    def persistent(self) -> bool:
        """It outlives its end."""
        return self.config is not None

    @property
    def shown(self) -> Network:
        """What is in force, else what is defined."""
        found = self.live or self.config
        assert found is not None
        return found


class Documents(Protocol):
    """netmgr's way between documents and values, bound to what a new network needs."""

    def read(self, xml: str, *, validate: bool) -> Network:
        """InvalidXml, ConfigUnsupported."""

    def complete(
        self, network: Network, uuid: bytes, others: list[Network], taken: Collection[str]
    ) -> Network:
        """With uuid, bridge name (none of `taken`) and MAC filled in; NetworkRefused."""

    def write(
        self, network: Network, *, connections: int | None = None, used: Mapping[str, int] = NONE
    ) -> str:
        """The document; used: guests on each link that it forwards to."""

    def update(self, network: Network, command: int, section: int, index: int, xml: str) -> Network:
        """net-update."""

    def beside(self, network: Network, others: list[Network]) -> None:
        """NetworkRefused when it has what is another's."""

    def metadata(self, network: Network, kind: int, uri: str | None) -> str:
        """Title, description or an element; NetworkRefused."""

    def with_metadata(self, network: Network, metadata: Metadata) -> Network:
        """The network with other metadata; NetworkRefused."""


class Leases(Protocol):
    """Who has which address (addresses.py)."""

    def moved(self, network: Network) -> tuple[Change, ...]:
        """What interfaces get by a definition that comes into force; NetworkRefused when it gives away what another one
        has."""


class Survey(Protocol):
    """What nodes have (network_survey.py)."""

    @property
    def taken(self) -> set[str]:
        """Names of links that are not ours."""

    def check(self, network: Network, *, new: bool) -> None:
        """NetworkRefused when no node could have it, or what is new meets something in its way on one."""


class Realiser(Protocol):
    """Makes nodes follow (network_nodes.py)."""

    async def survey(self) -> Survey:
        """Ask all nodes that are there."""

    async def follow(self, uuid: bytes) -> None:
        """The network changed: tell all nodes; returns when each has answered, or is known not to.  A ClusterError when
        nodes answered and none could do it."""

    async def altered(self, was: Net, moved: tuple[Change, ...]) -> None:
        """As follow, of a network that nodes have as it was: they are told what is different where that is little.
        moved: leases that changed with it."""


class Networks:
    """What clients ask of networks."""

    def __init__(self, context: Context, documents: Documents, realiser: Realiser) -> None:
        self._context = context
        self._documents = documents
        self._realiser = realiser
        self._nets: dict[bytes, Net] = {}
        self.listeners: list[Callable[[NetworkEvent | MetadataEvent], None]] = []
        self.leases: Leases | None = None

    def load(self) -> None:
        """Read what the store has; what is to be there from the start is active."""
        for row in self._context.ledger.networks.values():
            if row.autostart and not row.live:
                row = replace(row, live=row.xml)
                self._context.ledger.note(PutNetwork(row))
            self._nets[row.uuid] = self._net(row)

    # -- asking

    def all(self) -> Iterator[Net]:
        """In the order in which they were made."""
        return iter(self._nets.values())

    def found(self, uuid: bytes) -> Net | None:
        """None for one that is not there (any more)."""
        return self._nets.get(uuid)

    def by_uuid(self, uuid: bytes) -> Net:
        """NetworkNotFound."""
        net = self._nets.get(uuid)
        if net is None:
            raise NetworkNotFound(f"no network with matching uuid '{format_uuid(uuid)}'")
        return net

    def by_name(self, name: str) -> Net:
        """NetworkNotFound."""
        for net in self._nets.values():
            if net.name == name:
                return net
        raise NetworkNotFound(f"no network with matching name '{name}'")

    def xml(
        self, uuid: bytes, *, inactive: bool, connections: Callable[[bytes], int], used: Mapping[str, int]
    ) -> str:
        """The document of what is in force, or of the definition; of a transient one there is only the former.
        used: guests on each link that it forwards to."""
        net = self.by_uuid(uuid)
        if net.live is None or (inactive and net.config is not None):
            return self._documents.write(self._config(net))
        count = 0 if inactive else connections(uuid)
        return self._documents.write(_in_force(net.live), connections=count or None, used=used)

    def is_bridged(self, name: str) -> bool:
        """There is one of that name, and nodes have bridges of ours for it."""
        return any(net.name == name and tags.is_made(net.shown) for net in self._nets.values())

    def metadata(self, uuid: bytes, kind: int, uri: str | None, flags: int) -> str:
        """NetworkRefused when there is none."""
        net = self.by_uuid(uuid)
        if flags & LIVE and flags & CONFIG:
            raise InvalidArgument("of what is in force or of the definition, not of both")
        in_live, _ = _affected(net, flags, "networkGetMetadata")
        network = net.live if in_live else net.config
        assert network is not None
        return self._documents.metadata(network, kind, uri)

    def bridge_name(self, uuid: bytes) -> str:
        """The bridge that nodes plug guests into; ClusterError when it has none."""
        net = self.by_uuid(uuid)
        if not net.shown.bridge.name:
            raise ClusterError(f"network '{net.name}' does not have a bridge name.")
        return net.shown.bridge.name

    # -- changing

    async def define(self, caller: Caller, xml: str, *, validate: bool) -> Net:
        """Make or change a definition.  NetworkExists, InvalidXml, ConfigUnsupported."""
        return await self._finish(self._define(caller, xml, validate), "define network")

    async def create(self, caller: Caller, xml: str, *, validate: bool) -> Net:
        """Start one from a document; it is transient unless it is defined already."""
        return await self._finish(self._create(caller, xml, validate), "create network")

    async def start(self, caller: Caller, uuid: bytes) -> None:
        """Start a defined one; InvalidOperation when it is active."""
        await self._finish(self._start(caller, uuid), "start network")

    async def destroy(self, caller: Caller, uuid: bytes) -> None:
        """Stop it; a transient one is gone then.  InvalidOperation when it is not active."""
        await self._finish(self._destroy(caller, uuid), "destroy network")

    async def undefine(self, caller: Caller, uuid: bytes) -> None:
        """Drop the definition; an active one goes on as a transient one."""
        await self._finish(self._undefine(caller, uuid), "undefine network")

    async def set_autostart(self, caller: Caller, uuid: bytes, on: bool) -> None:
        """Whether it is active after the cluster starts."""
        async with self._lock(uuid):
            net = self.by_uuid(uuid)
            if not net.persistent:
                raise InvalidOperation("cannot set autostart for transient network")
            await self._commit(replace(net.row, autostart=on), caller, "autostart", "on" if on else "off")

    async def update(
        self, caller: Caller, uuid: bytes, command: int, section: int, index: int, xml: str, flags: int
    ) -> None:
        """Change a part of it, in force and (or) in the definition; as libvirt, flags 0 mean what it is now."""
        await self._finish(self._update(caller, uuid, command, section, index, xml, flags), "update network")

    async def set_metadata(self, caller: Caller, uuid: bytes, metadata: Metadata, flags: int) -> None:
        """Say something of it, in what is in force and (or) in the definition."""
        await self._finish(self._set_metadata(caller, uuid, metadata, flags), "describe network")

    # -- the work

    async def _define(self, caller: Caller, xml: str, validate: bool) -> Net:
        network = self._documents.read(xml, validate=validate)
        async with self._lock(network.uuid or network.name.encode()):
            net, network = await self._possible(network)
            self._moved(network)  # or it could not be started
            text = self._documents.write(network)
            row = self._new_row(network) if net is None else net.row
            kept = await self._commit(replace(row, xml=text), caller, "define network", "")
            self._tell(kept, DEFINED)
            return kept

    async def _create(self, caller: Caller, xml: str, validate: bool) -> Net:
        network = self._documents.read(xml, validate=validate)
        async with self._lock(network.uuid or network.name.encode()):
            net, network = await self._possible(network)
            if net is not None and net.active:
                raise InvalidOperation(f"network is already active as '{net.name}'")
            row = self._new_row(network) if net is None else net.row
            return await self._activate(caller, row, self._documents.write(network))

    async def _start(self, caller: Caller, uuid: bytes) -> None:
        async with self._lock(uuid):
            net = self.by_uuid(uuid)
            if net.active:
                raise InvalidOperation("network is already active")
            await self._activate(caller, net.row, net.row.xml)

    async def _activate(self, caller: Caller, row: NetworkRow, live: str) -> Net:
        """On record first: a crash in between leaves what nodes are told to complete."""
        moved = self._moved(self._documents.read(live, validate=False))
        row = replace(row, live=live, serial=row.serial + 1)
        crash_point("network.before_commit")
        net = await self._commit(row, caller, "start network", "", *moved)
        crash_point("network.after_commit")
        try:
            await self._realiser.follow(row.uuid)
        except ClusterError as error:
            await self._deactivate(net, caller, f"no node could make it: {error}")
            raise
        crash_point("network.after_act")
        self._tell(net, STARTED)
        return net

    async def _destroy(self, caller: Caller, uuid: bytes) -> None:
        async with self._lock(uuid):
            net = self.by_uuid(uuid)
            if not net.active:
                raise InvalidOperation(f"network '{net.name}' is not active")
            await self._deactivate(net, caller, "")
            self._tell(net, STOPPED)

    async def _deactivate(self, net: Net, caller: Caller, why: str) -> None:
        row = replace(net.row, live="", serial=net.row.serial + 1)
        crash_point("network.before_commit")
        if row.xml:
            await self._commit(row, caller, "stop network", why)
        else:
            await self._forget(row, caller, "stop network", why)
        crash_point("network.after_commit")
        with contextlib.suppress(ClusterError):  # a node that cannot is told again until it does
            await self._realiser.follow(net.uuid)
        crash_point("network.after_act")

    async def _undefine(self, caller: Caller, uuid: bytes) -> None:
        async with self._lock(uuid):
            net = self.by_uuid(uuid)
            if not net.persistent:
                raise InvalidOperation("can't undefine transient network")
            row = replace(net.row, xml="", autostart=False)
            if net.active:
                await self._commit(row, caller, "undefine network", "it goes on as a transient one")
            else:
                await self._forget(row, caller, "undefine network", "")
            self._tell(net, UNDEFINED)

    async def _update(
        self, caller: Caller, uuid: bytes, command: int, section: int, index: int, xml: str, flags: int
    ) -> None:
        async with self._lock(uuid):
            net = self.by_uuid(uuid)
            in_live, in_config = _affected(net, flags, "networkUpdate")
            row = net.row
            moved: tuple[Change, ...] = ()
            if in_live and net.live is not None:
                changed = self._updated(net, net.live, command, section, index, xml)
                if not changed.mode.has_own_bridge:
                    (await self._realiser.survey()).check(changed, new=False)  # it may name another link now
                moved = self._moved(changed)
                row = replace(row, live=self._documents.write(changed), serial=row.serial + 1)
            if in_config:
                changed = self._updated(net, self._config(net), command, section, index, xml)
                row = replace(row, xml=self._documents.write(changed))
            await self._commit(row, caller, "update network", f"section {section}", *moved)
            if in_live:
                await self._realiser.altered(net, moved)

    async def _set_metadata(self, caller: Caller, uuid: bytes, metadata: Metadata, flags: int) -> None:
        async with self._lock(uuid):
            net = self.by_uuid(uuid)
            in_live, in_config = _affected(net, flags, "networkSetMetadata")
            row = net.row
            if in_live and net.live is not None:
                changed = self._documents.with_metadata(net.live, metadata)
                row = replace(row, live=self._documents.write(changed))
            if in_config:
                changed = self._documents.with_metadata(self._config(net), metadata)
                row = replace(row, xml=self._documents.write(changed))
            await self._commit(row, caller, "describe network", "")
            self._publish(MetadataEvent(net.uuid, net.name, metadata.kind, metadata.uri))

    # -- within

    def _updated(
        self, net: Net, network: Network, command: int, section: int, index: int, xml: str
    ) -> Network:
        changed = self._documents.update(network, command, section, index, xml)
        self._documents.beside(
            changed, [other.shown for other in self._nets.values() if other.uuid != net.uuid]
        )
        return changed

    async def _possible(self, network: Network) -> tuple[Net | None, Network]:
        """As _meant, and nodes can have it."""
        self._meant(network)  # what is wrong without asking anybody
        found = await self._realiser.survey()
        net, network = self._meant(network, found.taken)
        found.check(network, new=net is None)
        return net, network

    def _meant(self, network: Network, taken: Collection[str] = ()) -> tuple[Net | None, Network]:
        """The network that a document is about, None for a new one, and the document's complete value."""
        for net in self._nets.values():
            if net.name == network.name and network.uuid not in (b"", net.uuid):
                text = f"network '{net.name}' already exists with uuid {format_uuid(net.uuid)}"
                raise NetworkExists(text)
        existing = self._nets.get(network.uuid) if network.uuid else None
        if existing is not None and existing.name != network.name:
            text = f"network '{existing.name}' is already defined with uuid {format_uuid(existing.uuid)}"
            raise NetworkExists(text)
        if existing is None and not network.uuid:
            existing = next((net for net in self._nets.values() if net.name == network.name), None)
        uuid = existing.uuid if existing is not None else network.uuid or new_uuid()
        others = [net.shown for net in self._nets.values() if net.uuid != uuid]
        return existing, self._documents.complete(network, uuid, others, taken)

    def _new_row(self, network: Network) -> NetworkRow:
        taken = {net.row.vni for net in self._nets.values()}
        vni = next(number for number in range(FIRST_VNI, LAST_VNI) if number not in taken)
        return NetworkRow(network.uuid, network.name, vni)

    def _config(self, net: Net) -> Network:
        if net.config is None:
            raise InvalidOperation(f"network '{net.name}' does not have a persistent config")
        return net.config

    async def _commit(self, row: NetworkRow, caller: Caller, kind: str, text: str, *more: Change) -> Net:
        ledger, net = self._context.ledger, self._net(row)
        await ledger.commit(PutNetwork(row), *more, ledger.journal(kind, row.name, caller.who, text))
        self._nets[row.uuid] = net
        return net

    async def _forget(self, row: NetworkRow, caller: Caller, kind: str, text: str) -> None:
        ledger = self._context.ledger
        leases = [DropLease(lease.key) for lease in ledger.leases.of_network(row.uuid)]
        line = ledger.journal(kind, row.name, caller.who, text)
        await ledger.commit(DropNetwork(row.uuid), *leases, line)
        del self._nets[row.uuid]

    def _net(self, row: NetworkRow) -> Net:
        config = self._documents.read(row.xml, validate=False) if row.xml else None
        live = self._documents.read(row.live, validate=False) if row.live else None
        return Net(row, config, live)

    def _tell(self, net: Net, kind: int) -> None:
        self._publish(NetworkEvent(net.uuid, net.name, kind))

    def _publish(self, event: NetworkEvent | MetadataEvent) -> None:
        for listener in self.listeners:
            listener(event)

    def _moved(self, network: Network) -> tuple[Change, ...]:
        return self.leases.moved(network) if self.leases is not None else ()

    def _lock(self, key: bytes) -> AbstractAsyncContextManager[None]:
        return self._context.locks.hold(b"network" + key, "networks")

    async def _finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        return await self._context.tasks.finish(work, what)


def _in_force(network: Network) -> Network:
    """libvirt shows the ports that outgoing traffic gets only while the network is active."""
    nat = network.forward.nat or Nat()
    if network.mode is not Mode.NAT or nat.ports is not None:
        return network
    return replace(network, forward=replace(network.forward, nat=replace(nat, ports=PORTS)))


def _affected(net: Net, flags: int, function: str) -> tuple[bool, bool]:
    """Whether a change is of what is in force, and of the definition; InvalidOperation."""
    if flags & ~(LIVE | CONFIG):
        raise InvalidArgument(f"unsupported flags (0x{flags & ~(LIVE | CONFIG):x}) in function {function}")
    wanted = flags or (LIVE if net.active else CONFIG)
    if wanted & LIVE and not net.active:
        raise InvalidOperation("network is not running")
    if wanted & CONFIG and not net.persistent:
        raise InvalidOperation("cannot change persistent config of a transient network")
    return bool(wanted & LIVE), bool(wanted & CONFIG)
