"""What nodes list in pools, kept for a moment: asked together, forgotten when something changed.  Decides nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from clusterhost.model.errors import ClusterError, NodeError
from clusterhost.service.volume_calls import PoolHandle, VolumeCalls

AGE = 2.0
"""Seconds after which a node is asked again: somebody may use its own socket."""
PATIENCE = 3.0
"""Seconds that a list waits for a node; what it said before stands for one that is slower."""
ROUNDS = 3
"""How often a node is asked anew when the pool changed while it answered."""

Place = tuple[bytes, str]
"""Pool and node."""
Files = Mapping[str, str]
"""A volume's name and its key."""


class PoolPlaces(Protocol):
    """service.pools.Pools."""

    def nodes(self, uuid: bytes) -> Sequence[str]: ...
    def handle_at(self, uuid: bytes, node: str) -> PoolHandle: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """began: seconds of the clock; version: of the place, then; number: the same while it lists the same files."""

    began: float
    version: int
    number: int
    files: Files


@dataclass(frozen=True, slots=True)
class Seen:
    """What nodes list now.  stamp: the same while nodes list the same.  unsure: nodes that are there and have the
    pool, but have not said what is in it since it changed.  edition: of the pool, which rises with each change.
    until: seconds of the clock, when nodes are to be asked again."""

    stamp: tuple[tuple[str, int], ...]
    files: Mapping[str, Files]
    unsure: frozenset[str]
    edition: int
    until: float


class Listings:
    """clock: seconds, of any beginning."""

    def __init__(
        self, calls: VolumeCalls, pools: PoolPlaces, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._calls = calls
        self._pools = pools
        self._clock = clock
        self._kept: dict[Place, Listing] = {}
        self._refused: set[Place] = set()
        self._versions: dict[Place, int] = {}
        self._editions: dict[bytes, int] = {}
        self._locks: dict[Place, asyncio.Lock] = {}
        self._numbers = count()

    async def of(self, uuid: bytes, *, fresh: bool = False) -> Seen:
        """By node, of those where the pool is active and that answered.  fresh: asked after now."""
        now = self._clock()
        since = now if fresh else now - AGE
        nodes = tuple(self._pools.nodes(uuid))
        if stale := [node for node in nodes if not self._good((uuid, node), since)]:
            await asyncio.gather(*(self._look((uuid, node), since) for node in stale))
        kept = {node: listing for node in nodes if (listing := self._current((uuid, node))) is not None}
        unsure = frozenset(node for node in nodes if node not in kept and (uuid, node) not in self._refused)
        numbers = [(node, listing.number) for node, listing in kept.items()]
        began = min((listing.began for listing in kept.values()), default=now)
        return Seen(
            (*numbers, *((node, -1) for node in sorted(unsure))),
            {node: listing.files for node, listing in kept.items()},
            unsure,
            self.edition(uuid),
            now if unsure else began + AGE,
        )

    def holds(self, uuid: bytes, seen: Seen) -> bool:
        """Nodes need not be asked again yet."""
        return seen.edition == self.edition(uuid) and self._clock() < seen.until

    def edition(self, uuid: bytes) -> int:
        """Another one when something has changed that a Seen does not tell."""
        return self._editions.get(uuid, 0)

    def forget(self, uuid: bytes, node: str = "") -> None:
        """Something changed there, or ("") everywhere."""
        self._editions[uuid] = self.edition(uuid) + 1
        for place in [place for place in self._locks if place[0] == uuid and node in ("", place[1])]:
            self._versions[place] = self._versions.get(place, 0) + 1

    def drop(self, uuid: bytes) -> None:
        """The pool is no more."""
        for place in [place for place in self._kept if place[0] == uuid]:
            del self._kept[place]
        self.forget(uuid)

    def _good(self, place: Place, since: float) -> bool:
        kept = self._current(place)
        return kept is not None and kept.began >= since

    def _current(self, place: Place) -> Listing | None:
        """Nothing is known to have changed since it was made."""
        kept = self._kept.get(place)
        return kept if kept is not None and kept.version == self._versions.get(place, 0) else None

    async def _look(self, place: Place, since: float) -> None:
        if self._good(place, since):
            return
        try:
            async with asyncio.timeout(PATIENCE), self._locks.setdefault(place, asyncio.Lock()):
                for _ in range(ROUNDS):
                    if self._good(place, since):
                        return
                    await self._ask(place)
        except NodeError:
            self._kept.pop(place, None)  # its libvirtd has no such pool, or it is not active
            self._refused.add(place)
        except (ClusterError, TimeoutError):
            return  # a list does not wait for it: what is known stands while the node is there

    async def _ask(self, place: Place) -> None:
        uuid, node = place
        began, version = self._clock(), self._versions.get(place, 0)
        files = await self._calls.files(node, self._pools.handle_at(uuid, node))
        kept = self._kept.get(place)
        number = kept.number if kept is not None and kept.files == files else next(self._numbers)
        self._kept[place] = Listing(began, version, number, files)
        self._refused.discard(place)
