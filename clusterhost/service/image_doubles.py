"""A volume of a shared pool that a running domain writes to is given to no second one.  Asks nodes; changes nothing.

QEMU locks images, which other nodes see only where their file system carries locks, and never of a block device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from xml.sax.saxutils import escape

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_files import DomainFile, files_of
from clusterhost.service.volumes import Pools
from imagemgr.model import Kind
from imagemgr.names import pool_of

AT_ONCE = 16
"""Domains that are asked about at the same time."""

Place = tuple[str, str]
"""Names of a pool and of a volume."""


class Doubles:
    """Holds nothing."""

    def __init__(self, context: Context, pools: Pools) -> None:
        self._context = context
        self._pools = pools

    async def refuse(self, xml: str, own: bytes | None) -> None:
        """InvalidOperation when another domain than `own` has a volume of the definition, and one of them writes to it;
        not where both say <shareable/>."""
        mine = self._of_shared_pools(xml)
        if not mine:
            return
        turns = asyncio.Semaphore(AT_ONCE)

        async def look(domain: Domain) -> None:
            async with turns:
                theirs = self._of_shared_pools(await self._running(domain))
            for place in mine.keys() & theirs.keys():
                if _clash(mine[place], theirs[place]):
                    verb = "writes to" if theirs[place].written else "reads"
                    raise InvalidOperation(
                        f"volume {place[1]} of pool {place[0]} is in use: "
                        f"domain '{domain.name}' {verb} it on node {domain.node}"
                    )

        others = self._that_may(mine, own)
        for answer in await asyncio.gather(*(look(domain) for domain in others), return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    def _that_may(self, places: Collection[Place], own: bytes | None) -> Iterator[Domain]:
        """Running domains whose definition names one of the files, or is on no record."""
        rows = self._context.ledger.domains
        words = [escape(name, {"'": "&apos;", '"': "&quot;"}) + end for _, name in places for end in "'\""]
        for domain in list(self._context.cluster.domains()):
            if not domain.active or domain.uuid == own:
                continue
            kept = rows[domain.uuid].xml if domain.uuid in rows else ""
            if not kept or any(word in kept for word in words):
                yield domain

    async def _running(self, domain: Domain) -> str:
        """What it has now; of one that cannot be asked what it was started with, for it may run on."""
        try:
            return await self._context.virt.live_xml(domain.node, domain.uuid)
        except ClusterError:
            row = self._context.ledger.domains.get(domain.uuid)
            still = self._context.cluster.get(domain.uuid)
            return row.xml if row is not None and still is not None and still.active else ""

    def _of_shared_pools(self, xml: str) -> dict[Place, DomainFile]:
        pools = {
            entry.name: entry.pool
            for entry in self._pools.all()
            if entry.active and entry.kind is Kind.SHARED
        }
        found: dict[Place, DomainFile] = {}
        for file in files_of(xml) if pools else ():
            if file.pool in pools:
                found[file.pool, file.volume] = file
            elif file.path.startswith("/") and (place := pool_of(file.path, pools.values())) is not None:
                found[place[0].name, place[1]] = file
        return found


def _clash(one: DomainFile, other: DomainFile) -> bool:
    return (one.written or other.written) and not (one.shareable and other.shareable)
