"""Orders about networks: what is the kernel's goes to the worker, the network at libvirtd is ours, and looked after.

libvirtd is asked by libvirt-python's few names over the agent's own connection, as netmgr.apply.shadow wants it.  These
methods block: they are called in a thread, and ask through the loop.
"""

from __future__ import annotations

import asyncio
import logging
import uuid as uuids
from collections.abc import Awaitable, Callable
from typing import Any

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.networks import NetworkWorker
from clusterhost.agent.pool import Pool
from clusterhost.agent.records import Record, Records
from clusterhost.agent.taken import Taken
from compat.libvirt import messages as wire
from compat.libvirt.xdr import Message
from netmgr import orders
from netmgr.apply import shadow
from netmgr.orders import (
    ChangeNetwork,
    KeepOnly,
    Order,
    Outcome,
    PassNetwork,
    RemoveNetwork,
    SetGuest,
    SetNetwork,
    Survey,
)
from netmgr.plan import Refused

SECONDS = 20.0
HEAL_SECONDS = 5.0
_ACTIVE = 2
"""VIR_CONNECT_LIST_NETWORKS_ACTIVE"""

log = logging.getLogger(__name__)


class _Libvirtd:
    """shadow.LibvirtConnection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop = loop
        self._pool = pool

    def ask(self, name: str, args: Message) -> Any:
        """One call.  Unavailable, LibvirtRefused."""
        asked = asyncio.run_coroutine_threadsafe(self._pool.ask(f"remote:{name}", args), self._loop)
        return asked.result(SECONDS)

    def listAllNetworks(self, flags: int = 0) -> list[_Network]:  # noqa: N802 -- libvirt's name
        """All of them."""
        found = self.ask("CONNECT_LIST_ALL_NETWORKS", wire.RemoteConnectListAllNetworksArgs(1, flags))
        return [_Network(self, net) for net in found.nets]

    def networkDefineXML(self, xml: str) -> _Network:  # noqa: N802 -- libvirt's name
        """Define one."""
        return _Network(self, self.ask("NETWORK_DEFINE_XML", wire.RemoteNetworkDefineXmlArgs(xml)).net)


class _Network:
    """shadow.LibvirtNetwork."""

    def __init__(self, libvirtd: _Libvirtd, net: wire.RemoteNonnullNetwork) -> None:
        self._libvirtd = libvirtd
        self._net = net

    def name(self) -> str:
        """Its name."""
        return self._net.name

    def UUIDString(self) -> str:  # noqa: N802 -- libvirt's name
        """Its uuid as text."""
        return str(uuids.UUID(bytes=self._net.uuid))

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802 -- libvirt's name
        """Its document."""
        args = wire.RemoteNetworkGetXmlDescArgs(self._net, flags)
        return str(self._libvirtd.ask("NETWORK_GET_XML_DESC", args).xml)

    def isActive(self) -> int:  # noqa: N802 -- libvirt's name
        """1 or 0."""
        return int(self._libvirtd.ask("NETWORK_IS_ACTIVE", wire.RemoteNetworkIsActiveArgs(self._net)).active)

    def isPersistent(self) -> int:  # noqa: N802 -- libvirt's name
        """1 or 0."""
        args = wire.RemoteNetworkIsPersistentArgs(self._net)
        return int(self._libvirtd.ask("NETWORK_IS_PERSISTENT", args).persistent)

    def create(self) -> int:
        """Start it."""
        self._libvirtd.ask("NETWORK_CREATE", wire.RemoteNetworkCreateArgs(self._net))
        return 0

    def destroy(self) -> int:
        """Stop it."""
        self._libvirtd.ask("NETWORK_DESTROY", wire.RemoteNetworkDestroyArgs(self._net))
        return 0

    def autostart(self) -> int:
        """1 or 0."""
        args = wire.RemoteNetworkGetAutostartArgs(self._net)
        return int(self._libvirtd.ask("NETWORK_GET_AUTOSTART", args).autostart)

    def setAutostart(self, autostart: int) -> int:  # noqa: N802 -- libvirt's name
        """Set it."""
        args = wire.RemoteNetworkSetAutostartArgs(self._net, autostart)
        self._libvirtd.ask("NETWORK_SET_AUTOSTART", args)
        return 0

    def update(self, command: int, section: int, parentIndex: int, xml: str, flags: int = 0) -> int:  # noqa: N803
        """Change a part of it."""
        args = wire.RemoteNetworkUpdateArgs(self._net, command, section, parentIndex, xml, flags)
        self._libvirtd.ask("NETWORK_UPDATE", args)
        return 0

    def undefine(self) -> int:
        """Drop its definition."""
        self._libvirtd.ask("NETWORK_UNDEFINE", wire.RemoteNetworkUndefineArgs(self._net))
        return 0


class Networks:
    """Orders about networks.  on_node: this agent runs where its libvirtd does, so there is a kernel to work on."""

    def __init__(
        self, worker: NetworkWorker, pool: Pool, taken: Taken, records: Records, *, on_node: bool
    ) -> None:
        self._worker = worker
        self._taken = taken
        self._records = records
        self._on_node = on_node
        self._libvirtd = _Libvirtd(asyncio.get_running_loop(), pool)
        self._turn = asyncio.Lock()
        self._kinds: dict[type, Callable[[Any, bytes], Awaitable[Outcome]]] = {
            SetNetwork: self._set,
            PassNetwork: self._pass,
            RemoveNetwork: self._remove,
            KeepOnly: self._keep_only,
            SetGuest: self._in_kernel,
            ChangeNetwork: self._in_kernel,
            Survey: self._in_kernel,
        }

    async def order(self, data: bytes) -> bytes:
        """An Outcome (MessagePack) for an order (MessagePack).  Unavailable; OSError: it could not be recorded."""
        order = orders.decode_order(data)
        return orders.encode(await self._kinds[type(order)](order, data))

    async def run(self) -> None:
        """For ever: networks that libvirtd shall have and somebody ended, or took away, come back."""
        last = ""
        while True:
            await asyncio.sleep(HEAL_SECONDS)
            problem = await self._named(self._heal, None)
            if problem != last:
                log.warning("networks at libvirtd: %s", problem or "as they shall be")
            last = problem

    # -- orders

    async def _set(self, order: SetNetwork, data: bytes) -> Outcome:
        network = order.network
        # First, as its bridge may have the name that ours is to have.
        if order.take_over and (problem := await self._named(self._take, network.name)):
            return Outcome(problem)
        outcome = await self._in_kernel(order, data)
        if outcome.problem or not order.shadow:
            return outcome
        return await self._have(Record(network.uuid, network.name, network.serial, order.shadow))

    async def _pass(self, order: PassNetwork, data: bytes) -> Outcome:
        if order.take_over and (problem := await self._named(self._take, order.name)):
            return Outcome(problem)
        # It may have had a bridge of ours before.
        gone = RemoveNetwork(order.uuid, order.serial)
        if self._worker.may_have(order.uuid):
            outcome = await self._in_kernel(gone, orders.encode(gone))
            if outcome.problem:
                return outcome
        return await self._have(Record(order.uuid, order.name, order.serial, order.shadow))

    async def _remove(self, order: RemoveNetwork, data: bytes) -> Outcome:
        # Before its bridge goes, nobody is to be plugged in any more.
        if problem := await self._named(self._drop, lambda uuid: uuid == order.uuid):
            return Outcome(problem)
        return await self._in_kernel(order, data) if self._worker.may_have(order.uuid) else Outcome()

    async def _keep_only(self, order: KeepOnly, data: bytes) -> Outcome:
        if problem := await self._named(self._drop, lambda uuid: uuid not in order.uuids):
            return Outcome(problem)
        outcome = await self._in_kernel(order, data) if self._worker.may_have("*") else Outcome()
        if order.leaving and not outcome.problem:
            return Outcome(await self._named(self._give_back, None))
        return outcome

    async def _in_kernel(self, order: Order, data: bytes) -> Outcome:
        if not self._on_node:
            return Outcome()
        return orders.decode_outcome(await self._worker.order(data))

    # -- at libvirtd

    async def _have(self, wanted: Record) -> Outcome:
        known = self._records.get(wanted.uuid)
        if known is not None and wanted.serial < known.serial:
            return Outcome()  # a later one has been carried out
        await asyncio.to_thread(self._records.put, wanted)
        return Outcome(await self._named(self._ensure, wanted))

    async def _named(self, act: Callable[[Any], None], about: object) -> str:
        async with self._turn:
            try:
                await asyncio.to_thread(act, about)
            except Refused as error:
                return str(error)
            except LibvirtRefused as error:
                return f"its libvirtd: {error}"
            except (Unavailable, TimeoutError) as error:
                return f"its libvirtd does not answer: {error}"
        return ""

    def _ensure(self, wanted: Record) -> None:
        shadow.ensure(self._libvirtd, shadow.Shadow(wanted.uuid, wanted.name, wanted.xml))

    def _heal(self, _: None) -> None:
        records = self._records.all()
        if not records:
            return
        active = {network.UUIDString() for network in self._libvirtd.listAllNetworks(_ACTIVE)}
        for wanted in records:
            # It may have been removed while we looked at the others.
            if wanted.uuid not in active and self._records.get(wanted.uuid) is wanted:
                log.info("network %s is not active at libvirtd", wanted.name)
                self._ensure(wanted)

    def _take(self, name: str) -> None:
        if self._taken.take(self._libvirtd, name):
            log.info("the node's own network %s is kept aside", name)

    def _give_back(self, _: None) -> None:
        self._taken.give_back(self._libvirtd)

    def _drop(self, unwanted: Callable[[str], bool]) -> None:
        # Off the record first, or what looks after them would bring them back.
        for record in self._records.all():
            if unwanted(record.uuid):
                self._records.drop(record.uuid)
        for uuid, name in shadow.ours(self._libvirtd).items():
            if unwanted(uuid):
                shadow.remove(self._libvirtd, uuid, name)
