"""What volumes are overlays of, as nodes' libvirtds say it: asked when wanted, kept for a generation.  Changes nothing.

A base is frozen: whoever is about to write to a volume, or to remove it, asks `refuse_base` before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol

import structlog

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DeadlinePassed, InvalidOperation, NodeUnreachable
from clusterhost.service.context import Context
from clusterhost.service.image_files import DomainFile, files_of
from clusterhost.service.locks import Locks
from clusterhost.service.volume_calls import SECONDS, Entry, PoolHandle, VolumeCalls, VolumeHandle
from compat.libvirt import messages
from imagemgr.chains import DEEPEST
from imagemgr.errors import ImageError, PathRefused
from imagemgr.formats import RAW
from imagemgr.header import Backing
from imagemgr.model import CopyState, Held
from imagemgr.names import normal, path_of, pool_of
from imagemgr.place import newest
from imagemgr.xml import Capacity, read_volume

AT_ONCE = 16
"""Volumes that nodes are asked about at the same time."""
SILENCE = 10.0
"""Seconds for which a node that did not answer is not asked again, so that many questions wait for it once."""
NAMED = 5
"""Overlays that a refusal names."""
Place = tuple[bytes, str]
"""A pool and the name that is shown."""

log = structlog.get_logger("clusterhost.images")


@dataclass(frozen=True, slots=True)
class Described:
    """What a node says of a volume.  format: libvirt's word, "" in pools that have no formats."""

    format: str
    backing: Backing | None = None
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """An image of a chain.  format: as the image above says it, of the first as its node does.  held: None where the
    path is no volume, so that nothing below it is known; pool is b"" then."""

    path: str
    format: str
    pool: bytes = b""
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What volumes are overlays of.  over: by path, those whose backing file it is; unsure: nobody can be asked about
    them, and unsure_nodes have them."""

    over: Mapping[str, Sequence[tuple[Entry, Held]]]
    unsure: Sequence[tuple[Entry, Held]]
    unsure_nodes: frozenset[str]


class Pools(Protocol):
    """service.pools.Pools, as far as chains need it."""

    def all(self) -> Iterable[Entry]: ...
    def by_uuid(self, uuid: bytes) -> Entry: ...
    def nodes(self, uuid: bytes) -> Sequence[str]: ...
    def handle_at(self, uuid: bytes, node: str) -> PoolHandle: ...


class Volumes(Protocol):
    """service.volumes.Volumes, as far as chains need it."""

    @property
    def calls(self) -> VolumeCalls: ...
    @property
    def pools(self) -> Pools: ...
    async def all(self, uuid: bytes) -> tuple[Held, ...]: ...
    async def named(self, uuid: bytes, name: str) -> list[Held]: ...
    async def node_for(self, uuid: bytes, held: Held) -> str: ...


class Chains:
    """Of all pools.  clock: seconds, of any beginning."""

    def __init__(
        self, context: Context, volumes: Volumes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._volumes = volumes
        self._clock = clock
        self._known: dict[Place, tuple[int, Described]] = {}
        self._asked: dict[Place, object] = {}
        self._turns = Locks()
        self._silent: dict[str, float] = {}
        self._coming: dict[Place, list[str]] = {}
        self._changing: dict[bytes, object] = {}
        self._settling = asyncio.Lock()
        self._looking: dict[bytes, dict[str, Held]] = {}

    # -- asking

    async def described(self, uuid: bytes, held: Held) -> Described:
        """Its format and backing file.  A domain's raw disk is raw, whatever the guest has made it look like.

        NodeError, NodeUnreachable, InvalidOperation."""
        await self._settle()
        found = await self._described(uuid, held)
        if found.format != RAW and self._is_raw(self._volumes.pools.by_uuid(uuid), held):
            return Described(RAW)
        return found

    async def chain(self, uuid: bytes, held: Held) -> tuple[Link, ...]:
        """From the volume itself down to its base.  What is raw by the word of the image above is a base, whatever a
        guest has written into it.  InvalidOperation: a circle, or more images than libvirt opens; NodeUnreachable."""
        directory = self._volumes.pools.by_uuid(uuid).pool.target.path
        links = [Link(path_of(directory, held.name), "", uuid, held)]
        while (top := links[-1]).held is not None:
            if len(links) > 1 and top.format == RAW:
                break
            found = await self.described(top.pool, top.held)
            links[-1] = top = replace(top, format=top.format or found.format)
            if found.backing is None:
                break
            below = await self._below(top, found.backing)
            if any(link.path == below.path for link in links):
                raise InvalidOperation(f"the backing files of volume {held.shown} are a circle")
            if len(links) == DEEPEST:
                raise InvalidOperation(f"volume {held.shown} has more than {DEEPEST} images in its chain")
            links.append(below)
        return tuple(links)

    async def overlays(self, uuid: bytes, held: Held, told: Told | None = None) -> tuple[str, ...]:
        """Names of the volumes whose backing file it is, with their pool's before them where that is another one.

        told: what `told` has just said.  NodeUnreachable: a node that is away has it, and a volume of which nobody can
        say whether it is one."""
        told = await self.told() if told is None else told
        found = set(self._coming.get((uuid, held.shown), ()))
        path = path_of(self._volumes.pools.by_uuid(uuid).pool.target.path, held.name)
        nodes = {copy.node for copy in newest(held)}
        for entry, other in told.unsure if nodes & told.unsure_nodes else ():
            if nodes & {copy.node for copy in newest(other)} and (entry.uuid, other) != (uuid, held):
                raise NodeUnreachable(
                    f"whether volume '{other.shown}' of pool {entry.name} is an overlay of '{held.shown}' cannot"
                    " be told: its node is out of reach"
                )
        if path not in told.over:
            return tuple(sorted(found))
        namesakes = await self._volumes.named(uuid, held.name)
        for entry, other in told.over[path]:
            if meant(namesakes, _node_of(other)).shown == held.shown and not self._is_raw(entry, other):
                found.add(other.shown if entry.uuid == uuid else f"{entry.name}/{other.shown}")
        return tuple(sorted(found))

    async def told(self) -> Told:
        """What all volumes are overlays of."""
        await self._settle()
        over: dict[str, list[tuple[Entry, Held]]] = {}
        unsure = []
        async for entry, other, described in self._all():
            if described is None:
                unsure.append((entry, other))
            elif described.backing is not None:
                over.setdefault(_leads(entry, described.backing), []).append((entry, other))
        nodes = frozenset(copy.node for _, other in unsure for copy in newest(other))
        return Told(over, tuple(unsure), nodes)

    async def refuse_base(self, uuid: bytes, held: Held, what: str) -> None:
        """InvalidOperation when it has overlays.  what: cannot be done to it then, like `deleted`."""
        names = await self.overlays(uuid, held)
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            text = ", ".join(f"'{name}'" for name in names[:NAMED])
            raise InvalidOperation(
                f"volume '{held.shown}' is the base of {text}{more}, so it cannot be {what}"
            )

    # -- what changes

    def look(self, uuid: bytes, held: Sequence[Held]) -> None:
        """Ask about those that nobody has asked about yet, before somebody has to wait for it."""
        new = {one.shown: one for one in held if (uuid, one.shown) not in self._known}
        if (waiting := self._looking.get(uuid)) is not None:
            waiting.update(new)
        elif new:
            self._looking[uuid] = new
            self._context.tasks.spawn(self._look(uuid, new), "what volumes are overlays of")

    async def _look(self, uuid: bytes, waiting: dict[str, Held]) -> None:
        try:
            while waiting:
                shown = next(iter(waiting))
                one = waiting.pop(shown)
                if (uuid, shown) not in self._known:
                    with contextlib.suppress(ClusterError):  # whoever needs to know asks again
                        await self._unless_silent(uuid, one)
        finally:
            del self._looking[uuid]

    @contextmanager
    def coming(self, uuid: bytes, base: str, overlay: str) -> Iterator[None]:
        """An overlay of a volume is being made: nobody may begin to write to that."""
        names = self._coming.setdefault((uuid, base), [])
        names.append(overlay)
        try:
            yield
        finally:
            names.remove(overlay)
            if not names:
                del self._coming[uuid, base]

    def forget(self, uuid: bytes, shown: str = "") -> None:
        """It may be an overlay of something else now; "": so may all of the pool."""
        for kept in (self._known, self._asked):
            for place in [(uuid, shown)] if shown else [place for place in kept if place[0] == uuid]:
                kept.pop(place, None)

    def _forget_chains(self, uuid: bytes, disks: Collection[str]) -> None:
        """A job of a domain with these disks has ended: any image within its chains may have another backing file, one
        without any has got none."""
        for place, (_, described) in list(self._known.items()):
            is_disk = any(place[1] == disk or place[1].startswith(f"{disk}@") for disk in disks)
            if place[0] == uuid and (is_disk or described.backing is not None):
                del self._known[place]
        for place in [place for place in self._asked if place[0] == uuid]:
            del self._asked[place]

    def changing(self, domain: bytes) -> None:
        """A domain's disks are about to get other backing files: by a block job, or a snapshot."""
        self._changing[domain] = object()

    async def _settle(self) -> None:
        """What is known of a domain's volumes is void until its block jobs have ended."""
        async with self._settling:
            for uuid, change in list(self._changing.items()):
                domain = self._context.cluster.get(uuid)
                # Another change may have begun while its node was asked.
                if (domain is None or await self._is_over(domain)) and self._changing.get(uuid) is change:
                    del self._changing[uuid]

    async def _is_over(self, domain: Domain) -> bool:
        if self._is_silent(domain.node):
            return False
        try:
            async with asyncio.timeout(SECONDS):
                return await self._look_again(domain)
        except ClusterError as error:
            log.info("not known what a block job does", domain=domain.name, reason=str(error))
        except TimeoutError:
            self._silent[domain.node] = self._clock()
        return False

    def _is_silent(self, node: str) -> bool:
        return node in self._silent and self._clock() < self._silent[node] + SILENCE

    async def _look_again(self, domain: Domain) -> bool:
        """Have its node read its images anew; whether nothing changes them any more."""
        idle, virt = self._context.cluster.fresh(domain.uuid), self._context.virt
        get = virt.live_xml if domain.active else virt.inactive_xml
        files = [file for file in files_of(await get(domain.node, domain.uuid)) if file.written]
        jobs = [domain.active and await self._has_job(domain, file.disk) for file in files]
        names: dict[bytes, set[str]] = {}
        for file in files:
            if (uuid := self._pool_of(file)) is not None:
                names.setdefault(uuid, set()).add(file.volume or PurePosixPath(file.path).name)
        for uuid, disks in names.items():
            await self._volumes.calls.refresh(domain.node, self._volumes.pools.handle_at(uuid, domain.node))
            self._forget_chains(uuid, disks)
        return idle and not any(jobs)

    async def _has_job(self, domain: Domain, disk: str) -> bool:
        handle = messages.RemoteNonnullDomain(name=domain.name, uuid=domain.uuid, id=domain.node_id)
        args = messages.RemoteDomainGetBlockJobInfoArgs(dom=handle, path=disk, flags=0)
        answer = await self._context.virt.ask(domain.node, "DOMAIN_GET_BLOCK_JOB_INFO", args)
        return bool(messages.RemoteDomainGetBlockJobInfoRet.from_bytes(answer.payload).found)

    # -- within

    async def _described(self, uuid: bytes, held: Held) -> Described:
        known = self._known.get(place := (uuid, held.shown))
        if known is not None and known[0] == held.generation:
            return known[1]
        self._asked[place] = question = object()
        node = await self._volumes.node_for(uuid, held)
        entry = self._volumes.pools.by_uuid(uuid)
        args = messages.RemoteStorageVolGetXmlDescArgs(VolumeHandle(entry.name, held.name, ""), 0)
        payload = await self._volumes.calls.ask(node, "STORAGE_VOL_GET_XML_DESC", args)
        try:
            xml = messages.RemoteStorageVolGetXmlDescRet.from_bytes(payload).xml
            volume = read_volume(xml, entry.pool.type, Capacity.FREE)
        except ImageError as error:
            raise InvalidOperation(f"what node {node} says of volume {held.shown}: {error}") from error
        backing = Backing(volume.backing.path, volume.backing.format) if volume.backing is not None else None
        found = Described(volume.target.format, backing, volume.target.encryption is not None)
        if self._asked.get(place) is question:
            del self._asked[place]
            self._known[place] = held.generation, found
        return found

    async def _all(self) -> AsyncIterator[tuple[Entry, Held, Described | None]]:
        """Volumes of all active pools of files; None: its nodes cannot be asked."""
        for entry in self._volumes.pools.all():
            if not entry.active or not entry.pool.type.traits.volume_formats:
                continue
            try:
                held = await self._volumes.all(entry.uuid)
            except ClusterError:
                continue  # it has been stopped meanwhile
            told = await self._each(entry.uuid, held)
            for each in held:
                if each.shown in told:
                    yield entry, each, told[each.shown]

    async def _each(self, uuid: bytes, held: Sequence[Held]) -> dict[str, Described | None]:
        """By name; without those of which a node that was asked knows nothing (they are no more, or incomplete)."""
        told: dict[str, Described | None] = {}
        turns = asyncio.Semaphore(AT_ONCE)

        async def ask(one: Held) -> None:
            async with turns:
                try:
                    told[one.shown] = await self._unless_silent(uuid, one)
                except ClusterError as error:
                    log.debug("not known what a volume is", volume=one.shown, reason=str(error))

        async with self._turns.hold(uuid):  # who comes meanwhile asks no second time
            unknown = []
            for one in held:
                known = self._known.get((uuid, one.shown))
                if known is not None and known[0] == one.generation:
                    told[one.shown] = known[1]
                else:
                    unknown.append(one)
            await asyncio.gather(*(ask(one) for one in unknown))
        return told

    async def _unless_silent(self, uuid: bytes, held: Held) -> Described | None:
        """None: its node cannot be asked."""
        node = ""
        try:
            node = await self._volumes.node_for(uuid, held)
            if self._is_silent(node):
                return None
            return await self._described(uuid, held)
        except NodeUnreachable:
            return None
        except DeadlinePassed:
            self._silent[node] = self._clock()
            return None

    async def _below(self, top: Link, backing: Backing) -> Link:
        entry = self._volumes.pools.by_uuid(top.pool)
        path = _leads(entry, backing)
        if not path:
            return Link(backing.name, backing.format)
        entries = {entry.name: entry for entry in self._volumes.pools.all() if entry.active}
        found = pool_of(path, (entry.pool for entry in entries.values() if entry.pool.target.path))
        if found is not None and top.held is not None:
            pool, name = found
            uuid = entries[pool.name].uuid
            named = await self._volumes.named(uuid, name)
            if named:
                return Link(path, backing.format, uuid, meant(named, _node_of(top.held)))
        return Link(path, backing.format)

    def _is_raw(self, entry: Entry, held: Held) -> bool:
        """A domain has it as a raw disk: what it looks like was written by a guest, and is believed by nobody."""
        path = path_of(entry.pool.target.path, held.name)
        return any(
            file.format == RAW and (file.path == path or (file.pool, file.volume) == (entry.name, held.name))
            for row in self._context.ledger.domains.values()
            if held.name in row.xml
            for file in files_of(row.xml)
        )

    def _pool_of(self, file: DomainFile) -> bytes | None:
        entries = {entry.name: entry for entry in self._volumes.pools.all() if entry.active}
        if file.pool:
            return entries[file.pool].uuid if file.pool in entries else None
        pools = (entry.pool for entry in entries.values() if entry.pool.target.path)
        found = pool_of(file.path, pools) if file.path.startswith("/") else None
        return entries[found[0].name].uuid if found is not None else None


def meant(named: Sequence[Held], node: str | None) -> Held:
    """Of several volumes of one file name a path means that of its node, else the one that has the name."""

    def rank(held: Held) -> tuple[bool, bool]:
        return not has_file(held, node), held.shown != held.name

    return min(named, key=rank)


def has_file(held: Held, node: str | None) -> bool:
    """The node has a file of the volume, which may be an older one."""
    copy = held.at(node) if node is not None else None
    return copy is not None and copy.state is not CopyState.COMING


def _node_of(held: Held) -> str | None:
    """A node whose files its paths mean."""
    return next((copy.node for copy in newest(held) if copy.node), None)


def _leads(entry: Entry, backing: Backing) -> str:
    """The path of a backing file, "" where it is none."""
    name = backing.name
    try:
        return normal(name if name.startswith("/") else f"{entry.pool.target.path}/{name}")
    except PathRefused:
        return ""
