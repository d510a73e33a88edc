"""Resolve what a crash, a lost node or a client that left has kept open: by asking nodes, never by guessing.

Every intent stays on record until it is resolved here or by its doer; nothing acknowledged is lost, nothing
runs twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import structlog

from clusterhost.model.errors import NodeError, StaleGeneration
from clusterhost.service.context import Context
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.moving import Move, Phase
from clusterhost.service.settling import Settler
from clusterhost.store.rows import Change, DropDomain, DropIntent, Intent

TICK = 1.0
"""Seconds between looks."""
IDLE = 60.0
"""Seconds after which a client that makes no next step of its migration has given up."""
CLIENT_GONE = 3.0
"""Seconds that nodes get to notice that a client is gone, before we settle what it was moving."""

log = structlog.get_logger("clusterhost.recovery")


class Recovery:
    """One look at everything open each TICK; what cannot be resolved yet is looked at again."""

    def __init__(self, context: Context, mover: DefinitionMover, settler: Settler) -> None:
        self._context = context
        self._mover = mover
        self._settler = settler
        self._resolvers: dict[str, Callable[[Intent], Awaitable[None]]] = {
            "define": self._define,
            "create": self._create,
            "restore": self._create,
            "start": self._start,
            "undefine": self._undefine,
            "drop": self._drop,
            "move": self._move,
            "migrate": self._migrate,
        }

    def load(self) -> None:
        """Before nodes connect: migrations that were under way are under way again, so nobody takes over by
        chance."""
        for intent in self._context.ledger.intents.values():
            if intent.kind == "migrate":
                move = self._move_of(intent)
                self._context.moves.put(move)
                if move.phase is Phase.UNKNOWN:
                    self._settler.freeze(move)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self.sweep()

    def sweep(self) -> None:
        """Begin to resolve all that can be resolved now."""
        context = self._context
        context.inventory.look_for_missing()
        for intent in list(context.ledger.intents.values()):
            if intent.op not in context.in_hand and self._ripe(intent):
                context.in_hand.add(intent.op)
                context.tasks.spawn(self._resolve(intent), f"resolve {intent.kind}")
        for move in context.moves:
            if not move.op and not move.steps_running and context.clock() - move.touched > IDLE:
                context.moves.end(move.uuid)

    def _ripe(self, intent: Intent) -> bool:
        context = self._context
        if intent.kind == "migrate":
            return self._abandoned(intent)
        node = intent.node if intent.kind != "move" else intent.target
        found = context.cluster.nodes.get(node)
        return found is None or found.usable

    def _abandoned(self, intent: Intent) -> bool:
        move = self._context.moves.get(intent.uuid)
        if move is None or move.op != intent.op:
            return True
        if move.steps_running:
            return False
        patience = CLIENT_GONE if move.phase in (Phase.UNKNOWN, Phase.FAILED) else IDLE
        return self._context.clock() - move.touched > patience

    async def _resolve(self, intent: Intent) -> None:
        context = self._context
        try:
            if intent.node and intent.node not in context.cluster.nodes and intent.kind != "migrate":
                await context.ledger.commit(DropIntent(intent.op))
                return
            async with context.locks.hold(intent.uuid):
                if intent.op in context.ledger.intents:
                    await self._resolvers[intent.kind](intent)
        finally:
            context.in_hand.discard(intent.op)

    async def _settled(self, intent: Intent, found: str, *changes: Change) -> None:
        name = json.loads(intent.data).get("name", "")
        text = f"{intent.kind} on node {intent.node}: {found}"
        log.info("resolved", domain=name, text=text)
        line = self._context.ledger.journal("recover", name, "recovery", text, {"op": intent.op})
        await self._context.ledger.settle(intent.op, *changes, line)
        self._context.inventory.refresh(intent.uuid)

    # -- by kind

    async def _define(self, intent: Intent) -> None:
        """Nobody was told that it was defined: what the node has is what is."""
        context = self._context
        report = await context.virt.look(intent.node, intent.uuid)
        if report is None or context.cluster.get(intent.uuid) is None:
            await self._settled(intent, "was not done")
            return
        context.inventory.amend(intent.uuid, generation=max(intent.generation, report.generation))
        xml = json.loads(intent.data).get("xml", "")
        row = context.ledger.domains[intent.uuid]
        await self._settled(intent, "was done", context.ledger.change_domain(intent.uuid, xml=row.xml or xml))

    async def _create(self, intent: Intent) -> None:
        report = await self._context.virt.look(intent.node, intent.uuid)
        if report is None or report.id == -1 or self._context.cluster.get(intent.uuid) is None:
            await self._settled(intent, "was not done")
            return
        self._context.inventory.amend(intent.uuid, generation=max(intent.generation, report.generation))
        await self._settled(intent, "was done")

    async def _start(self, intent: Intent) -> None:
        """A start that was promised to nobody but recorded is made once: the agent answers a repeat from its
        table."""
        context = self._context
        report = await context.virt.look(intent.node, intent.uuid)
        data = json.loads(intent.data)
        if report is None or context.cluster.get(intent.uuid) is None:
            await self._settled(intent, "the domain is gone")
            return
        context.inventory.amend(intent.uuid, generation=max(intent.generation, report.generation))
        if report.id != -1:
            await self._settled(intent, "was done")
            return
        if data.get("session"):
            await self._settled(intent, "its client is gone")
            return
        try:
            answer = await context.nodes.call(
                intent.node,
                data["program"],
                data["procedure"],
                bytes.fromhex(data["payload"]),
                long=True,
                report=intent.uuid,
                op=intent.op,
                domain=intent.uuid,
                generation=intent.generation,
            )
        except StaleGeneration:
            await self._settled(intent, "a newer order was carried out")
            return
        await self._settled(intent, "done now" if answer.ok else "refused by the node")

    async def _undefine(self, intent: Intent) -> None:
        """Nobody was told that it is gone: if the node still has it, it stays."""
        context = self._context
        report = await context.virt.look(intent.node, intent.uuid)
        if report is not None:
            await self._settled(intent, "was not done, or only the definition of a running domain")
            return
        context.inventory.on_gone(intent.node, intent.uuid)
        await self._settled(intent, "was done", DropDomain(intent.uuid))

    async def _drop(self, intent: Intent) -> None:
        """A leftover copy on a node that could not be asked then."""
        try:
            await self._mover.drop_now(intent)
        except StaleGeneration:
            pass  # the node has carried out something newer: the copy is not the one that was meant
        except NodeError as error:
            log.warning("a leftover stays", node=intent.node, reason=str(error))
            return
        await self._settled(intent, "the leftover copy is gone")

    async def _move(self, intent: Intent) -> None:
        """The definition is where the record says; the other copy goes."""
        row = self._context.ledger.domains.get(intent.uuid)
        name = json.loads(intent.data).get("name", "")
        if row is not None and row.node == intent.target:
            await self._mover.drop(intent.node, intent.uuid, name, DropIntent(intent.op))
        else:
            await self._mover.undo(intent, None)

    async def _migrate(self, intent: Intent) -> None:
        context = self._context
        move = context.moves.get(intent.uuid)
        if move is None or move.op != intent.op:
            move = self._move_of(intent)
            context.moves.put(move)
        await self._settler.settle(move)

    def _move_of(self, intent: Intent) -> Move:
        data = json.loads(intent.data)
        row = self._context.ledger.domains.get(intent.uuid)
        there = row is not None and row.node == intent.target and intent.node != intent.target
        return Move(
            uuid=intent.uuid,
            name=data.get("name", ""),
            source=intent.node or None,
            target=intent.target or None,
            arrives_as=data.get("arrives_as", ""),
            phase=Phase.FINISHED if there else Phase.UNKNOWN,
            op=intent.op,
            generation=intent.generation,
            flags=data.get("flags", 0),
            persistent=data.get("persistent", False),
            xml=data.get("xml", ""),
            why=data.get("who", ""),
            volumes=tuple((pool, shown) for pool, shown in data.get("volumes", ())),
        )
