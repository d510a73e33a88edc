"""A domain's images get to the node that it is started on.  Knows what is missing; nodes copy among themselves.

What a crash leaves, in the order of a start: before the copying, nothing; while it goes on, a copy that is `coming`,
so its file, also one that is complete, is no volume until the next start takes it up; after it, one whole copy more,
of the generation that the others have; after `about_to_write`, the copy on that node alone is current, though nobody
has written to it yet, which costs a copy at most.  At no moment have two nodes newest copies that differ.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import structlog

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, DeadlinePassed, InvalidOperation, NodeUnreachable
from clusterhost.service.context import Context
from clusterhost.service.file_copies import FileCopies, Lack
from clusterhost.service.image_cache import Cache
from clusterhost.service.image_chains import Place
from clusterhost.service.image_copies import NO_AGENT, Copies, place_key, source_at
from clusterhost.service.image_doubles import Doubles
from clusterhost.service.image_files import DomainFile
from clusterhost.service.image_last_use import LastUse
from clusterhost.service.image_moves import MovingImages, is_one_file
from clusterhost.service.image_needs import ALL, COPIED, LOCAL, Found, Needs
from clusterhost.service.image_stock import Copying, Stock
from clusterhost.service.jobs import Jobs
from clusterhost.service.ports import Progress
from clusterhost.service.volumes import Pools, Volumes
from clusterhost.store.crash import crash_point
from compat.libvirt import messages
from imagemgr.errors import CopyAway, ImageError
from imagemgr.model import Copy
from imagemgr.place import Missing, is_there, missing, short, why_not

log = structlog.get_logger("clusterhost.images")


class Images:
    """image_stock.DomainImages over pools and their volumes."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes, jobs: Jobs) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._jobs = jobs
        self._needs = Needs(pools, volumes)
        self._moving = MovingImages(context, pools, volumes, self._needs)
        self._copies = Copies(context, pools, volumes)
        self._files = FileCopies(context)
        self._doubles = Doubles(context, pools)
        self._cache = Cache(context, pools, volumes, jobs)
        self.last_use = LastUse(context, volumes, self._needs, self._cache.trim_soon)
        """Follows domains, too, once the inventory knows it."""

    @property
    def moving(self) -> MovingImages:
        """See DomainImages."""
        return self._moving

    # -- asking

    async def are_at(self, xml: str, home: str) -> bool:
        """See DomainImages."""
        found = await self._needs.of(xml, home)
        return all(is_there(one.need.held, home) and one.entry.pool.type.holds_files for one in found)

    async def outside(self, xml: str, *, shared: bool = False) -> Sequence[DomainFile]:
        """See DomainImages."""
        return await self._needs.outside(xml, ALL if shared else LOCAL)

    async def stock(self, xml: str, home: str | None) -> Stock:
        """See DomainImages."""
        found = await self._needs.of(xml, home)
        ours = frozenset(one.need.path for one in found)
        nodes = [node.name for node in self._context.cluster.cells() if node.usable]
        if not found:
            return Stock()
        try:
            whole = await self._needs.whole(found, None)
        except ClusterError as error:
            whole, reason = found, str(error)
        else:
            reason = ""
        lacks, closed = self._lacking(whole, nodes)
        if reason:
            closed |= {node: reason for node in lacks if lacks[node]}
        full, freeing = await self._without_room(
            {node: lack for node, lack in lacks.items() if lack}, _volumes_of(whole)
        )
        coming = {node: max(1, sum(one.size for one in lack)) for node, lack in lacks.items() if lack}
        return Stock(ours, closed | full, coming, freeing)

    async def bound(self, xml: str, home: str) -> Mapping[str, str]:
        """See DomainImages."""
        found = [one for one in await self._needs.of(xml, home) if not one.entry.pool.type.holds_files]
        return self._lacking(found, [node.name for node in self._context.cluster.cells() if node.usable])[1]

    async def missing(self, xml: str, node: str, home: str | None = None) -> tuple[Missing, ...]:
        """What must come to a node; NodeUnreachable, InvalidOperation say why it cannot."""
        found = await self._needs.whole(await self._needs.of(xml, home), node)
        return self._missing(found, node)

    def _lacking(
        self, found: Sequence[Found], nodes: Sequence[str]
    ) -> tuple[dict[str, tuple[Missing, ...]], dict[str, str]]:
        """What each node lacks, and where it cannot be had."""
        lacks: dict[str, tuple[Missing, ...]] = {}
        closed: dict[str, str] = {}
        for node in nodes:
            try:
                lacks[node] = self._missing(found, node)
            except ClusterError as error:
                closed[node] = str(error)
        return lacks, closed

    def _missing(self, found: Sequence[Found], node: str) -> tuple[Missing, ...]:
        lacks: dict[tuple[bytes, str], Missing] = {}
        for one in found:
            if is_there(one.need.held, node):
                continue
            self._refuse_where_it_cannot_come(one, node)
            try:
                for lack in missing([one.need], node, self._copies.sources(one.entry.uuid, one.need.held)):
                    lacks.setdefault((lack.pool, lack.shown), lack)
            except CopyAway as error:
                raise NodeUnreachable(str(error)) from error
            except ImageError as error:
                raise InvalidOperation(str(error)) from error
        return tuple(lacks.values())

    def _refuse_where_it_cannot_come(self, one: Found, node: str) -> None:
        entry, shown = one.entry, one.need.held.shown
        if node not in self._pools.nodes(entry.uuid):
            why = self._pools.problem(entry.uuid, node) or "is not active there"
            raise InvalidOperation(f"has no volume {shown}, and its pool {entry.name} {why}")
        if entry.pool.type not in COPIED:
            raise InvalidOperation(
                f"has no volume {shown}, and pools of type {entry.pool.type} are not copied"
            )
        if not self._context.cluster.node(node).host.has_files:
            raise InvalidOperation(f"has no volume {shown}: {NO_AGENT}")

    async def _without_room(
        self, lacks: Mapping[str, tuple[Missing, ...]], keep: Collection[Place]
    ) -> tuple[dict[str, str], dict[str, int]]:
        """Nodes without room, and why; and the bytes of copies that would go at those that could make it."""
        rooms = await asyncio.gather(*(self._free(node, lack) for node, lack in lacks.items()))
        closed: dict[str, str] = {}
        freeing: dict[str, int] = {}
        for (node, lack), free in zip(lacks.items(), rooms, strict=True):
            wanted = short(lack, free)
            sizes = [await self._could_free(pool, node, size, keep) for pool, size in wanted.items()]
            if not all(sizes):
                closed[node] = why_not(lack, free)
            elif sizes:
                freeing[node] = sum(sizes)
        return closed, freeing

    async def _could_free(self, pool: bytes, node: str, wanted: int, keep: Collection[Place]) -> int:
        try:
            return await self._cache.could_free(
                pool, node, wanted, [shown for of, shown in keep if of == pool]
            )
        except ClusterError as error:
            log.info("not known what could go", node=node, reason=str(error))
            return 0

    async def _free(self, node: str, lacks: Sequence[Missing]) -> dict[bytes, int]:
        """Bytes left at a node in the pools of what it lacks, as far as it says."""
        free = {}
        for pool in {one.pool for one in lacks}:
            args = messages.RemoteStoragePoolGetInfoArgs(pool=self._pools.handle_at(pool, node))
            try:
                answer = await self._context.virt.ask(node, "STORAGE_POOL_GET_INFO", args)
            except ClusterError:
                continue  # it will say so when the image comes
            free[pool] = messages.RemoteStoragePoolGetInfoRet.from_bytes(answer.payload).available
        return free

    # -- doing

    async def bring(
        self, name: str, xml: str, node: str, home: str | None, progress: Progress | None = None
    ) -> None:
        """See DomainImages."""
        keep: list[Place] = []
        with _told_of(name, node):
            files = await self._files.lacking(await self.outside(xml, shared=True), node, home)
            at_home = home == node and await self.are_at(xml, node)
            if not at_home:
                keep = _volumes_of(await self._needs.whole(await self._needs.of(xml, home), node))
        with self._volumes.claims.hold(node, keep):
            with _told_of(name, node):
                # Looked at now: what was just being taken away, when nobody spoke for it, must come, too.
                lacks = () if at_home else await self.missing(xml, node, home)
            await self._bring(name, files, lacks, node, keep, progress)

    async def _bring(
        self,
        name: str,
        files: Sequence[Lack],
        lacks: Sequence[Missing],
        node: str,
        keep: Collection[Place],
        progress: Progress | None,
    ) -> None:
        if not lacks and not files:
            return

        async def work(tell: Progress) -> None:
            await self._files.bring(files, node, tell)
            with contextlib.ExitStack() as claims:
                claims.enter_context(self._volumes.claims.hold(node, keep))  # whoever waits may leave
                for one in lacks:
                    claims.enter_context(self._volumes.claims.hold(one.source, [(one.pool, one.shown)]))
                await self._make_room(name, lacks, node, keep)
                await self._carry(lacks, node, tell)

        if progress is not None:
            await work(progress)
        else:
            await self._jobs.run("images", name, work, lambda *_: None)
        self._cache.trim_soon({one.pool for one in lacks}, node, [shown for _, shown in keep])

    async def _make_room(
        self, name: str, lacks: Sequence[Missing], node: str, keep: Collection[Place]
    ) -> None:
        """As far as it can be had; whether an image fits its node says when it comes."""
        for pool, wanted in short(lacks, await self._free(node, lacks)).items():
            names = [shown for of, shown in keep if of == pool]
            try:
                await self._cache.make_room(pool, node, wanted, names, f"room for {name}")
            except ClusterError as error:
                log.info("no room was made", node=node, reason=str(error))

    async def bring_read(self, name: str, xml: str, node: str, home: str, copying: Copying | None) -> None:
        """See DomainImages."""
        found: list[Found] = []
        with _told_of(name, node):
            for one in await self._needs.of(xml, home):
                if not one.need.written:
                    found += await self._needs.whole([one], node)
                elif (
                    copying is not None and copying.tops and one.file is not None and copying.takes(one.file)
                ):
                    found += await self._needs.below(one)
            files = await self._files.lacking(await self.outside(xml, shared=True), node, home)
            lacks, keep = self._missing(found, node), _volumes_of(found)
        with self._volumes.claims.hold(node, keep):
            await self._bring(name, files, lacks, node, keep, None)

    async def refuse_bases(self, xml: str, home: str | None) -> None:
        """See DomainImages."""
        for found in await self._needs.of(xml, home, ALL):
            if found.need.written:
                what = "written to by a domain"
                await self._volumes.chains.refuse_base(found.need.pool, found.need.held, what)

    async def refuse_doubles(self, xml: str, own: bytes | None) -> None:
        """See DomainImages."""
        await self._doubles.refuse(xml, own)

    async def about_to_write(self, xml: str, node: str, home: str | None) -> None:
        """See DomainImages.  Nothing is written where no other copy can become old and no digest void."""
        await self.refuse_bases(xml, home)
        # Looked up anew: nodes may have been asked for that, and copies have come or gone meanwhile.
        for found in await self._needs.of(xml, home):
            need = found.need
            mine = need.held.at(node)
            if need.written and mine is not None and (len(need.held.copies) > 1 or mine.digest):
                await self._volumes.raise_generation(need.pool, need.held.shown, node)
        self.last_use.of(xml, node)
        crash_point("images.after_raise")

    async def _carry(self, lacks: Sequence[Missing], node: str, tell: Progress) -> None:
        total, before, shown = sum(one.size for one in lacks), 0, -1
        for one in lacks:

            def told(done: int, size: int, text: str, one: Missing = one, before: int = before) -> None:
                nonlocal shown
                part = before + (one.size * done // size if size else 0)
                if (percent := part * 100 // max(1, total)) != shown:
                    shown = percent
                    tell(part, total, f"{one.shown} from {one.source} to {node}{text and ': '}{text}")

            await self._fetch(one, node, told)
            before += one.size
        if lacks:
            tell(total, total, f"{len(lacks)} {'image is' if len(lacks) == 1 else 'images are'} on {node}")

    async def _fetch(self, one: Missing, node: str, tell: Progress) -> None:
        async with self._volumes.coming.hold(place_key(node, one.path)):
            held = await self._volumes.by_name(one.pool, one.shown)
            if is_there(held, node):
                return  # somebody else has just brought it
            await self._copies.refuse_written(one)
            if await is_one_file(self._context, one.path, one.source, node):
                log.info("a directory is the same on two nodes", path=one.path, nodes=[one.source, node])
                await self._volumes.note_copy(one.pool, one.shown, Copy(node, generation=held.generation))
                return
            crash_point("images.before_copy")
            before = held.at(node)
            await self._copies.begin(one, node, held)
            seen = [0, one.size]
            try:
                fetched = await self._copy(one, node, _noting(seen, tell))
            except ClusterError as error:
                await self._copies.take_back(one, node, before)
                raise _not_brought(one, node, error, *seen) from error
            crash_point("images.after_copy")
            await self._copies.done(one, node, held, fetched)
            crash_point("images.after_note")

    async def _copy(self, one: Missing, node: str, tell: Progress) -> imageops.Fetched:
        def reading(done: int, total: int, text: str) -> None:
            tell(0, 0, f"read on {one.source}")

        offered = await self._copies.offer(one.source, one.path, tell=reading)
        source = source_at(one.source, offered)
        local = await self._copies.twins(one, node, offered.digest)
        return await self._copies.fetch(one, node, offered, (source,), tell, local)


def _volumes_of(found: Iterable[Found]) -> list[Place]:
    return [(one.need.pool, one.need.held.shown) for one in found]


@contextlib.contextmanager
def _told_of(name: str, node: str) -> Iterator[None]:
    try:
        yield
    except InvalidOperation as error:
        raise InvalidOperation(f"domain '{name}' cannot be on node {node}, it {error}") from error


def _noting(seen: list[int], tell: Progress) -> Progress:
    """Keeps how far it was, for the error of a node that can say nothing any more."""

    def told(done: int, total: int, text: str) -> None:
        if total:
            seen[:] = done, total
        tell(done, total, text)

    return told


def _not_brought(one: Missing, node: str, error: ClusterError, done: int, total: int) -> ClusterError:
    """Which node and image, and how much was missing; a node that answered says it itself."""
    text = f"volume {one.shown} did not get from node {one.source} to node {node}: {error}"
    if not isinstance(error, NodeUnreachable | DeadlinePassed):
        return InvalidOperation(text)
    return NodeUnreachable(f"{text}; {total - done} of {total} bytes are missing")
