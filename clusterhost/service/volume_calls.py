"""Calls about pools and volumes at a node, on behalf of clients and our own.  Knows messages; decides nothing."""

from __future__ import annotations

from typing import Protocol

from clusterhost.model.errors import NodeError
from clusterhost.service.context import Context
from clusterhost.service.virt import error_text
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message
from imagemgr.model import Kind, Pool, Room

PoolHandle = messages.RemoteNonnullStoragePool
VolumeHandle = messages.RemoteNonnullStorageVol
SECONDS = 10.0
"""For what a node answers from its memory."""


class Entry(Protocol):
    """A pool as service.pools has it."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def active(self) -> bool: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def kind(self) -> Kind: ...


class VolumeCalls:
    """Every method raises NodeError with libvirtd's own error, NodeUnreachable, DeadlinePassed."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ask(
        self, node: str, name: str, payload: Message | bytes, *, long: bool = False, readonly: bool = False
    ) -> bytes:
        """One call of the remote program by name.  long: it may read or write a volume."""
        procedure = BY_NAME[f"remote:{name}"]
        answer = await self._context.nodes.call(
            node,
            procedure.program_id,
            procedure.number,
            payload if isinstance(payload, bytes) else payload.to_bytes(),
            readonly=readonly,
            long=long,
            deadline=None if long else SECONDS,
        )
        if not answer.ok:
            raise NodeError(answer.payload, error_text(answer.payload))
        return answer.payload

    async def files(self, node: str, pool: PoolHandle) -> dict[str, str]:
        """Name and key of each volume that its libvirtd knows of."""
        args = messages.RemoteStoragePoolListAllVolumesArgs(pool, need_results=1, flags=0)
        payload = await self.ask(node, "STORAGE_POOL_LIST_ALL_VOLUMES", args)
        found = messages.RemoteStoragePoolListAllVolumesRet.from_bytes(payload)
        return {volume.name: volume.key for volume in found.vols}

    async def at_path(self, node: str, path: str) -> VolumeHandle:
        """The volume that its libvirtd says a path is."""
        args = messages.RemoteStorageVolLookupByPathArgs(path)
        payload = await self.ask(node, "STORAGE_VOL_LOOKUP_BY_PATH", args)
        return messages.RemoteStorageVolLookupByPathRet.from_bytes(payload).vol

    async def refresh(self, node: str, pool: PoolHandle) -> None:
        """Its libvirtd looks what is there."""
        await self.ask(
            node, "STORAGE_POOL_REFRESH", messages.RemoteStoragePoolRefreshArgs(pool, 0), long=True
        )

    async def room(self, node: str, pool: PoolHandle) -> Room:
        """What the pool has there."""
        payload = await self.ask(node, "STORAGE_POOL_GET_INFO", messages.RemoteStoragePoolGetInfoArgs(pool))
        info = messages.RemoteStoragePoolGetInfoRet.from_bytes(payload)
        return Room(info.capacity, info.allocation, info.available)

    async def size(self, node: str, pool: str, name: str) -> tuple[int, int]:
        """Capacity and allocation of a volume in bytes."""
        args = messages.RemoteStorageVolGetInfoArgs(VolumeHandle(pool, name, ""))
        info = messages.RemoteStorageVolGetInfoRet.from_bytes(
            await self.ask(node, "STORAGE_VOL_GET_INFO", args)
        )
        return info.capacity, info.allocation
