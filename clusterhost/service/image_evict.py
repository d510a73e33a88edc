"""Copies of images that are not needed are taken away from nodes.  Never the last newest one, nor one in use.

The one place that knows which these are: an operator's `evict` and the cache (image_cache.py) ask here.

While a copy goes it counts as not there: a start on that node waits, and has it brought anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import structlog

from clusterhost.model.errors import ClusterError, InvalidOperation, NodeError
from clusterhost.service.context import Context
from clusterhost.service.image_copies import place_key
from clusterhost.service.image_facts import Facts, Look, file_path, refuse_one_place
from clusterhost.service.volume_calls import Entry, VolumeHandle
from clusterhost.service.volume_rows import held_of, incomplete, row_of, with_copy
from clusterhost.service.volumes import Pools, Volumes
from clusterhost.store.crash import crash_point
from compat.libvirt import messages
from imagemgr.model import Copy, CopyState, Held, Volume
from imagemgr.place import newest
from imagemgr.transfer.pace import amount

log = structlog.get_logger("clusterhost.images")


@dataclass(frozen=True, slots=True)
class Evicted:
    """What became of a copy.  size: bytes that it took; reason: why it is still there."""

    pool: str
    image: str
    node: str
    size: int = 0
    reason: str = ""


class Evict:
    """Holds nothing."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes, facts: Facts) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._facts = facts

    async def one(
        self, pool: bytes, shown: str, node: str, who: str, why: str = "", *, force: bool = False
    ) -> Evicted:
        """A node's copy.  InvalidOperation says why it stays; NodeUnreachable.  who, why: for the journal;
        force: also a pinned one."""
        return await self._context.tasks.finish(self._one(pool, shown, node, who, why, force), "evict image")

    async def candidates(self, entry: Entry, node: str) -> list[tuple[Held, Copy]]:
        """Copies there that nothing speaks for of what is known without asking; `is_idle` asks."""
        if node not in self._pools.nodes(entry.uuid):
            return []
        found = []
        for held in await self._volumes.all(entry.uuid):
            copy = held.at(node)
            if copy is None or copy not in _spare(held) or self._is_held(entry, held, node):
                continue
            row = self._volumes.row(entry.uuid, held.shown)
            if row is not None and not incomplete(row) and self._is_elsewhere(entry, held, node):
                found.append((held, copy))
        return found

    async def is_idle(
        self, entry: Entry, held: Held, node: str, look: Look, gone: Collection[str] = ()
    ) -> bool:
        """No domain has it or is about to, and no overlay there needs it.  look: what Facts.look says of the node;
        gone: overlays that would go first."""
        try:
            await self._refuse_needed(entry, held, node, look, gone)
        except ClusterError:
            return False  # in use, or nobody can tell
        return not await self._facts.in_work(entry, held, look)

    async def unused(
        self, pool: bytes, shown: str | None, nodes: Iterable[str], seconds: float, who: str
    ) -> list[Evicted]:
        """Copies, of a pool or of one image, that were of no use for so long; one of each and pinned ones stay."""
        entry = self._pools.by_uuid(pool)
        refuse_one_place(entry, "evicted")
        wanted, results = set(nodes), []
        for held in await self._volumes.all(pool):
            if shown not in (None, held.shown):
                continue
            for copy in _spare(held):
                if copy.node in wanted and not self._volumes.pins.pinned(pool, held.shown, copy.node):
                    results += await self._if_unused(entry, held, copy.node, seconds, who)
        return results

    async def _if_unused(
        self, entry: Entry, held: Held, node: str, seconds: float, who: str
    ) -> list[Evicted]:
        try:
            now = await self._volumes.by_name(entry.uuid, held.shown)
            copy = now.at(node)
            if copy is None or not self._is_elsewhere(entry, now, node):
                return []
            used = last_use(copy, await self._facts.document(entry, held.name, node))
            if used is None or self._context.clock() - used < seconds:
                return []
            return [await self.one(entry.uuid, held.shown, node, who, "not used for long")]
        except ClusterError as error:
            return [Evicted(entry.name, held.shown, node, reason=str(error))]

    async def _one(self, pool: bytes, shown: str, node: str, who: str, why: str, force: bool) -> Evicted:
        entry = self._pools.by_uuid(pool)
        refuse_one_place(entry, "evicted")
        self._context.reachable(node)
        volumes = self._volumes
        path = file_path(entry, await volumes.by_name(pool, shown))
        async with volumes.locked(pool, shown), volumes.coming.hold(place_key(node, path)):
            held = await volumes.by_name(pool, shown)
            self._refuse_pinned(entry, held, node, force)
            copy = self._spare_at(entry, held, node)
            size = await self._size(entry, held, copy)
            await self._refuse_needed(entry, held, node)
            await volumes.note_copy(pool, shown, Copy(node, CopyState.COMING, held.generation))
            crash_point("evict.after_intent")
            try:
                # Who begins to start now waits for the lock; who began before holds its domain's.
                busy = await self._facts.in_work(entry, held)
                if busy:
                    raise InvalidOperation(
                        f"domain '{busy[0]}', which has volume '{shown}', is being worked on"
                    )
                self._refuse_claimed(entry, held, node)
                await self._refuse_needed(entry, held, node)
                await self._delete(entry, held, node)
            except ClusterError:
                await self._put_back(pool, shown, copy)
                raise
            crash_point("evict.after_act")
            await volumes.drop_copy(pool, shown, node)
            volumes.listings.forget(pool, node)
        ledger, text = self._context.ledger, f"from node {node}, {amount(size)}{why and ': '}{why}"
        ledger.note(ledger.journal("evict image", f"{entry.name}/{shown}", who, text))
        log.info("image evicted", pool=entry.name, volume=shown, node=node, size=size, who=who, why=why)
        return Evicted(entry.name, shown, node, size)

    async def _size(self, entry: Entry, held: Held, copy: Copy) -> int:
        """Bytes that it takes, as its node says."""
        try:
            return (await self._volumes.calls.size(copy.node, entry.name, held.name))[1]
        except NodeError:
            return copy.allocation

    async def _put_back(self, pool: bytes, shown: str, copy: Copy) -> None:
        """As it was; whether its file is there still the node's next listing says."""
        row = self._volumes.row(pool, shown)
        if row is not None:
            await self._volumes.put(row_of(pool, with_copy(held_of(row), copy), row))

    def _spare_at(self, entry: Entry, held: Held, node: str) -> Copy:
        copy, row = held.at(node), self._volumes.row(entry.uuid, held.shown)
        if copy is None:
            raise InvalidOperation(f"node {node} has no copy of volume '{held.shown}'")
        if node not in self._pools.nodes(entry.uuid):
            why = self._pools.problem(entry.uuid, node) or "is not active there"
            raise InvalidOperation(f"pool {entry.name} on node {node}: {why}")
        if row is not None and incomplete(row):
            raise InvalidOperation(f"volume '{held.shown}' is incomplete: {row.reason}")
        if copy.state is CopyState.COMING:
            raise InvalidOperation(
                f"the copy on node {node} is not complete; `image verify --repair` sees to it"
            )
        if not self._is_elsewhere(entry, held, node):
            raise InvalidOperation(f"node {node} has the last newest copy of '{held.shown}' in reach")
        self._refuse_claimed(entry, held, node)
        return copy

    def _refuse_pinned(self, entry: Entry, held: Held, node: str, force: bool) -> None:
        if not force and self._volumes.pins.pinned(entry.uuid, held.shown, node):
            raise InvalidOperation(
                f"volume '{held.shown}' is pinned on node {node}: unpin it first, or use --force"
            )

    def _refuse_claimed(self, entry: Entry, held: Held, node: str) -> None:
        if self._volumes.claims.held(entry.uuid, held.shown, node):
            raise InvalidOperation(
                f"volume '{held.shown}' is in use on node {node}: a domain is being started with it, or it is copied"
            )

    def _is_held(self, entry: Entry, held: Held, node: str) -> bool:
        pins, claims = self._volumes.pins, self._volumes.claims
        return pins.pinned(entry.uuid, held.shown, node) or claims.held(entry.uuid, held.shown, node)

    def _is_elsewhere(self, entry: Entry, held: Held, node: str) -> bool:
        """Another node that is there has the newest of it."""
        usable = self._pools.nodes(entry.uuid)
        return any(copy.node in usable for copy in newest(held) if copy.node != node)

    async def _refuse_needed(
        self,
        entry: Entry,
        held: Held,
        node: str,
        look: Look | None = None,
        gone: Collection[str] = (),
    ) -> None:
        for use in await self._facts.running(entry, held, node, look):
            raise InvalidOperation(
                f"volume '{held.shown}' is in use on node {node}: domain '{use.domain}' runs with it"
            )
        above = [name for name in await self._facts.overlays_at(entry, held, node, look) if name not in gone]
        if above:
            raise InvalidOperation(
                f"volume '{held.shown}' is needed on node {node}: volume '{above[0]}' is an overlay of it"
            )

    async def _delete(self, entry: Entry, held: Held, node: str) -> None:
        """By the node's own libvirtd; that the file is not there any more is as good."""
        args = messages.RemoteStorageVolDeleteArgs(VolumeHandle(entry.name, held.name, ""), 0)
        calls, handle = self._volumes.calls, self._pools.handle_at(entry.uuid, node)
        try:
            await calls.ask(node, "STORAGE_VOL_DELETE", args, long=True)
        except NodeError:
            await calls.refresh(node, handle)
            if held.name in await calls.files(node, handle):
                raise


def last_use(copy: Copy, said: Volume) -> float | None:
    """Epoch seconds: as noted, or when its file was written if that is later.  Where nothing is noted: when the file
    was written, or put there or given to a domain, which changes its inode; None: nobody knows.  Not when it was read:
    a refresh of its pool reads each file."""
    times = {key: float(value) for key, value in said.target.timestamps}
    if copy.used:
        return max(copy.used, times.get("mtime", 0.0))
    changed = [times[key] for key in ("mtime", "ctime") if key in times]
    return max(changed, default=times.get("atime"))


def _spare(held: Held) -> list[Copy]:
    """Copies of which there are others; old ones first."""
    there = [copy for copy in held.copies if copy.state in (CopyState.WHOLE, CopyState.STALE)]
    return sorted(there, key=lambda copy: copy.state is CopyState.WHOLE) if len(there) > 1 else []
