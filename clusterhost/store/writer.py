"""Group commit: one thread writes what everybody queued, one transaction at a time.  Knows no SQL.

While one transaction waits for the disk the next batch gathers, so a hundred callers cost a few syncs, not a
hundred.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clusterhost.model.errors import InvalidArgument, StoreUnavailable
from clusterhost.store.rows import Change

DEADLINE = 4.8
"""Seconds until a caller hears that the store is unavailable (promise R12: within 5 s)."""

BATCH = 256
"""Members of one transaction, so that it stays short."""

QUEUE = 20_000
"""Members that may wait."""

Commit = Callable[[Sequence[Sequence[Change]]], None]


@dataclass(slots=True, eq=False)
class _Member:
    changes: tuple[Change, ...]
    future: asyncio.Future[None]
    taken: bool = False
    left: bool = False
    """Nobody waits for it any more."""


class Writer:
    """Owns the thread.  Made on the event loop whose callers it serves."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Member] = deque()
        self._changed = threading.Condition()
        self._closing = False
        # A daemon: a thread that hangs in a sync of a dead disk must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, changes: tuple[Change, ...]) -> None:
        """Return when they are durable.  A caller that is cancelled does not undo them."""
        member = _Member(changes, self._loop.create_future())
        self._queue(member)
        timer = self._loop.call_later(DEADLINE, self._give_up, member)
        try:
            await member.future
        finally:
            timer.cancel()
            member.left = True

    async def close(self) -> None:
        """Write what is queued and end the thread (waits no longer than DEADLINE)."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, DEADLINE)

    def _queue(self, member: _Member) -> None:
        with self._changed:
            if self._closing:
                raise StoreUnavailable("the store is closed")
            if len(self._waiting) >= QUEUE:
                raise StoreUnavailable(f"{QUEUE} changes wait for the database already")
            self._waiting.append(member)
            self._changed.notify()

    def _give_up(self, member: _Member) -> None:
        text = f"the database did not answer within {DEADLINE:g} s; whether it keeps the change is not known"
        with self._changed:
            if not member.taken:
                self._waiting.remove(member)
                text = f"the database did not get to this change within {DEADLINE:g} s"
        if not member.future.done():
            member.future.set_exception(StoreUnavailable(text))

    def _run(self) -> None:
        while batch := self._take():
            outcome = self._outcomes(batch)
            try:
                self._loop.call_soon_threadsafe(_settle, batch, outcome)
            except RuntimeError:
                return  # the loop was closed under us: nobody is left to be told

    def _take(self) -> list[_Member]:
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            for member in batch:
                member.taken = True
            return batch

    def _outcomes(self, batch: list[_Member]) -> list[Exception | None]:
        found = self._try([member.changes for member in batch])
        if isinstance(found, InvalidArgument) and len(batch) > 1:
            # One of them is to blame; the others must not suffer for it.
            return [self._try([member.changes]) for member in batch]
        return [found] * len(batch)

    def _try(self, batch: list[tuple[Change, ...]]) -> Exception | None:
        try:
            self._commit(batch)
        except Exception as error:
            # Named edge: whatever it was, its callers hear it and the thread lives on for the others.
            return error
        return None


def _settle(batch: list[_Member], outcome: list[Exception | None]) -> None:
    for member, error in zip(batch, outcome, strict=True):
        if member.left or member.future.done():
            continue
        if error is None:
            member.future.set_result(None)
        else:
            member.future.set_exception(error)
