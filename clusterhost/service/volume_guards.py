"""What holds while a volume is overwritten or deleted, so that whoever dies meanwhile leaves nothing that looks whole,
and nothing that comes back.  Overwrites and deletes nothing itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import msgspec

from clusterhost.control import imageops
from clusterhost.model.errors import InvalidOperation, NodeError
from clusterhost.service.context import Context
from clusterhost.service.image_copies import place_key
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volume_rows import INCOMPLETE, row_of, written
from clusterhost.service.volumes import Volumes
from imagemgr.model import CopyState, Held


@asynccontextmanager
async def in_place(
    volumes: Volumes, uuid: bytes, held: Held, node: str, reason: str = ""
) -> AsyncIterator[list[str]]:
    """That node's copy is the current one before a byte of it changes and, with a reason, the volume incomplete until
    it is said to be whole.  As it was, when a node refuses before one has done it: who does says so in the list."""
    before, done = volumes.row(uuid, held.shown), list[str]()
    assert before is not None  # it has just been found
    place = node if held.at(node) is not None else ""
    if reason:
        row = row_of(uuid, written(held, place, CopyState.COMING))
        row = replace(row, state=INCOMPLETE, reason=reason)
    else:
        row = row_of(uuid, written(held, place), before)
    volumes.in_hand.add(row.key)
    try:
        await volumes.put(row)
        yield done
    except NodeError:
        if not done:
            await volumes.put(before)
        raise
    finally:
        volumes.in_hand.discard(row.key)
        volumes.listings.forget(uuid)


@asynccontextmanager
async def nobody_copies(volumes: Volumes, entry: Entry, held: Held) -> AsyncIterator[None]:
    """No copy of it comes to a node, or begins to: it would be there again afterwards.  InvalidOperation."""
    path = _path(entry, held)
    async with AsyncExitStack() as stack:
        for node in sorted(volumes.pools.nodes(entry.uuid)):
            key = place_key(node, path)
            if volumes.coming.held(key):
                raise InvalidOperation(
                    f"volume '{held.shown}' is still in use: a copy of it comes to node {node}"
                )
            await stack.enter_async_context(volumes.coming.hold(key))
        yield


async def stop_copy(context: Context, volumes: Volumes, entry: Entry, held: Held, node: str) -> None:
    """A node goes on with no copy that a front end before this one began; its libvirtd knows the file, if it came to
    its end.  ClusterError."""
    args = msgspec.msgpack.encode(imageops.RemoveArgs(_path(entry, held)))
    await context.nodes.operate(node, imageops.REMOVE, args)
    await volumes.calls.refresh(node, volumes.pools.handle_at(entry.uuid, node))


def _path(entry: Entry, held: Held) -> str:
    return f"{entry.pool.target.path}/{held.name}"
