"""When a node's copies of images were of use last: noted at the start and at the end of a domain.  Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from clusterhost.service.image_needs import Needs
from clusterhost.service.volumes import Volumes


class LastUse:
    """service.inventory.Follower, too: a domain that has ended had its images until now.

    idle: told then, with pools and the node: nobody has these images any more."""

    def __init__(
        self, context: Context, volumes: Volumes, needs: Needs, idle: Callable[[Iterable[bytes], str], None]
    ) -> None:
        self._idle = idle
        self._context = context
        self._volumes = volumes
        self._needs = needs

    def of(self, xml: str, node: str) -> None:
        """The domain of this definition has its images there now.  Noted in the background: a start does not wait."""
        self._context.tasks.spawn(self._note(xml, node), f"note what is used on {node}")

    def domain_changed(self, before: Domain | None, now: Domain | None) -> None:
        """See Follower."""
        ended = before is not None and before.active and (now is None or not now.active)
        row = self._context.ledger.domains.get(before.uuid) if before is not None and ended else None
        if before is not None and row is not None and row.xml:
            self._context.tasks.spawn(self._end(row.xml, before.node), f"note what was used on {before.node}")

    def defined(self, uuid: bytes, xml: str) -> None:
        """See Follower."""

    async def _end(self, xml: str, node: str) -> None:
        self._idle(await self._note(xml, node), node)

    async def _note(self, xml: str, node: str) -> set[bytes]:
        pools = set()
        for found in await self._needs.of(xml, node):
            pool, held = found.need.pool, found.need.held
            names = [(pool, held.shown)]
            try:
                chain = () if found.raw else await self._volumes.chains.chain(pool, held)
            except ClusterError:
                chain = ()  # what is below cannot be told just now
            names += [(link.pool, link.held.shown) for link in chain[1:] if link.held is not None]
            for uuid, shown in names:
                self._volumes.note_used(uuid, shown, node)
                pools.add(uuid)
        return pools
