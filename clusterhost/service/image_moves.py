"""Volumes follow a domain that libvirt moves with its disks: what is kept of copies, and when the old ones go.

While libvirt copies, the target's copy is `coming`; at the switch-over it is the newest and the source's is stale;
only when the move is certain is that one deleted.  Each may be done again: the move's intent names the volumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from clusterhost.control.operations import IdentifyArgs
from clusterhost.model.errors import ClusterError, InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_needs import Found, Needs
from clusterhost.service.image_stock import Copying, Volume
from clusterhost.service.volumes import Pools, Volumes
from compat.libvirt import messages
from imagemgr.model import Copy, CopyState, Held, VolumeTarget
from imagemgr.model import Volume as Description
from imagemgr.xml import write_volume

log = structlog.get_logger("clusterhost.images")


async def is_one_file(context: Context, path: str, here: str, there: str) -> bool:
    """Both nodes see one file (NFS, a bind mount): a copy would replace its own source, a removal would be its end.

    Nobody can say it of a node whose agent runs elsewhere.  Nor could its file be read: what such a node lists under
    that name counts as another volume, and nothing is moved onto that."""
    nodes = [context.cluster.node(name) for name in (here, there)]
    if not all(node.host.has_files for node in nodes):
        return False
    args = msgspec.msgpack.encode(IdentifyArgs([path]))
    packed = await asyncio.gather(*(context.nodes.operate(node.name, "identify", args) for node in nodes))
    one, other = (msgspec.msgpack.decode(answer, type=list[str])[0] for answer in packed)
    return bool(one) and one == other


class MovingImages:
    """image_stock.MovedImages over pools and their volumes."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes, needs: Needs) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._needs = needs

    async def leaving(self, xml: str, source: str, target: str, copying: Copying) -> tuple[Volume, ...]:
        """See MovedImages."""
        found = [
            one
            for one in await self._needs.of(xml, source)
            if one.file is not None
            and copying.takes(one.file)
            and not (copying.tops and target in one.need.taken)  # made there by hand, as one host wants it
            and not await is_one_file(self._context, one.need.path, source, target)
        ]
        for one in found:
            entry, need = one.entry, one.need
            if target in need.taken:
                raise InvalidOperation(
                    f"node {target} has another volume than {need.held.shown} at {need.path}"
                )
            if target not in self._pools.nodes(entry.uuid):
                why = self._pools.problem(entry.uuid, target) or "is not active there"
                raise InvalidOperation(f"volume {need.held.shown}: pool {entry.name} on node {target}: {why}")
        empty = [await self._empty(one) for one in found] if copying.tops else []
        volumes = tuple((one.need.pool.hex(), one.need.held.shown) for one in found)
        try:
            for one in found:
                await self._make_way(one.need.pool, one.need.held, target)
            for one, document in zip(found, empty, strict=False):
                await self._create(one.need.pool, document, target)
        except ClusterError:
            await self.left(volumes, target)
            raise
        return volumes

    async def _empty(self, one: Found) -> str:
        """What is made at the target where libvirt copies an overlay without its bases: one of the same, with nothing
        in it.  InvalidOperation."""
        pool, held, chains = one.need.pool, one.need.held, self._volumes.chains
        found = await chains.described(pool, held)
        if found.encrypted:
            raise InvalidOperation(f"volume {held.shown} is encrypted, so it can only be copied as a whole")
        chain = await chains.chain(pool, held)
        backing = VolumeTarget(chain[1].path, chain[1].format) if len(chain) > 1 else None
        node = await self._volumes.node_for(pool, held)
        capacity, _ = await self._volumes.calls.size(node, one.entry.name, held.name)
        form = VolumeTarget(format=found.format)
        wanted = Description(held.name, capacity=capacity, allocation=0, target=form, backing=backing)
        return write_volume(wanted, request=True)

    async def _create(self, pool: bytes, document: str, node: str) -> None:
        args = messages.RemoteStorageVolCreateXmlArgs(self._pools.handle_at(pool, node), document, 0)
        await self._context.virt.ask(node, "STORAGE_VOL_CREATE_XML", args)

    async def _make_way(self, pool: bytes, held: Held, target: str) -> None:
        """libvirt makes the file itself, and writes over one that is there, whatever its size."""
        copy = held.at(target)
        await self._volumes.note_copy(pool, held.shown, Copy(target, CopyState.COMING, held.generation))
        if copy is not None:
            await self._delete(pool, held.name, target)

    async def arrived(self, volumes: Sequence[Volume], target: str) -> None:
        """See MovedImages."""
        for pool, shown in volumes:
            uuid = bytes.fromhex(pool)
            try:
                held = await self._volumes.by_name(uuid, shown)
                copy = held.at(target)
                if copy is None or copy.state is CopyState.COMING:
                    await self._volumes.note_copy(uuid, shown, Copy(target, generation=held.generation))
                    await self._volumes.raise_generation(uuid, shown, target)
            except ClusterError as error:
                log.warning("a moved volume is not followed", volume=shown, node=target, reason=str(error))

    async def left(self, volumes: Sequence[Volume], node: str) -> None:
        """See MovedImages."""
        for pool, shown in volumes:
            uuid = bytes.fromhex(pool)
            try:
                held = await self._volumes.by_name(uuid, shown)
                copy = held.at(node)
                if copy is not None and copy.state is not CopyState.WHOLE:
                    await self._delete(uuid, held.name, node)
                    await self._volumes.drop_copy(uuid, shown, node)
            except ClusterError as error:
                log.warning("a copy stays behind", volume=shown, node=node, reason=str(error))

    async def _delete(self, pool: bytes, name: str, node: str) -> None:
        """By the node's own libvirtd, which may not know a file yet that another has made."""
        handle = self._pools.handle_at(pool, node)
        await self._context.virt.ask(
            node, "STORAGE_POOL_REFRESH", messages.RemoteStoragePoolRefreshArgs(pool=handle, flags=0)
        )
        volume = messages.RemoteNonnullStorageVol(pool=handle.name, name=name, key="")
        try:
            await self._context.virt.ask(
                node, "STORAGE_VOL_DELETE", messages.RemoteStorageVolDeleteArgs(vol=volume, flags=0)
            )
        except ClusterError as error:
            log.info("nothing to delete", node=node, volume=name, reason=str(error))
        await self._volumes.refreshed(pool)
