"""One image to many nodes at once: each passes on what it has while more of it comes.  Nodes copy; this asks them.

A node that fails does not stop the others.  What came to it stays there, for the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, DeadlinePassed, InvalidOperation, NodeUnreachable
from clusterhost.service.context import Context
from clusterhost.service.image_cache import Cache
from clusterhost.service.image_copies import NO_AGENT, Copies, place_key, source_at
from clusterhost.service.image_facts import file_path, refuse_one_place
from clusterhost.service.image_moves import is_one_file
from clusterhost.service.image_needs import COPIED, Found, Needs
from clusterhost.service.jobs import Jobs
from clusterhost.service.ports import Progress
from clusterhost.service.volume_rows import held_of, row_of, with_copy
from clusterhost.service.volumes import Pools, Volumes
from clusterhost.store.crash import crash_point
from imagemgr.errors import CopyAway, ImageError
from imagemgr.model import Copy, Held
from imagemgr.place import Missing, Need, is_there, newest, source_of

SOURCES = 16
"""The most that a node asks for one image."""
MORE = 3
"""Other nodes that have it already and are asked too."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an image at a node.  reason: why it does not have it; received: bytes by the network."""

    image: str
    node: str
    reason: str = ""
    received: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """It has it."""
        return not self.reason


class _Tally:
    """Progress of all together.  size: bytes of the image at one node."""

    def __init__(self, shown: str, nodes: Sequence[str], size: int, tell: Progress) -> None:
        self._shown = shown
        self._done = dict.fromkeys(nodes, 0)
        self._over = 0
        self._size = max(size, 1)
        self._tell = tell
        self._last = -1

    def of(self, node: str) -> Progress:
        """What that node tells."""

        def told(done: int, total: int, text: str) -> None:
            self._done[node] = self._size * done // total if total else 0
            self._say()

        return told

    def over(self, node: str, ok: bool) -> None:
        """It needs no more."""
        self._over += 1
        self._done[node] = self._size if ok else self._done[node]
        self._last = -1
        self._say()

    def _say(self) -> None:
        done, total = sum(self._done.values()), self._size * len(self._done)
        if (percent := done * 100 // total) != self._last:
            self._last = percent
            self._tell(done, total, f"{self._shown}: {self._over} of {len(self._done)} nodes are done")


class Spread:
    """`distribute`, and `bring` for a single node.  Holds nothing."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes, jobs: Jobs) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._jobs = jobs
        self._copies = Copies(context, pools, volumes)
        self._needs = Needs(pools, volumes)
        self._cache = Cache(context, pools, volumes, jobs)

    async def distribute(
        self, pool: bytes, shown: str, nodes: Iterable[str], progress: Progress
    ) -> list[Result]:
        """To these nodes, what it is an overlay of first: a job.  InvalidOperation, NodeUnreachable: to none."""
        chain = await self._chain(pool, shown)
        wanted, results = tuple(dict.fromkeys(nodes)), []

        async def work(tell: Progress) -> None:
            left, seen = wanted, [0, 0]
            with self._claimed(chain, wanted):
                for one in chain:
                    found = await self._image(one, left, noting(seen, tell))
                    results.extend(found)
                    failed = {result.node: result for result in found if not result.ok}
                    left = tuple(node for node in left if node not in failed)
            for node in {result.node for result in results if result.seconds}:
                self._cache.trim_soon([pool], node, [one.need.held.shown for one in chain])
            if left != wanted:
                bad = [result for result in results if not result.ok]
                text = "; ".join(f"{result.node}: {result.reason}" for result in bad)
                raise InvalidOperation(f"{len(left)} of {len(wanted)} nodes have {shown}; {text}")
            tell(seen[0], seen[1], f"{len(left)} {'node has' if len(left) == 1 else 'nodes have'} {shown}")

        try:
            await self._jobs.run("distribute", shown, work, progress)
        except InvalidOperation:
            if not results:
                raise
        return results

    async def bring(self, pool: bytes, shown: str, node: str, progress: Progress) -> None:
        """To one node, as a part of the caller's work.  ClusterError."""
        chain = await self._chain(pool, shown)
        with self._claimed(chain, (node,)):
            for one in chain:
                for result in await self._image(one, (node,), progress):
                    if not result.ok:
                        raise InvalidOperation(result.reason)
        self._cache.trim_soon([pool], node, [one.need.held.shown for one in chain])

    @contextlib.contextmanager
    def _claimed(self, chain: Sequence[Found], nodes: Iterable[str]) -> Iterator[None]:
        """Nobody takes any of it away there meanwhile."""
        with contextlib.ExitStack() as claims:
            for node in nodes:
                names = [(one.need.pool, one.need.held.shown) for one in chain]
                claims.enter_context(self._volumes.claims.hold(node, names))
            yield

    async def _chain(self, pool: bytes, shown: str) -> list[Found]:
        """The image with what it is an overlay of, bases first."""
        entry = self._pools.by_uuid(pool)
        refuse_one_place(entry, "copied")
        if entry.pool.type not in COPIED:
            raise InvalidOperation(f"volumes of pools of type {entry.pool.type} are not copied")
        held = await self._volumes.by_name(pool, shown)
        await self._volumes.node_for(pool, held)
        need = Need(pool, held, file_path(entry, held))
        return await self._needs.whole([Found(entry, need)], None)

    # -- one image

    async def _image(self, found: Found, nodes: Sequence[str], tell: Progress) -> list[Result]:
        entry, shown = found.entry, found.need.held.shown
        held = await self._volumes.by_name(entry.uuid, shown)
        need = replace(found.need, held=held, taken=await self._taken(entry.uuid, held))
        source = self._source(need)
        size = found.need.held.at(source.node) or source
        one = Missing(entry.uuid, shown, need.path, source.node, size.allocation)
        lacking = [node for node in nodes if not is_there(held, node)]
        for node in set(nodes) - set(lacking):
            self._volumes.note_used(entry.uuid, shown, node)
        results = [Result(shown, node) for node in nodes if is_there(held, node)]
        if not lacking:
            return results
        with self._volumes.claims.hold(source.node, [(entry.uuid, shown)]):
            return results + await self._lacking(found, need, one, held, lacking, tell)

    async def _lacking(
        self,
        found: Found,
        need: Need,
        one: Missing,
        held: Held,
        lacking: Sequence[str],
        tell: Progress,
    ) -> list[Result]:
        await self._copies.refuse_written(one)
        checked = await asyncio.gather(*(self._checked(found, need, one, node) for node in lacking))
        results = [result for result in checked if result is not None]
        able = [node for node, result in zip(lacking, checked, strict=True) if result is None]
        return results + (await self._all(one, held, able, tell) if able else [])

    def _source(self, need: Need) -> Copy:
        try:
            return source_of(need, self._copies.sources(need.pool, need.held))
        except CopyAway as error:
            raise NodeUnreachable(str(error)) from error
        except ImageError as error:
            raise InvalidOperation(str(error)) from error

    async def _taken(self, pool: bytes, held: Held) -> frozenset[str]:
        """Nodes where another volume has its file at that path."""
        named = await self._volumes.named(pool, held.name)
        others = (copy for other in named if other.shown != held.shown for copy in other.copies)
        return frozenset(copy.node for copy in others) - {copy.node for copy in held.copies}

    async def _checked(self, found: Found, need: Need, one: Missing, node: str) -> Result | None:
        """Why a node cannot get it, or that it sees the file already; None: it can."""
        try:
            host = self._context.reachable(node).host
        except ClusterError as error:
            return Result(one.shown, node, str(error))
        pool = found.entry
        if node not in self._pools.nodes(pool.uuid):
            why = self._pools.problem(pool.uuid, node) or "is not active there"
            return Result(one.shown, node, f"pool {pool.name}: {why}")
        if node in need.taken:
            return Result(one.shown, node, f"node {node} has another volume at {one.path}")
        if not host.has_files:
            return Result(one.shown, node, NO_AGENT)
        try:
            if not await is_one_file(self._context, one.path, one.source, node):
                return None
        except ClusterError as error:
            return Result(one.shown, node, str(error))
        copy = Copy(node, generation=need.held.generation)
        await self._volumes.note_copy(one.pool, one.shown, copy)
        return Result(one.shown, node)

    async def _all(self, one: Missing, held: Held, nodes: list[str], tell: Progress) -> list[Result]:
        """All fetch at once, from those that have it and from each other."""

        def reading(done: int, total: int, text: str) -> None:
            tell(0, 0, f"{one.shown} is read on {one.source}")

        offered = await self._copies.offer(one.source, one.path, tell=reading)
        await self._note_digest(one, held, offered)
        having = [source_at(one.source, offered), *await self._others(one, held, offered)]
        coming = await asyncio.gather(*(self._coming(one, node, offered) for node in nodes))
        peers = dict(zip(nodes, coming, strict=True))
        tally = _Tally(one.shown, nodes, offered.size, tell)

        async def fetch(node: str) -> Result:
            peer = peers[node]
            if isinstance(peer, ClusterError):
                result = Result(one.shown, node, str(peer))
            else:
                sources = (*having, *_next_to(node, peers))[:SOURCES]
                result = await self._fetched(one, node, offered, sources, tally)
            tally.over(node, result.ok)
            return result

        return list(await asyncio.gather(*(fetch(node) for node in nodes)))

    async def _note_digest(self, one: Missing, held: Held, offered: imageops.Offered) -> None:
        """What the source holds is known now, unless somebody has begun to write."""
        row = self._volumes.row(one.pool, one.shown)
        copy = held_of(row).at(one.source) if row is not None else None
        if row is not None and row.generation == held.generation and copy is not None and not copy.digest:
            known = with_copy(held_of(row), replace(copy, digest=offered.digest))
            await self._volumes.put(row_of(one.pool, known, row))

    async def _others(self, one: Missing, held: Held, offered: imageops.Offered) -> list[imageops.Source]:
        """Of nodes that have the same bytes; who does not answer is not needed."""
        usable = self._copies.sources(one.pool, held)
        names = [copy.node for copy in newest(held) if copy.node != one.source and copy.node in usable][:MORE]
        offers = await asyncio.gather(
            *(self._copies.offer(node, one.path) for node in names), return_exceptions=True
        )
        return [
            source_at(node, offer)
            for node, offer in zip(names, offers, strict=True)
            if isinstance(offer, imageops.Offered) and offer.digest == offered.digest
        ]

    async def _coming(
        self, one: Missing, node: str, offered: imageops.Offered
    ) -> imageops.Source | ClusterError:
        try:
            return source_at(node, await self._copies.offer(node, one.path, offered.digest, offered.size))
        except ClusterError as error:
            return error

    async def _fetched(
        self,
        one: Missing,
        node: str,
        offered: imageops.Offered,
        sources: tuple[imageops.Source, ...],
        tally: _Tally,
    ) -> Result:
        copies, last = self._copies, [0, offered.size]
        told = noting(last, tally.of(node))
        async with self._volumes.coming.hold(place_key(node, one.path)):
            try:
                held = await self._volumes.by_name(one.pool, one.shown)
                if is_there(held, node):
                    return Result(one.shown, node)  # a start has just brought it
                before = held.at(node)
                await copies.begin(one, node, held)
                crash_point("spread.before_copy")
                try:
                    local = await copies.twins(one, node, offered.digest)
                    fetched = await copies.fetch(one, node, offered, sources, told, local)
                except ClusterError:
                    await copies.take_back(one, node, before)
                    raise
                crash_point("spread.after_copy")
                await copies.done(one, node, held, fetched)
                crash_point("spread.after_note")
            except (NodeUnreachable, DeadlinePassed) as error:
                missing = last[1] - last[0]
                return Result(one.shown, node, f"{error}; {missing} of {last[1]} bytes are missing")
            except ClusterError as error:
                return Result(one.shown, node, str(error))
        return Result(one.shown, node, "", fetched.received, fetched.seconds)


def noting(seen: list[int], tell: Progress) -> Progress:
    """Keeps how far it was: bytes done and bytes in all."""

    def told(done: int, total: int, text: str) -> None:
        if total:
            seen[:] = done, total
        tell(done, total, text)

    return told


def _next_to(node: str, peers: dict[str, imageops.Source | ClusterError]) -> list[imageops.Source]:
    """The others that will have some of it, from the next one on: so that each is asked by as many."""
    names = list(peers)
    at = names.index(node)
    found = (peers[name] for name in names[at + 1 :] + names[:at])
    return [peer for peer in found if isinstance(peer, imageops.Source)]
