"""Whether files of one name on several nodes are one volume: nodes read them, once.  Decides nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from imagemgr.model import Held, Pool
from imagemgr.names import is_volume

PATIENCE = 2.0
"""Seconds that a list waits for nodes that read; longer, and it leaves the files out until they have."""

Place = tuple[str, str]
"""Node and a file's name."""

log = structlog.get_logger("clusterhost.volumes")


@dataclass(frozen=True, slots=True)
class Found:
    """known: what is in a file, b"" where its node cannot say; unread: new files that nodes still read."""

    known: Mapping[Place, bytes]
    unread: frozenset[Place]


class Digests:
    """changed: called with a pool's uuid when more is known."""

    def __init__(self, context: Context, changed: Callable[[bytes], None]) -> None:
        self._context = context
        self._changed = changed
        self._known: dict[bytes, dict[Place, bytes]] = {}
        self._asked: dict[bytes, set[Place]] = {}
        self._done = asyncio.Event()

    async def of(
        self,
        uuid: bytes,
        pool: Pool,
        held: Iterable[Held],
        files: Mapping[str, Iterable[str]],
        patience: float = PATIENCE,
    ) -> Found:
        """What is in files of names that clash; held: what is known, files: names by node, patience: seconds."""
        wanted, new = clashing(tuple(held), files)
        known = self._known[uuid] = {
            place: digest for place, digest in self._known.get(uuid, {}).items() if place in wanted
        }
        asked = self._asked.setdefault(uuid, set())
        for node in sorted({node for node, _ in wanted - known.keys() - asked}):
            places = sorted(place for place in wanted - known.keys() - asked if place[0] == node)
            asked.update(places)
            self._context.tasks.spawn(self._ask(uuid, pool, node, places), f"digests at {node}")
        try:
            async with asyncio.timeout(patience):
                while wanted & asked:
                    await self._done.wait()
        except TimeoutError:
            log.info("nodes read files of one name", pool=pool.name, files=len(wanted & asked))
        return Found(self._known.get(uuid, known), frozenset(new & asked))

    def forget(self, uuid: bytes) -> None:
        """The pool is no more."""
        self._known.pop(uuid, None)

    async def _ask(self, uuid: bytes, pool: Pool, node: str, places: list[Place]) -> None:
        paths = [f"{pool.target.path}/{name}" for _, name in places]
        try:
            digests = await self._read(node, paths)
        finally:
            self._asked[uuid].difference_update(places)
        self._known.setdefault(uuid, {}).update(zip(places, digests, strict=True))
        self._changed(uuid)
        done, self._done = self._done, asyncio.Event()
        done.set()

    async def _read(self, node: str, paths: list[str]) -> list[bytes]:
        """b"" for those that it cannot read: one such (a directory, a symbolic link) has it refuse all."""
        args = msgspec.msgpack.encode(imageops.DigestArgs(tuple(paths)))
        try:
            answer = await self._context.nodes.operate(node, imageops.DIGEST, args, deadline=0)
            return msgspec.msgpack.decode(answer, type=list[bytes])
        except (ClusterError, msgspec.DecodeError) as error:
            if len(paths) > 1:
                return [digest for path in paths for digest in await self._read(node, [path])]
            log.info("a node does not say what is in a file", node=node, path=paths[0], reason=str(error))
            return [b""]


def clashing(held: tuple[Held, ...], files: Mapping[str, Iterable[str]]) -> tuple[set[Place], set[Place]]:
    """Files whose content is to be known, as another node has one of that name; and those of them that are new.

    Of new files without an older one, that of the first node needs not to wait: it has the name."""
    copies = {(copy.node, volume.name): copy for volume in held for copy in volume.copies}
    by_name: dict[str, list[Place]] = {}
    for node in sorted(files):
        for name in files[node]:
            by_name.setdefault(name, []).append((node, name))
    names = {volume.name for volume in held}
    wanted: set[Place] = set()
    waiting: set[Place] = set()
    for name, places in by_name.items():
        new = [place for place in places if place not in copies]
        if not is_volume(name) or not new or (len(places) == 1 and name not in names):
            continue
        wanted.update(new)
        wanted.update(place for place in places if place in copies and not copies[place].digest)
        waiting.update(new if name in names else new[1:])
    return wanted, waiting
