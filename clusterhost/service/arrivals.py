"""After a start of the front end its nodes need a moment to dial in again: who waits for which of them.

Only nodes that were in reach when the front end was last heard of are awaited; of the others it is known that they
are away.  No I/O; the model is the inventory's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from clusterhost.service.ledger import Ledger
from clusterhost.service.watcher import Watcher
from clusterhost.store.rows import PutNode

GRACE = 3.0
"""Seconds that calls wait at most; agents dial again every 0.2 s at first."""
AWAY = "away"
"""In a node's row: it was out of reach, or its libvirtd, when that was written last."""

Waiting = tuple[set[str], Callable[[], None]]


class Arrivals(Watcher):
    """`awaited` is empty from the moment when nobody has to wait any more."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self.awaited: set[str] = set()

    def start(self, grace: float) -> None:
        """Wait that many seconds at most for those that were in reach."""
        rows = self._ledger.nodes.values()
        self.awaited.update(row.name for row in rows if row.boot_id and not row.map.get(AWAY))
        self._timer = asyncio.get_running_loop().call_later(grace, self._over)

    def stop(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._over()

    def wait(self, nodes: Collection[str], go: Callable[[], None]) -> bool:
        """Call `go` when none of these nodes is awaited any more; False: that is so now, and `go` is not called."""
        missing = self.awaited.intersection(nodes)
        if missing:
            self._waiting.append((missing, go))
        return bool(missing)

    def _over(self) -> None:
        self.awaited.clear()
        waiting, self._waiting = self._waiting, []
        for _, go in waiting:
            go()

    # -- Watcher

    def node_up(self, node: str, rebooted: bool) -> None:
        """Its snapshot has been taken in."""
        self._record(node, away=False)
        if node not in self.awaited:
            return
        self.awaited.discard(node)
        ready = [go for missing, go in self._waiting if not missing & self.awaited]
        self._waiting = [one for one in self._waiting if one[0] & self.awaited]
        for go in ready:
            go()

    def node_down(self, node: str, reason: str) -> None:
        """Calls to it fail at once, also after the next start."""
        self._record(node, away=True)

    def _record(self, node: str, *, away: bool) -> None:
        row = self._ledger.nodes.get(node)
        if row is not None and bool(row.map.get(AWAY)) is not away:
            kept = {key: value for key, value in row.map.items() if key != AWAY}
            self._ledger.note(PutNode(replace(row, map={**kept, AWAY: True} if away else kept)))
            self._ledger.hurry()
