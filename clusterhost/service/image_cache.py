"""The copies that a node could do without are its cache: kept below a limit, and taken away where room is needed.

Which these are image_evict.py knows; what goes first imagemgr/cache.py.  Here is when, and that it can be seen.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import structlog

from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from clusterhost.service.image_evict import Evict, Evicted, last_use
from clusterhost.service.image_facts import Facts, at_once
from clusterhost.service.image_limits import has_cache, limit_text
from clusterhost.service.jobs import Jobs
from clusterhost.service.ports import Progress
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volumes import Pools, Volumes
from imagemgr.cache import CacheLimit, Spare, by_use, over
from imagemgr.model import Copy, Held
from imagemgr.transfer.pace import amount

WHO = "cache"
TURN = 100
"""Copies that are looked at before others have their turn."""
MOST_TOLD = 20_000
"""Volumes of which it is kept what their nodes said."""

log = structlog.get_logger("clusterhost.images")


class Cache:
    """Of all pools and nodes; holds nothing."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes, jobs: Jobs) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._jobs = jobs
        self._facts = Facts(context, pools, volumes)
        self._evict = Evict(context, pools, volumes, self._facts)

    # -- a limit

    def trim_soon(self, pools: Iterable[bytes], node: str, came: Collection[str] = ()) -> None:
        """Copies have come there: in the background, as many go as are above the limit.  came: names that stay this
        time, so that nothing is brought only to be taken away."""
        wanted = set(pools)
        for entry in self._pools.all():
            if entry.uuid in wanted and limit_text(self._context, entry):
                self._context.tasks.spawn(self.trim(entry.uuid, node, came), f"trim images on {node}")

    async def trim(self, pool: bytes, node: str, came: Collection[str] = ()) -> list[Evicted]:
        """Have it below its limit; what went, and what was to go and stayed.  ClusterError."""
        entry = self._pools.by_uuid(pool)
        text = limit_text(self._context, entry)
        if not text or not entry.active or node not in self._pools.nodes(pool):
            return []
        limit = CacheLimit.read(text)
        async with self._volumes.trimming.hold(pool, node):
            found = await self._evict.candidates(entry, node)
            if not found:
                return []
            room = await self._volumes.calls.room(node, self._pools.handle_at(pool, node))
            most, spares = limit.of(room.capacity), await self._sized(entry, found)
            if sum(spare.size for spare in spares) <= most:
                return []  # also with those in use
            idle = await self._idle(entry, node, spares)
            going = over(idle, most, came)
            return await self._go(entry, node, going, f"the limit is {text}") if going else []

    # -- room

    async def could_free(self, pool: bytes, node: str, wanted: int, keep: Collection[str]) -> int:
        """Bytes of the copies that would go there so that `wanted` bytes get free; 0: they are not enough."""
        entry = self._pools.by_uuid(pool)
        if not has_cache(entry):
            return 0
        return sum(spare.size for spare in await self._enough(entry, node, wanted, keep))

    async def make_room(
        self, pool: bytes, node: str, wanted: int, keep: Collection[str], why: str
    ) -> list[Evicted]:
        """The least recently used copies go there until so many bytes are free; none where that is not to be had.

        keep: names that stay.  ClusterError."""
        entry = self._pools.by_uuid(pool)
        if not has_cache(entry):
            return []
        async with self._volumes.trimming.hold(pool, node):
            going = await self._enough(entry, node, wanted, keep)
            return await self._go(entry, node, going, why) if going else []

    async def _enough(self, entry: Entry, node: str, wanted: int, keep: Collection[str]) -> list[Spare]:
        found = [each for each in await self._evict.candidates(entry, node) if each[0].shown not in keep]
        spares = await self._sized(entry, found)
        if sum(spare.size for spare in spares) < wanted:
            return []
        going = await self._idle(entry, node, spares, wanted)
        return going if sum(spare.size for spare in going) >= wanted else []

    # -- within

    async def _sized(self, entry: Entry, found: Sequence[tuple[Held, Copy]]) -> dict[Spare, Held]:
        """With what their node says of them; without those of which it says nothing.  Asked once: while others have
        the newest of it, too, nobody writes to a copy without its generation or state becoming another."""
        told = self._volumes.told
        if len(told) > MOST_TOLD:
            told.clear()

        async def spare(each: tuple[Held, Copy]) -> tuple[Spare, Held] | None:
            held, copy = each
            known = told.setdefault((entry.uuid, held.shown), {})
            key = (copy.node, copy.generation, copy.state)
            try:
                said = known.get(key) or await self._facts.document(entry, held.name, copy.node)
            except ClusterError as error:
                log.debug("not known what a copy takes", volume=held.shown, node=copy.node, reason=str(error))
                return None
            known[key] = said
            return Spare(held.shown, said.allocated, last_use(copy, said) or 0.0), held

        return dict(each for each in await at_once(found, spare) if each is not None)

    async def _idle(
        self, entry: Entry, node: str, spares: Mapping[Spare, Held], enough: float = math.inf
    ) -> list[Spare]:
        """Those that may go one after the other, until they are of so many bytes: a base once its overlays are gone."""
        look, left = await self._facts.look(node), by_use(spares)
        idle: dict[str, Spare] = {}
        size, before = 0, -1
        while before != len(idle):
            before = len(idle)
            for number, spare in enumerate(left):
                if size >= enough:
                    return list(idle.values())
                if number % TURN == TURN - 1:
                    await asyncio.sleep(0)
                if await self._evict.is_idle(entry, spares[spare], node, look, idle):
                    idle[spare.shown] = spare
                    size += spare.size
            left = [spare for spare in left if spare.shown not in idle]
        return list(idle.values())

    async def _go(self, entry: Entry, node: str, going: Sequence[Spare], why: str) -> list[Evicted]:
        """A job: what operators see of it."""
        gone: list[Evicted] = []

        async def work(tell: Progress) -> None:
            for spare in going:
                try:
                    gone.append(await self._evict.one(entry.uuid, spare.shown, node, WHO, why))
                except ClusterError as error:  # it is in use now, or its node does not answer
                    log.info("a copy stays", volume=spare.shown, node=node, reason=str(error))
                    gone.append(Evicted(entry.name, spare.shown, node, reason=str(error)))
                tell(len(gone), len(going), f"{_told(gone)} from node {node}: {why}")

        await self._jobs.run("evict", entry.name, work, lambda *_: None)
        return gone


def _told(gone: Sequence[Evicted]) -> str:
    names = [each.image for each in gone if not each.reason]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5]) or 'nothing'}{more} ({amount(sum(each.size for each in gone))})"
