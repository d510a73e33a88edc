"""Locks by key, and tasks that outlive the client that began them.  No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from clusterhost.model.errors import ClusterError, InvalidOperation

T = TypeVar("T")
log = structlog.get_logger("clusterhost.tasks")


class Locks:
    """One lock a key, made when wanted and forgotten when free.  A domain's keys are its uuid (level 0), then
    names (level 1); several are always taken in that order, so two holders never wait for each other."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._users: dict[Hashable, int] = {}

    def held(self, key: Hashable) -> bool:
        """Somebody works on it."""
        lock = self._locks.get(key)
        return lock is not None and lock.locked()

    @asynccontextmanager
    async def hold(self, uuid: bytes, *names: str) -> AsyncIterator[None]:
        """Hold a domain's uuid and names."""
        keys: list[Hashable] = [uuid, *sorted(set(names))]
        taken: list[Hashable] = []
        try:
            for key in keys:
                await self._acquire(key)
                taken.append(key)
            yield
        finally:
            for key in reversed(taken):
                self._release(key)

    async def _acquire(self, key: Hashable) -> None:
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            await lock.acquire()
        except asyncio.CancelledError:
            self._forget(key)
            raise

    def _release(self, key: Hashable) -> None:
        self._locks[key].release()
        self._forget(key)

    def _forget(self, key: Hashable) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key], self._locks[key]


class Tasks:
    """Background work with an owner: nothing is left behind, no error is lost."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, object], what: str) -> None:
        """Run it; a ClusterError is logged (whoever needs the outcome awaits `finish` instead)."""
        if self._closed:
            work.close()
            return
        task = asyncio.create_task(self._logged(work, what), name=what)
        task.add_done_callback(lambda _: work.close())  # it was never begun when cancelled at once
        self._keep(task)

    async def finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        """Run it to its end even if the one who waits is cancelled (a client that left does not undo a
        start)."""
        return await asyncio.shield(self.begin(work, what))

    def begin(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run it to its end; whoever waits for the task looks at its outcome."""
        if self._closed:
            work.close()
            raise InvalidOperation("the front end is stopping")
        task = asyncio.create_task(work, name=what)
        self._keep(task)
        return task

    async def close(self) -> None:
        """Cancel what is left and wait for it."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that asyncio does not complain when the waiter was cancelled

    @staticmethod
    async def _logged(work: Coroutine[Any, Any, object], what: str) -> None:
        try:
            await work
        except ClusterError as error:
            log.warning("did not succeed", what=what, reason=str(error))
        except Exception:  # the edge of a background task: a bug here must be seen, not kill the daemon
            log.exception("failed", what=what)
