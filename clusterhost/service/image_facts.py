"""What nodes and definitions say about one volume: its document, overlays, and who uses it.  Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidOperation, NodeError
from clusterhost.service.context import Context
from clusterhost.service.image_chains import Told
from clusterhost.service.image_files import DomainFile, files_of
from clusterhost.service.volume_calls import Entry, VolumeHandle
from clusterhost.service.volumes import Pools, Volumes
from compat.libvirt import messages
from compat.xmldoc import XmlDocument, XmlError
from imagemgr.errors import ImageError
from imagemgr.model import Held, Kind, Volume
from imagemgr.names import path_of
from imagemgr.xml import Capacity, read_volume

T = TypeVar("T")
R = TypeVar("R")
AT_ONCE = 16
"""Calls to nodes, where there is one for each volume."""


@dataclass(frozen=True, slots=True)
class Use:
    """A domain that names a volume.  below: only as what one of its images is an overlay of."""

    domain: str
    node: str
    active: bool
    written: bool
    below: bool = False


@dataclass(frozen=True, slots=True)
class Live:
    """What a running domain has open.  paths: also of what its images are overlays of, or are copied to."""

    domain: Domain
    files: tuple[DomainFile, ...]
    paths: frozenset[str]

    @classmethod
    def of(cls, domain: Domain, xml: str) -> Live:
        """From what its node says."""
        return cls(domain, files_of(xml), frozenset(every_path(xml)))


@dataclass(frozen=True, slots=True)
class Look:
    """What a node and definitions say, taken once.  busy: domains that are just being started, moved or changed."""

    live: Sequence[Live]
    told: Told
    busy: Sequence[tuple[str, tuple[DomainFile, ...]]]


class Facts:
    """Holds nothing; every answer is asked for anew."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes

    # -- documents

    async def document(self, entry: Entry, name: str, node: str) -> Volume:
        """What a node's libvirtd says of a volume there.  NodeError, InvalidOperation, NodeUnreachable."""
        args = messages.RemoteStorageVolGetXmlDescArgs(VolumeHandle(entry.name, name, ""), 0)
        payload = await self._volumes.calls.ask(node, "STORAGE_VOL_GET_XML_DESC", args)
        xml = messages.RemoteStorageVolGetXmlDescRet.from_bytes(payload).xml
        try:
            return read_volume(xml, entry.pool.type, Capacity.FREE)
        except ImageError as error:
            raise InvalidOperation(f"what node {node} says of volume {name}: {error}") from error

    async def look(self, node: str) -> Look:
        """All of this at once, for many volumes; raises where it cannot be told."""
        return Look(await self.live(node), await self._volumes.chains.told(), await self._busy())

    async def overlays_at(self, entry: Entry, held: Held, node: str, look: Look | None = None) -> list[str]:
        """Volumes that need its file there.  NodeUnreachable where that cannot be told."""
        found, told = [], look.told if look is not None else None
        for name in await self._volumes.chains.overlays(entry.uuid, held, told):
            pool, _, shown = name.rpartition("/")
            uuid = self._pools.by_name(pool).uuid if pool else entry.uuid
            other = await self._volumes.found(uuid, shown)
            # One that has just been found has no copy yet where it is being made.
            if other is None or not other.copies or other.at(node) is not None or other.at("") is not None:
                found.append(name)
        return found

    # -- users

    async def users(self, entry: Entry, held: Held) -> list[Use]:
        """Domains whose definition names it, and those that run with it."""
        taken = await self._taken(entry, held)
        domains = [each for each in self._context.cluster.domains() if each.node not in taken]

        async def look(domain: Domain) -> Use | None:
            try:
                return await self._use(entry, held, domain)
            except ClusterError:
                return None  # nobody says what it uses

        return [use for use in await at_once(domains, look) if use is not None]

    async def live(self, node: str) -> list[Live]:
        """Domains that run there, with what they have; raises where that cannot be told."""
        domains = [each for each in self._context.cluster.domains(node) if each.active]
        return [each for each in await at_once(domains, self._live) if each is not None]

    async def running(self, entry: Entry, held: Held, node: str, look: Look | None = None) -> list[Use]:
        """Domains that run there with it, also below their images; raises where that cannot be told."""
        live = await self.live(node) if look is None else look.live
        return [use for each in live if (use := _use_of(entry, held, each)) is not None]

    async def in_work(self, entry: Entry, held: Held, look: Look | None = None) -> list[str]:
        """Domains that name it and are just being started, moved or changed."""
        busy = await self._busy() if look is None else look.busy
        return [name for name, files in busy if _named(entry, held, files) is not None]

    async def _busy(self) -> list[tuple[str, tuple[DomainFile, ...]]]:
        locks, domains = self._context.locks, list(self._context.cluster.domains())
        working = [domain for domain in domains if locks.held(domain.uuid)]
        return [(domain.name, files_of(await self._context.definition(domain))) for domain in working]

    async def _taken(self, entry: Entry, held: Held) -> set[str]:
        """Nodes where that path is another volume's."""
        others = await self._volumes.named(entry.uuid, held.name)
        nodes = {copy.node for each in others if each.shown != held.shown for copy in each.copies}
        return nodes - {copy.node for copy in held.copies}

    async def _use(self, entry: Entry, held: Held, domain: Domain) -> Use | None:
        live = await self._live(domain) if domain.active else None
        found = _use_of(entry, held, live) if live is not None else None
        return found or await self._defined(entry, held, domain)

    async def _defined(self, entry: Entry, held: Held, domain: Domain) -> Use | None:
        found = _named(entry, held, files_of(await self._context.definition(domain)))
        return None if found is None else Use(domain.name, domain.node, domain.active, found)

    async def _live(self, domain: Domain) -> Live | None:
        try:
            return Live.of(domain, await self._context.virt.live_xml(domain.node, domain.uuid))
        except NodeError:
            return None  # it has ended


def _use_of(entry: Entry, held: Held, live: Live) -> Use | None:
    """What a running domain has it for."""
    domain, found = live.domain, _named(entry, held, live.files)
    if found is not None:
        return Use(domain.name, domain.node, True, found)
    below = f"{entry.pool.target.path}/{held.name}" in live.paths
    return Use(domain.name, domain.node, True, False, below=True) if below else None


def _named(entry: Entry, held: Held, files: Iterable[DomainFile]) -> bool | None:
    """Whether the one of these files that the volume is may be written; None where it is none of them."""
    path = f"{entry.pool.target.path}/{held.name}"
    names = ((entry.name, held.name), (entry.name, held.shown))
    found = [file.written for file in files if file.path == path or (file.pool, file.volume) in names]
    return any(found) if found else None


def every_path(xml: str, disk: str = "") -> set[str]:
    """Of all images that a running domain has open: disks, what they are overlays of, and what they are copied to.

    disk: of that one alone."""
    try:
        document = XmlDocument.parse(xml)
    except XmlError:
        return set()
    chosen = "[target/@dev=$disk]" if disk else ""
    sources = list(document.all(f"devices/disk{chosen}//source", **({"disk": disk} if disk else {})))
    return {path for source in sources for key in ("file", "dev") if (path := source.get(key))}


async def at_once(items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Results in the order of the items, AT_ONCE of them at a time."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with free:
            return await work(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


def file_path(entry: Entry, held: Held) -> str:
    """Where its nodes have it.  InvalidOperation for a pool whose volumes are no files of nodes."""
    if not entry.pool.type.has_target:
        raise InvalidOperation(f"volumes of pools of type {entry.pool.type} are no files of nodes")
    try:
        return path_of(entry.pool.target.path, held.name)
    except ImageError as error:
        raise InvalidOperation(str(error)) from error


def refuse_one_place(entry: Entry, what: str) -> None:
    """InvalidOperation for a pool that has its volumes once."""
    if entry.kind is Kind.SHARED:
        raise InvalidOperation(f"pool {entry.name} is one place for all nodes: nothing there is {what}")
