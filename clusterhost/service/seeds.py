"""The CDs that tell guests at their first boot who they are: volumes made at starts, where a definition asks for one.

Which volume is whose is kept in the store before there is a file, so none is left behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import structlog

from clusterhost.control.operations import PutVolumeArgs, ReadVolumeArgs
from clusterhost.model.cluster import format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.errors import (
    ClusterError,
    ConfigUnsupported,
    InvalidOperation,
    PoolNotFound,
    StorageRefused,
    VolumeNotFound,
)
from clusterhost.service.context import Context
from clusterhost.service.image_copies import NO_AGENT, place_key
from clusterhost.service.locks import Locks
from clusterhost.service.ports import Caller
from clusterhost.service.storage_documents import refusals
from clusterhost.service.told import Told
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volume_rows import INCOMPLETE, MAKING, held_of, row_of, with_copy, written
from clusterhost.service.volume_work import VolumeWork
from clusterhost.service.volumes import Volumes
from clusterhost.service.watcher import Watcher
from clusterhost.store.rows import SetMeta
from imagemgr import seeds, seedxml
from imagemgr.model import Copy, CopyState, Held, Kind
from imagemgr.names import path_of
from imagemgr.place import is_there
from imagemgr.seedxml import Wish

PIECE = 1024 * 1024
"""Bytes for an agent in one message."""
OURS = Caller(who="seed")

_KEY, _GONE = "seed ", "seed gone "
"""Keys of the store's: before a domain's uuid; before pool/volume of one that nobody needs and that is there still."""
_pack = msgspec.msgpack.encode
log = structlog.get_logger("clusterhost.seeds")


@dataclass(frozen=True, slots=True)
class Kept:
    """A domain's CD as the store has it.  generation, digest: of the volume, and of what was written into it."""

    pool: str
    shown: str
    generation: int = 0
    digest: str = ""


class Seeds(Watcher):
    """seed_stock.DomainSeeds over pools and volumes; the inventory's follower and watcher."""

    def __init__(self, context: Context, told: Told, volumes: Volumes, work: VolumeWork) -> None:
        self._context = context
        self._told = told
        self._volumes = volumes
        self._pools = volumes.pools
        self._work = work
        self._locks = Locks()

    # -- DomainSeeds

    def closed(self, xml: str) -> Mapping[str, str]:
        """See DomainSeeds."""
        try:
            wish = _wish(xml)
            if wish is None:
                return {}
            entry = self._pools.by_name(wish.pool)
        except (StorageRefused, PoolNotFound):
            return {}  # the start says so, unless the definition has been changed just now
        nodes = [node.name for node in self._context.cluster.cells() if node.usable]
        return {node: why for node in nodes if (why := self._why_not(entry, node))}

    async def ready(self, uuid: bytes, name: str, xml: str, node: str) -> str:
        """See DomainSeeds."""
        wish = _wish(xml)
        if wish is None:
            await self.drop(uuid)
            return xml
        entry = self._entry(wish.pool, node)
        shown = name + seedxml.SUFFIX
        data = await self._contents(wish, uuid, name, xml)
        kept = self._kept(uuid)
        if kept is not None and (kept.pool, kept.shown) != (entry.name, shown):
            await self.drop(uuid)
        await self._put(entry, shown, node, uuid, data)
        with refusals():
            return seedxml.with_disk(xml, path_of(entry.pool.target.path, shown), wish.bus)

    async def again(self, uuid: bytes, name: str, xml: str, node: str) -> None:
        """See DomainSeeds."""
        kept = self._kept(uuid)
        if kept is not None:
            entry = self._pools.by_name(kept.pool)
            if await self._volumes.found(entry.uuid, kept.shown) is not None:
                path = path_of(entry.pool.target.path, kept.shown)
                disk = seedxml.with_disk("<domain/>", path, "virtio")
                await self._context.images.bring(name, disk, node, None)
                return
        if _wish(xml) is not None:
            await self.ready(uuid, name, xml, node)

    def has(self, uuid: bytes) -> bool:
        """See DomainSeeds."""
        return self._kept(uuid) is not None

    async def drop(self, uuid: bytes) -> None:
        """See DomainSeeds."""
        kept = self._kept(uuid)
        if kept is not None:
            self._context.ledger.note(SetMeta(_gone(kept.pool, kept.shown), "1"), SetMeta(_key(uuid), ""))
            await self._delete(kept.pool, kept.shown)

    def look(self, uuid: bytes) -> None:
        """See DomainSeeds."""
        if self._kept(uuid) is not None and self._context.cluster.get(uuid) is None:
            self._context.tasks.spawn(self._drop_of_nobody(uuid), "seed")

    # -- inventory's follower and watcher

    def defined(self, uuid: bytes, xml: str) -> None:
        """Looked at when it starts."""

    def domain_changed(self, before: Domain | None, now: Domain | None) -> None:
        """What is gone needs none."""
        if before is not None and now is None:
            self.look(before.uuid)

    def node_up(self, node: str, rebooted: bool) -> None:
        """What could not be deleted may be now."""
        for key, value in list(self._context.ledger.meta.items()):
            if value and key.startswith(_GONE):
                pool, _, shown = key.removeprefix(_GONE).rpartition("/")
                self._context.tasks.spawn(self._delete(pool, shown), "seed")
            elif value and key.startswith(_KEY):
                self.look(bytes.fromhex(key.removeprefix(_KEY)))

    # -- within

    async def _drop_of_nobody(self, uuid: bytes) -> None:
        context = self._context
        async with context.locks.hold(uuid):
            # What an intent may yet make has its CD.
            open_ = any(intent.uuid == uuid for intent in context.ledger.intents.values())
            if context.cluster.get(uuid) is None and not open_:
                await self.drop(uuid)

    async def _delete(self, pool: str, shown: str) -> None:
        """One that is gone, unless it has an owner again."""
        meta, key = self._context.ledger.meta, _gone(pool, shown)
        async with self._locks.hold(key.encode()):
            if not meta.get(key):
                return
            try:
                await self._work.delete(OURS, self._pools.by_name(pool).uuid, shown, 0)
            except (PoolNotFound, VolumeNotFound):
                pass  # somebody has deleted it
            except ClusterError as error:
                log.info("a seed is deleted later", pool=pool, volume=shown, reason=str(error))
                return
            self._context.ledger.note(SetMeta(key, ""))

    def _kept(self, uuid: bytes) -> Kept | None:
        text = self._context.ledger.meta.get(_key(uuid))
        return Kept(*json.loads(text)) if text else None

    async def _keep(self, uuid: bytes, kept: Kept) -> None:
        row = json.dumps([kept.pool, kept.shown, kept.generation, kept.digest])
        changes = [SetMeta(_key(uuid), row)]
        if self._context.ledger.meta.get(gone := _gone(kept.pool, kept.shown)):
            changes.append(SetMeta(gone, ""))
        await self._context.ledger.commit(*changes)

    def _entry(self, pool: str, node: str) -> Entry:
        entry = self._pools.by_name(pool)
        if not entry.active:
            raise InvalidOperation(f"storage pool '{entry.name}' is not active, and the seed goes there")
        if not entry.pool.type.holds_files:
            raise ConfigUnsupported(
                f"a seed cannot be in pool {entry.name} of type {entry.pool.type}, its volumes are no files"
            )
        if why := self._why_not(entry, node):
            raise InvalidOperation(f"node {node} {why}")
        return entry

    def _why_not(self, entry: Entry, node: str) -> str:
        """Why a CD cannot be there, "" when it can."""
        if node not in self._pools.nodes(entry.uuid):
            why = self._pools.problem(entry.uuid, node) or "is not active there"
            return f"cannot have the seed, its pool {entry.name} {why}"
        if not self._context.cluster.node(node).host.has_files:
            return f"cannot have the seed: {NO_AGENT}"
        return ""

    # -- what is in it

    async def _contents(self, wish: Wish, uuid: bytes, name: str, xml: str) -> bytes:
        user_data = await self._referenced(*wish.volume) if wish.volume else wish.user_data
        with refusals():
            guest = seeds.Guest(
                name=wish.name or name,
                instance=wish.instance or format_uuid(uuid),
                keys=wish.keys,
                user_data=user_data,
                interfaces=self._interfaces(wish, xml),
            )
            return await asyncio.to_thread(_made, guest)

    def _interfaces(self, wish: Wish, xml: str) -> tuple[seeds.Interface, ...]:
        if wish.network == seedxml.NONE:
            return ()
        if "" in (macs := seedxml.macs_of(xml)):
            raise ConfigUnsupported(
                "an interface has no MAC address, by which the seed would tell it; define the domain, or say one"
            )
        if wish.network == seedxml.DHCP:
            return tuple(seeds.Interface(mac, dhcp4=True) for mac in macs)
        return tuple(seeds.interface_of(row) for row in self._told.interfaces(xml))

    async def _referenced(self, pool: str, shown: str) -> bytes:
        """The bytes of a volume; what it is filled up with to its capacity is none of the user's."""
        entry = self._pools.by_name(pool)
        held = await self._volumes.by_name(entry.uuid, shown)
        node = await self._volumes.node_for(entry.uuid, held)
        if not entry.pool.type.holds_files:
            raise ConfigUnsupported(f"user-data cannot be in pool {pool} of type {entry.pool.type}")
        path, found = path_of(entry.pool.target.path, held.name), b""
        while len(found) <= seeds.LARGEST:
            args = _pack(ReadVolumeArgs(path, len(found), PIECE))
            packed = await self._context.nodes.operate(node, "read-volume", args)
            piece = msgspec.msgpack.decode(packed, type=bytes)
            found += piece
            if len(piece) < PIECE:
                break
        return found if found.startswith(b"\x1f\x8b") else found.rstrip(b"\0")

    # -- the volume

    async def _put(self, entry: Entry, shown: str, node: str, uuid: bytes, data: bytes) -> None:
        """At the node; of other contents than before it is newer than what other nodes have."""
        digest, kept = hashlib.sha256(data).hexdigest(), self._kept(uuid)
        gone = _gone(entry.name, shown)
        async with self._locks.hold(gone.encode()), self._volumes.locked(entry.uuid, shown):
            held = await self._volumes.found(entry.uuid, shown, fresh=kept is None)
            if held is not None and kept is None and not self._context.ledger.meta.get(gone):
                raise InvalidOperation(
                    f"volume {shown} of pool {entry.name} is there already and was not made as a seed"
                )
            if held is None:
                wanted = Held(shown, shown, 0, ())
            elif kept is not None and (kept.digest, kept.generation) == (digest, held.generation):
                if is_there(held, node):
                    return
                wanted = held
            else:
                wanted = written(held, "" if entry.kind is Kind.SHARED else node)
            await self._keep(uuid, Kept(entry.name, shown, wanted.generation, digest))
            await self._write(entry, wanted, node, data, new=held is None)
        log.info("a seed is made", pool=entry.name, volume=shown, node=node, size=len(data))

    async def _write(self, entry: Entry, held: Held, node: str, data: bytes, *, new: bool) -> None:
        """Nobody takes it for whole before it is."""
        volumes, place = self._volumes, "" if entry.kind is Kind.SHARED else node
        path = path_of(entry.pool.target.path, held.name)
        row = row_of(entry.uuid, with_copy(held, Copy(place, CopyState.COMING, held.generation)))
        if new:
            row = replace(row, state=INCOMPLETE, reason=f"{MAKING}{node} has not been seen to end")
        volumes.in_hand.add(row.key)
        try:
            async with volumes.coming.hold(place_key(node, path)):
                await volumes.put(row)
                await self._send(node, path, data)
                await self._written(entry, held, node, len(data))
        finally:
            volumes.in_hand.discard(row.key)

    async def _written(self, entry: Entry, held: Held, node: str, size: int) -> None:
        volumes, pool = self._volumes, entry.uuid
        copy = Copy(node, CopyState.WHOLE, held.generation, b"", size, size)
        if entry.kind is Kind.SHARED:
            whole = with_copy(held, replace(copy, node=""))
            await volumes.calls.refresh(node, self._pools.handle_at(pool, node))
            volumes.listings.forget(pool)
        else:
            await volumes.note_copy(pool, held.shown, copy)
            row = volumes.row(pool, held.shown)
            whole = held_of(row) if row is not None else with_copy(held, copy)
        await volumes.put(row_of(pool, whole))

    async def _send(self, node: str, path: str, data: bytes) -> None:
        for offset in range(0, len(data), PIECE):
            piece = data[offset : offset + PIECE]
            args = PutVolumeArgs(path, offset, piece, offset + len(piece) == len(data))
            await self._context.nodes.operate(node, "put-volume", _pack(args))


def check(xml: str) -> None:
    """StorageRefused, in libvirt's code for it: the definition asks for a CD that cannot be."""
    _wish(xml)


def _wish(xml: str) -> Wish | None:
    with refusals():
        return seedxml.wish_of(xml)


def _made(guest: seeds.Guest) -> bytes:
    # Imported when the first is made: most clusters never need it.
    from imagemgr import iso

    return iso.volume(seeds.LABEL, seeds.documents(guest))


def _key(uuid: bytes) -> str:
    return f"{_KEY}{uuid.hex()}"


def _gone(pool: str, shown: str) -> str:
    return f"{_GONE}{pool}/{shown}"
