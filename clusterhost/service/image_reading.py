"""Nodes read their copies of images, and those that hold something else than they should are told.  Decides no cure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, DeadlinePassed, NodeError, NodeUnreachable
from clusterhost.service.context import Context
from clusterhost.service.image_facts import file_path
from clusterhost.service.image_files import files_of
from clusterhost.service.image_needs import COPIED
from clusterhost.service.ports import Progress
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volume_rows import incomplete
from clusterhost.service.volumes import Pools, Volumes
from imagemgr.model import Copy, CopyState, Held, Kind
from imagemgr.place import newest

DIFFERS, MISSING, UNREAD, UNREACHABLE = "differs", "missing", "unread", "unreachable"


@dataclass(frozen=True, slots=True)
class Wrong:
    """A copy that is not what it should be.  problem: one of the words above."""

    image: str
    node: str
    problem: str
    text: str


@dataclass(slots=True)
class Read:
    """copies: that were read; busy: images that a running domain writes to, so that there is nothing to compare."""

    copies: int = 0
    busy: int = 0
    wrong: list[Wrong] = field(default_factory=list)


class Reading:
    """Holds nothing."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes

    async def compare(
        self, entry: Entry, images: Sequence[Held], *, again: bool, every: bool, tell: Progress
    ) -> Read:
        """Copies of the current generation, with their digests and with each other.  every: also what there is nothing
        to compare with; again: also what was not written to since it was read last."""
        result = Read()
        if entry.kind is Kind.SHARED or entry.pool.type not in COPIED:
            return result
        usable = [
            node for node in self._pools.nodes(entry.uuid) if self._context.cluster.node(node).host.has_files
        ]
        written = await self._all_written(entry, usable, result)
        usable = [node for node in usable if node in written]
        wanted: dict[str, list[Held]] = {}
        for held in images:
            copies = self._to_read(entry, held, usable)
            if any(file_path(entry, held) in written[copy.node] for copy in copies):
                result.busy += 1
            elif every or again or len(copies) > 1 or any(copy.digest for copy in copies):
                for copy in copies:
                    wanted.setdefault(copy.node, []).append(held)
        found = await self._read(entry, wanted, again, tell, result)
        for held in images:
            self._judge(
                entry,
                held,
                {node: told for (node, shown), told in found.items() if shown == held.shown},
                result,
            )
        return result

    def _to_read(self, entry: Entry, held: Held, usable: Sequence[str]) -> list[Copy]:
        row = self._volumes.row(entry.uuid, held.shown)
        if row is None or incomplete(row):
            return []
        return [copy for copy in newest(held) if copy.state is CopyState.WHOLE and copy.node in usable]

    async def _all_written(self, entry: Entry, nodes: Sequence[str], result: Read) -> dict[str, set[str]]:
        """By node, of those that say it: what a guest writes to is not compared."""
        found = {}
        for node in nodes:
            try:
                found[node] = await self._written(entry, node)
            except ClusterError as error:
                result.wrong.append(Wrong("", node, UNREACHABLE, str(error)))
        return found

    async def _written(self, entry: Entry, node: str) -> set[str]:
        """Paths of the pool that domains which run there write to."""
        directory, paths = entry.pool.target.path, set()
        for domain in [each for each in self._context.cluster.domains(node) if each.active]:
            try:
                xml = await self._context.virt.live_xml(node, domain.uuid)
            except NodeError:
                continue  # it has ended
            for file in files_of(xml):
                if file.written:
                    paths.add(f"{directory}/{file.volume}" if file.pool == entry.name else file.path)
        return paths

    async def _read(
        self, entry: Entry, wanted: dict[str, list[Held]], again: bool, tell: Progress, result: Read
    ) -> dict[tuple[str, str], bytes]:
        """Digest by node and image; each node reads one after the other."""
        total, done = sum(len(images) for images in wanted.values()), 0
        found: dict[tuple[str, str], bytes] = {}

        async def at(node: str) -> None:
            nonlocal done
            for held in wanted[node]:
                try:
                    found[node, held.shown] = await self._digest(node, file_path(entry, held), again)
                except (NodeUnreachable, DeadlinePassed) as error:
                    result.wrong.append(Wrong("", node, UNREACHABLE, str(error)))
                    return
                except ClusterError as error:
                    result.wrong.append(Wrong(held.shown, node, UNREAD, str(error)))
                done += 1
                tell(done, total, f"{held.shown} is read on {node}")

        await asyncio.gather(*(at(node) for node in wanted))
        result.copies += len(found)
        return found

    async def _digest(self, node: str, path: str, again: bool) -> bytes:
        args = msgspec.msgpack.encode(imageops.DigestArgs((path,), again))
        # Its deadline begins anew whenever the node says how far it has read.
        packed = await self._context.nodes.operate(node, imageops.DIGEST, args, progress=lambda *_: None)
        return msgspec.msgpack.decode(packed, type=list[bytes])[0]

    def _judge(self, entry: Entry, held: Held, found: dict[str, bytes], result: Read) -> None:
        row = self._volumes.row(entry.uuid, held.shown)
        if not found or row is None or row.generation != held.generation:
            return  # it was written to meanwhile
        recorded = [copy.digest for copy in held.copies if copy.digest and copy.generation == held.generation]
        known = recorded or [digest for digest in found.values() if digest]
        if not known:
            right, source = b"", ""
        else:
            right = Counter(known).most_common(1)[0][0]
            source = next((node for node, digest in found.items() if digest == right), "")
        for node, digest in sorted(found.items()):
            if not digest:
                result.wrong.append(Wrong(held.shown, node, MISSING, "there is no such file any more"))
            elif digest != right:
                other = f"; node {source} has what is known of it" if source else ""
                text = f"its file does not hold what is known of the volume{other}"
                result.wrong.append(Wrong(held.shown, node, DIFFERS, text))
