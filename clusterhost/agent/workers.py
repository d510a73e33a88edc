"""Processes of the agent's own that do what takes long or must not die with it: started, asked, started anew.

Frames of a length (4 bytes, big endian) and a body go both ways.  Knows frames, not what is in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct

from clusterhost.agent.errors import Unavailable

log = logging.getLogger(__name__)

_LENGTH = Struct(">I")
_AGAIN_SECONDS = 2.0

Progress = Callable[[int, int, str], None]
"""Done, in all, a sentence."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is for.  module: with a main(); cannot: says of an order that it failed; does: what it does.

    end_seconds: from SIGTERM to SIGKILL.  kept: it has something to look after, so it is started again when it ends."""

    module: str
    cannot: str
    does: str
    end_seconds: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody who waits for an order's end."""

    answer: asyncio.Future[bytes]
    progress: Progress

    def refuse(self, reason: str) -> None:
        """Unavailable, unless it has its answer."""
        if not self.answer.done():
            self.answer.set_exception(Unavailable("refused", reason))

    def give(self, result: bytes) -> None:
        """The result, unless it has one."""
        if not self.answer.done():
            self.answer.set_result(result)


class WorkerProcess:
    """One process, from the first order on.  take: gets the body of each frame that it sends."""

    def __init__(self, work: Work, options: Sequence[str], take: Callable[[bytes], None]) -> None:
        self.waiting: dict[int, Waiting] = {}
        self._work = work
        self._command = [sys.executable, "-m", work.module, *options]
        self._take = take
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._number = 0
        self._closed = False

    @property
    def running(self) -> bool:
        """There is a process."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, if it is not there.  Unavailable."""
        await self._ready()

    async def order(
        self, body: Callable[[int], bytes], progress: Progress = lambda done, total, text: None
    ) -> bytes:
        """Send the body for an order's number; what `waiting` got for it.  Unavailable when the process ends."""
        process = await self._ready()
        assert process.stdin is not None
        self._number += 1
        number = self._number
        waiting = Waiting(asyncio.get_running_loop().create_future(), progress)
        self.waiting[number] = waiting
        frame = body(number)
        try:
            process.stdin.write(_LENGTH.pack(len(frame)) + frame)
            await process.stdin.drain()
            return await waiting.answer
        except OSError as error:
            raise self._cannot(error) from error
        finally:
            self.waiting.pop(number, None)

    async def close(self) -> None:
        """End the process; what it made stays."""
        self._closed = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(self._work.end_seconds):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _ready(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._closed:
                raise Unavailable("refused", "the agent is stopping")
            if self._process is None or self._process.returncode is not None:
                await self._spawn()
            assert self._process is not None
            return self._process

    async def _spawn(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise self._cannot(error) from error
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                (size,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
                self._take(await process.stdout.readexactly(size))
        await process.wait()
        for waiting in self.waiting.values():
            waiting.refuse(f"the process that {self._work.does} ended before it answered")
        if self._closed:
            return
        log.warning("the process that %s ended with %s", self._work.does, process.returncode)
        if self._work.kept:
            await asyncio.sleep(_AGAIN_SECONDS)
            await self._again(process)

    async def _again(self, ended: asyncio.subprocess.Process) -> None:
        async with self._starting:
            if not self._closed and self._process is ended:
                with contextlib.suppress(Unavailable):
                    await self._spawn()

    def _cannot(self, error: OSError) -> Unavailable:
        return Unavailable("refused", f"{self._work.cannot}: {error.strerror}")
