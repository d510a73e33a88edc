"""Make nodes follow the cluster's networks: whole networks, single guests, and what each node said.  No documents.

A node that did not answer, or could not, is told again: at its return, and meanwhile with growing pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import ClusterError, ConfigUnsupported
from clusterhost.model.node import Node
from clusterhost.service.context import Context
from clusterhost.service.network_changes import Altered
from clusterhost.service.network_orders import numbered
from clusterhost.service.network_wanted import Underlay
from clusterhost.service.node_states import NodeState, NodeStates
from clusterhost.service.watcher import Watcher
from clusterhost.store.rows import SetMeta
from netmgr import orders
from netmgr.changes import NetworkChange
from netmgr.orders import ChangeNetwork, KeepOnly, Order, PassNetwork, RemoveNetwork, SetGuest, SetNetwork
from netmgr.wanted import GuestGone, WantedGuest, WantedNetwork

KIND = "network"
"""The agent's operation."""
DEADLINE = 10.0
"""Seconds that a node has to carry out an order."""
GATHER_SECONDS = 0.2
"""How long nodes that join are gathered before the others hear of them."""
ELSEWHERE = "its agent runs elsewhere: it cannot make links there"
NOWHERE = "its address among the nodes is not known: set underlay_address in its agent.toml"

log = structlog.get_logger("clusterhost.networks")


class NetworkNodes(Watcher):
    """Realiser of service.networks.

    wanted: (network's uuid, underlay, node's name) -> what that node shall have, None when it is to have nothing of
    it; known: uuids of all networks that nodes shall have; passed: nodes have it at their libvirtd alone; unfit:
    (uuid, node's name) -> why that node cannot have one that is passed on."""

    def __init__(
        self,
        context: Context,
        wanted: Callable[[bytes, Underlay, str], SetNetwork | PassNetwork | None],
        known: Callable[[], Iterable[bytes]],
        passed: Callable[[bytes], bool],
        unfit: Callable[[bytes, str], Awaitable[str]],
    ) -> None:
        self._context = context
        self._wanted = wanted
        self._known = known
        self._passed = passed
        self._unfit = unfit
        self._states = NodeStates(context, KIND, self._tell)
        self._orders: dict[str, asyncio.Lock] = {}
        self._versions: dict[tuple[bytes, str], int] = {}
        self._telling = False

    def states(self, uuid: bytes) -> list[NodeState]:
        """What each node said of it, by the nodes' order."""
        return self._states.all(uuid)

    def ready(self, uuid: bytes, node: str) -> bool:
        """The node has the network as far as we know."""
        state = self._states.find(uuid, node)
        return state is not None and not state.problem

    def problem(self, uuid: bytes, node: str) -> str:
        """Why guests on that network cannot run on the node; "" when they can, or nothing is known."""
        if not self._context.cluster.node(node).host.has_files and not self._passed(uuid):
            return ELSEWHERE
        return self._states.problem(uuid, node)

    def shall(self, uuid: bytes, node: str) -> WantedNetwork | None:
        """What it would be told now to have of a network; None when that is no work of its kernel."""
        told = self._wanted(uuid, self._underlay(node), node)
        return told.network if isinstance(told, SetNetwork) else None

    async def follow(self, uuid: bytes, altered: Altered | None = None) -> None:
        """Tell all nodes that are there; ConfigUnsupported when some answered and none could do it.  altered: what is
        different, where nodes have the rest."""
        nodes = [node.name for node in self._context.cluster.cells() if node.usable]
        problems = await asyncio.gather(*(self._tell_part(uuid, name, altered) for name in nodes))
        if problems and all(problems):
            said = "; ".join(f"node {name}: {problem}" for name, problem in zip(nodes, problems, strict=True))
            raise ConfigUnsupported(said)

    def guest(self, uuid: bytes, guest: WantedGuest, node: str) -> None:
        """A guest of the network is at `node` now ("" nowhere), or has other addresses: tell everybody, soon."""
        if self._passed(uuid):
            return
        for name, underlay in self._underlays():
            place = underlay.get(node, "") if node != name else ""
            serial = self._next()
            told = msgspec.structs.replace(guest, place=place, serial=serial)
            self._spawn(name, SetGuest(format_uuid(uuid), guest=told))

    def guest_gone(self, uuid: bytes, key: str) -> None:
        """The network does not know that guest any more."""
        for name, _ in () if self._passed(uuid) else self._underlays():
            self._spawn(name, SetGuest(format_uuid(uuid), gone=GuestGone(key, self._next())))

    # -- nodes that leave (service.nodes)

    async def leave(self, node: str) -> None:
        """Take all networks away from it; it gets back what it had of its own.  One that cannot be asked keeps them."""
        if self._context.cluster.node(node).usable:
            problem = await self._order(node, KeepOnly((), leaving=True))
            if problem:
                log.warning("networks stay on a node that leaves", node=node, reason=problem)

    def left(self, node: str) -> None:
        """It is out of the cluster: nobody is to send it anything."""
        ledger = self._context.ledger
        ledger.note_underlay(node, "", 0)
        ledger.note(SetMeta(f"take over {node}", ""))
        self._states.forget(node)
        for key in [key for key in self._versions if key[1] == node]:
            del self._versions[key]
        self._tell_all_soon()

    # -- Watcher

    def node_up(self, node: str, rebooted: bool) -> None:
        """Give it everything; the others learn that there is one more, or that it is elsewhere now."""
        ledger = self._context.ledger
        host = self._context.cluster.node(node).host
        moved = (host.underlay, host.underlay_mtu) != (ledger.underlay(node), ledger.underlay_mtu(node))
        if moved:
            ledger.note_underlay(node, host.underlay, host.underlay_mtu)
        self._context.tasks.spawn(self._arrived(node), f"networks of {node}")
        if moved:
            self._tell_all_soon()

    # -- the work

    async def _arrived(self, node: str) -> None:
        known = list(self._known())
        await self._order(node, KeepOnly(tuple(format_uuid(uuid) for uuid in known)))
        for uuid in known:
            await self._tell(uuid, node)

    async def retell(self, uuids: Iterable[bytes], node: str) -> None:
        """What these networks want of a node has changed; returns when it has answered."""
        if self._context.cluster.node(node).usable:
            for uuid in uuids:
                await self._tell(uuid, node)

    def _tell_all_soon(self) -> None:
        """Nodes that come together count once."""
        if not self._telling:
            self._telling = True
            self._context.tasks.spawn(self._tell_all(), "networks of all nodes")

    async def _tell_all(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        self._telling = False
        nodes = [node.name for node in self._context.cluster.cells() if node.usable]
        for uuid in list(self._known()):
            await asyncio.gather(*(self._tell(uuid, name) for name in nodes))

    async def _tell_part(self, uuid: bytes, name: str, altered: Altered | None) -> str:
        """As _tell; a node that has not what the part belongs to, or does not know of parts, is told the whole."""
        base = self._versions.get((uuid, name))
        if altered is None or base is None or name in self._context.leaving or not self.ready(uuid, name):
            return await self._tell(uuid, name)
        serial = self._next()
        if await self._order(name, ChangeNetwork(self._part(uuid, name, altered, base, serial))):
            return await self._tell(uuid, name)
        self._versions[uuid, name] = serial
        return ""

    def _part(self, uuid: bytes, name: str, altered: Altered, base: int, serial: int) -> NetworkChange:
        addresses = {node.name: underlay_address(node) for node in self._context.cluster.cells()}
        there = {**addresses, name: ""}
        guests = tuple(
            msgspec.structs.replace(guest, place=there.get(node, ""), serial=serial)
            for guest, node in altered.guests
        )
        gone = tuple(GuestGone(key, serial) for key in altered.gone)
        return NetworkChange(format_uuid(uuid), base, serial, altered.dns, guests, gone)

    async def _tell(self, uuid: bytes, name: str) -> str:
        """The problem, "" for none."""
        if name in self._context.leaving:
            return "the node is leaving"
        underlay = self._underlay(name)
        wanted = self._wanted(uuid, underlay, name)
        if wanted is None:
            problem = await self._order(name, RemoveNetwork(format_uuid(uuid), self._next()))
            if problem:
                self._states.note(uuid, name, problem)
            else:
                self._states.drop(uuid, name)
                self._versions.pop((uuid, name), None)
            return problem
        elsewhere = not self._context.cluster.node(name).host.has_files
        if isinstance(wanted, PassNetwork):
            problem = await self._unfit(uuid, name)
        elif elsewhere or not underlay.local:
            problem = ELSEWHERE if elsewhere else NOWHERE  # libvirt alone cannot make our links
            self._states.note(uuid, name, problem, again=False)
            return problem
        else:
            problem = ""
        if not problem:
            serial = self._next()
            order = numbered(wanted, serial, self._context.ledger.takes_over(name))
            problem = await self._order(name, order)
            self._versions[uuid, name] = serial
        self._states.note(uuid, name, problem)
        return problem

    async def _order(self, name: str, order: Order) -> str:
        """One at a time for a node, in the order in which they were given."""
        async with self._orders.setdefault(name, asyncio.Lock()):
            try:
                answer = await self._context.nodes.operate(
                    name, KIND, orders.encode(order), deadline=DEADLINE
                )
            except ClusterError as error:
                return str(error)
            return orders.decode_outcome(msgspec.msgpack.decode(answer, type=bytes)).problem

    def _spawn(self, name: str, order: Order) -> None:
        self._context.tasks.spawn(self._order(name, order), f"network guest at {name}")

    def _next(self) -> int:
        """Nodes refuse what is older than what they did; the counter outlives us."""
        return self._context.ledger.generations.take()

    # -- addresses of nodes

    def _underlay(self, name: str) -> Underlay:
        cells = [node for node in self._context.cluster.cells() if node.host.has_files]
        peers = tuple(found for node in cells if node.name != name and (found := underlay_address(node)))
        mtu = min((node.host.underlay_mtu for node in cells if node.host.underlay_mtu), default=0)
        return Underlay(underlay_address(self._context.cluster.node(name)), peers, mtu)

    def _underlays(self) -> list[tuple[str, dict[str, str]]]:
        """Each node that is there, with the addresses of all."""
        cells = self._context.cluster.cells()
        addresses = {node.name: underlay_address(node) for node in cells}
        return [(node.name, addresses) for node in cells if node.usable and node.host.has_files]


def underlay_address(node: Node) -> str:
    """Where other nodes reach its VXLAN; "" while it is not known."""
    return node.host.underlay
