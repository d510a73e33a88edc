"""Copies that nobody may take away although no domain has them open: pinned by an operator, or in the midst of work.

Pins are kept in the store; claims last as long as whoever made them works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from clusterhost.model.errors import InvalidOperation
from clusterhost.service.ledger import Ledger
from clusterhost.service.volume_rows import key_of
from clusterhost.store.rows import SetMeta

PINNED = "image pins "
"""Before a volume's key in the store: ALL, the names of nodes, or "" where it is not pinned."""
ALL = "*"


class Pins:
    """Of volumes of local pools, for one node or for all, also those that get a copy later."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def nodes(self, pool: bytes, shown: str) -> tuple[str, ...]:
        """Where it is pinned; (ALL,): wherever it is."""
        return tuple(self._ledger.meta.get(PINNED + key_of(pool, shown), "").split())

    def pinned(self, pool: bytes, shown: str, node: str) -> bool:
        """Its copy there stays."""
        nodes = self.nodes(pool, shown)
        return node in nodes or ALL in nodes

    async def pin(self, pool: bytes, shown: str, nodes: Iterable[str], what: tuple[str, str, str]) -> None:
        """At these nodes too; none: wherever it is.  what: the pool's name, and whoever says so, for the journal."""
        before, new = set(self.nodes(pool, shown)), set(nodes)
        await self._put(pool, shown, {ALL} if ALL in before or not new else before | new, what)

    async def unpin(self, pool: bytes, shown: str, nodes: Iterable[str], what: tuple[str, str, str]) -> None:
        """At these nodes no more; none: nowhere.  InvalidOperation: it is not pinned there, or wherever it is."""
        before, gone = set(self.nodes(pool, shown)), set(nodes)
        if ALL in before and gone:
            raise InvalidOperation(f"volume '{shown}' is pinned on all nodes: unpin it without naming one")
        if not before or not gone <= before:
            where = f" on node {min(gone - before)}" if gone else ""
            raise InvalidOperation(f"volume '{shown}' is not pinned{where}")
        await self._put(pool, shown, before - gone if gone else set(), what)

    def forget(self, pool: bytes, shown: str) -> None:
        """There is no such volume any more; another one of its name is not pinned."""
        if self.nodes(pool, shown):
            self._ledger.note(SetMeta(PINNED + key_of(pool, shown), ""))

    async def _put(self, pool: bytes, shown: str, nodes: set[str], what: tuple[str, str, str]) -> None:
        kind, name, who = what
        text = "on all nodes" if ALL in nodes else f"on {', '.join(sorted(nodes)) or 'no node'}"
        line = self._ledger.journal(kind, f"{name}/{shown}", who, f"pinned {text}")
        await self._ledger.commit(SetMeta(PINNED + key_of(pool, shown), " ".join(sorted(nodes))), line)


class Claims:
    """Copies that somebody is about to start a domain with, or copies from."""

    def __init__(self) -> None:
        self._held: Counter[tuple[bytes, str, str]] = Counter()

    @contextmanager
    def hold(self, node: str, volumes: Iterable[tuple[bytes, str]]) -> Iterator[None]:
        """What that node has of these volumes (pool, shown), or is about to have, stays there."""
        keys = [(pool, shown, node) for pool, shown in volumes]
        self._held.update(keys)
        try:
            yield
        finally:
            self._held.subtract(keys)
            for key in keys:
                if not self._held[key]:
                    del self._held[key]

    def held(self, pool: bytes, shown: str, node: str) -> bool:
        """Somebody counts on it."""
        return (pool, shown, node) in self._held
