"""Steps that are ours, not libvirt's: move a definition with all that belongs to it, peer sockets.

Made of plain libvirt calls; a step that fails undoes those before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from clusterhost.agent import files, filesystems, volumefiles
from clusterhost.agent.errors import NO_DOMAIN, LibvirtRefused, Unavailable
from clusterhost.agent.images import ImageWorker
from clusterhost.agent.looks import Looks
from clusterhost.agent.peers import Peers
from clusterhost.agent.pool import Pool
from clusterhost.agent.reports import handle
from clusterhost.agent.shadows import Networks
from clusterhost.agent.workers import Progress
from clusterhost.control import imageops
from clusterhost.control import operations as ops
from compat.libvirt import messages as wire

log = logging.getLogger(__name__)

MAX_PIECE = 1024 * 1024
_XML_FLAGS = 1 | 2
_TOPOLOGICAL = 1 << 10
_CHECKPOINTS_TOPOLOGICAL = 1 << 1
_SECURE = 1
_REDEFINE, _CURRENT = 1, 2
_MANAGED_SAVE, _SNAPSHOTS, _NVRAM, _KEEP_NVRAM, _CHECKPOINTS, _TPM, _KEEP_TPM = (1 << bit for bit in range(7))
_DROP_FLAGS = (
    _MANAGED_SAVE | _SNAPSHOTS | _NVRAM | _CHECKPOINTS | _TPM,
    _MANAGED_SAVE | _SNAPSHOTS | _NVRAM | _CHECKPOINTS,
    _MANAGED_SAVE | _SNAPSHOTS | _CHECKPOINTS,
    _MANAGED_SAVE | _SNAPSHOTS,
    0,
)
"""From the newest libvirt to drivers that know no flags; a flag that is not known is refused as a whole."""
_UNDO_FLAGS = (
    _SNAPSHOTS | _CHECKPOINTS | _KEEP_NVRAM | _KEEP_TPM,
    _SNAPSHOTS | _CHECKPOINTS | _KEEP_NVRAM,
    _SNAPSHOTS | _CHECKPOINTS,
    _SNAPSHOTS,
    0,
)
_NO_SUPPORT = 3
_UNKNOWN_FLAGS = frozenset({_NO_SUPPORT, 8, 67})
"""NO_SUPPORT, INVALID_ARG, CONFIG_UNSUPPORTED: what libvirt says to flags of a later release."""

T = TypeVar("T")


class Operations:
    """`run` one operation: its result struct as MessagePack.  Raises Unavailable, LibvirtRefused."""

    def __init__(
        self,
        pool: Pool,
        peers: Peers,
        networks: Networks,
        images: ImageWorker,
        looks: Looks,
        *,
        has_files: bool,
    ) -> None:
        self._images = images
        self._pool = pool
        self._peers = peers
        self._has_files = has_files
        self._kinds: dict[str, Callable[[bytes], Awaitable[Any]]] = {
            "export": self._export,
            "import": self._import,
            "drop": self._drop,
            "fetch-file": self._fetch_file,
            "put-file": self._put_file,
            "put-volume": self._put_volume,
            "read-volume": self._read_volume,
            "peer-socket": self._peer_socket,
            "identify": self._identify,
            "network": networks.order,
            "network-look": looks.look,
        }

    async def run(self, kind: str, args: bytes, progress: Progress) -> bytes:
        """Carry out an operation."""
        if kind in imageops.KINDS:
            return await self._images.order(kind, args, progress)
        act = self._kinds.get(kind)
        if act is None:
            raise Unavailable("unsupported", f"operation {kind} is not one of {', '.join(self._kinds)}")
        try:
            return msgspec.msgpack.encode(await act(args))
        except msgspec.DecodeError as error:
            raise Unavailable("refused", f"the arguments of {kind} cannot be read: {error}") from error
        except OSError as error:
            raise Unavailable("refused", f"{kind}: {error.filename}: {error.strerror}") from error

    async def _export(self, args: bytes) -> ops.ExportResult:
        dom = handle(_decode(args, ops.ExportArgs).uuid)
        xml = await self._xml(dom)
        found = await asyncio.to_thread(files.collect, xml) if self._has_files else []
        if not self._has_files and files.needs_files(xml):
            raise Unavailable(
                "refused", "the domain has files (NVRAM or TPM) on a node whose agent runs elsewhere"
            )
        if not self._has_files and await self._is_saved(dom):
            raise Unavailable("refused", "the domain has a managed save on a node whose agent runs elsewhere")
        snapshots, current = await self._snapshots(dom)
        return ops.ExportResult(xml, snapshots, current, await self._checkpoints(dom), found)

    async def _xml(self, dom: wire.RemoteNonnullDomain) -> str:
        found = await self._pool.ask(
            "remote:DOMAIN_GET_XML_DESC", wire.RemoteDomainGetXmlDescArgs(dom, _XML_FLAGS)
        )
        return str(found.xml)

    async def _is_saved(self, dom: wire.RemoteNonnullDomain) -> bool:
        args = wire.RemoteDomainHasManagedSaveImageArgs(dom, 0)
        return bool((await self._pool.ask("remote:DOMAIN_HAS_MANAGED_SAVE_IMAGE", args)).result)

    async def _snapshots(self, dom: wire.RemoteNonnullDomain) -> tuple[list[str], str]:
        args = wire.RemoteDomainListAllSnapshotsArgs(dom, 1, _TOPOLOGICAL)
        found = await self._optional("remote:DOMAIN_LIST_ALL_SNAPSHOTS", args)
        texts = []
        for snap in found.snapshots if found else ():
            get = wire.RemoteDomainSnapshotGetXmlDescArgs(snap, _SECURE)
            texts.append((await self._pool.ask("remote:DOMAIN_SNAPSHOT_GET_XML_DESC", get)).xml)
        if not texts:
            return [], ""
        has = await self._pool.ask(
            "remote:DOMAIN_HAS_CURRENT_SNAPSHOT", wire.RemoteDomainHasCurrentSnapshotArgs(dom, 0)
        )
        if not has.result:
            return texts, ""
        current = await self._pool.ask(
            "remote:DOMAIN_SNAPSHOT_CURRENT", wire.RemoteDomainSnapshotCurrentArgs(dom, 0)
        )
        return texts, current.snap.name

    async def _checkpoints(self, dom: wire.RemoteNonnullDomain) -> list[str]:
        args = wire.RemoteDomainListAllCheckpointsArgs(dom, 1, _CHECKPOINTS_TOPOLOGICAL)
        found = await self._optional("remote:DOMAIN_LIST_ALL_CHECKPOINTS", args)
        texts = []
        for checkpoint in found.checkpoints if found else ():
            get = wire.RemoteDomainCheckpointGetXmlDescArgs(checkpoint, _SECURE)
            texts.append((await self._pool.ask("remote:DOMAIN_CHECKPOINT_GET_XML_DESC", get)).xml)
        return texts

    async def _optional(self, name: str, args: Any) -> Any:
        """What a driver may not offer.  Only that: a list taken for empty would be lost on the way."""
        try:
            return await self._pool.ask(name, args)
        except LibvirtRefused as error:
            if error.code == _NO_SUPPORT:
                return None
            raise

    async def _import(self, args: bytes) -> None:
        definition = _decode(args, ops.ImportArgs).definition
        if definition.files and not self._has_files:
            raise Unavailable(
                "refused", "the domain has files, and the agent of this node cannot write any there"
            )
        async with AsyncExitStack() as undo:
            for file in definition.files:
                if file.data:
                    path = files.allowed(definition.xml, file.what, file.path)
                    undo.push_async_callback(
                        asyncio.to_thread, await asyncio.to_thread(files.place, file, path)
                    )
            dom = await self._define(definition.xml, undo)
            for xml in definition.snapshots:
                current = files.name_of(xml) == definition.current_snapshot != ""
                flags = _REDEFINE | (_CURRENT if current else 0)
                await self._pool.ask(
                    "remote:DOMAIN_SNAPSHOT_CREATE_XML",
                    wire.RemoteDomainSnapshotCreateXmlArgs(dom, xml, flags),
                )
            for xml in definition.checkpoints:
                await self._pool.ask(
                    "remote:DOMAIN_CHECKPOINT_CREATE_XML",
                    wire.RemoteDomainCheckpointCreateXmlArgs(dom, xml, _REDEFINE),
                )
            undo.pop_all()

    async def _define(self, xml: str, undo: AsyncExitStack) -> wire.RemoteNonnullDomain:
        uuid = files.uuid_of(xml)
        try:
            before = await self._xml(handle(uuid)) if uuid is not None else None
        except LibvirtRefused as error:
            if error.code != NO_DOMAIN:
                raise
            before = None
        name = "remote:DOMAIN_DEFINE_XML_FLAGS"
        dom = (await self._pool.ask(name, wire.RemoteDomainDefineXmlFlagsArgs(xml, 0))).dom
        if before is None:
            undo.push_async_callback(self._undefine, dom, _UNDO_FLAGS)
        else:
            undo.push_async_callback(self._pool.ask, name, wire.RemoteDomainDefineXmlFlagsArgs(before, 0))
        found: wire.RemoteNonnullDomain = dom
        return found

    async def _drop(self, args: bytes) -> None:
        wanted = _decode(args, ops.DropArgs)
        lookup = wire.RemoteDomainLookupByUuidArgs(wanted.uuid)
        try:
            dom = (await self._pool.ask("remote:DOMAIN_LOOKUP_BY_UUID", lookup)).dom
            if wanted.destroy and dom.id != -1:
                await self._pool.ask("remote:DOMAIN_DESTROY", wire.RemoteDomainDestroyArgs(dom))
                # A transient one is gone with that.
                dom = (await self._pool.ask("remote:DOMAIN_LOOKUP_BY_UUID", lookup)).dom
            await self._undefine(dom, await self._drop_flags(dom))
        except LibvirtRefused as error:
            if error.code != NO_DOMAIN:
                raise
            if wanted.nvram and self._has_files:
                await asyncio.to_thread(files.remove_left_nvram, wanted.nvram)

    async def _drop_flags(self, dom: wire.RemoteNonnullDomain) -> tuple[int, ...]:
        """Files that other nodes see may be in use there."""
        if self._has_files and await asyncio.to_thread(files.are_shared, await self._xml(dom)):
            return (_MANAGED_SAVE | _UNDO_FLAGS[0], *(_MANAGED_SAVE | flags for flags in _UNDO_FLAGS[1:]))
        return _DROP_FLAGS

    async def _undefine(self, dom: wire.RemoteNonnullDomain, choices: tuple[int, ...]) -> None:
        for flags in choices:
            try:
                await self._pool.ask(
                    "remote:DOMAIN_UNDEFINE_FLAGS", wire.RemoteDomainUndefineFlagsArgs(dom, flags)
                )
            except LibvirtRefused as error:
                if error.code not in _UNKNOWN_FLAGS or flags == choices[-1]:
                    raise
            else:
                return

    async def _fetch_file(self, args: bytes) -> bytes:
        wanted = _decode(args, ops.FetchFileArgs)
        self._need_files()
        if not 0 < wanted.length <= MAX_PIECE or wanted.offset < 0:
            raise Unavailable(
                "refused", f"{wanted.length} bytes were asked for, allowed are 1 to {MAX_PIECE}"
            )
        xml = await self._xml(handle(wanted.uuid))
        if wanted.what not in (files.NVRAM, files.MANAGED_SAVE):
            raise Unavailable("refused", f"{wanted.what} files are not fetched in pieces")
        path = (
            files.nvram_path(xml)
            if wanted.what == files.NVRAM
            else files.managed_save_path(files.name_of(xml))
        )
        if path is None:
            raise Unavailable("refused", f"the domain has no {wanted.what} file")
        return await asyncio.to_thread(files.read_part, path, wanted.offset, wanted.length)

    async def _put_file(self, args: bytes) -> None:
        wanted = _decode(args, ops.PutFileArgs)
        self._need_files()
        xml = await self._xml(handle(wanted.uuid))
        path = files.allowed(xml, wanted.what, wanted.path)
        await asyncio.to_thread(files.put_part, path, wanted.offset, wanted.data, last=wanted.last)

    async def _put_volume(self, args: bytes) -> None:
        wanted = _decode(args, ops.PutVolumeArgs)
        self._need_files()
        await asyncio.to_thread(
            volumefiles.put_part, wanted.path, wanted.offset, wanted.data, last=wanted.last
        )

    async def _read_volume(self, args: bytes) -> bytes:
        wanted = _decode(args, ops.ReadVolumeArgs)
        self._need_files()
        return await asyncio.to_thread(volumefiles.read_part, wanted.path, wanted.offset, wanted.length)

    async def _identify(self, args: bytes) -> list[str]:
        self._need_files()
        paths = _decode(args, ops.IdentifyArgs).paths
        return [await asyncio.to_thread(filesystems.identity, Path(path)) for path in paths]

    async def _peer_socket(self, args: bytes) -> str:
        if not self._has_files:
            raise Unavailable(
                "refused", "this agent does not run on its node, so its libvirtd cannot dial it"
            )
        return self._peers.socket_for(_decode(args, ops.PeerSocketArgs).peer)

    def _need_files(self) -> None:
        if not self._has_files:
            raise Unavailable(
                "refused", "the agent of this node does not run on it and sees none of its files"
            )


def _decode(args: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(args, type=kind)
