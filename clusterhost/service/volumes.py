"""Volumes of the cluster's pools: what nodes list, as one namespace, with what the store knows of each copy.

Knows rows and listings; what is done to volumes is in volume_work.py and volume_uploads.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import structlog

from clusterhost.model.errors import (
    ClusterError,
    InvalidOperation,
    NodeUnreachable,
    VolumeNotFound,
)
from clusterhost.service.context import Context
from clusterhost.service.image_chains import Chains
from clusterhost.service.image_holds import Claims, Pins
from clusterhost.service.locks import Locks
from clusterhost.service.volume_calls import Entry, PoolHandle, VolumeCalls
from clusterhost.service.volume_digests import PATIENCE, Digests, clashing
from clusterhost.service.volume_listings import Listings, Seen
from clusterhost.service.volume_namespace import Namespace, Rows, alike, sized, with_digests
from clusterhost.service.volume_rows import (
    held_of,
    incomplete,
    key_of,
    leftovers,
    row_of,
    with_copy,
    without_copy,
    written,
)
from clusterhost.store.rows import Change, DropVolume, PutVolume, VolumeRow
from imagemgr.catalog import Listed, catalog, one_place
from imagemgr.model import Copy, CopyState, Held, Kind, Volume
from imagemgr.names import pool_of, sanitized

log = structlog.get_logger("clusterhost.volumes")


class Pools(Protocol):
    """service.pools.Pools, as far as volumes need it."""

    def all(self) -> Iterable[Entry]: ...
    def by_name(self, name: str) -> Entry: ...
    def by_uuid(self, uuid: bytes) -> Entry: ...
    def nodes(self, uuid: bytes) -> Sequence[str]: ...
    def problem(self, uuid: bytes, node: str) -> str: ...
    def handle_at(self, uuid: bytes, node: str) -> PoolHandle: ...


class Volumes:
    """What clients and use cases ask of volumes."""

    def __init__(self, context: Context, pools: Pools) -> None:
        self.calls = VolumeCalls(context)
        self.listings = Listings(self.calls, pools)
        self.pools = pools
        self.in_hand: set[str] = set()
        """Keys of rows whose doer is alive: a creation or an upload is under way."""
        self.coming = Locks()
        """Held for a node's file (image_copies.place_key) by whoever brings it there or takes it away."""
        self.pins = Pins(context.ledger)
        self.claims = Claims()
        self.told: dict[tuple[bytes, str], dict[tuple[str, int, CopyState], Volume]] = {}
        """By pool and name: what nodes said of copies that nobody writes to (image_cache.py)."""
        self.trimming = Locks()
        """Held for a pool and a node by whoever takes copies away there to make room."""
        self._context = context
        self.chains = Chains(context, self)
        self._digests = Digests(context, self._read)
        self._rows: dict[bytes, Rows] = {}
        self._made: dict[bytes, Namespace] = {}
        self._unlisted: set[tuple[bytes, str, str]] = set()

    def load(self) -> None:
        """Read what the store has."""
        for row in self._context.ledger.volumes.values():
            self._of(row.pool).put(row)

    # -- asking

    async def listed(self, uuid: bytes) -> tuple[Held, ...]:
        """What clients see, by name.  PoolNotFound, InvalidOperation when the pool is not active."""
        held = (await self._namespace(uuid)).all()
        rows = self._of(uuid).shown
        return tuple(volume for volume in held if volume.is_listed and not incomplete(rows[volume.shown]))

    async def all(self, uuid: bytes) -> tuple[Held, ...]:
        """Also what is incomplete, and what is only on nodes that are away."""
        return (await self._namespace(uuid)).all()

    async def named(self, uuid: bytes, name: str) -> list[Held]:
        """Of these, the volumes whose files have this name."""
        return (await self._namespace(uuid)).named(name)

    async def by_name(self, uuid: bytes, shown: str) -> Held:
        """Also one that is incomplete.  VolumeNotFound, NodeUnreachable when only nodes that are away have it."""
        held = await self.found(uuid, shown)
        if held is None:
            raise VolumeNotFound(f"no storage vol with matching name '{shown}'")
        if not any(copy.state in (CopyState.WHOLE, CopyState.COMING) for copy in held.copies):
            raise self._away(uuid, held)
        return held

    def known(self, uuid: bytes, shown: str) -> Held | None:
        """A volume that a node has, as of the last list of it; None where that is too old, or some node must be asked.

        Clients ask for each volume of a list that they have just got."""
        made = self._made.get(uuid)
        if made is None or not made.is_current or not self.listings.holds(uuid, made.seen):
            return None
        held = made.held.get(shown)
        return (
            held if held is not None and any(copy.state is CopyState.WHOLE for copy in held.copies) else None
        )

    async def found(self, uuid: bytes, shown: str, *, fresh: bool = False) -> Held | None:
        """None when no node has one of that name, as far as those say that are there.  fresh: they are asked now."""
        known = None if fresh else (await self._namespace(uuid)).held.get(shown)
        return known or (await self._namespace(uuid, fresh=True)).held.get(shown)

    async def by_path(self, path: str) -> tuple[bytes, Held]:
        """The volume that a node's path is, and its pool's uuid.  VolumeNotFound."""
        clean = sanitized(path)
        active = [entry for entry in self.pools.all() if entry.active]
        place = pool_of(clean, (entry.pool for entry in active)) if clean.startswith("/") else None
        if place is not None and sanitized(f"{place[0].target.path}/{place[1]}") == clean:
            entry = next(entry for entry in active if entry.name == place[0].name)
            with contextlib.suppress(VolumeNotFound):
                return entry.uuid, await self.by_name(entry.uuid, place[1])
        elif (found := await self._by_key(clean)) is not None:
            return found
        if (found := await self._at_path(clean)) is not None:
            return found
        also = f" ({clean})" if clean != path else ""
        raise VolumeNotFound(f"no storage vol with matching path '{path}'{also}")

    async def by_key(self, key: str) -> tuple[bytes, Held]:
        """The volume of a key, and its pool's uuid.  VolumeNotFound."""
        found = await self._by_key(key)
        if found is None:
            raise VolumeNotFound(f"no storage vol with matching key {key}")
        return found

    async def key(self, uuid: bytes, held: Held) -> str:
        """As its nodes say it; of one that is shown under another name, with that: a key is one volume's."""
        return (await self.keys(uuid, (held,)))[0]

    async def keys(self, uuid: bytes, held: Iterable[Held]) -> list[str]:
        """Those of several volumes of a pool."""
        files = (await self.listings.of(uuid)).files
        directory = self.pools.by_uuid(uuid).pool.target.path
        return [_key(volume, files, directory) for volume in held]

    async def refreshed(self, uuid: bytes) -> None:
        """Nodes are asked anew by whoever comes next."""
        self.listings.forget(uuid)

    async def sized(self, uuid: bytes, held: Held) -> Held:
        """With capacity and allocation of the copy that node_for names."""
        node = await self.node_for(uuid, held)
        capacity, allocation = await self.calls.size(node, self.pools.by_uuid(uuid).name, held.name)
        copy = held.at(node) or held.copies[0]
        return with_copy(held, replace(copy, capacity=capacity, allocation=allocation))

    # -- where it is

    async def node_for(self, uuid: bytes, held: Held) -> str:
        """A node to read it at: one that is there and has all of it.  NodeUnreachable, InvalidOperation."""
        row = self.row(uuid, held.shown)
        if row is not None and incomplete(row):
            raise InvalidOperation(f"volume '{held.shown}' is incomplete: {row.reason}")
        return await self.place_of(uuid, held)

    async def place_of(self, uuid: bytes, held: Held) -> str:
        """The same of one that may be incomplete: the node whose file is the volume's current one."""
        nodes = self.pools.nodes(uuid)
        current = [copy for copy in held.copies if copy.generation == held.generation]
        for state in (CopyState.WHOLE, CopyState.COMING):
            for copy in current:
                if copy.state is state and (copy.node in nodes or (not copy.node and nodes)):
                    return copy.node or await self._that_lists(uuid, held.name, nodes)
        raise self._away(uuid, held)

    async def keepers(self, uuid: bytes, held: Held) -> tuple[str, ...]:
        """All nodes with a file of it, older ones too, the current one last.  NodeUnreachable when one is away."""
        current = await self.place_of(uuid, held)
        nodes = self.pools.nodes(uuid)
        others = [copy.node for copy in held.copies if copy.node not in ("", current)]
        for node in others:
            if node not in nodes:
                raise self._missed(uuid, held, node, "has a copy of")
        return (*others, current)

    async def _that_lists(self, uuid: bytes, name: str, nodes: Sequence[str]) -> str:
        """Of a shared pool: a node's libvirtd knows what it has made, or has looked for."""
        files = (await self.listings.of(uuid)).files
        return next((node for node in nodes if name in files.get(node, {})), nodes[0])

    def _away(self, uuid: bytes, held: Held) -> ClusterError:
        nodes = [copy.node for copy in held.copies if copy.generation == held.generation and copy.node]
        return self._missed(uuid, held, nodes[0] if nodes else "", "alone has")

    def _missed(self, uuid: bytes, held: Held, node: str, verb: str) -> ClusterError:
        name = f"volume '{held.shown}'"
        if not node:
            return NodeUnreachable(f"no node that has the pool of {name} can be reached")
        try:
            self._context.reachable(node)
        except ClusterError as error:
            return NodeUnreachable(f"node {node} {verb} {name}: {error}")
        problem = self.pools.problem(uuid, node)
        return NodeUnreachable(f"node {node} {verb} {name}, and its pool is not active there: {problem}")

    # -- what is known of copies

    async def note_copy(self, uuid: bytes, shown: str, copy: Copy) -> None:
        """Durable; a whole copy is made known to its node's libvirtd, too."""
        row = self._row(uuid, shown)
        if copy.state is CopyState.WHOLE:
            self._unlisted.add((uuid, copy.node, row.name))
            await self._look_again(uuid, copy.node)
        row = self._row(uuid, shown)
        await self.put(row_of(uuid, with_copy(held_of(row), copy), row))

    async def drop_copy(self, uuid: bytes, shown: str, node: str) -> None:
        """That node has no file of it any more; a volume without any is no more.  Durable."""
        row = self._row(uuid, shown)
        self._unlisted.discard((uuid, node, row.name))
        self.told.pop((uuid, shown), None)
        held = without_copy(held_of(row), node)
        await (self.put(row_of(uuid, held, row)) if held.copies else self.drop(row))

    async def raise_generation(self, uuid: bytes, shown: str, node: str) -> None:
        """That node's file may be written from now on: other copies are older.  Durable."""
        row = self._row(uuid, shown)
        mine = held_of(row).at(node)
        if mine is not None and mine.state is CopyState.COMING:
            # It is being taken away there (or has not come): the others must not become the older ones.
            raise InvalidOperation(f"node {node} does not have all of volume '{shown}'")
        await self.put(row_of(uuid, written(held_of(row), node), row))

    def note_used(self, uuid: bytes, shown: str, node: str) -> None:
        """That node's copy was of use just now.  Durable soon; no reason to make a namespace of thousands anew."""
        now, row = self._context.clock(), self.row(uuid, shown)
        if row is None or (copy := held_of(row).at(node)) is None:
            return
        row = row_of(uuid, with_copy(held_of(row), replace(copy, used=now)), row)
        self._of(uuid).put(row)
        self._context.ledger.note(PutVolume(row))
        made = self._made.get(uuid)
        held = made.held.get(shown) if made is not None else None
        if made is not None and held is not None and (copy := held.at(node)) is not None:
            made.put(with_copy(held, replace(copy, used=now)))

    def row(self, uuid: bytes, shown: str) -> VolumeRow | None:
        """What is kept of it."""
        return self._of(uuid).shown.get(shown)

    async def put(self, row: VolumeRow) -> None:
        """Keep it; durable when it returns."""
        self._take(row)
        await self._context.ledger.commit(PutVolume(row))

    def note(self, row: VolumeRow) -> None:
        """Keep it; durable soon."""
        self._take(row)
        self._context.ledger.note(PutVolume(row))

    async def drop(self, row: VolumeRow) -> None:
        """It is no more."""
        self._lose(row)
        await self._context.ledger.commit(DropVolume(row.key))

    def forget_pool(self, uuid: bytes) -> None:
        """The pool is no more, and what was known of its volumes."""
        rows = self._rows.pop(uuid, Rows()).shown.values()
        for row in rows:
            self.pins.forget(uuid, row.shown)
            self.told.pop((uuid, row.shown), None)
        self._made.pop(uuid, None)
        self._digests.forget(uuid)
        self.chains.forget(uuid)
        self.listings.drop(uuid)
        self._context.ledger.note(*(DropVolume(row.key) for row in rows))

    @asynccontextmanager
    async def locked(self, uuid: bytes, *shown: str) -> AsyncIterator[None]:
        """One at a time makes, deletes or writes volumes of these names."""
        async with self._context.locks.hold(b"volume" + uuid, *shown):
            yield

    def _row(self, uuid: bytes, shown: str) -> VolumeRow:
        row = self.row(uuid, shown)
        if row is None:
            raise VolumeNotFound(f"no storage vol with matching name '{shown}'")
        return row

    def _of(self, uuid: bytes) -> Rows:
        return self._rows.setdefault(uuid, Rows())

    def _take(self, row: VolumeRow) -> None:
        self._of(row.pool).put(row)
        self._changed(row)

    def _lose(self, row: VolumeRow) -> None:
        self._of(row.pool).pop(row.shown)
        self.chains.forget(row.pool, row.shown)
        self.pins.forget(row.pool, row.shown)
        self.told.pop((row.pool, row.shown), None)
        self._changed(row)

    def _changed(self, row: VolumeRow) -> None:
        if (made := self._made.get(row.pool)) is not None:
            made.note(row.name)

    def _read(self, uuid: bytes) -> None:
        """More is known of what is in files."""
        if (made := self._made.get(uuid)) is not None:
            made.note_all()

    # -- the namespace

    async def _by_key(self, key: str) -> tuple[bytes, Held] | None:
        entries = [entry for entry in self.pools.all() if entry.active]
        for fresh in (False, True):
            for entry in entries:
                with contextlib.suppress(ClusterError):  # a pool that stops meanwhile has none
                    every = (await self._namespace(entry.uuid, fresh=fresh)).all()
                    named = entry.pool.type.holds_files  # logical volumes have a uuid for a key
                    some = [held for held in every if key.endswith(held.shown) or not named]
                    for held, its in zip(some, await self.keys(entry.uuid, some), strict=True):
                        if its == key:
                            return entry.uuid, held
        return None

    async def _at_path(self, path: str) -> tuple[bytes, Held] | None:
        """In pools of devices and of network storage a path may be called otherwise than its volume: nodes know."""
        for entry in self.pools.all():
            if not entry.active or entry.pool.type.holds_files:
                continue
            for node in self.pools.nodes(entry.uuid):
                with contextlib.suppress(ClusterError):  # it knows none, or another node does
                    found = await self.calls.at_path(node, path)
                    for held in await self.named(entry.uuid, found.name) if found.pool == entry.name else ():
                        if (held.at(node) or held.at("")) is not None:
                            return entry.uuid, held
        return None

    async def _namespace(self, uuid: bytes, *, fresh: bool = False) -> Namespace:
        entry = self.pools.by_uuid(uuid)
        if not entry.active:
            raise InvalidOperation(f"storage pool '{entry.name}' is not active")
        patience = PATIENCE
        while True:
            seen = await self.listings.of(uuid, fresh=fresh)
            made = self._made.get(uuid)
            if made is None or not self._brought_up(entry, made, seen):
                made = await self._make(entry, seen, patience)
            if made is not None:
                made.seen = seen
                return made
            fresh, patience = False, 0.0

    def _brought_up(self, entry: Entry, made: Namespace, seen: Seen) -> bool:
        """To what is known now, looking only at what has changed; False when all must be looked at, or a file read."""
        names = made.older(seen)
        if not names:
            return names is not None
        rows = self._of(entry.uuid)
        names |= rows.unfinished()
        known = tuple(held_of(row) for row in rows.named(names).values())
        files = self._files(entry, seen, known, names)
        if clashing(known, alike(entry, files))[0]:
            return False
        made.take_out(names)
        listings = {node: [Listed(name) for name in listed] for node, listed in files.items()}
        made.put_back(self._catalog(entry, rows.named(names), listings, made.held))
        return True

    async def _make(self, entry: Entry, seen: Seen, patience: float) -> Namespace | None:
        """None when the pool changed while nodes read files: what they listed before says nothing of it."""
        uuid = entry.uuid
        known = [held_of(row) for row in self._of(uuid).shown.values()]
        files = self._files(entry, seen, known, None)
        digests = await self._digests.of(uuid, entry.pool, known, alike(entry, files), patience)
        if self.listings.edition(uuid) != seen.edition:
            return None
        listings = {
            node: [
                Listed(name, digest=digests.known.get((node, name), b""))
                for name in names
                if (node, name) not in digests.unread
            ]
            for node, names in files.items()
        }
        found = self._catalog(entry, self._of(uuid).shown, listings, ())
        self._made[uuid] = made = Namespace(seen, found)
        return made

    def _files(
        self, entry: Entry, seen: Seen, known: Iterable[Held], names: Collection[str] | None
    ) -> dict[str, set[str]]:
        """Files at each node, of these names (None: all): what it lists, and what it has not listed yet."""
        files = {
            node: set(listed) if names is None else {name for name in names if name in listed}
            for node, listed in seen.files.items()
        }
        for uuid, node, name in list(self._unlisted):
            if uuid == entry.uuid and node in files and (names is None or name in names):
                if name in files[node]:
                    self._unlisted.discard((uuid, node, name))
                files[node].add(name)
        for node in seen.unsure:
            place = "" if entry.kind is Kind.SHARED else node
            files[node] = {volume.name for volume in known if volume.at(place) is not None}
        return files

    def _catalog(
        self,
        entry: Entry,
        rows: Mapping[str, VolumeRow],
        listings: Mapping[str, Iterable[Listed]],
        taken: Container[str],
    ) -> tuple[Held, ...]:
        """Bring rows up to what nodes list of their names; what is new or gone is noted.  taken: see catalog."""
        uuid, shared = entry.uuid, entry.kind is Kind.SHARED
        if shared:
            listings = one_place(listings)
        named = {node: [file.name for file in files] for node, files in listings.items()}
        for row in leftovers(list(rows.values()), named.items()):
            if row.key not in self.in_hand:
                self._note_lost(row)
        rows = {shown: row for shown, row in rows.items() if self.row(uuid, shown) is not None}
        digests = {
            (node, file.name): file.digest
            for node, files in listings.items()
            for file in files
            if file.digest
        }
        known = {shown: with_digests(held_of(row), digests) for shown, row in rows.items()}
        found = catalog(known.values(), sized(known, listings), taken).volumes
        changes: list[Change] = []
        for volume in found:
            row = row_of(uuid, volume, rows.get(volume.shown))
            if row != rows.get(volume.shown):
                self._take(row)
                changes.append(PutVolume(row))
        for shown in known.keys() - {volume.shown for volume in found}:
            changes.append(DropVolume(key_of(uuid, shown)))
            self._lose(rows[shown])
        self._context.ledger.note(*changes)
        if entry.pool.type.traits.volume_formats:
            self.chains.look(uuid, found)
        return found

    def _note_lost(self, row: VolumeRow) -> None:
        log.info("what was left incomplete is gone", pool=row.pool.hex(), volume=row.shown)
        self._lose(row)
        self._context.ledger.note(DropVolume(row.key))

    async def _look_again(self, uuid: bytes, node: str) -> None:
        """A node's libvirtd does not know files that it has not made itself; it refuses while it makes one."""
        for pause in (0.2, 1.0, 3.0, 0.0):
            try:
                await self.calls.refresh(node, self.pools.handle_at(uuid, node))
                break
            except ClusterError as error:
                if not pause:
                    log.warning("a node has not looked for a new volume", node=node, reason=str(error))
                await asyncio.sleep(pause)
        self.listings.forget(uuid, node)


def _key(held: Held, files: Mapping[str, Mapping[str, str]], directory: str) -> str:
    """files: by node.  Those of its own nodes count: another's of that name may have another key."""
    nodes = (*(copy.node for copy in held.copies), *files)
    listed = (files[node][held.name] for node in nodes if held.name in files.get(node, {}))
    found = next(listed, f"{directory}/{held.name}")
    if held.shown == held.name or not found.endswith(held.name):
        return found
    return found.removesuffix(held.name) + held.shown
