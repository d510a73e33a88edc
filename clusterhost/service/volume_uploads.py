"""Bytes of a volume to and from a client: where they go, and what is known of the volume while they come.

libvirtd writes an upload in place.  So the store says that the volume is incomplete from before the first byte until
the client's end of it was carried out; what is cut stays incomplete.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from clusterhost.model.errors import ClusterError, InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.volume_calls import VolumeHandle
from clusterhost.service.volume_rows import (
    INCOMPLETE,
    WHOLE,
    Gap,
    cut,
    gap_in,
    held_of,
    incomplete,
    row_of,
    under_way,
    written,
)
from clusterhost.service.volumes import Volumes
from clusterhost.store.crash import crash_point
from clusterhost.store.rows import VolumeRow
from compat.libvirt import messages
from imagemgr.model import CopyState

log = structlog.get_logger("clusterhost.volumes")


class Upload:
    """One under way.  Its end is told once: finished, refused or cut."""

    def __init__(self, uploads: Uploads, before: VolumeRow, row: VolumeRow, node: str, gap: Gap) -> None:
        self.received = 0
        self._uploads = uploads
        self._before = before
        self._row = row
        self._node = node
        self._gap = gap
        self._over = False
        self.expected = 0

    def passed(self, count: int) -> None:
        """So many bytes (or bytes of a hole) went to the node."""
        self.received += count

    async def finished(self) -> None:
        """The node has all that the client wanted to send.  Durable."""
        if self._ends():
            left = gap_in(self._before.reason) if incomplete(self._before) else None
            filled = not incomplete(self._before) or (left is not None and self._gap.fills(left))
            await self._uploads.end(self._row, "" if filled else self._before.reason)

    async def refused(self) -> None:
        """The node did not begin it.  Durable."""
        if self._ends():
            await self._uploads.put_back(self._before)

    def cut(self, why: str) -> None:
        """It broke off."""
        if self._ends():
            left = gap_in(self._before.reason) if incomplete(self._before) else None
            gap = self._gap if left is None else self._gap | left
            self._uploads.keep_cut(self._row, cut(gap, self._node, self.received, self.expected, why))

    def _ends(self) -> bool:
        first, self._over = not self._over, True
        return first


@dataclass(frozen=True, slots=True)
class Transfer:
    """Where a stream goes, the call that opens it there, and who is told of an upload's fate.

    file: of the node, whose bytes they are; "" when it is none."""

    node: str
    payload: bytes
    upload: Upload | None = None
    file: str = ""


class Uploads:
    """What clients send to volumes, and read of them."""

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context = context
        self._volumes = volumes

    async def download(self, args: messages.RemoteStorageVolDownloadArgs) -> Transfer:
        """From a whole copy.  VolumeNotFound, InvalidOperation, NodeUnreachable."""
        entry = self._volumes.pools.by_name(args.vol.pool)
        held = await self._volumes.by_name(entry.uuid, args.vol.name)
        node = await self._volumes.node_for(entry.uuid, held)
        handle = VolumeHandle(entry.name, held.name, args.vol.key)
        opening = messages.RemoteStorageVolDownloadArgs(handle, args.offset, args.length, args.flags)
        return Transfer(node, opening.to_bytes(), file=entry.pool.file(held.name))

    async def upload(self, args: messages.RemoteStorageVolUploadArgs) -> Transfer:
        """To the current copy, which is incomplete from now on.  Durable."""
        work = self._begin(args)
        return await self._context.tasks.finish(work, "begin upload")

    async def _begin(self, args: messages.RemoteStorageVolUploadArgs) -> Transfer:
        entry = self._volumes.pools.by_name(args.vol.pool)
        uuid, shown = entry.uuid, args.vol.name
        async with self._volumes.locked(uuid, shown):
            held = await self._volumes.by_name(uuid, shown)
            node = await self._volumes.place_of(uuid, held)
            before = self._volumes.row(uuid, shown)
            assert before is not None  # by_name has just found it
            if before.key in self._volumes.in_hand:
                raise InvalidOperation(f"volume '{shown}' is still in use.")
            await self._volumes.chains.refuse_base(uuid, held, "written to")
            handle = VolumeHandle(entry.name, held.name, args.vol.key)
            expected = args.length or await self._rest(node, handle, args.offset)
            gap = Gap.of(args.offset, args.length)
            place = node if held.at(node) is not None else ""
            row = replace(
                row_of(uuid, written(held, place, CopyState.COMING)),
                state=INCOMPLETE,
                reason=under_way(gap, node),
            )
            self._volumes.in_hand.add(row.key)
            try:
                await self._volumes.put(row)
            except ClusterError:
                self._release(row)
                self._volumes.note(before)  # nothing was sent
                raise
            crash_point("upload.after_intent")
        upload = Upload(self, before, row, node, gap)
        upload.expected = expected
        opening = messages.RemoteStorageVolUploadArgs(handle, args.offset, args.length, args.flags)
        return Transfer(node, opening.to_bytes(), upload, entry.pool.file(held.name))

    async def _rest(self, node: str, handle: VolumeHandle, offset: int) -> int:
        """Bytes from there to the volume's end."""
        capacity, _ = await self._volumes.calls.size(node, handle.pool, handle.name)
        return max(capacity - offset, 0)

    # -- what Upload tells

    async def end(self, row: VolumeRow, reason: str) -> None:
        """reason: why it is not whole even so, "" when it is."""
        crash_point("upload.after_act")
        self._release(row)
        current = self._volumes.row(row.pool, row.shown)
        if current is None:
            return
        held = held_of(current)
        copies = tuple(
            replace(copy, state=CopyState.WHOLE)
            if copy.generation == held.generation and not reason
            else copy
            for copy in held.copies
        )
        kept = row_of(row.pool, replace(held, copies=copies))
        await self._volumes.put(replace(kept, state=INCOMPLETE if reason else WHOLE, reason=reason))
        crash_point("upload.after_commit")

    async def put_back(self, row: VolumeRow) -> None:
        """It is as it was before."""
        self._release(row)
        await self._volumes.put(row)

    def keep_cut(self, row: VolumeRow, reason: str) -> None:
        """The store hears of the reason soon; that it is incomplete it knows."""
        log.warning("an upload was cut", volume=row.shown, reason=reason)
        self._release(row)
        current = self._volumes.row(row.pool, row.shown)
        if current is not None:
            self._context.tasks.spawn(self._volumes.put(replace(current, reason=reason)), "cut upload")

    def _release(self, row: VolumeRow) -> None:
        self._volumes.in_hand.discard(row.key)
        self._volumes.listings.forget(row.pool)
