"""Do one thing at a node so that a crash at any moment leaves neither a lost promise nor a second doing.

Intent (durable) -> act (under the operation's id and the domain's generation) -> result (durable) -> reply.
What is left open is resolved by recovery.py, never guessed.  Of an undefine the intent is only noted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clusterhost.model.errors import ClusterError, DeadlinePassed, NodeUnreachable
from clusterhost.service.context import Context, new_op
from clusterhost.service.ports import Answer, Caller
from clusterhost.store.crash import crash_point
from clusterhost.store.rows import Change, DropIntent, Intent, PutIntent
from compat.libvirt.schema import Procedure

CRASHES = {
    "define": "define",
    "start": "start",
    "create": "start",
    "restore": "start",
    "undefine": "undefine",
}
"""Kind of a deed -> the use case whose crash points it passes."""

SENT_AGAIN = {"start"}
"""Kinds of which recovery needs the call itself."""

NOTED = {"undefine"}
"""Kinds that a crash leaves either not begun or done, and what the node reports says which, with an intent on
record or without: the row stays until the node says that the domain is gone."""


@dataclass(frozen=True, slots=True)
class Deed:
    """One call to be made once.  why: for the audit line; data: what recovery needs beside procedure and
    payload."""

    kind: str
    uuid: bytes
    name: str
    node: str
    procedure: Procedure
    payload: bytes
    generation: int
    why: str = ""
    long: bool = False
    session: int = 0
    data: dict[str, object] = field(default_factory=dict)

    def intent(self, op: str, created: float) -> Intent:
        """The order as the store keeps it."""
        data = {**self.data, "name": self.name}
        if self.kind in SENT_AGAIN:
            data |= {
                "program": self.procedure.program_id,
                "procedure": self.procedure.number,
                "payload": self.payload.hex(),
                "session": self.session,
            }
        return Intent(
            op=op,
            kind=self.kind,
            uuid=self.uuid,
            node=self.node,
            generation=self.generation,
            data=json.dumps(data),
            created=created,
        )


async def carry_out(
    context: Context, deed: Deed, caller: Caller, result: Callable[[Answer], Sequence[Change]]
) -> Answer:
    """Make the call; `result` says what the store keeps of a success (asked when the node's report is in the
    model). NodeUnreachable, DeadlinePassed: what became of it is not known; it stays on record until the node
    says."""
    ledger, op = context.ledger, new_op()
    crash = CRASHES[deed.kind]
    context.reachable(deed.node)
    context.cluster.begin(deed.uuid)
    crash_point(f"{crash}.before_intent")
    context.in_hand.add(op)
    try:
        await _intend(context, deed, op)
        crash_point(f"{crash}.after_intent")
        answer = await _act(context, deed, op)
        crash_point(f"{crash}.after_act")
        if not answer.ok:
            ledger.note(DropIntent(op))
            return answer
        line = ledger.journal(
            deed.kind, deed.name, caller.who, f"{deed.kind} on node {deed.node}", {"why": deed.why}
        )
        await ledger.settle(op, *result(answer), line)
        crash_point(f"{crash}.after_commit")
        return answer
    finally:
        context.in_hand.discard(op)
        context.cluster.end(deed.uuid)


async def _intend(context: Context, deed: Deed, op: str) -> None:
    intent = deed.intent(op, context.clock())
    if deed.kind in NOTED and not context.ledger.failing:
        context.ledger.note(PutIntent(intent))
    else:
        # Refused while the store takes nothing, before anything is done.
        await context.ledger.intend(intent)


async def _act(context: Context, deed: Deed, op: str) -> Answer:
    try:
        answer = await context.nodes.call(
            deed.node,
            deed.procedure.program_id,
            deed.procedure.number,
            deed.payload,
            long=deed.long,
            session=deed.session,
            report=deed.uuid,
            op=op,
            domain=deed.uuid,
            generation=deed.generation,
        )
    except (NodeUnreachable, DeadlinePassed):
        raise
    except ClusterError:
        context.ledger.note(DropIntent(op))  # refused before it was begun
        raise
    if answer.gone:
        context.inventory.on_gone(deed.node, deed.uuid)
    return answer
