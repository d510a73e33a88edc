"""Volumes as the store keeps them, and what an interrupted upload left: rows to values and back.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from clusterhost.store.rows import VolumeRow
from imagemgr import place
from imagemgr.model import Copy, CopyState, Held

WHOLE, INCOMPLETE = "whole", "incomplete"
"""VolumeRow.state"""

MAKING = "its creation at node "
"""How the reason of a row begins whose volume is being made."""


def key_of(pool: bytes, shown: str) -> str:
    """VolumeRow.key"""
    return f"{pool.hex()}/{shown}"


def row_of(pool: bytes, held: Held, before: VolumeRow | None = None) -> VolumeRow:
    """A volume as it is kept, with the state that it had.  That a node is away is not kept: it may come back."""
    copies = [
        [
            copy.node,
            str(CopyState.WHOLE if copy.state is CopyState.LOST else copy.state),
            copy.generation,
            copy.digest.hex(),
            copy.capacity,
            copy.allocation,
            *([copy.used] if copy.used else []),
        ]
        for copy in held.copies
    ]
    state, reason = (before.state, before.reason) if before is not None else (WHOLE, "")
    return VolumeRow(
        key_of(pool, held.shown), pool, held.name, held.shown, held.generation, state, reason, copies
    )


def held_of(row: VolumeRow) -> Held:
    """The volume of a row."""
    copies = (
        Copy(node, CopyState(state), generation, bytes.fromhex(digest), capacity, allocation, *used)
        for node, state, generation, digest, capacity, allocation, *used in row.copies
    )
    return Held(row.name, row.shown, row.generation, tuple(copies))


def with_copy(held: Held, copy: Copy) -> Held:
    """The volume with this copy, instead of what it had at that node; in the nodes' order."""
    others = (other for other in held.copies if other.node != copy.node)
    return replace(held, copies=tuple(sorted((*others, copy), key=lambda one: one.node)))


def without_copy(held: Held, node: str) -> Held:
    """The volume without its copy there."""
    return replace(held, copies=tuple(copy for copy in held.copies if copy.node != node))


def written(held: Held, node: str, state: CopyState = CopyState.WHOLE) -> Held:
    """As place.written, and the copy's state is known."""
    after = place.written(held, node)
    return replace(
        after,
        copies=tuple(replace(copy, state=state) if copy.node == node else copy for copy in after.copies),
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes from `start` to before `end` that an upload may have left undefined; end None: to the volume's end."""

    start: int
    end: int | None

    @classmethod
    def of(cls, offset: int, length: int) -> Gap:
        """What a call names; length 0: to the end."""
        return cls(offset, offset + length if length else None)

    def fills(self, other: Gap) -> bool:
        """All of the other is in it."""
        beyond = self.end is None or (other.end is not None and other.end <= self.end)
        return self.start <= other.start and beyond

    def __or__(self, other: Gap) -> Gap:
        ends = (self.end, other.end)
        end = None if None in ends else max(end for end in ends if end is not None)
        return Gap(min(self.start, other.start), end)

    def __str__(self) -> str:
        return f"bytes {self.start} to {'the end' if self.end is None else self.end}"


_GAP = re.compile(r"bytes (\d+) to (?:(\d+)|the end)\b")


def gap_in(reason: str) -> Gap | None:
    """The gap that a row's reason names."""
    found = _GAP.search(reason)
    return Gap(int(found[1]), int(found[2]) if found[2] else None) if found else None


def under_way(gap: Gap, node: str) -> str:
    """The reason of a row while an upload goes on, and after a front end that ended in the middle."""
    return f"an upload of {gap} to node {node} has not been seen to end"


def wiping(nodes: Iterable[str]) -> str:
    """The reason of a row while a wipe goes on, and after one that nobody saw the end of."""
    return f"a wipe of {Gap(0, None)} on {', '.join(nodes)} has not been seen to end"


def cut(gap: Gap, node: str, received: int, expected: int, why: str) -> str:
    """The reason of a row afterwards; expected: bytes, 0 when nobody said.  A client may send more."""
    of = f" of {expected}" if received <= expected else ""
    return f"an upload of {gap} to node {node} was cut after {received}{of} bytes: {why}"


def incomplete(row: VolumeRow) -> bool:
    """Not all of it is there."""
    return row.state == INCOMPLETE


def leftovers(rows: Iterable[VolumeRow], nodes: Iterable[tuple[str, Iterable[str]]]) -> list[VolumeRow]:
    """Incomplete ones whose file is on no node, of those that have just listed theirs."""
    listed = {node: set(names) for node, names in nodes}
    return [row for row in rows if incomplete(row) and _nowhere(row, listed)]


def _nowhere(row: VolumeRow, listed: dict[str, set[str]]) -> bool:
    places = [copy[0] for copy in row.copies]
    return all(node in listed and row.name not in listed[node] for node in places)
