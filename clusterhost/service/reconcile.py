"""After a node came (back): copies that are proven stale go, autostart becomes the cluster's, definitions are
read."""

from __future__ import annotations

import asyncio

import structlog

from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from clusterhost.service.domains import Domains
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.owner import proven_stale
from clusterhost.service.watcher import Watcher

STARTS_AT_ONCE = 4
"""Domains of one node that are started at the same time after a boot."""

log = structlog.get_logger("clusterhost.reconcile")


class Reconciler(Watcher):
    """Told by the inventory."""

    def __init__(self, context: Context, mover: DefinitionMover, domains: Domains) -> None:
        self._context = context
        self._mover = mover
        self._domains = domains
        self._at_work: set[tuple[str, bytes]] = set()

    # -- Watcher

    def node_up(self, node: str, rebooted: bool) -> None:
        """Read what is there; start what shall run."""
        self._context.tasks.spawn(self._arrived(node, rebooted), f"reconcile {node}")

    def stray(self, node: str, uuid: bytes) -> None:
        """Remove a copy if it is proven to be older than the domain."""
        if (node, uuid) not in self._at_work:
            self._at_work.add((node, uuid))
            self._context.tasks.spawn(self._stray(node, uuid), "stale copy")

    def flagged(self, node: str, uuid: bytes) -> None:
        """The node's libvirtd would start it by itself: take that over."""
        if node not in self._context.leaving and (node, uuid) not in self._at_work:
            self._at_work.add((node, uuid))
            self._context.tasks.spawn(self._take_autostart(node, uuid), "autostart")

    # -- the work

    async def _stray(self, node: str, uuid: bytes) -> None:
        context = self._context
        try:
            async with context.locks.hold(uuid):
                domain = context.cluster.get(uuid)
                copy = context.inventory.seen.get(uuid, {}).get(node)
                if domain is None or copy is None or domain.node == node or context.ledger.pinned(uuid):
                    return
                if context.moves.get(uuid) is None and proven_stale(copy.generation, domain.generation):
                    text = f"a copy of generation {copy.generation} on node {node} is removed"
                    context.ledger.note(context.ledger.journal("stale", domain.name, f"node {node}", text))
                    log.warning("stale copy", domain=domain.name, text=text)
                    await self._mover.drop(node, uuid, domain.name, destroy=True)
        finally:
            self._at_work.discard((node, uuid))

    async def _take_autostart(self, node: str, uuid: bytes) -> None:
        context = self._context
        try:
            async with context.locks.hold(uuid):
                domain = context.cluster.get(uuid)
                if domain is None or domain.node != node:
                    return
                if not domain.autostart:
                    line = context.ledger.journal("autostart", domain.name, f"node {node}", "taken over")
                    await context.ledger.commit(context.ledger.change_domain(uuid, autostart=True), line)
                    context.inventory.amend(uuid, autostart=True)
                await context.virt.set_autostart(node, uuid, False)
        finally:
            self._at_work.discard((node, uuid))

    async def _arrived(self, node: str, rebooted: bool) -> None:
        if rebooted:
            await self._start_all(node)
            self._context.inventory.boot_handled(node)
        await self._read_definitions(node)

    async def _start_all(self, node: str) -> None:
        wanted = [
            domain.uuid
            for domain in self._context.cluster.domains(node)
            if domain.autostart and domain.persistent and not domain.active
        ]
        slots = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start(uuid: bytes) -> None:
            async with slots:
                try:
                    await self._domains.start_ours(uuid, "autostart")
                except ClusterError as error:
                    log.warning("autostart failed", node=node, reason=str(error))

        await asyncio.gather(*(start(uuid) for uuid in wanted))

    async def _read_definitions(self, node: str) -> None:
        """They may have been changed while we were not listening.  One at a time: nobody waits for this."""
        context = self._context
        for domain in list(context.cluster.domains(node)):
            if not domain.persistent:
                continue
            try:
                context.reachable(node)
                xml = await context.virt.inactive_xml(node, domain.uuid)
            except ClusterError:
                continue  # undefined in the meantime, or the node is gone again
            context.inventory.on_definition(node, domain.uuid, xml)
