"""The volumes that a domain needs: its files found in pools, and the images they are overlays of.  Moves nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from clusterhost.model.errors import ClusterError, InvalidOperation, NodeUnreachable
from clusterhost.service.image_chains import has_file, meant
from clusterhost.service.image_files import DomainFile, files_of
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volumes import Pools, Volumes
from imagemgr.chains import DEEPEST
from imagemgr.errors import ImageError, PathRefused
from imagemgr.formats import RAW
from imagemgr.header import Backing
from imagemgr.model import Held, Kind, PoolType
from imagemgr.names import name_in, path_of, pool_of, resolved
from imagemgr.place import Need, is_there, source_of

COPIED = frozenset({PoolType.DIR, PoolType.FS})
"""Local pools whose volumes are files that can come from another node."""


LOCAL = frozenset({Kind.LOCAL})
ALL = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Found:
    """A need with its pool.  raw: whoever opens it says so, so that nothing in it can name a backing file.  file: what
    the definition says of it, None of one that it does not name."""

    entry: Entry
    need: Need
    raw: bool = False
    file: DomainFile | None = None


class Needs:
    """Looks volumes up; holds nothing."""

    def __init__(self, pools: Pools, volumes: Volumes) -> None:
        self._pools = pools
        self._volumes = volumes

    async def of(self, xml: str, home: str | None, kinds: Collection[Kind] = LOCAL) -> list[Found]:
        """Volumes of active pools of these kinds that the definition names; what is no volume is not there."""
        found = []
        for file in files_of(xml):
            entry, named = await self._named(file, kinds)
            if named and entry is not None:
                path = file.path or path_of(entry.pool.target.path, named[0].name)
                need = _need(entry.uuid, named, path, file.written, home)
                found.append(Found(entry, need, file.format == RAW, file))
        return found

    async def outside(self, xml: str, kinds: Collection[Kind]) -> list[DomainFile]:
        """Files that are no volumes of such pools, as far as the domain cannot do without them."""
        paths = [file for file in files_of(xml) if file.path.startswith("/") and not file.optional]
        return [file for file in paths if not (await self._named(file, kinds))[1]]

    async def _named(self, file: DomainFile, kinds: Collection[Kind]) -> tuple[Entry | None, list[Held]]:
        """Volumes of its name in the pool that it is in; none where it is no volume."""
        place = self._place(file, kinds)
        if place is None:
            return None, []
        entry, name = place
        try:
            return entry, await self._volumes.named(entry.uuid, name)
        except ClusterError:
            return None, []  # the pool has been stopped meanwhile: a path is only a path again

    async def whole(self, found: Iterable[Found], node: str | None) -> list[Found]:
        """With sizes, and with the images that those are overlays of which the node lacks (None: some node lacks),
        bases first.  InvalidOperation: a chain that cannot be copied."""
        chains: list[Found] = []
        for one in found:
            if node is not None and is_there(one.need.held, node):
                chains.append(one)
            else:
                chains += reversed(await self._chain(one))
        return chains

    async def below(self, one: Found) -> list[Found]:
        """The images that it is an overlay of, the lowest first.  InvalidOperation: a chain that cannot be copied."""
        return (await self._chain(one))[:0:-1]

    async def _chain(self, top: Found) -> list[Found]:
        chain = [await self._sized(top)]
        while True:
            base = await self._base(chain[-1])
            if base is None:
                return chain
            names = [one.need.held.shown for one in chain]
            if base.need.held.shown in names:
                raise InvalidOperation(f"the backing files of volume {names[0]} are a circle")
            if len(chain) == DEEPEST:
                raise InvalidOperation(f"volume {names[0]} has more than {DEEPEST} images in its chain")
            chain.append(await self._sized(base))

    async def _sized(self, one: Found) -> Found:
        """A source that cannot be asked is told by whoever needs it."""
        try:
            held = await self._volumes.sized(one.entry.uuid, one.need.held)
        except ClusterError:
            return one
        return replace(one, need=replace(one.need, held=held))

    async def _base(self, top: Found) -> Found | None:
        """What it is an overlay of; None where it is none, or where nobody can be asked."""
        entry, need = top.entry, top.need
        if top.raw:
            return None
        try:
            node = source_of(need, self._pools.nodes(entry.uuid)).node
            found = await self._volumes.chains.described(entry.uuid, need.held)
        except (ImageError, NodeUnreachable):
            return None
        if found.backing is None:
            return None
        return await self._backing(top, found.backing, node)

    async def _backing(self, top: Found, backing: Backing, node: str) -> Found:
        entry, shown, path = top.entry, top.need.held.shown, backing.name
        directory = entry.pool.target.path
        try:
            name = name_in(directory, resolved(directory, path))
        except PathRefused as error:
            raise InvalidOperation(f"volume {shown} cannot be copied, its backing {error}") from error
        named = await self._volumes.named(entry.uuid, name) if name else []
        if not named:
            raise InvalidOperation(
                f"volume {shown} cannot be copied, its backing file {path} is no volume of pool {entry.name}"
            )
        need = _need(entry.uuid, named, path_of(directory, named[0].name), False, node)
        return Found(entry, need, backing.format == RAW)

    def _place(self, file: DomainFile, kinds: Collection[Kind]) -> tuple[Entry, str] | None:
        """The pool of these kinds it is in, and the name of its file there."""
        entries = [entry for entry in self._pools.all() if entry.active and entry.kind in kinds]
        if file.pool:
            entry = next((entry for entry in entries if entry.name == file.pool), None)
            return (entry, file.volume) if entry is not None else None
        place = pool_of(file.path, (entry.pool for entry in entries)) if file.path.startswith("/") else None
        if place is None:
            return None
        return next(entry for entry in entries if entry.name == place[0].name), place[1]


def _need(pool: bytes, named: Sequence[Held], path: str, written: bool, home: str | None) -> Need:
    held = meant(named, home)
    others = (copy.node for other in named if other is not held for copy in other.copies)
    taken = frozenset(node for node in others if not has_file(held, node))
    return Need(pool, held, path, written, taken)
