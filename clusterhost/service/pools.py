"""Use cases about one storage pool: define, start, build, destroy, undefine.  Knows documents and rows; what nodes do
is in pool_nodes.py.

Each is done to its end even if its client leaves.  Texts of refusals that a libvirtd gives too are libvirt's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import (
    ClusterError,
    InvalidOperation,
    NodeUnreachable,
    PoolNotFound,
    StorageRefused,
)
from clusterhost.service.context import Context
from clusterhost.service.image_limits import forgotten as limit_forgotten
from clusterhost.service.pool_calls import Handle
from clusterhost.service.pool_nodes import PLAIN, How, PoolNodes
from clusterhost.service.pool_probe import FOUND, PROBED, SAID, SAID_LOCAL, PoolProbe
from clusterhost.service.ports import Caller
from clusterhost.service.storage_documents import refusals
from clusterhost.service.volume_clones import forgotten as clones_forgotten
from clusterhost.service.xml import new_uuid
from clusterhost.store.rows import Change, DropPool, DropVolume, PoolRow, PutPool
from imagemgr import rules
from imagemgr.model import Kind, Pool, Room
from imagemgr.names import sanitized
from imagemgr.xml import read_pool, write_pool

T = TypeVar("T")
log = structlog.get_logger("clusterhost.pools")

DEFINED, UNDEFINED, STARTED, STOPPED = "defined", "undefined", "started", "stopped"
CREATED, DELETED, REFRESHED, SHARED = "created", "deleted", "refreshed", "shared"

BUILDS = 1 | 2 | 4
"""VIR_STORAGE_POOL_CREATE_WITH_BUILD*"""
OURS = Caller(who="clusterhost")


@dataclass(frozen=True, slots=True)
class PoolHappened:
    """What happened to a pool: defined, undefined, started, stopped, created (built), deleted, refreshed, or
    shared (one place now, or one on each node again).  node: "" for all of them."""

    uuid: bytes
    name: str
    what: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """A pool as clients see it."""

    row: PoolRow
    pool: Pool

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
        """Its volumes can be used."""
        return self.row.active

    @property
    def persistent(self) -> bool:
        """It outlives its end."""
        return self.row.persistent

    @property
    def autostart(self) -> bool:
        """It is active after the cluster starts."""
        return self.row.autostart

    @property
    def kind(self) -> Kind:
        """One place, or one on each node."""
        return Kind(self.row.kind)


class Pools:
    """What clients ask of pools."""

    def __init__(self, context: Context, nodes: PoolNodes) -> None:
        self._context = context
        self._nodes = nodes
        self._probe = PoolProbe(context)
        self._entries: dict[bytes, PoolEntry] = {}
        self._to_look_at: set[bytes] = set()
        self.listeners: list[Callable[[PoolHappened], None]] = []
        nodes.came.append(self._came)

    def load(self) -> None:
        """Read what the store has; what is to be there from the start is active."""
        for row in self._context.ledger.pools.values():
            if row.autostart and not row.active:
                row = replace(row, active=True)
                self._context.ledger.note(PutPool(row))
            self._entries[row.uuid] = _entry(row)

    # -- asking

    def all(self) -> Iterator[PoolEntry]:
        """In the order in which they were made."""
        return iter(tuple(self._entries.values()))

    def by_uuid(self, uuid: bytes, name: str = "") -> PoolEntry:
        """PoolNotFound; name: what else the client knows of it."""
        entry = self._entries.get(uuid)
        if entry is None:
            known = f" ({name})" if name else ""
            raise PoolNotFound(f"no storage pool with matching uuid '{format_uuid(uuid)}'{known}")
        return entry

    def by_name(self, name: str) -> PoolEntry:
        """PoolNotFound."""
        for entry in self._entries.values():
            if entry.name == name:
                return entry
        raise PoolNotFound(f"no storage pool with matching name '{name}'")

    def by_target(self, path: str) -> PoolEntry:
        """The active pool whose volumes are in that directory.  PoolNotFound."""
        clean = sanitized(path)
        for entry in self._entries.values():
            if entry.active and entry.pool.target.path == clean:
                return entry
        known = f" ({clean})" if clean != path else ""
        raise PoolNotFound(f"no storage pool with matching target path '{path}'{known}")

    def nodes(self, uuid: bytes) -> tuple[str, ...]:
        """Usable nodes on which it is active."""
        return self._nodes.nodes(uuid)

    def problem(self, uuid: bytes, node: str) -> str:
        """Why the node has it not; "" when it has, or nothing is known."""
        return self._nodes.problem(uuid, node)

    def handle_at(self, uuid: bytes, node: str) -> Handle:
        """As the node's own libvirtd knows it."""
        return self._nodes.handle_at(uuid, node)

    def place(self, uuid: bytes) -> str:
        """How it is known whether it is one place, in a few words; "" where its type says so."""
        return self._probe.place(uuid)

    async def info(self, uuid: bytes) -> Room:
        """What nodes have of it, together."""
        entry = self.by_uuid(uuid)
        return await self._nodes.room(uuid, shared=entry.kind is Kind.SHARED)

    async def xml(self, uuid: bytes, name: str = "") -> str:
        """The document, with what nodes have of it."""
        entry = self.by_uuid(uuid, name)
        said, room = await asyncio.gather(self._nodes.permissions(uuid), self.info(uuid))
        pool = entry.pool
        if said is not None:
            pool = replace(pool, target=replace(pool.target, permissions=said))
        return write_pool(pool, room)

    # -- changing

    async def define(self, caller: Caller, xml: str, *, validate: bool = False) -> PoolEntry:
        """Make or change a definition.  StorageRefused; NodeError when every node refuses."""
        return await self._finish(self._define(caller, xml, validate), "define pool")

    async def create(self, caller: Caller, xml: str, flags: int = 0) -> PoolEntry:
        """Start one from a document; it is transient unless it is defined already."""
        return await self._finish(self._create(caller, xml, flags), "create pool")

    async def start(self, caller: Caller, uuid: bytes, flags: int = 0, name: str = "") -> None:
        """Start a defined one; InvalidOperation when it is active."""
        await self._finish(self._start(caller, uuid, flags, name), "start pool")

    async def build(self, caller: Caller, uuid: bytes, flags: int = 0, name: str = "") -> None:
        """Make its directory, file system or volume group on each node."""
        await self._finish(self._build(caller, uuid, flags, name), "build pool")

    async def refresh(self, caller: Caller, uuid: bytes, name: str = "") -> None:
        """Have nodes look at its volumes anew; like at a node, one that nobody can read is inactive afterwards."""
        await self._finish(self._refresh(caller, uuid, name), "refresh pool")

    async def destroy(self, caller: Caller, uuid: bytes, name: str = "") -> None:
        """Stop it; a transient one is gone then.  InvalidOperation when it is not active."""
        await self._finish(self._destroy(caller, uuid, name), "destroy pool")

    async def delete(self, caller: Caller, uuid: bytes, flags: int = 0, name: str = "") -> None:
        """Take away what build made, on each node; the definition stays."""
        await self._finish(self._delete(caller, uuid, flags, name), "delete pool")

    async def undefine(self, caller: Caller, uuid: bytes, name: str = "") -> None:
        """Drop the definition of an inactive one."""
        await self._finish(self._undefine(caller, uuid, name), "undefine pool")

    async def set_autostart(self, caller: Caller, uuid: bytes, on: bool, name: str = "") -> None:
        """Whether it is active after the cluster starts."""
        async with self._lock(uuid):
            entry = self.by_uuid(uuid, name)
            if not entry.persistent:
                raise StorageRefused("pool has no config file", "Internal")
            if entry.autostart != on:
                await self._commit(
                    replace(entry.row, autostart=on), caller, "autostart pool", "on" if on else "off"
                )
                with contextlib.suppress(ClusterError):  # a node that cannot is told again until it does
                    await self._nodes.follow(uuid)

    async def set_shared(self, caller: Caller, uuid: bytes, on: bool) -> None:
        """Say that a directory is one place on all nodes, which is proved, or that each has its own.  InvalidOperation,
        StorageRefused: a node does not see what another wrote."""
        await self._finish(self._set_shared(caller, uuid, on), "share pool")

    # -- the work

    async def _define(self, caller: Caller, xml: str, validate: bool) -> PoolEntry:
        pool = self._read(xml)
        async with self._lock(pool.uuid):
            async with self._alone():
                entry = self._beside(pool)
                await self._unhindered(pool, entry)
                row = entry.row if entry is not None else PoolRow(pool.uuid, pool.name, "", str(pool.kind))
                row = replace(row, xml=write_pool(pool), persistent=True, serial=self._next())
                kept = await self._commit(row, caller, "define pool", "")
            try:
                await self._nodes.follow(row.uuid, How(document=xml if validate else ""))
            except ClusterError as error:
                if not isinstance(error, NodeUnreachable):  # it takes it when it is back
                    await self._revert(caller, entry, row, error)
                    raise
            self._tell(kept, DEFINED)
            return await self._look(kept)

    async def _create(self, caller: Caller, xml: str, flags: int) -> PoolEntry:
        pool = self._read(xml)
        async with self._lock(pool.uuid):
            async with self._alone():
                entry = self._beside(pool)
                if entry is not None and entry.active:
                    raise InvalidOperation(f"pool is already active as '{entry.name}'")
                await self._unhindered(pool, entry)
                row = PoolRow(pool.uuid, pool.name, "", str(pool.kind), persistent=False)
                row = entry.row if entry is not None else row
                row = replace(row, xml=write_pool(pool), active=True, serial=self._next())
                kept = await self._begin(caller, row, flags)
            return await self._activate(caller, entry, kept, flags)

    async def _start(self, caller: Caller, uuid: bytes, flags: int, name: str) -> None:
        async with self._lock(uuid):
            entry = self._inactive(uuid, name)
            kept = await self._begin(caller, replace(entry.row, active=True), flags)
            await self._activate(caller, entry, kept, flags)

    async def _begin(self, caller: Caller, row: PoolRow, flags: int) -> PoolEntry:
        """On record first: a crash in between leaves what nodes are told to complete."""
        built = (self._nodes.built(row.uuid),) if flags & BUILDS else ()
        return await self._commit(row, caller, "start pool", "", *built)

    async def _activate(
        self, caller: Caller, before: PoolEntry | None, entry: PoolEntry, flags: int
    ) -> PoolEntry:
        """It may take a node minutes to reach its source, so nothing but the pool itself is locked."""
        try:
            await self._nodes.follow(entry.uuid, How(flags=flags))
        except ClusterError as error:
            await self._revert(caller, before, entry.row, error)
            raise
        self._tell(entry, STARTED)
        return await self._look(entry)

    async def _build(self, caller: Caller, uuid: bytes, flags: int, name: str) -> None:
        async with self._lock(uuid):
            entry, calls = self._inactive(uuid, name), self._nodes.calls
            problems = await self._nodes.each(uuid, lambda node, pool: calls.build(node, pool, flags))
            ledger = self._context.ledger
            line = ledger.journal("build pool", entry.name, caller.who, _said(problems))
            await ledger.commit(self._nodes.built(uuid), line)
            self._tell(entry, CREATED)

    async def _refresh(self, caller: Caller, uuid: bytes, name: str) -> None:
        async with self._lock(uuid):
            entry, calls = self._active(uuid, name), self._nodes.calls
            try:
                problems = await self._nodes.each(uuid, calls.refresh)
            except NodeUnreachable:
                raise
            except ClusterError as error:
                await self._deactivate(caller, entry, f"no node can read it: {error}")
                raise
            self._nodes.note(uuid, {node: problem for node, problem in problems.items() if problem})
            self._tell(entry, REFRESHED)
            await self._look(entry)

    async def _destroy(self, caller: Caller, uuid: bytes, name: str) -> None:
        async with self._lock(uuid):
            await self._deactivate(caller, self._active(uuid, name), "")

    async def _deactivate(self, caller: Caller, entry: PoolEntry, why: str) -> None:
        if entry.persistent:
            await self._commit(replace(entry.row, active=False), caller, "stop pool", why)
        else:
            await self._forget(entry, caller, "stop pool", why)
        with contextlib.suppress(ClusterError):  # a node that cannot is told again until it does
            await self._nodes.follow(entry.uuid, How(stop=True))
        self._tell(entry, STOPPED)

    async def _delete(self, caller: Caller, uuid: bytes, flags: int, name: str) -> None:
        async with self._lock(uuid):
            entry, calls = self._inactive(uuid, name, "still"), self._nodes.calls
            problems = await self._nodes.each(uuid, lambda node, pool: calls.delete(node, pool, flags))
            ledger = self._context.ledger
            line = ledger.journal("delete pool", entry.name, caller.who, _said(problems))
            await ledger.commit(self._nodes.built(uuid, on=False), line)
            self._tell(entry, DELETED)

    async def _set_shared(self, caller: Caller, uuid: bytes, on: bool) -> None:
        async with self._lock(uuid):
            entry = self._active(uuid, "")
            if entry.pool.type not in PROBED:
                raise InvalidOperation(f"only directories can be marked: '{entry.name}' is {entry.pool.type}")
            how = self._probe.known(uuid, SAID if on else SAID_LOCAL)
            if entry.kind is (Kind.SHARED if on else Kind.LOCAL):
                await self._context.ledger.commit(how)
                return
            self._refuse_incomplete(entry)
            if not self.nodes(uuid):
                raise NodeUnreachable("no node of the cluster can be reached")
            await self._share(caller, entry, on, self.nodes(uuid), how)

    def _refuse_incomplete(self, entry: PoolEntry) -> None:
        for row in self._context.ledger.volumes.values():
            if row.pool == entry.uuid and row.reason:
                raise InvalidOperation(f"volume '{row.shown}' of pool '{entry.name}' is incomplete")

    async def _share(
        self, caller: Caller, entry: PoolEntry, on: bool, nodes: Sequence[str], how: Change
    ) -> PoolEntry:
        """nodes: that are to see what the first of them writes."""
        kind, marks = Kind.SHARED if on else Kind.LOCAL, self._nodes.marks
        mark = await (marks.make if on else marks.drop)(
            entry.row, {node: self.handle_at(entry.uuid, node) for node in nodes}
        )
        row, text = replace(entry.row, kind=str(kind)), str(kind)
        if how == self._probe.known(entry.uuid, FOUND):
            text += f", found to be one place on {', '.join(nodes)}"
        entry = await self._commit(row, caller, "share pool", text, mark, how)
        with contextlib.suppress(ClusterError):  # nodes on which it is not active are asked too
            await self._nodes.follow(entry.uuid)
        self._tell(entry, SHARED)
        return entry

    # -- what nobody said

    def _came(self, uuid: bytes) -> None:
        """A node has it that had not, or was away.  Several in a row are looked at together."""
        if uuid not in self._to_look_at:
            self._to_look_at.add(uuid)
            self._context.tasks.spawn(self._look_again(uuid), f"look at pool {format_uuid(uuid)}")

    async def _look_again(self, uuid: bytes) -> None:
        async with self._lock(uuid):
            self._to_look_at.discard(uuid)
            if (entry := self._entries.get(uuid)) is not None:
                await self._look(entry)

    async def _look(self, entry: PoolEntry) -> PoolEntry:
        """A directory that is one place on several nodes is found to be so, and others are left out; never the other
        way by itself, and not against what was said."""
        nodes, place = self.nodes(entry.uuid), self.place(entry.uuid)
        if not entry.active or entry.kind is Kind.SHARED or place == SAID_LOCAL or len(nodes) < 2:
            return entry
        if entry.pool.type not in PROBED:
            return entry
        found = await self._probe.one_place(entry.pool.target.path, nodes)
        if not found:
            return entry
        try:
            self._refuse_incomplete(entry)
            return await self._share(OURS, entry, True, found, self._probe.known(entry.uuid, FOUND))
        except ClusterError as error:
            log.info("a pool is taken for one on each node", pool=entry.name, nodes=found, reason=str(error))
            return entry

    async def _undefine(self, caller: Caller, uuid: bytes, name: str) -> None:
        async with self._lock(uuid):
            entry = self._inactive(uuid, name, "still")
            await self._forget(entry, caller, "undefine pool", "")
            with contextlib.suppress(ClusterError):  # a node that cannot is told again until it does
                await self._nodes.follow(uuid, PLAIN)
            self._tell(entry, UNDEFINED)

    # -- within

    def _read(self, xml: str) -> Pool:
        """A document's pool with its uuid."""
        with refusals():
            pool = read_pool(xml)
        return pool if pool.uuid else replace(pool, uuid=new_uuid())

    def _beside(self, pool: Pool) -> PoolEntry | None:
        """The one that there is already; StorageRefused when it cannot be beside the others."""
        with refusals():
            rules.check(pool, [entry.pool for entry in self._entries.values()])
        return self._entries.get(pool.uuid)

    async def _unhindered(self, pool: Pool, entry: PoolEntry | None) -> None:
        """A new name must not be that of another pool of a node's own."""
        if entry is None and (why := await self._nodes.in_the_way(pool)):
            raise StorageRefused(f"pool '{pool.name}' cannot be the cluster's: {why}", "Clash")

    def _active(self, uuid: bytes, name: str) -> PoolEntry:
        entry = self.by_uuid(uuid, name)
        if not entry.active:
            raise InvalidOperation(f"storage pool '{entry.name}' is not active")
        return entry

    def _inactive(self, uuid: bytes, name: str, how: str = "already") -> PoolEntry:
        entry = self.by_uuid(uuid, name)
        if entry.active:
            raise InvalidOperation(f"storage pool '{entry.name}' is {how} active")
        return entry

    async def _revert(
        self, caller: Caller, before: PoolEntry | None, row: PoolRow, why: ClusterError
    ) -> None:
        """No node could: it is as it was, and nodes that began are told."""
        text = f"no node could: {why}"
        if before is None:
            await self._forget(_entry(row), caller, "undefine pool", text)
        else:
            await self._commit(replace(before.row, serial=self._next()), caller, "stop pool", text)
        with contextlib.suppress(ClusterError):
            await self._nodes.follow(row.uuid, PLAIN)

    async def _commit(self, row: PoolRow, caller: Caller, kind: str, text: str, *more: Change) -> PoolEntry:
        ledger, entry = self._context.ledger, _entry(row)
        await ledger.commit(PutPool(row), *more, ledger.journal(kind, row.name, caller.who, text))
        self._entries[row.uuid] = entry
        return entry

    async def _forget(self, entry: PoolEntry, caller: Caller, kind: str, text: str) -> None:
        """What is in it stays where it is."""
        ledger = self._context.ledger
        volumes = [DropVolume(row.key) for row in ledger.volumes.values() if row.pool == entry.uuid]
        line = ledger.journal(kind, entry.name, caller.who, text)
        marks, uuid = self._nodes.marks, entry.uuid
        meta = (self._nodes.built(uuid, on=False), marks.forgotten(uuid), self._probe.known(uuid, ""))
        told = (clones_forgotten(uuid), limit_forgotten(uuid))
        await ledger.commit(DropPool(entry.uuid), *volumes, *meta, *told, line)
        self._entries.pop(entry.uuid, None)

    def _next(self) -> int:
        """Of no definition before, also not of one that a node which was away still has."""
        return self._context.ledger.generations.take()

    def _tell(self, entry: PoolEntry, what: str) -> None:
        for listener in self.listeners:
            listener(PoolHappened(entry.uuid, entry.name, what))

    def _lock(self, uuid: bytes) -> AbstractAsyncContextManager[None]:
        """One change of a pool at a time."""
        return self._context.locks.hold(b"pool" + uuid)

    def _alone(self) -> AbstractAsyncContextManager[None]:
        """Within a pool's lock: a definition is looked at beside all the others."""
        return self._context.locks.hold(b"pools")

    async def _finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        return await self._context.tasks.finish(work, what)


def _entry(row: PoolRow) -> PoolEntry:
    with refusals():
        return PoolEntry(row, read_pool(row.xml))


def _said(problems: dict[str, str]) -> str:
    return "; ".join(f"node {node}: {problem}" for node, problem in problems.items() if problem)
