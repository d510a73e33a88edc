"""Whether pools hold what the cluster says of them; and what can be mended without losing anything.

Mended are copies that were not finished (taken up), what is left of copies nobody wants (removed) and volumes whose
making was not finished (removed).  A copy with other content is only told: nobody but its owner knows which is right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from clusterhost.service.image_copies import place_key
from clusterhost.service.image_needs import COPIED
from clusterhost.service.image_reading import UNREACHABLE, UNREAD, Reading
from clusterhost.service.image_spread import Spread
from clusterhost.service.ports import Caller, Progress
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volume_rows import MAKING, incomplete
from clusterhost.service.volume_work import VolumeWork
from clusterhost.service.volumes import Pools, Volumes
from imagemgr.model import CopyState, Held, Kind
from imagemgr.names import PRIVATE, is_volume

PATIENCE = 60.0
"""Seconds that a node's libvirtd may take to look into a directory."""
PART, COMING, INCOMPLETE, NO_VOLUME = "part", "coming", "incomplete", "no volume"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is not as it should be.  image, node: "" where it is not about one; size: bytes that it takes, 0 for
    unknown; mended: what was done about it, "" for nothing."""

    pool: str
    image: str
    node: str
    problem: str
    text: str
    size: int = 0
    mended: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """images: that were looked at; read: copies; busy: images that a running domain writes to."""

    images: int
    read: int
    busy: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """image: that one alone; again: read files anew; repair: mend; drop: delete volumes whose upload was cut, too."""

    image: str | None = None
    again: bool = False
    repair: bool = False
    drop: bool = False


class Check:
    """Holds nothing."""

    def __init__(
        self, context: Context, pools: Pools, volumes: Volumes, work: VolumeWork, spread: Spread
    ) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._work = work
        self._spread = spread

    async def pool(self, caller: Caller, entry: Entry, wish: Wish, tell: Progress) -> Checked:
        """One pool.  InvalidOperation when it is not active, VolumeNotFound."""
        uuid = entry.uuid
        findings = [*self._absent(entry), *await self._looked(entry)]
        if wish.image is not None:
            await self._volumes.by_name(uuid, wish.image)
        images = [held for held in await self._volumes.all(uuid) if wish.image in (None, held.shown)]
        findings += self._incomplete(entry, images)
        coming = self._unfinished(entry, images)
        findings += [*coming, *await self._parts(entry, wish.image, images)]
        findings += await self._strangers(entry) if wish.image is None else []
        reading = Reading(self._context, self._pools, self._volumes)
        read = await reading.compare(entry, images, again=wish.again, every=wish.image is not None, tell=tell)
        findings += [
            Finding(entry.name, wrong.image, wrong.node, wrong.problem, wrong.text) for wrong in read.wrong
        ]
        if wish.repair:
            findings = [await self._mend(caller, entry, each, wish, tell) for each in findings]
        return Checked(len(images), read.copies, read.busy, tuple(findings))

    # -- looking

    def _absent(self, entry: Entry) -> Iterable[Finding]:
        """Nodes that cannot be looked at."""
        for node in self._context.cluster.cells():
            if node.name in self._pools.nodes(entry.uuid) or entry.kind is Kind.SHARED:
                continue
            why = self._pools.problem(entry.uuid, node.name) or f"the node is {node.link}"
            yield Finding(entry.name, "", node.name, UNREACHABLE, why)

    async def _looked(self, entry: Entry) -> list[Finding]:
        """Nodes' libvirtd look what is in the directory now."""

        async def look(node: str) -> Finding | None:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._volumes.calls.refresh(node, self._pools.handle_at(entry.uuid, node))
            except TimeoutError:
                text = f"its libvirtd did not look what is there within {PATIENCE:g} s"
                return Finding(entry.name, "", node, UNREAD, text)
            except ClusterError as error:
                return Finding(entry.name, "", node, UNREAD, str(error))
            return None

        found = await asyncio.gather(*(look(node) for node in self._pools.nodes(entry.uuid)))
        await self._volumes.refreshed(entry.uuid)
        return [finding for finding in found if finding is not None]

    def _incomplete(self, entry: Entry, images: Sequence[Held]) -> Iterable[Finding]:
        for held in images:
            row = self._volumes.row(entry.uuid, held.shown)
            if row is not None and incomplete(row) and row.key not in self._volumes.in_hand:
                node = next((copy.node for copy in held.copies), "")
                yield Finding(entry.name, held.shown, node, INCOMPLETE, row.reason)

    def _unfinished(self, entry: Entry, images: Sequence[Held]) -> list[Finding]:
        """Copies that nobody brings (or takes away) any more."""
        moved, found = self._moved(), []
        for held in images:
            row = self._volumes.row(entry.uuid, held.shown)
            if row is None or incomplete(row) or (entry.uuid.hex(), held.shown) in moved:
                continue
            for copy in held.copies:
                if copy.state is CopyState.COMING and not self._busy(entry, held.name, copy.node):
                    text = "a copy that was not finished"
                    found.append(Finding(entry.name, held.shown, copy.node, COMING, text))
        return found

    def _busy(self, entry: Entry, name: str, node: str) -> bool:
        path = f"{entry.pool.target.path}/{name}"
        return self._volumes.coming.held(place_key(node, path))

    def _moved(self) -> set[tuple[str, str]]:
        """Volumes that libvirt copies along with running domains, or may have: their moves see to them."""
        found = {volume for move in self._context.moves for volume in move.volumes}
        for intent in self._context.ledger.intents.values():
            data = json.loads(intent.data)
            found |= {(pool, shown) for pool, shown in data.get("volumes", ())}
        return {(pool, shown) for pool, shown in found}

    async def _parts(self, entry: Entry, image: str | None, images: Sequence[Held]) -> list[Finding]:
        """What is left of copies that no row tells of."""
        if entry.pool.type not in COPIED:
            return []
        rows = {
            (held.name, copy.node)
            for held in await self._volumes.all(entry.uuid)
            for copy in held.copies
            if copy.state is CopyState.COMING
        }
        names, found = {held.name for held in images}, []
        for node in self._pools.nodes(entry.uuid):
            if not self._context.cluster.node(node).host.has_files:
                continue
            try:
                left = await self._left(node, entry.pool.target.path)
            except ClusterError as error:
                found.append(Finding(entry.name, "", node, UNREAD, str(error)))
                continue
            for part in left:
                wanted = image is None or part.name in names
                if wanted and (part.name, node) not in rows and not self._busy(entry, part.name, node):
                    text = f"left of a copy: {part.done} of {part.size} bytes"
                    found.append(Finding(entry.name, part.name, node, PART, text, part.done))
        return found

    async def _left(self, node: str, directory: str) -> list[imageops.Part]:
        args = msgspec.msgpack.encode(imageops.PartsArgs(directory))
        packed = await self._context.nodes.operate(node, imageops.PARTS, args)
        return msgspec.msgpack.decode(packed, type=list[imageops.Part])

    async def _strangers(self, entry: Entry) -> list[Finding]:
        """Files that can be no volume of the cluster; what is ours in the directory is none of them."""
        found = []
        seen = await self._volumes.listings.of(entry.uuid)
        for node, files in seen.files.items():
            for name in sorted(files):
                if not is_volume(name) and not name.startswith(PRIVATE):
                    text = "a file that can be no volume of the cluster by its name"
                    found.append(Finding(entry.name, name, node, NO_VOLUME, text))
        return found

    # -- mending

    async def _mend(
        self, caller: Caller, entry: Entry, found: Finding, wish: Wish, tell: Progress
    ) -> Finding:
        try:
            if found.problem == COMING:
                await self._spread.bring(entry.uuid, found.image, found.node, tell)
                return replace(found, mended="taken up")
            if found.problem == PART:
                path = f"{entry.pool.target.path}/{found.image}"
                args = msgspec.msgpack.encode(imageops.RemoveArgs(path))
                async with self._volumes.coming.hold(place_key(found.node, path)):
                    await self._context.nodes.operate(found.node, imageops.REMOVE, args)
                return replace(found, mended="removed")
            if found.problem == INCOMPLETE and (wish.drop or found.text.startswith(MAKING)):
                await self._work.delete(caller, entry.uuid, found.image, 0)
                return replace(found, mended="removed")
        except ClusterError as error:
            return replace(found, text=f"{found.text}; not mended: {error}")
        return found
