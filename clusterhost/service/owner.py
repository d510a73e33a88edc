"""Which node speaks for a domain when more than one has a copy.  Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping


def choose_owner(
    recorded: str | None, copies: Mapping[str, bool], silent: Container[str], pinned: str | None
) -> str | None:
    """The owner's name, or None when nobody has the domain.

    recorded: the owner until now.  copies: node -> active there, from each node's last word.
    silent: nodes that cannot be asked now.  pinned: the owner while a move is under way.
    A node out of reach keeps what is recorded: unknown never becomes gone.
    """
    if pinned is not None:
        return pinned
    if recorded is not None and (recorded in silent or copies.get(recorded)):
        return recorded
    active = sorted(node for node, running in copies.items() if running)
    if active:
        return active[0]
    if recorded in copies:
        return recorded
    return min(copies, default=None)


def proven_stale(copy_generation: int, generation: int) -> bool:
    """A copy of `copy_generation` may be removed when the domain is known to live elsewhere at `generation`.
    Nothing is proven of a copy that was never started or defined through us (0)."""
    return 0 < copy_generation < generation
