"""How many bytes a second may pass, in equal shares for those that want to.  Knows no sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

BURST = 0.1
"""Seconds' worth of bytes that may pass at once."""


class Limit:
    """A token bucket; rate: bytes a second, 0 for no limit.  Threads may share it.

    Who waits is served in the order of what each has had (start-time fair queueing), so that one with many connections
    gets no more than one with few."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._turn = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._had: dict[Hashable, float] = {}
        self._now = 0.0
        self._number = 0
        self._free_at = 0.0

    def take(self, who: Hashable, count: int) -> None:
        """Wait until `count` bytes may pass for `who`."""
        if not self._rate or not count:
            return
        with self._turn:
            start = max(self._now, self._had.get(who, 0.0))
            self._had[who] = start + count
            self._number += 1
            mine = (start, self._number)
            self._waiting.append(mine)
            try:
                self._wait(mine)
            finally:
                self._waiting.remove(mine)
                self._turn.notify_all()
            self._now = max(self._now, start)
            self._free_at = max(self._free_at, self._clock() - BURST) + count / self._rate
            self._forget()

    def _wait(self, mine: tuple[float, int]) -> None:
        while (left := self._free_at - self._clock()) > 0 or min(self._waiting) != mine:
            self._turn.wait(left if left > 0 else None)

    def _forget(self) -> None:
        if len(self._had) > 2 * len(self._waiting) + 64:
            self._had = {who: end for who, end in self._had.items() if end > self._now}
