"""A copy of a volume comes to a node: who may be its source, and what is kept of it meanwhile.  Copies no bytes."""

from __future__ import annotations

import msgspec
import structlog

from clusterhost.control import imageops
from clusterhost.model.errors import InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_uses import refuse_written
from clusterhost.service.ports import Progress
from clusterhost.service.volumes import Pools, Volumes
from imagemgr.model import Copy, CopyState, Held
from imagemgr.place import Missing, newest

NO_AGENT = "its agent does not run there, so no image can be brought"

TWINS = 4
"""Other files of the same content that a node is told of: one would do, but somebody may have written to it."""

log = structlog.get_logger("clusterhost.images")
_pack = msgspec.msgpack.encode


def place_key(node: str, path: str) -> bytes:
    """The lock (Volumes.coming) of whoever brings a file there or takes it away."""
    return f"{node} {path}".encode()


class Copies:
    """Used by starts, which bring one, and by the command, which brings many."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes

    def sources(self, pool: bytes, held: Held) -> list[str]:
        """Nodes that could give it; InvalidOperation when those that have it are in reach, but not their files."""
        cluster, nodes = self._context.cluster, self._pools.nodes(pool)
        closed = [name for name in nodes if not cluster.node(name).host.has_files]
        having = [copy.node for copy in newest(held) if copy.node in nodes]
        if having and set(having) <= set(closed):
            where = f"node {having[0]}, which has it"
            raise InvalidOperation(f"has no volume {held.shown}: {where}: {NO_AGENT}")
        return [name for name in nodes if name not in closed]

    async def offer(
        self, node: str, path: str, digest: bytes = b"", size: int = 0, tell: Progress | None = None
    ) -> imageops.Offered:
        """Of the file there or, with a digest, of what is to come there.  ClusterError."""
        args = _pack(imageops.OfferArgs(path, digest, size))
        packed = await self._context.nodes.operate(node, imageops.OFFER, args, progress=tell)
        return msgspec.msgpack.decode(packed, type=imageops.Offered)

    async def fetch(
        self,
        one: Missing,
        node: str,
        offered: imageops.Offered,
        sources: tuple[imageops.Source, ...],
        tell: Progress,
        local: tuple[str, ...] = (),
    ) -> imageops.Fetched:
        """In the place of an older copy, if there is one.  local: as `twins` says.  ClusterError."""
        args = imageops.FetchArgs(one.path, offered.size, offered.digest, sources, replace=True, local=local)
        packed = await self._context.nodes.operate(node, imageops.FETCH, _pack(args), progress=tell)
        return msgspec.msgpack.decode(packed, type=imageops.Fetched)

    async def twins(self, one: Missing, node: str, digest: bytes) -> tuple[str, ...]:
        """Paths of other volumes of the pool whose file on that node had the same bytes when it was read last."""
        directory = one.path.rpartition("/")[0]
        found = []
        for held in await self._volumes.all(one.pool):
            copy = held.at(node)
            if (
                copy is not None
                and copy.digest == digest
                and copy.state in (CopyState.WHOLE, CopyState.STALE)
            ):
                found.append(f"{directory}/{held.name}")
        return tuple(path for path in found if path != one.path)[:TWINS]

    async def begin(self, one: Missing, node: str, held: Held) -> None:
        """Nobody takes what comes for a volume yet.  Durable."""
        await self._volumes.note_copy(one.pool, one.shown, Copy(node, CopyState.COMING, held.generation))

    async def done(self, one: Missing, node: str, before: Held, fetched: imageops.Fetched) -> None:
        """The node has it; of a volume that was written meanwhile, an older one (InvalidOperation)."""
        now = await self._volumes.by_name(one.pool, one.shown)
        source = now.at(one.source) or before.at(one.source)
        allocation = source.allocation if source is not None else 0
        # Of an older generation than the volume's it counts as stale, though it is whole.
        used = self._context.clock()
        copy = Copy(node, CopyState.WHOLE, before.generation, fetched.digest, fetched.size, allocation, used)
        await self._volumes.note_copy(one.pool, one.shown, copy)
        log.info(
            "image brought",
            volume=one.shown,
            source=one.source,
            node=node,
            size=fetched.size,
            received=fetched.received,
            seconds=round(fetched.seconds, 3),
        )
        if now.generation != before.generation:
            raise InvalidOperation(
                f"volume {one.shown} was written on node {one.source} while it was copied to node {node}"
            )

    async def take_back(self, one: Missing, node: str, before: Copy | None) -> None:
        """What has come of it stays beside the volumes, for a later copy; an older file is untouched."""
        if before is not None and before.state is not CopyState.COMING:
            await self._volumes.note_copy(one.pool, one.shown, before)
        else:
            await self._volumes.drop_copy(one.pool, one.shown, node)

    async def refuse_written(self, one: Missing) -> None:
        """An image that a guest writes to cannot be copied: half of it would be older than the other half."""
        pool = self._pools.by_uuid(one.pool).name
        await refuse_written(self._context, one.shown, pool, one.path, [one.source])


def source_at(node: str, offered: imageops.Offered) -> imageops.Source:
    """Where others get it."""
    return imageops.Source(node, offered.address, offered.port, offered.fingerprint, offered.ticket)
