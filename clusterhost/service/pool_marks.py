"""Proof that a directory pool is one place on all nodes: a file that one node's libvirtd made there, and others see.

Its name is made up anew, so that none can have it by chance.  It stays: nodes that come later must see it too.
"""

from __future__ import annotations

import msgspec

from clusterhost.control.operations import IdentifyArgs
from clusterhost.model.errors import ClusterError, StorageRefused
from clusterhost.service.context import Context
from clusterhost.service.pool_calls import Handle, PoolCalls
from clusterhost.service.xml import new_uuid
from clusterhost.store.rows import PoolRow, SetMeta
from compat.libvirt import messages
from imagemgr.xml import read_pool

MARKER = "pool marker "
"""Before a pool's uuid in the store: the file's name."""
PREFIX = ".clusterhost-shared-"
"""With a dot: no volume of the cluster."""
DOCUMENT = "<volume><name>{}</name><capacity>0</capacity></volume>"


class PoolMarks:
    """Marks pools as shared, and asks agents for what their nodes see."""

    def __init__(self, context: Context, calls: PoolCalls) -> None:
        self._context = context
        self._calls = calls

    async def make(self, row: PoolRow, places: dict[str, Handle]) -> SetMeta:
        """Write it at the first node and see it at all; StorageRefused names a node that does not."""
        name = PREFIX + new_uuid().hex()
        writer, pool = next(iter(places.items()))
        args = messages.RemoteStorageVolCreateXmlArgs(pool, DOCUMENT.format(name), 0)
        await self._calls.ask(writer, "STORAGE_VOL_CREATE_XML", args)
        try:
            for node in places:
                await self._see(row, node, name)
        except ClusterError:
            await self._delete(writer, pool, name)
            raise
        return self._put(row.uuid, name)

    async def drop(self, row: PoolRow, places: dict[str, Handle]) -> SetMeta:
        """The file is removed where that can be done; else it stays, and means nothing."""
        if (name := self._name(row.uuid)) and places:
            writer, pool = next(iter(places.items()))
            await self._delete(writer, pool, name)
        return self._put(row.uuid, "")

    def forgotten(self, uuid: bytes) -> SetMeta:
        """The pool is no more."""
        return self._put(uuid, "")

    async def check(self, row: PoolRow, node: str) -> None:
        """StorageRefused when the pool is marked, and the node does not see the mark."""
        if name := self._name(row.uuid):
            await self._see(row, node, name)

    async def _see(self, row: PoolRow, node: str, name: str) -> None:
        path = f"{read_pool(row.xml).target.path}/{name}"
        packed = await self._context.nodes.operate(
            node, "identify", msgspec.msgpack.encode(IdentifyArgs([path]))
        )
        if not msgspec.msgpack.decode(packed, type=list[str])[0]:
            raise StorageRefused(f"node {node} does not see the file {path} that another node wrote there")

    async def _delete(self, node: str, pool: Handle, name: str) -> None:
        try:
            await self._calls.refresh(node, pool)
            asked = messages.RemoteStorageVolLookupByNameArgs(pool, name)
            payload = await self._calls.ask(node, "STORAGE_VOL_LOOKUP_BY_NAME", asked)
            volume = messages.RemoteStorageVolLookupByNameRet.from_bytes(payload).vol
            await self._calls.ask(node, "STORAGE_VOL_DELETE", messages.RemoteStorageVolDeleteArgs(volume, 0))
        except ClusterError:
            return

    def _name(self, uuid: bytes) -> str:
        return self._context.ledger.meta.get(MARKER + uuid.hex(), "")

    @staticmethod
    def _put(uuid: bytes, name: str) -> SetMeta:
        return SetMeta(MARKER + uuid.hex(), name)
