"""Move an inactive definition, with all that belongs to it, from one node's libvirtd to another's.

The home's copy goes away only after the new one is on record, so no crash loses it; the owner changes once.
"""

from __future__ import annotations

import json

import msgspec

from clusterhost.control.operations import (
    DefinitionFile,
    DropArgs,
    ExportArgs,
    ExportResult,
    FetchFileArgs,
    ImportArgs,
    PutFileArgs,
)
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DeadlinePassed, InvalidOperation, NodeUnreachable
from clusterhost.service.context import Context, new_op
from clusterhost.service.fitting import fitted
from clusterhost.store.rows import Change, DropIntent, Intent, PutIntent

PIECE = 1024 * 1024
"""Bytes of a large file (a managed save) per message."""

_pack = msgspec.msgpack.encode


class DefinitionMover:
    """Holds no state; the caller holds the domain's lock."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def move(self, domain: Domain, target: str, who: str, why: str) -> None:
        """Bring the definition to `target`; raises, with the definition still at home, when that cannot
        be."""
        context, home, uuid = self._context, domain.node, domain.uuid
        if domain.active:
            raise InvalidOperation(f"domain '{domain.name}' is running: it must be migrated")
        context.reachable(home)
        context.reachable(target)
        generation = context.ledger.generations.take()
        data = json.dumps({"name": domain.name, "why": why})
        intent = Intent(new_op(), "move", uuid, home, target, generation, data, context.clock())
        context.in_hand.add(intent.op)
        try:
            await context.ledger.intend(intent)
            await self._copy(intent)
            await self._switch(intent, who, domain.name, why)
        finally:
            context.in_hand.discard(intent.op)

    async def _copy(self, intent: Intent) -> None:
        context = self._context
        try:
            packed = await context.nodes.operate(intent.node, "export", _pack(ExportArgs(intent.uuid)))
            found = msgspec.msgpack.decode(packed, type=ExportResult)
            name = str(json.loads(intent.data)["name"])
            found.xml = fitted(context, found.xml, intent.node, intent.target, name)
            await context.nodes.operate(
                intent.target,
                "import",
                _pack(ImportArgs(found)),
                op=intent.op,
                domain=intent.uuid,
                generation=intent.generation,
            )
            for file in found.files:
                if not file.data and file.size:
                    await self._send(intent, file)
            if found.files:
                # The import was reported before its files came: a managed save changes what the domain is.
                await context.virt.look(intent.target, intent.uuid)
        except ClusterError as error:
            await self.undo(intent, error)
            raise

    async def _send(self, intent: Intent, file: DefinitionFile) -> None:
        operate = self._context.nodes.operate
        offset = 0
        while offset < file.size:
            length = min(PIECE, file.size - offset)
            wanted = FetchFileArgs(intent.uuid, file.what, offset, length)
            data = msgspec.msgpack.decode(await operate(intent.node, "fetch-file", _pack(wanted)), type=bytes)
            if not data:
                raise InvalidOperation(
                    f"{file.what} on node {intent.node} ended at {offset} of {file.size} bytes"
                )
            last = offset + len(data) >= file.size
            piece = PutFileArgs(intent.uuid, file.what, file.path, offset, data, last)
            await operate(intent.target, "put-file", _pack(piece))
            offset += len(data)

    async def _switch(self, intent: Intent, who: str, name: str, why: str) -> None:
        context = self._context
        context.inventory.hand_over(intent.uuid, intent.target, intent.generation)
        line = context.ledger.journal(
            "move",
            name,
            who,
            f"definition moved from node {intent.node} to node {intent.target}",
            {"why": why},
        )
        changed = context.ledger.change_domain(intent.uuid, node=intent.target, generation=intent.generation)
        await context.ledger.commit(changed, line)
        await self.drop(intent.node, intent.uuid, name, DropIntent(intent.op))

    async def undo(self, intent: Intent, error: ClusterError | None) -> None:
        """Take back a copy at the target; home keeps what it always had.  Left on record when it cannot be
        told."""
        context = self._context
        if (
            isinstance(error, DeadlinePassed | NodeUnreachable)
            and not context.cluster.node(intent.target).usable
        ):
            return
        await self.drop(intent.target, intent.uuid, intent.op, DropIntent(intent.op))

    async def drop(
        self, node: str, uuid: bytes, name: str, *also: Change, destroy: bool = False, nvram: str = ""
    ) -> None:
        """Remove a copy now, or put it on record to be removed when its node is back.  `also` is settled with
        it. The order has a generation of its own, above that of the copy it is about.  nvram: file of a definition
        that libvirt has removed."""
        context = self._context
        op, generation = new_op(), context.ledger.generations.take()
        data = json.dumps({"name": name, "destroy": destroy, "nvram": nvram})
        order = Intent(op, "drop", uuid, node, "", generation, data)
        try:
            await self.drop_now(order)
        except ClusterError:
            await context.ledger.commit(PutIntent(order), *also)
            return
        if also:
            await context.ledger.commit(*also)

    async def drop_now(self, order: Intent) -> None:
        """Have a node remove its copy; not an error when it has none."""
        context = self._context
        context.reachable(order.node)
        data = json.loads(order.data)
        args = _pack(DropArgs(order.uuid, bool(data.get("destroy")), data.get("nvram", "")))
        await context.nodes.operate(
            order.node, "drop", args, op=order.op, domain=order.uuid, generation=order.generation
        )
        context.inventory.on_gone(order.node, order.uuid)
