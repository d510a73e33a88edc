"""What nodes last said about things that all of them shall have, and when one is told again.  Knows no such thing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from clusterhost.model.cluster import format_uuid
from clusterhost.service.context import Context

PAUSES = (2.0, 5.0, 15.0, 60.0)
"""Seconds until a node is told again, after each failure in a row."""

log = structlog.get_logger("clusterhost.nodes")


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node last said about one of them.  problem: "" when it is there as it shall be; since: epoch seconds;
    active: it is in use there, where that is a difference."""

    node: str
    problem: str
    since: float
    active: bool = False


class NodeStates:
    """By uuid and node.  what: "network", "pool"; tell: tells a node again."""

    def __init__(self, context: Context, what: str, tell: Callable[[bytes, str], Awaitable[object]]) -> None:
        self._context = context
        self._what = what
        self._tell = tell
        self._states: dict[tuple[bytes, str], NodeState] = {}
        self._failures: dict[tuple[bytes, str], int] = {}

    def all(self, uuid: bytes) -> list[NodeState]:
        """What each node said of it, by the nodes' order."""
        found = (self._states.get((uuid, node.name)) for node in self._context.cluster.cells())
        return [state for state in found if state is not None]

    def find(self, uuid: bytes, node: str) -> NodeState | None:
        """None while the node has said nothing."""
        return self._states.get((uuid, node))

    def problem(self, uuid: bytes, node: str) -> str:
        """Why the node has it not; "" when it has, or nothing is known."""
        state = self.find(uuid, node)
        return state.problem if state is not None else ""

    def note(self, uuid: bytes, node: str, problem: str, *, active: bool = False, again: bool = True) -> None:
        """What it said now.  again: what is in the way may go by itself."""
        before = self.find(uuid, node)
        if before is None or before.problem != problem:
            self._states[uuid, node] = NodeState(node, problem, self._context.clock(), active)
            if problem:
                name = f"a node cannot have a {self._what}"
                log.warning(name, node=node, uuid=format_uuid(uuid), reason=problem)
        else:
            self._states[uuid, node] = replace(before, active=active)
        if not problem:
            self._failures.pop((uuid, node), None)
        elif again:
            failures = self._failures[uuid, node] = self._failures.get((uuid, node), 0) + 1
            self._context.tasks.spawn(self._again(uuid, node, failures), f"{self._what} again at {node}")

    def drop(self, uuid: bytes, node: str) -> None:
        """It shall have it no more, and has not."""
        self._states.pop((uuid, node), None)
        self._failures.pop((uuid, node), None)

    def forget(self, node: str) -> None:
        """What that node said counts no more."""
        for key in [key for key in self._states if key[1] == node]:
            del self._states[key]

    async def _again(self, uuid: bytes, name: str, failures: int) -> None:
        await asyncio.sleep(PAUSES[min(failures, len(PAUSES)) - 1])
        node = self._context.cluster.nodes.get(name)
        if node is not None and node.usable and self._failures.get((uuid, name)) == failures:
            await self._tell(uuid, name)
