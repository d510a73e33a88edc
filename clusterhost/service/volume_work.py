"""Use cases about one volume: create, clone, delete, wipe, resize.  Nodes' libvirtd do it; the store says what is sure.

Each is done to its end even if its client leaves.  Texts of refusals that a libvirtd gives too are libvirt's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from clusterhost.model.errors import (
    CloneExists,
    ClusterError,
    InvalidOperation,
    InvalidXml,
    NodeError,
    NodeUnreachable,
    VolumeExists,
)
from clusterhost.service.context import Context
from clusterhost.service.ports import Caller
from clusterhost.service.volume_calls import Entry, VolumeHandle
from clusterhost.service.volume_clones import VALIDATE, Clones, Overlay
from clusterhost.service.volume_guards import in_place, nobody_copies, stop_copy
from clusterhost.service.volume_rows import (
    INCOMPLETE,
    MAKING,
    WHOLE,
    incomplete,
    key_of,
    row_of,
    wiping,
    written,
)
from clusterhost.service.volumes import Volumes
from clusterhost.store.crash import crash_point
from compat.libvirt import messages
from compat.libvirt.xdr import Message
from compat.xmldoc import XmlDocument, XmlError, XmlMalformed
from imagemgr import partitions
from imagemgr.errors import NameRefused
from imagemgr.model import Copy, CopyState, Held, Kind, PoolType
from imagemgr.names import check_name

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a new volume's document says that matters here; backing: a path, "" for none."""

    name: str
    backing: str


class VolumeWork:
    """What clients change."""

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context = context
        self._volumes = volumes
        self.clones = Clones(context, volumes.chains, volumes.calls)

    async def create(self, caller: Caller, uuid: bytes, xml: str, flags: int) -> VolumeHandle:
        """On the node with most room, or one that has the backing file.  VolumeExists, InvalidOperation."""
        return await self._finish(self._create(caller, uuid, xml, flags), "create volume")

    async def clone(
        self, caller: Caller, uuid: bytes, xml: str, source: tuple[bytes, str], flags: int
    ) -> VolumeHandle:
        """Where its source is; an overlay of that where the pool says so.  source: pool and name.  CloneExists,
        VolumeNotFound."""
        return await self._finish(self._clone(caller, uuid, xml, source, flags), "clone volume")

    async def delete(self, caller: Caller, uuid: bytes, shown: str, flags: int) -> None:
        """All its copies.  NodeUnreachable, and nothing is done, when a node that has one is away."""
        await self._finish(self._delete(caller, uuid, shown, flags), "delete volume")

    async def wipe(
        self, caller: Caller, uuid: bytes, shown: str, call: Callable[[VolumeHandle], tuple[str, Message]]
    ) -> None:
        """All its copies, older ones too.  call: the procedure's name and arguments for a node's handle."""
        await self._finish(self._wipe(caller, uuid, shown, call), "wipe volume")

    async def resize(self, caller: Caller, uuid: bytes, shown: str, capacity: int, flags: int) -> None:
        """Its current copy; others are older then."""
        await self._finish(self._resize(caller, uuid, shown, capacity, flags), "resize volume")

    # -- new ones

    async def _create(self, caller: Caller, uuid: bytes, xml: str, flags: int) -> VolumeHandle:
        entry = self._active(uuid)
        asked = read(xml)
        nodes = await self._able(entry, asked.backing)
        args = messages.RemoteStorageVolCreateXmlArgs
        if not asked.name:
            return await self._refused(uuid, nodes[0], args, xml, flags)
        taken = VolumeExists(f"storage volume '{asked.name}' exists already")
        async with self._free(uuid, asked.name, taken), self._kept(entry, asked):
            node = await self._roomiest(uuid, await self._fitting(entry, asked.name, nodes))

            async def make() -> bytes:
                handle = self._volumes.pools.handle_at(uuid, node)
                return await self._volumes.calls.ask(
                    node, "STORAGE_VOL_CREATE_XML", args(handle, xml, flags), long=True
                )

            return await self._make(caller, entry, asked.name, node, make)

    async def _clone(
        self, caller: Caller, uuid: bytes, xml: str, source: tuple[bytes, str], flags: int
    ) -> VolumeHandle:
        entry, origin = self._active(uuid), self._active(source[0])
        held = await self._volumes.by_name(*source)
        node = await self._source_node(entry, origin, held)
        overlay = await self.clones.overlay(entry, origin, held, node, xml, flags)
        if overlay is not None:
            return await self._link(caller, entry, held, overlay, flags)
        asked = read(xml)
        old = VolumeHandle(origin.name, held.name, "")

        async def make() -> bytes:
            handle = self._volumes.pools.handle_at(uuid, node)
            args = messages.RemoteStorageVolCreateXmlFromArgs(handle, xml, old, flags)
            return await self._volumes.calls.ask(node, "STORAGE_VOL_CREATE_XML_FROM", args, long=True)

        if not asked.name:
            await make()
            raise _unreadable(node)
        used = CloneExists(f"storage volume name '{asked.name}' already in use.")
        async with self._free(uuid, asked.name, used):
            return await self._make(caller, entry, asked.name, node, make)

    async def _link(
        self, caller: Caller, entry: Entry, held: Held, overlay: Overlay, flags: int
    ) -> VolumeHandle:
        """At a node that has all of the source's chain."""
        uuid, asked = entry.uuid, read(overlay.xml)
        below = [link.held for link in overlay.chain[1:] if link.held is not None and link.pool == uuid]
        node = await self._source_node(entry, entry, held, below)

        async def make() -> bytes:
            handle = self._volumes.pools.handle_at(uuid, node)
            args = messages.RemoteStorageVolCreateXmlArgs(handle, overlay.xml, flags & VALIDATE)
            return await self._volumes.calls.ask(node, "STORAGE_VOL_CREATE_XML", args, long=True)

        used = CloneExists(f"storage volume name '{asked.name}' already in use.")
        async with self._free(uuid, asked.name, used), self._kept(entry, asked):
            return await self._make(caller, entry, asked.name, node, make, f", an overlay of {held.shown}")

    @asynccontextmanager
    async def _kept(self, entry: Entry, asked: Asked) -> AsyncIterator[None]:
        """Nobody writes to what it will be an overlay of, or begins to.  InvalidOperation."""
        base = None
        if asked.backing:
            with contextlib.suppress(
                ClusterError
            ):  # no volume: a node's libvirtd says whether there is such a file
                base = await self._volumes.by_path(asked.backing)
        if base is None:
            yield
            return
        pool, held = base
        name = asked.name if pool == entry.uuid else f"{entry.name}/{asked.name}"
        with self._volumes.chains.coming(pool, held.shown, name):
            await self.clones.refuse_written(
                self._volumes.pools.by_uuid(pool), held, self._having(pool, held)
            )
            yield

    @asynccontextmanager
    async def _free(self, uuid: bytes, name: str, taken: ClusterError) -> AsyncIterator[None]:
        """Nobody else makes one of that name meanwhile, and no node has one."""
        try:
            check_name(name)
        except NameRefused as error:
            raise InvalidOperation(str(error)) from error
        async with self._volumes.locked(uuid, name):
            found = await self._volumes.found(uuid, name, fresh=True)
            if found is not None and not await self._abandoned(uuid, found):
                raise taken
            yield

    async def _abandoned(self, uuid: bytes, held: Held) -> bool:
        """It is what a creation left that nobody saw the end of, and is gone now: who asks again gets a new one."""
        row = self._volumes.row(uuid, held.shown)
        if row is None or not row.reason.startswith(MAKING) or row.key in self._volumes.in_hand:
            return False
        await self._delete_at(await self._volumes.place_of(uuid, held), uuid, held, 0)
        await self._volumes.drop(row)
        return True

    async def _make(
        self,
        caller: Caller,
        entry: Entry,
        name: str,
        node: str,
        make: Callable[[], Coroutine[Any, Any, bytes]],
        note: str = "",
    ) -> VolumeHandle:
        """Known as incomplete before it is there, as whole before the client hears of it."""
        volumes, uuid = self._volumes, entry.uuid
        place = "" if entry.kind is Kind.SHARED else node
        held = Held(name, name, 0, (Copy(place, CopyState.COMING),))
        key = key_of(uuid, name)
        reason = f"{MAKING}{node} has not been seen to end"
        row = replace(row_of(uuid, held), state=INCOMPLETE, reason=reason)
        volumes.in_hand.add(key)
        try:
            await volumes.put(row)
            crash_point("volume.after_intent")
            try:
                handle = messages.RemoteStorageVolCreateXmlRet.from_bytes(await make()).vol
            except NodeError:
                await volumes.drop(row)
                raise
            finally:
                volumes.listings.forget(uuid, node)
            crash_point("volume.after_act")
            whole = Held(handle.name, handle.name, 0, (Copy(place, CopyState.WHOLE),))
            await volumes.put(row_of(uuid, whole))
            if handle.name != name:  # a partition has the name that its disk gives it
                await volumes.drop(row)
            if not place:
                await self._look_elsewhere(uuid, node)
        finally:
            volumes.in_hand.discard(key)
        self._journal(caller, "create volume", entry, name, f"on node {node}{note}")
        return handle

    async def _refused(
        self, uuid: bytes, node: str, kind: type[messages.RemoteStorageVolCreateXmlArgs], xml: str, flags: int
    ) -> VolumeHandle:
        """What cannot be read has no name: a node's libvirtd says what is wrong with it."""
        handle = self._volumes.pools.handle_at(uuid, node)
        await self._volumes.calls.ask(node, "STORAGE_VOL_CREATE_XML", kind(handle, xml, flags))
        raise _unreadable(node)

    async def _able(self, entry: Entry, backing: str) -> list[str]:
        """Nodes that could make it."""
        nodes = list(self._volumes.pools.nodes(entry.uuid))
        if not nodes:
            raise NodeUnreachable(f"no node where storage pool '{entry.name}' is active can be reached")
        if not backing or len(nodes) == 1:
            return nodes
        try:
            pool, held = await self._volumes.by_path(backing)
        except ClusterError:
            return nodes  # no volume: a node's libvirtd says whether there is such a file
        await self._volumes.node_for(pool, held)
        having = [node for node in nodes if _is_whole(held, node) and node in self._volumes.pools.nodes(pool)]
        if not having:
            raise NodeUnreachable(
                f"no node that has volume '{held.shown}' can make one of storage pool '{entry.name}'"
            )
        return having

    async def _source_node(self, entry: Entry, origin: Entry, held: Held, below: Sequence[Held] = ()) -> str:
        """below: what else must be there, as far as a node has it all."""
        first = await self._volumes.node_for(origin.uuid, held)
        nodes = self._volumes.pools.nodes(entry.uuid)
        having = [node for node in nodes if node == first or _is_whole(held, node)]
        having = [node for node in having if all(_is_whole(each, node) for each in below)] or having
        if not having:
            problem = self._volumes.pools.problem(entry.uuid, first)
            raise NodeUnreachable(
                f"node {first} has volume '{held.shown}', and storage pool '{entry.name}' is not active there: "
                f"{problem}"
            )
        return having[0] if len(having) == 1 else await self._roomiest(entry.uuid, having)

    def _having(self, uuid: bytes, held: Held) -> list[str]:
        """Nodes that have all of it."""
        return [node for node in self._volumes.pools.nodes(uuid) if _is_whole(held, node)]

    async def _fitting(self, entry: Entry, name: str, nodes: list[str]) -> list[str]:
        """Of a pool of disks, those for whose disk a partition's name is."""
        if entry.pool.type is not PoolType.DISK:
            return nodes
        files = (await self._volumes.listings.of(entry.uuid)).files
        device = next((device.path for device in entry.pool.source.devices), "")
        fits = {node: partitions.fit(name, device, files.get(node, {})) for node in nodes}
        return [node for node in nodes if fits[node] is min(fits.values())]

    async def _roomiest(self, uuid: bytes, nodes: list[str]) -> str:
        """The one with most room for new volumes; of equals the first."""
        if len(nodes) == 1:
            return nodes[0]
        pools, calls = self._volumes.pools, self._volumes.calls
        rooms = await asyncio.gather(
            *(calls.room(node, pools.handle_at(uuid, node)) for node in nodes), return_exceptions=True
        )
        found = {
            node: room.available
            for node, room in zip(nodes, rooms, strict=True)
            if not isinstance(room, BaseException)
        }
        if not found:
            raise next(room for room in rooms if isinstance(room, BaseException))
        return max(found, key=lambda node: found[node])

    # -- those that there are

    async def _delete(self, caller: Caller, uuid: bytes, shown: str, flags: int) -> None:
        entry = self._active(uuid)
        async with self._volumes.locked(uuid, shown):
            held = await self._volumes.by_name(uuid, shown)
            self._idle(uuid, shown)
            await self._volumes.chains.refuse_base(uuid, held, "deleted")
            async with nobody_copies(self._volumes, entry, held):
                nodes = await self._files_of(entry, held)
                await self._delete_all(entry, held, nodes, flags)
        self._journal(caller, "delete volume", entry, shown, f"on {', '.join(nodes)}")

    async def _delete_all(self, entry: Entry, held: Held, nodes: Sequence[str], flags: int) -> None:
        uuid, shown = entry.uuid, held.shown
        try:
            for node in nodes:
                await self._delete_at(node, uuid, held, flags, lenient=len(nodes) > 1)
                crash_point("delete.after_copy")
                if node != nodes[-1]:
                    await self._volumes.drop_copy(uuid, shown, node)
        finally:
            for node in nodes:
                self._volumes.listings.forget(uuid, node)
        crash_point("delete.after_act")
        row = self._volumes.row(uuid, shown)
        if row is not None:
            await self._volumes.drop(row)
        if entry.kind is Kind.SHARED:
            await self._look_elsewhere(uuid, nodes[-1])

    async def _files_of(self, entry: Entry, held: Held) -> tuple[str, ...]:
        """Nodes with a file of it, the current one last; what is left of copies that nobody ends is gone from others.
        NodeUnreachable."""
        uuid, volumes, left = entry.uuid, self._volumes, []
        *others, current = await volumes.keepers(uuid, held)
        for node in others:
            copy = held.at(node)
            if copy is None or copy.state is not CopyState.COMING:
                left.append(node)
                continue
            await stop_copy(self._context, volumes, entry, held, node)
            await self._delete_at(node, uuid, held, 0)
            await volumes.drop_copy(uuid, held.shown, node)
        return (*left, current)

    async def _delete_at(
        self, node: str, uuid: bytes, held: Held, flags: int, *, lenient: bool = True
    ) -> None:
        """lenient: that it is not there is as good."""
        handle = VolumeHandle(self._volumes.pools.by_uuid(uuid).name, held.name, "")
        args = messages.RemoteStorageVolDeleteArgs(handle, flags)
        try:
            await self._volumes.calls.ask(node, "STORAGE_VOL_DELETE", args, long=True)
        except NodeError:
            pool = self._volumes.pools.handle_at(uuid, node)
            if not lenient or held.name in await self._volumes.calls.files(node, pool):
                raise

    async def _wipe(
        self, caller: Caller, uuid: bytes, shown: str, call: Callable[[VolumeHandle], tuple[str, Message]]
    ) -> None:
        entry = self._active(uuid)
        async with self._volumes.locked(uuid, shown):
            held = await self._volumes.by_name(uuid, shown)
            self._idle(uuid, shown)
            await self._volumes.chains.refuse_base(uuid, held, "wiped")
            async with nobody_copies(self._volumes, entry, held):
                nodes = await self._files_of(entry, held)
                held = await self._volumes.by_name(uuid, shown)
                name, args = call(VolumeHandle(entry.name, held.name, ""))
                async with in_place(self._volumes, uuid, held, nodes[-1], wiping(nodes)) as begun:
                    for node in nodes:
                        await self._volumes.calls.ask(node, name, args, long=True)
                        begun.append(node)
                    await self._written(uuid, held, nodes[-1])
        self._journal(caller, "wipe volume", entry, shown, f"on {', '.join(nodes)}")

    async def _resize(self, caller: Caller, uuid: bytes, shown: str, capacity: int, flags: int) -> None:
        entry = self._active(uuid)
        async with self._volumes.locked(uuid, shown):
            held = await self._volumes.by_name(uuid, shown)
            self._idle(uuid, shown)
            await self._volumes.chains.refuse_base(uuid, held, "resized")
            node = await self._volumes.node_for(uuid, held)
            args = messages.RemoteStorageVolResizeArgs(
                VolumeHandle(entry.name, held.name, ""), capacity, flags
            )
            async with in_place(self._volumes, uuid, held, node):
                await self._volumes.calls.ask(node, "STORAGE_VOL_RESIZE", args, long=True)
                await self._written(uuid, held, node)
        self._journal(caller, "resize volume", entry, shown, f"on node {node}")

    async def _written(self, uuid: bytes, held: Held, node: str) -> None:
        """Its current copy has other content, all of it defined."""
        place = node if held.at(node) is not None else ""
        row = row_of(uuid, written(held, place))
        await self._volumes.put(replace(row, state=WHOLE, reason=""))

    # -- within

    def _idle(self, uuid: bytes, shown: str) -> None:
        """As libvirt: nobody deletes what is being written."""
        row = self._volumes.row(uuid, shown)
        if row is not None and incomplete(row) and row.key in self._volumes.in_hand:
            raise InvalidOperation(f"volume '{shown}' is still in use.")

    def _active(self, uuid: bytes) -> Entry:
        entry = self._volumes.pools.by_uuid(uuid)
        if not entry.active:
            raise InvalidOperation(f"storage pool '{entry.name}' is not active")
        return entry

    async def _look_elsewhere(self, uuid: bytes, made_at: str) -> None:
        """Other nodes of a shared pool see the same files, once they look."""
        pools, calls = self._volumes.pools, self._volumes.calls
        others = [node for node in pools.nodes(uuid) if node != made_at]
        looks = (calls.refresh(node, pools.handle_at(uuid, node)) for node in others)
        await asyncio.gather(*looks, return_exceptions=True)
        self._volumes.listings.forget(uuid)

    def _journal(self, caller: Caller, kind: str, entry: Entry, shown: str, text: str) -> None:
        ledger = self._context.ledger
        ledger.note(ledger.journal(kind, f"{entry.name}/{shown}", caller.who, text))

    async def _finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        return await self._context.tasks.finish(work, what)


def read(xml: str) -> Asked:
    """Name "" where libvirt would find none, or no document.  InvalidXml where we take none though it might."""
    try:
        document = XmlDocument.parse(xml)
    except XmlMalformed:
        return Asked("", "")
    except XmlError as error:
        raise InvalidXml(str(error)) from error
    if document.tag != "volume":
        return Asked("", "")
    name, backing = (
        document.text(f"string({path})") for path in ("/volume/name", "/volume/backingStore/path")
    )
    return Asked(name or "", backing or "")


def _is_whole(held: Held, node: str) -> bool:
    """The node, or (of a shared pool) each node, has all of it."""
    return any(
        copy.node in ("", node) and copy.state is CopyState.WHOLE and copy.generation == held.generation
        for copy in held.copies
    )


def _unreadable(node: str) -> InvalidXml:
    return InvalidXml(f"node {node} took a volume whose document the cluster cannot read")
