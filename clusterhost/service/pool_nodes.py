"""Make nodes have the cluster's pools: each node's own libvirtd does the work.  Decides nothing about definitions.

A node that did not answer, or could not, is told again: at its return, and meanwhile with growing pauses.  A pool of
the node's own that has the same name and place is taken as it is, under its uuid, and is never taken away.
"""

from __future__ import annotations

import asyncio
from asyncio import ALL_COMPLETED, FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from clusterhost.model.errors import ClusterError, NodeError, NodeUnreachable, StorageRefused
from clusterhost.service.context import Context
from clusterhost.service.node_states import NodeState, NodeStates
from clusterhost.service.pool_calls import Handle, PoolCalls
from clusterhost.service.pool_marks import PoolMarks
from clusterhost.service.pool_places import Place, Places, differences
from clusterhost.service.storage_documents import refusals, with_uuid
from clusterhost.service.watcher import Watcher
from clusterhost.store.rows import PoolRow, SetMeta
from imagemgr.model import Permissions, Pool, PoolType, Room
from imagemgr.xml import read_pool

BUILT = "pool built "
"""Before a pool's uuid: a client had it built, so nodes that come later build theirs."""
LATE = 10.0
"""Seconds that a client waits for a node when another could: one that does not reach a target may take minutes."""
PATIENCE = 2.0
"""Seconds that whoever looks at a pool waits for what nodes have of it: one answers only when it has started it."""
SILENT = "has not answered yet"
VALIDATE, WITH_BUILD = 1, 1
"""VIR_STORAGE_POOL_DEFINE_VALIDATE, VIR_STORAGE_POOL_CREATE_WITH_BUILD"""

Doing = dict[str, asyncio.Task[ClusterError | None]]
"""What is done at nodes; its outcome is what was in the way."""

log = structlog.get_logger("clusterhost.pools")


@dataclass(frozen=True, slots=True)
class How:
    """What a client's call adds to what the row says.  document: its own, which nodes check against libvirt's schema;
    flags: of the start; stop: also of pools that are a node's own; build: directories that are missing are made."""

    document: str = ""
    flags: int = 0
    stop: bool = False
    build: bool = False


PLAIN, LATER = How(), How(build=True)


class PoolNodes(Watcher):
    """Told of nodes that come."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.calls = PoolCalls(context)
        self.places = Places(context.ledger)
        self.marks = PoolMarks(context, self.calls)
        self._states = NodeStates(context, "pool", self._tell_later)
        self._locks: dict[tuple[bytes, str], asyncio.Lock] = {}
        self.came: list[Callable[[bytes], None]] = []
        """Told of a pool that is active at a node that joined, or could not have it before."""

    # -- asking

    def states(self, uuid: bytes) -> list[NodeState]:
        """What each node said of it, by the nodes' order."""
        return self._states.all(uuid)

    def problem(self, uuid: bytes, node: str) -> str:
        """Why the node has it not; "" when it has, or nothing is known."""
        return self._states.problem(uuid, node)

    def nodes(self, uuid: bytes) -> tuple[str, ...]:
        """Usable nodes on which it is active; while a node has not spoken since our start, what was so before."""
        return tuple(name for name in self._usable() if self._is_active(uuid, name))

    def having(self, uuid: bytes) -> list[str]:
        """Usable nodes that have it, active or not."""
        return [name for name in self._usable() if self.places.find(uuid, name) is not None]

    def handle_at(self, uuid: bytes, node: str) -> Handle:
        """As the node's own libvirtd knows it."""
        row, place = self._context.ledger.pools[uuid], self.places.find(uuid, node)
        return Handle(name=row.name, uuid=place.uuid if place is not None else uuid)

    async def room(self, uuid: bytes, *, shared: bool) -> Room:
        """What it has on all nodes that answer; of a shared one, on the first where it is active."""
        nodes = self.having(uuid)
        if shared:
            nodes = list(self.nodes(uuid)) or nodes
        found = await asyncio.gather(*(self._room_at(uuid, node) for node in nodes))
        rooms = [room for room in found if room is not None]
        return sum(rooms[:1] if shared else rooms, start=Room())

    async def permissions(self, uuid: bytes) -> Permissions | None:
        """Those of its target on the first node that says: libvirt shows what the file system has."""
        for node in (self.nodes(uuid) or self.having(uuid))[:1]:
            try:
                async with asyncio.timeout(PATIENCE):
                    document = await self.calls.xml(node, self.handle_at(uuid, node), 0)
                with refusals():
                    return read_pool(document).target.permissions
            except (ClusterError, TimeoutError):
                return None
        return None

    async def in_the_way(self, pool: Pool) -> str:
        """Nodes that have another pool of that name; "" for none.  One that does not answer may have it later."""
        found = await asyncio.gather(*(self._unlike(pool, node) for node in self._usable()))
        return "; ".join(filter(None, found))

    # -- doing

    async def follow(self, uuid: bytes, how: How = PLAIN) -> None:
        """Tell all nodes that are there what the row says; the first's own error when all refuse."""
        doing = self._begun(self._usable(), lambda node: self._tell(uuid, node, how))
        for node, problem in (await self._all(doing)).items():
            if problem == SILENT:
                self._states.note(uuid, node, problem, again=False)
                self._context.tasks.spawn(self._late(uuid, node, doing[node]), f"a pool comes late to {node}")

    async def each(self, uuid: bytes, act: Callable[[str, Handle], Awaitable[None]]) -> dict[str, str]:
        """Do something at each node that has it, and say what was in the way where; the first's own error when all
        refuse.  NodeUnreachable when none is there."""

        async def one(node: str) -> ClusterError | None:
            try:
                async with self._lock(uuid, node):
                    await act(node, self.handle_at(uuid, node))
            except ClusterError as error:
                return error
            return None

        nodes = self.having(uuid)
        if not nodes:
            raise NodeUnreachable(self._nowhere(uuid))
        return await self._all(self._begun(nodes, one))

    def note(self, uuid: bytes, problems: dict[str, str]) -> None:
        """What nodes said when they were asked for more than to follow; they are told again."""
        for node, problem in problems.items():
            self._states.note(uuid, node, problem)

    @staticmethod
    def built(uuid: bytes, *, on: bool = True) -> SetMeta:
        """Nodes that come later build theirs."""
        return SetMeta(BUILT + uuid.hex(), "1" if on else "")

    # -- nodes that leave (service.nodes)

    async def leave(self, node: str) -> None:
        """Take away what we made there, not what is in it.  What is the node's own stays."""
        if not self._context.cluster.node(node).usable:
            return
        for uuid, place in self.places.at(node).items():
            try:
                await self._take_away(uuid, node, place, PLAIN)
            except ClusterError as error:
                log.warning("a pool stays on a node that leaves", node=node, reason=str(error))

    def left(self, node: str) -> None:
        """It is out of the cluster."""
        self.places.forget(node)
        self._states.forget(node)

    # -- Watcher

    def node_up(self, node: str, rebooted: bool) -> None:
        """Give it everything; what it said before it was away counts no more."""
        self._states.forget(node)
        self._context.tasks.spawn(self._arrived(node), f"pools of {node}")

    # -- the work

    async def _arrived(self, node: str) -> None:
        for uuid in [*self.places.at(node), *self._context.ledger.pools]:
            await self._tell_later(uuid, node)

    async def _tell_later(self, uuid: bytes, node: str) -> None:
        if await self._tell(uuid, node, LATER) is None:
            self._is_there(uuid, node)

    def _is_there(self, uuid: bytes, node: str) -> None:
        if node in self.nodes(uuid):
            for listener in self.came:
                listener(uuid)

    async def _tell(self, uuid: bytes, node: str, how: How) -> ClusterError | None:
        """What was in the way, None for nothing."""
        if node in self._context.leaving:
            return NodeUnreachable("the node is leaving")
        async with self._lock(uuid, node):
            row, place = self._context.ledger.pools.get(uuid), self.places.find(uuid, node)
            try:
                if row is not None:
                    active = await self._realise(row, node, place, how)
                else:
                    active = False
                    if place is not None:
                        await self._take_away(uuid, node, place, how)
            except ClusterError as error:
                self._states.note(uuid, node, str(error))
                return error
            if row is None:
                self._states.drop(uuid, node)
            else:
                self._states.note(uuid, node, "", active=active)
            return None

    async def _realise(self, row: PoolRow, node: str, place: Place | None, how: How) -> bool:
        """Define, start or stop it there; whether it is active now."""
        found = await self.calls.find(node, row.name)
        made = found is None or (place is not None and place.made and place.uuid == found.uuid)
        if made:
            found = await self._define(row, node, found, place, how)
        else:
            assert found is not None
            await self._adopt(row, node, found)
        if found is None:
            return False
        active = await self.calls.is_active(node, found)
        if row.active and not active:
            await self._start(row, node, found, how)
        elif active and not row.active and (made or how.stop):
            await self.calls.destroy(node, found)
            active = False
        await self.places.keep(row.uuid, node, Place(found.uuid, made, row.serial))
        if row.active:
            await self.marks.check(row, node)
        return row.active or active

    async def _define(
        self, row: PoolRow, node: str, found: Handle | None, place: Place | None, how: How
    ) -> Handle | None:
        """Ours: as the row has it.  A transient one is there only while it is active."""
        if not row.persistent and not row.active:
            return found
        told = place is not None and place.serial == row.serial
        if found is not None and not told and how.build:
            found = await self._end(node, found)  # the one that it still has was stopped while it was away
        if found is None or (row.persistent and not told):
            await self.places.keep(row.uuid, node, Place(row.uuid, True))
            try:
                found = await self._make(row, node, how)
            except NodeError:
                if found is None:
                    self.places.drop(row.uuid, node)
                raise
        if row.persistent:
            await self.calls.set_autostart(node, found, row.autostart)
        return found

    async def _end(self, node: str, found: Handle) -> Handle | None:
        """Stop what is active; None when nothing is left of it."""
        if not await self.calls.is_active(node, found):
            return found
        persistent = await self.calls.is_persistent(node, found)
        await self.calls.destroy(node, found)
        return found if persistent else None

    async def _make(self, row: PoolRow, node: str, how: How) -> Handle:
        document = with_uuid(how.document, row.uuid) if how.document else row.xml
        if row.persistent:
            return await self.calls.define(node, document, VALIDATE if how.document else 0)
        build = WITH_BUILD if how.build and self._makes_directory(row) else 0
        return await self.calls.create_xml(node, document, how.flags or build)

    async def _adopt(self, row: PoolRow, node: str, found: Handle) -> None:
        """The node's own; StorageRefused when it is another place."""
        with refusals():
            theirs = read_pool(await self.calls.xml(node, found))
            why = ", ".join(differences(read_pool(row.xml), theirs))
        if why:
            self.places.drop(row.uuid, node)
            raise StorageRefused(f"the node has a pool '{row.name}' of its own: {why}", "Clash")
        if self.places.find(row.uuid, node) is None:
            await self.places.keep(row.uuid, node, Place(found.uuid, False))

    async def _start(self, row: PoolRow, node: str, found: Handle, how: How) -> None:
        try:
            await self.calls.create(node, found, how.flags)
        except NodeError:
            if not how.build or not self._makes_directory(row):
                raise
            await self.calls.build(node, found)
            await self.calls.create(node, found)

    def _makes_directory(self, row: PoolRow) -> bool:
        """A client had it built elsewhere, and to build it here destroys nothing."""
        with refusals():
            plain = read_pool(row.xml).type is PoolType.DIR
        return plain and bool(self._context.ledger.meta.get(BUILT + row.uuid.hex()))

    async def _take_away(self, uuid: bytes, node: str, place: Place, how: How) -> None:
        """What we made; of the node's own nothing but, when a client stopped it, that it is active."""
        handle = await self.calls.known(node, place.uuid)
        if handle is not None and (place.made or how.stop):
            handle = await self._end(node, handle)
            if handle is not None and place.made:
                await self.calls.undefine(node, handle)
        self.places.drop(uuid, node)

    # -- within

    def _begun(
        self, nodes: Iterable[str], act: Callable[[str], Coroutine[Any, Any, ClusterError | None]]
    ) -> Doing:
        begin = self._context.tasks.begin
        return {node: begin(act(node), f"a pool at {node}") for node in nodes}

    async def _all(self, doing: Doing) -> dict[str, str]:
        """Problems by node, "" for none, SILENT for one that still works on it when another could.  The first node's
        own error when all refuse."""
        late = set(doing.values())
        seconds: float | None = LATE
        while late:
            _, late = await asyncio.wait(
                late, timeout=seconds, return_when=FIRST_COMPLETED if seconds is None else ALL_COMPLETED
            )
            if any(task not in late and task.result() is None for task in doing.values()):
                break
            seconds = None  # nobody could yet
        errors = {node: task.result() for node, task in doing.items() if task not in late}
        failed = [error for error in errors.values() if error is not None]
        if failed and len(failed) == len(doing):
            raise next((error for error in failed if isinstance(error, NodeError)), failed[0])
        return {node: str(errors[node] or "") if node in errors else SILENT for node in doing}

    async def _late(self, uuid: bytes, node: str, task: asyncio.Task[ClusterError | None]) -> None:
        """Its client has gone on without it."""
        if await task is None:
            self._is_there(uuid, node)

    async def _unlike(self, pool: Pool, node: str) -> str:
        try:
            found = await self.calls.find(node, pool.name)
            if found is None:
                return ""
            with refusals():
                theirs = read_pool(await self.calls.xml(node, found))
        except ClusterError:
            return ""
        why = ", ".join(differences(pool, theirs))
        return f"node {node} has a pool '{pool.name}' of its own: {why}" if why else ""

    async def _room_at(self, uuid: bytes, node: str) -> Room | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.calls.room(node, self.handle_at(uuid, node))
        except (ClusterError, TimeoutError):
            return None

    def _is_active(self, uuid: bytes, node: str) -> bool:
        state, row = self._states.find(uuid, node), self._context.ledger.pools.get(uuid)
        if state is not None:
            return state.active and not state.problem
        place = self.places.find(uuid, node)
        return row is not None and row.active and place is not None and place.serial == row.serial

    def _nowhere(self, uuid: bytes) -> str:
        told = "; ".join(
            f"node {state.node}: {state.problem}" for state in self.states(uuid) if state.problem
        )
        return told or "no node of the cluster can be reached"

    def _usable(self) -> list[str]:
        return [node.name for node in self._context.cluster.cells() if node.usable]

    def _lock(self, uuid: bytes, node: str) -> asyncio.Lock:
        return self._locks.setdefault((uuid, node), asyncio.Lock())
