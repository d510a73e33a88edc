"""What a node lacks of the volumes that a domain needs, from where it would come, how many bytes; and which copies
are old once the domain has written.  Pure: whoever knows the pools says which volumes are meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from imagemgr.errors import CopyAway, CopyIncomplete, Occupied
from imagemgr.model import Copy, CopyState, Held


@dataclass(frozen=True, slots=True)
class Need:
    """A volume of a local pool that a domain must find at `path`.  written: the domain writes to it.

    taken: nodes where another volume of the same name has its file at that path."""

    pool: bytes
    held: Held
    path: str
    written: bool = False
    taken: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Missing:
    """A volume that must come to a node from the node `source`.  size: bytes that its copy there takes."""

    pool: bytes
    shown: str
    path: str
    source: str
    size: int


def newest(held: Held) -> tuple[Copy, ...]:
    """Its copies of the current generation that are all there, also those whose node is away."""
    good = (CopyState.WHOLE, CopyState.LOST)
    return tuple(copy for copy in held.copies if copy.state in good and copy.generation == held.generation)


def is_there(held: Held, node: str) -> bool:
    """Whether the node has the newest of it."""
    return any(copy.node == node for copy in newest(held))


def source_of(need: Need, usable: Collection[str]) -> Copy:
    """The copy that others are made from: on a node in reach, the first by name; CopyAway, CopyIncomplete."""
    found = newest(need.held)
    there = [copy for copy in found if copy.node in usable and copy.state is CopyState.WHOLE]
    if there:
        return min(there, key=lambda copy: copy.node)
    nodes = ", ".join(sorted(copy.node for copy in found))
    if nodes:
        raise CopyAway(f"the newest copy of volume {need.held.shown} is on {nodes}, out of reach")
    parts = ", ".join(sorted(copy.node for copy in need.held.copies)) or "no node"
    raise CopyIncomplete(f"no node has all of volume {need.held.shown}, parts of it are on {parts}")


def missing(needs: Iterable[Need], node: str, usable: Collection[str]) -> tuple[Missing, ...]:
    """What must come to the node before the domain can start there, in the order in which it is needed.

    usable: nodes that can be asked.  CopyAway, CopyIncomplete, Occupied: it cannot come."""
    found: dict[tuple[bytes, str], Missing] = {}
    for need in needs:
        if is_there(need.held, node):
            continue
        if node in need.taken:
            raise Occupied(f"has another volume than {need.held.shown} at {need.path}")
        copy = source_of(need, usable)
        one = Missing(need.pool, need.held.shown, need.path, copy.node, copy.allocation)
        found.setdefault((one.pool, one.shown), one)
    return tuple(found.values())


def why_not(lacks: Iterable[Missing], free: Mapping[bytes, int]) -> str:
    """Why a node has no room for what it lacks, "" when it has.  free: bytes left there, by pool; a pool that
    is not in it is let through."""
    for pool, size in _by_pool(lacks).items():
        if pool in free and free[pool] < size:
            return f"has {_mib(free[pool])} left in the pool, the images that must come need {_mib(size)}"
    return ""


def short(lacks: Iterable[Missing], free: Mapping[bytes, int]) -> dict[bytes, int]:
    """Bytes by which there is too little room for what it lacks, by pool.  free: as in `why_not`."""
    wanted = _by_pool(lacks)
    return {pool: size - free[pool] for pool, size in wanted.items() if pool in free and free[pool] < size}


def _by_pool(lacks: Iterable[Missing]) -> dict[bytes, int]:
    wanted: dict[bytes, int] = {}
    for one in lacks:
        wanted[one.pool] = wanted.get(one.pool, 0) + one.size
    return wanted


def written(held: Held, node: str) -> Held:
    """The volume once somebody may have written to its copy at the node: that one is the only one that is current.

    What its content was is no longer known."""
    generation = held.generation + 1
    copies = tuple(_after(copy, node, generation) for copy in held.copies)
    return replace(held, generation=generation, copies=copies)


def _after(copy: Copy, node: str, generation: int) -> Copy:
    if copy.node == node:
        return replace(copy, generation=generation, digest=b"")
    if copy.state is CopyState.COMING:
        return copy
    return replace(copy, state=CopyState.STALE)


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"
