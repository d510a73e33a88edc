"""Descriptors that clients send with calls, in the order in which they came.  Knows no procedure."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence

from clusterhost.frontend.libvirt.transport import MAX_FDS, close_all
from compat.libvirt.events import Call


class Arrived:
    """Those of one client.  `given`: those of the call that is being answered; what it leaves there is closed."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self.given: list[int] = []

    def arrived(self, fds: Sequence[int]) -> bool:
        """Keep what a read brought; False, and all are closed, when more wait than two calls may have."""
        self._waiting.extend(fds)
        if len(self._waiting) <= 2 * MAX_FDS:
            return True
        self.close()
        return False

    def take(self, count: int) -> list[int]:
        """The next so many; fewer when the client sent bytes without them."""
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    @contextlib.contextmanager
    def given_to(self, call: Call) -> Iterator[None]:
        """Inside the block `given` are the call's."""
        self.given = self.take(call.fds)
        try:
            yield
        finally:
            close_all(self.given)
            self.given = []

    def taken(self) -> int | None:
        """The first descriptor of the call, which is now the taker's to close; None when it brought none."""
        return self.given.pop(0) if self.given else None

    def close(self) -> None:
        """The client is gone."""
        close_all(self._waiting)
        self._waiting.clear()
