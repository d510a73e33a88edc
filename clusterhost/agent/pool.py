"""A few connections to one libvirtd, shared by many calls.  Knows no control plane.

libvirtd stops reading a connection that has `max_client_requests` (5) calls unanswered, and warns in its log
when it comes to that; so fewer are sent on one, and what exceeds all of them waits in a bounded queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.rpc import PROCEDURE, Done, Rpc, decoded, settle
from compat.libvirt.xdr import Message

IN_FLIGHT = 4
QUEUE = 512
NEVER = float("inf")

Dial = Callable[[], Awaitable[Rpc]]
Call = tuple[int, int, bytes, Done, float, int]


class Pool:
    """Up to `size` connections, made when they are needed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Dial,
        size: int,
        *,
        in_flight: int = IN_FLIGHT,
        queue: int = QUEUE,
    ) -> None:
        self._loop = loop
        self._dial = dial
        self._size = size
        self._in_flight = in_flight
        self._limit = queue
        self._open: list[Rpc] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._queue: deque[Call] = deque()
        self._closed = ""

    def submit(
        self, program: int, procedure: int, payload: bytes, done: Done, expires: float = NEVER, id: int = 0
    ) -> None:
        """Send now or as soon as there is room; unsent at loop time `expires` it fails as "deadline".
        id: for `cancel`, 0 for what is never cancelled."""
        best: Rpc | None = None
        least = self._in_flight
        for rpc in self._open:
            if rpc.in_flight < least:
                best, least = rpc, rpc.in_flight
        if least and len(self._open) + len(self._opening) < self._size:
            self._open_one()
        if best is not None and not self._queue:
            best.call(program, procedure, payload, done)
        elif self._closed or len(self._queue) >= self._limit:
            kind = "libvirtd-down" if self._closed else "busy"
            text = self._closed or f"{len(self._queue)} calls wait for libvirtd, allowed are {self._limit}"
            self._loop.call_soon(done, False, text.encode(), kind)
        else:
            self._queue.append((program, procedure, payload, done, expires, id))

    def cancel(self, id: int) -> bool:
        """Drop the call of that id if it still waits: it fails as "cancelled"."""
        for call in self._queue:
            if call[5] == id:
                self._queue.remove(call)
                call[3](False, b"nobody waits for it any more", "cancelled")
                return True
        return False

    async def ask(self, name: str, args: Message | None = None) -> Any:
        """Call "program:NAME" and decode the result; raises LibvirtRefused, Unavailable."""
        program, number, _ = PROCEDURE[name]
        future: asyncio.Future[bytes] = self._loop.create_future()
        self.submit(program, number, args.to_bytes() if args is not None else b"", settle(future))
        return decoded(name, await future)

    def drop(self, reason: str) -> None:
        """Close all connections; what is under way or waits fails; new calls make new connections."""
        for rpc in list(self._open):
            rpc.close(reason)
        self._fail_queue(reason)

    def shrink(self, keep: int) -> None:
        """Close idle connections beyond `keep`."""
        idle = [rpc for rpc in self._open if not rpc.in_flight]
        for rpc in idle[: max(0, len(self._open) - keep)]:
            rpc.close("idle")

    def close(self, reason: str) -> None:
        """Drop everything for good."""
        self._closed = reason
        for task in self._opening:
            task.cancel()
        self.drop(reason)

    def _pump(self) -> None:
        now = self._loop.time()
        while self._queue and (rpc := self._with_room()) is not None:
            program, procedure, payload, done, expires, _ = self._queue.popleft()
            if expires <= now:
                done(False, b"it waited for libvirtd until its deadline had passed", "deadline")
            else:
                rpc.call(program, procedure, payload, done)

    def _with_room(self) -> Rpc | None:
        rpc = min(self._open, key=lambda rpc: rpc.in_flight, default=None)
        return rpc if rpc is not None and rpc.in_flight < self._in_flight else None

    def _open_one(self) -> None:
        task = self._loop.create_task(self._opened())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _opened(self) -> None:
        try:
            rpc = await self._dial()
        except (Unavailable, LibvirtRefused) as error:
            if not self._open:
                self._fail_queue(str(error))
            return
        if self._closed:
            rpc.close(self._closed)
            return
        rpc.on_lost = lambda reason: self._lost(rpc, reason)
        rpc.on_answer = self._pump
        self._open.append(rpc)
        self._pump()

    def _lost(self, rpc: Rpc, reason: str) -> None:
        if rpc in self._open:
            self._open.remove(rpc)
        if not self._open and not self._opening:
            self._fail_queue(reason)

    def _fail_queue(self, reason: str) -> None:
        queue, self._queue = self._queue, deque()
        for _, _, _, done, _, _ in queue:
            done(False, reason.encode(), "libvirtd-down")
