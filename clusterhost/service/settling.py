"""End a migration: when it went well, when it failed, and when nobody knows (then both ends are asked)."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from clusterhost.control.messages import DomainReport
from clusterhost.model.errors import ClusterError, DeadlinePassed, NodeError, NodeNotFound, NodeUnreachable
from clusterhost.model.states import PAUSED_MIGRATION
from clusterhost.service.context import Context
from clusterhost.service.fitting import fit_definition
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.moving import Move, Phase
from clusterhost.service.steps import PERSIST_DEST, UNDEFINE_SOURCE
from clusterhost.service.verdict import Seen, Verdict, decide, seen
from clusterhost.service.xml import nvram_file
from clusterhost.store.rows import Change, DropIntent

log = structlog.get_logger("clusterhost.migration")


@dataclass(frozen=True, slots=True)
class Copy:
    """What an end says: its report when it has the domain."""

    seen: Seen
    report: DomainReport | None = None


class Settler:
    """Leaves exactly one copy."""

    def __init__(self, context: Context, mover: DefinitionMover) -> None:
        self._context = context
        self._mover = mover

    async def finished(self, move: Move) -> None:
        """The target runs it: the owner changes, once, in one transaction."""
        context, ledger = self._context, self._context.ledger
        assert move.target is not None
        move.phase = Phase.FINISHED
        if context.cluster.get(move.uuid) is None:
            context.inventory.refresh(move.uuid)
        if context.cluster.get(move.uuid) is None:
            return  # it ended before we looked; the node's reports say the rest
        context.inventory.hand_over(move.uuid, move.target, move.generation)
        where = f"from node {move.source}" if move.source else "from outside"
        line = ledger.journal(
            "migrate", move.name, move.why, f"moved {where} to node {move.target}", {"flags": move.flags}
        )
        changed = ledger.change_domain(move.uuid, node=move.target, generation=move.generation)
        await ledger.commit(changed, line)
        await context.images.moving.arrived(move.volumes, move.target)

    async def conclude(self, move: Move) -> None:
        """Remove what is left at the other end, and forget the move."""
        context = self._context
        done: tuple[Change, ...] = (DropIntent(move.op),) if move.op else ()
        try:
            if move.inside and move.phase is Phase.FINISHED:
                await context.images.moving.arrived(move.volumes, move.target or "")
                await self._keep_persistent(move)
                await fit_definition(context, move.uuid, move.source, move.target)
                await self._drop(move, move.source, done, nvram=nvram_file(move.xml))
            elif move.inside and move.target != move.source:
                await self._drop(move, move.target, done)
            elif done:
                await context.ledger.commit(*done)
        finally:
            context.moves.end(move.uuid)
            context.cluster.thaw(move.uuid)
            context.inventory.refresh(move.uuid)
        if move.inside and move.volumes:
            left = move.source if move.phase is Phase.FINISHED else move.target
            await context.images.moving.left(move.volumes, left or "")

    async def _drop(self, move: Move, node: str | None, done: tuple[Change, ...], *, nvram: str = "") -> None:
        """A copy that is not the domain any more; not when the node is known to have none.  nvram: a file that
        libvirt leaves behind when it undefines the source; a later domain of that name would find it."""
        context = self._context
        if node is None or node not in context.cluster.nodes:
            await context.ledger.commit(*done)
            return
        copies = context.inventory.seen.get(move.uuid, {})
        if node not in copies and not nvram and context.cluster.node(node).usable:
            await context.ledger.commit(*done)
            return
        await self._mover.drop(node, move.uuid, move.name, *done, destroy=True, nvram=nvram)

    async def _keep_persistent(self, move: Move) -> None:
        """One host does not forget a definition because a domain moved (unless its client said so)."""
        target = move.target
        if not move.persistent or not move.xml or target is None or move.arrives_as not in ("", move.name):
            return
        if move.flags & UNDEFINE_SOURCE and not move.flags & PERSIST_DEST:
            return
        report = self._context.inventory.seen.get(move.uuid, {}).get(target)
        if report is None or report.persistent:
            return
        try:
            await self._context.virt.define(target, move.uuid, move.xml)
        except ClusterError as error:
            log.warning("the definition was not kept", domain=move.name, node=target, reason=str(error))

    # -- nobody knows

    def freeze(self, move: Move) -> None:
        """Neither end is let run by anybody until both have been asked."""
        move.phase, move.touched = Phase.UNKNOWN, 0.0
        ends = f"node {move.source} or node {move.target}"
        self._context.cluster.freeze(
            move.uuid, f"whether domain '{move.name}' runs on {ends} is not known yet"
        )

    async def settle(self, move: Move) -> bool:
        """Ask both ends and act; False: it cannot be told yet, try again later."""
        if move.phase is Phase.FINISHED:
            await self.conclude(move)  # on record: what happened to it since then happened at the target
            return True
        source = await self._look(move.source, move.uuid)
        target = await self._look(move.target, move.uuid)
        told = move.phase in (Phase.FINISHING, Phase.FINISHED, Phase.UNKNOWN)
        if move.source is None:
            return await self._settle_arrival(move, target)
        verdict = decide(source.seen, target.seen, told_to_run=told)
        log.info(
            "migration settled",
            domain=move.name,
            source=str(source.seen),
            target=str(target.seen),
            verdict=str(verdict),
        )
        if verdict is Verdict.WAIT:
            if told:
                self.freeze(move)
            return False
        if verdict is Verdict.TARGET:
            await self.finished(move)
        elif not await self._back_at_source(move, source):
            return False
        await self.conclude(move)
        return True

    async def _settle_arrival(self, move: Move, target: Copy) -> bool:
        """It came from outside: whatever the target has is what there is."""
        if target.seen is Seen.UNKNOWN:
            return False
        if target.seen is Seen.RUNNING:
            await self.finished(move)
        await self.conclude(move)
        return True

    async def _back_at_source(self, move: Move, source: Copy) -> bool:
        move.phase = Phase.FAILED
        report = source.report
        if source.seen is not Seen.PAUSED or report is None or report.reason != PAUSED_MIGRATION:
            return True
        assert move.source is not None
        # The target's copy goes first: both are paused until then.
        if move.target is not None and move.target != move.source:
            await self._drop(move, move.target, ())
        try:
            await self._context.virt.resume(move.source, move.uuid)
        except NodeError as error:
            log.info("not resumed yet", domain=move.name, node=move.source, reason=str(error))
            return False
        return True

    async def _look(self, node: str | None, uuid: bytes) -> Copy:
        if node is None:
            return Copy(Seen.ABSENT)
        try:
            self._context.reachable(node)
            report = await self._context.virt.look(node, uuid)
        except NodeNotFound:
            return Copy(Seen.ABSENT)
        except (NodeUnreachable, DeadlinePassed):
            return Copy(Seen.UNKNOWN)
        if report is None:
            self._context.inventory.on_gone(node, uuid)
            return Copy(Seen.ABSENT)
        return Copy(seen(report.id != -1, report.state), report)
