"""What the hub keeps for one connected agent: calls under way, streams, numbers.  No sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from clusterhost.model.errors import (
    ClusterError,
    DeadlinePassed,
    InvalidOperation,
    NodeBusy,
    NodeError,
    NodeUnreachable,
    StaleGeneration,
    StoreUnavailable,
    Unsupported,
)
from clusterhost.service.ports import Answer, Progress

if TYPE_CHECKING:
    from clusterhost.control.direct import Direct
    from clusterhost.control.hubstreams import HubStream

NEVER = float("inf")

FAILURES: dict[str, type[ClusterError]] = {
    "libvirtd-down": NodeUnreachable,
    "busy": NodeBusy,
    "deadline": DeadlinePassed,
    "stale-generation": StaleGeneration,
    "storage": StoreUnavailable,
    "cancelled": DeadlinePassed,
    "refused": InvalidOperation,
    "unsupported": Unsupported,
}
"""messages.Failed.kind -> what is raised."""

Outcome = Answer | ClusterError | bytes


@dataclass(slots=True)
class Pending:
    """A call that waits for its answer.  deadline: loop time; `done` gets bytes for an operation's result.
    direct: it went by the direct connection, and ends with it.  patience: seconds that each progress gives it."""

    done: Callable[[Outcome], None]
    deadline: float = NEVER
    report: bytes | None = None
    progress: Progress | None = None
    direct: bool = False
    patience: float = 0.0


def lasting(
    done: Callable[[Outcome], None], now: float, seconds: float, progress: Progress | None
) -> Pending:
    """An operation: it may take so long, and as long again whenever it says how far it is."""
    return Pending(done, now + seconds, progress=progress, patience=seconds)


@dataclass(slots=True, eq=False)
class NodeLink:
    """One agent's connections.  heard: loop time of the last sign of life; alive: something came since."""

    node: str
    incarnation: int
    dial: int
    control: bytes
    epoch: int
    heard: float
    bulk: bytes = b""
    direct: Direct | None = None
    ticket: bytes = b""
    seq: int = -1
    resyncing: bool = True
    alive: bool = True
    calls: dict[int, Pending] = field(default_factory=dict)
    streams: dict[int, HubStream] = field(default_factory=dict)

    def follows(self, seq: int) -> bool | None:
        """Take number `seq`: True next in line, None already seen, False something is missing before it."""
        if self.resyncing:
            self.seq = max(self.seq, seq)
            return True
        if seq <= self.seq:
            return None
        expected = self.seq + 1
        self.seq = seq
        return seq == expected

    def fail_all(self, error: ClusterError) -> None:
        """End every call and stream with `error`."""
        calls, self.calls = self.calls, {}
        streams, self.streams = self.streams, {}
        for pending in calls.values():
            pending.done(error)
        for stream in streams.values():
            stream.lose(error)

    def direct_lost(self, why: str) -> None:
        """End the calls that went by the direct connection; others go on, new ones go by control."""
        error = NodeUnreachable(f"node {self.node}: the connection that carried the call broke: {why}")
        for id in [id for id, pending in self.calls.items() if pending.direct]:
            if pending := self.calls.pop(id, None):
                pending.done(error)

    def unwanted(self, test: Callable[[object], bool]) -> list[int]:
        """Ids of calls whose `done` passes."""
        return [id for id, pending in self.calls.items() if test(pending.done)]

    def expired(self, now: float) -> list[int]:
        """Ids of calls whose deadline has passed."""
        return [id for id, pending in self.calls.items() if pending.deadline <= now]


async def gathered(
    nodes: Sequence[str], ask: Callable[[str, Callable[[Answer | ClusterError], None]], None]
) -> dict[str, Answer | ClusterError]:
    """What each of the nodes says to `ask(node, done)`, asked at once."""
    results: dict[str, Answer | ClusterError] = {}
    everyone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(node: str, outcome: Answer | ClusterError) -> None:
        results[node] = outcome
        if len(results) == len(nodes) and not everyone.done():
            everyone.set_result(None)

    for node in nodes:
        ask(node, partial(done, node))
    if nodes:
        await everyone
    return results


def settle(future: asyncio.Future[Any], outcome: Outcome) -> None:
    """Give an outcome to whoever awaits it."""
    if future.done():
        return
    if isinstance(outcome, ClusterError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def result(outcome: Outcome) -> Outcome:
    """An operation's outcome: when its libvirtd refused a step, that error comes as an answer."""
    return NodeError(outcome.payload) if isinstance(outcome, Answer) else outcome


def hour(when: float) -> str:
    """Wall time as people read it."""
    return time.strftime("%H:%M:%S", time.localtime(when))
