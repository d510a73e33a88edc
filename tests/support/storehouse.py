"""A front end whose nodes have storage in memory: what is asked of volumes, and what clients do with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from clusterhost.service.volume_uploads import Upload, Uploads
from clusterhost.service.volume_work import VolumeWork
from clusterhost.service.volumes import Volumes
from compat.libvirt import messages as lv
from imagemgr.model import Kind, PoolType
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakestorage import POOL, Entry, Pools, Storage

NODES = ("n1", "n2", "n3")
XML = "<volume><name>{}</name><capacity>10</capacity>{}</volume>"


class Here:
    """A front end whose nodes have storage in memory."""

    def __init__(self, front: Front, storage: Storage, kind: Kind, type: PoolType) -> None:
        self.storage = storage
        self.pools = Pools(list(NODES), Entry(kind=kind, type=type))
        self.context = replace(front.world.context, nodes=storage)
        self.again()

    def again(self) -> None:
        """As after a start of the front end: what is not in the ledger is forgotten."""
        self.volumes = Volumes(self.context, self.pools)
        self.volumes.load()
        self.work = VolumeWork(self.context, self.volumes)
        self.uploads = Uploads(self.context, self.volumes)

    async def shown(self) -> list[str]:
        self.volumes.listings.forget(POOL)
        return [held.shown for held in await self.volumes.listed(POOL)]

    async def states(self, shown: str) -> dict[str, str]:
        """Node -> state of its copy."""
        self.volumes.listings.forget(POOL)
        (held,) = [held for held in await self.volumes.all(POOL) if held.shown == shown]
        return {copy.node: copy.state.value for copy in held.copies}

    def lose(self, node: str) -> None:
        self.pools.on.remove(node)
        self.storage.away.add(node)

    def regain(self, node: str) -> None:
        self.pools.on = sorted([*self.pools.on, node])
        self.storage.away.remove(node)

    async def create(self, name: str, more: str = "", flags: int = 0) -> lv.RemoteNonnullStorageVol:
        return await self.work.create(ANYONE, POOL, XML.format(name, more), flags)

    async def delete(self, name: str) -> None:
        await self.work.delete(ANYONE, POOL, name, 0)

    async def wipe(self, name: str) -> None:
        def call(vol: lv.RemoteNonnullStorageVol) -> tuple[str, lv.RemoteStorageVolWipeArgs]:
            return "STORAGE_VOL_WIPE", lv.RemoteStorageVolWipeArgs(vol, 0)

        await self.work.wipe(ANYONE, POOL, name, call)

    async def upload(self, name: str, offset: int = 0, length: int = 0) -> Upload:
        args = lv.RemoteStorageVolUploadArgs(lv.RemoteNonnullStorageVol("p", name, ""), offset, length, 0)
        begun = (await self.uploads.upload(args)).upload
        assert begun is not None
        return begun


@asynccontextmanager
async def stocked(
    tmp_path: Path, kind: Kind = Kind.LOCAL, type: PoolType = PoolType.DIR, **files: dict[str, bytes]
) -> AsyncIterator[Here]:
    """A cluster whose nodes have these files."""
    async with running(tmp_path) as front:
        storage = Storage({node: {} for node in NODES} | files)
        here = Here(front, storage, kind, type)
        yield here
        await here.context.tasks.close()
