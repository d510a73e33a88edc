"""Which nodes see the disks of a domain, and room for those that a live move copies.  Moves nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.sax.saxutils import escape

import msgspec
import structlog

from clusterhost.control.operations import IdentifyArgs
from clusterhost.model.cluster import format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidArgument, NodeError
from clusterhost.service.context import Context
from compat.libvirt import messages
from compat.xmldoc import XmlDocument

COPY_STORAGE: Mapping[str, int] = {"": 0, "all": 1 << 6, "inc": 1 << 7}
"""virsh's --copy-storage-all and --copy-storage-inc -> bits of VIR_MIGRATE_*."""
BUILD = 1
"""VIR_STORAGE_POOL_CREATE_WITH_BUILD: the directory is made where it is missing."""

log = structlog.get_logger("clusterhost.migration")


def copy_storage(value: object) -> str:
    """ "all", "inc" or "", as a request has it; InvalidArgument."""
    word = value or ""
    if not isinstance(word, str) or word not in COPY_STORAGE:
        raise InvalidArgument(f"copy_storage is {value!r}, allowed are 'all' and 'inc'")
    return word


@dataclass(frozen=True, slots=True)
class Unseen:
    """A node does not see the file at `path` that the domain's home has.  other: it has another one there."""

    path: str
    home: str
    other: bool

    def why_not(self, copy: str = "") -> str:
        """Why the domain cannot go there with that kind of copying; "" when it can."""
        if copy == "all" and self.other:
            return f"has another file at {self.path}, which copying the disk would overwrite"
        if copy == "inc" and not self.other:
            return f"has no image at {self.path}, which an incremental copy needs"
        if copy:
            return ""
        return f"{'has another file at' if self.other else 'does not see'} its disk {self.path} of node {self.home}"


def own_files(xml: str) -> list[str]:
    """Disk images by path that the domain writes to."""
    found = []
    for disk in XmlDocument.parse(xml).all("devices/disk"):
        source = disk.find("source")
        if source is not None and source.get("file") and disk.find("readonly") is None:
            found.append(source.get("file", ""))
    return found


class Disks:
    """Asks agents; a node whose agent sees no files is left to its libvirtd."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def unseen(self, domain: Domain, xml: str, ours: Collection[str] = ()) -> dict[str, Unseen]:
        """Nodes that do not see what the domain's node has, with the first such disk.  ours: not to be looked at."""
        paths = [path for path in own_files(xml) if path not in ours]
        if not paths:
            return {}
        nodes = [node.name for node in self._context.cluster.cells() if node.usable and node.host.has_files]
        if domain.node not in nodes:
            return {}
        told = dict(
            zip(nodes, await asyncio.gather(*(self._identify(node, paths) for node in nodes)), strict=True)
        )
        here = told.pop(domain.node) or [""] * len(paths)
        found = {}
        for node, there in told.items():
            for path, ours, theirs in zip(paths, here, there or here, strict=True):
                if ours and ours != theirs:
                    found[node] = Unseen(path, domain.node, bool(theirs))
                    break
        return found

    async def _identify(self, node: str, paths: list[str]) -> list[str] | None:
        try:
            packed = await self._context.nodes.operate(
                node, "identify", msgspec.msgpack.encode(IdentifyArgs(paths))
            )
        except ClusterError:
            return None  # an agent of before, or one that is busy: its libvirtd decides
        return msgspec.msgpack.decode(packed, type=list[str])

    @asynccontextmanager
    async def room(self, domain: Domain, xml: str, target: str) -> AsyncIterator[None]:
        """libvirt makes the images of a copied domain at its target itself, where their directory is a pool there:
        for as long as this lasts, it is.  Images of a copy that failed are removed."""
        made: list[messages.RemoteNonnullStoragePool] = []
        paths = own_files(xml)
        before = await self._identify(target, paths)
        try:
            for directory in sorted({str(PurePosixPath(path).parent) for path in paths}):
                if not await self._is_pool(target, directory):
                    name = f"clusterhost-{format_uuid(domain.uuid)}-{len(made)}"
                    made.append(await self._make_pool(target, name, directory))
            yield
        except NodeError:
            now = self._context.cluster.get(domain.uuid)
            if now is not None and now.node == domain.node:
                for path, found in zip(paths, before or [], strict=False):
                    if not found:
                        await self._delete(target, path)
            raise
        finally:
            for pool in made:
                await self._forget_pool(target, pool)

    async def _delete(self, node: str, path: str) -> None:
        """An image that was begun; not an error when there is none."""
        ask = self._context.virt.ask
        try:
            answer = await ask(
                node, "STORAGE_VOL_LOOKUP_BY_PATH", messages.RemoteStorageVolLookupByPathArgs(path=path)
            )
            volume = messages.RemoteStorageVolLookupByPathRet.from_bytes(answer.payload).vol
            await ask(node, "STORAGE_VOL_DELETE", messages.RemoteStorageVolDeleteArgs(vol=volume, flags=0))
        except ClusterError as error:
            log.info("nothing to remove", node=node, path=path, reason=str(error))

    async def _is_pool(self, node: str, directory: str) -> bool:
        args = messages.RemoteStoragePoolLookupByTargetPathArgs(path=directory)
        try:
            await self._context.virt.ask(node, "STORAGE_POOL_LOOKUP_BY_TARGET_PATH", args)
        except ClusterError:
            return False
        return True

    async def _make_pool(self, node: str, name: str, directory: str) -> messages.RemoteNonnullStoragePool:
        xml = f"<pool type='dir'><name>{escape(name)}</name><target><path>{escape(directory)}</path></target></pool>"
        args = messages.RemoteStoragePoolCreateXmlArgs(xml=xml, flags=BUILD)
        answer = await self._context.virt.ask(node, "STORAGE_POOL_CREATE_XML", args)
        return messages.RemoteStoragePoolCreateXmlRet.from_bytes(answer.payload).pool

    async def _forget_pool(self, node: str, pool: messages.RemoteNonnullStoragePool) -> None:
        """The files stay: for libvirt, a pool of a directory is only a view of it."""
        try:
            await self._context.virt.ask(
                node, "STORAGE_POOL_DESTROY", messages.RemoteStoragePoolDestroyArgs(pool=pool)
            )
        except ClusterError as error:
            log.warning("a pool of ours stays", node=node, pool=pool.name, reason=str(error))
