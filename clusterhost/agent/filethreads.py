"""A thread that reads or writes a file for a stream, with the holes in it (lseek(2), SEEK_DATA).  Knows no libvirt.

What it does with holes and lengths is what virsh sees of libvirt's own streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from clusterhost.control.messages import CREDIT_STEP, STREAM_WINDOW

CHUNK = 256 * 1024
"""Bytes read at once: a packet of a stream."""
_PATIENCE = 0.005
"""Seconds that a piece waits for others, until CREDIT_STEP bytes are there, to be handed to the thread with them."""
_MOST = 512
"""Pieces handed to it at once: the kernel takes 1024 (IOV_MAX)."""
Data = bytes | bytearray


class Beyond(OSError):
    """More came than the length that was said."""


@dataclass(frozen=True, slots=True)
class Part:
    """Of which file, from which byte, how many (0: to the end); holes: they are told, not sent as zeros."""

    path: str
    writing: bool
    offset: int = 0
    length: int = 0
    holes: bool = False


class Teller(Protocol):
    """What the thread tells, on the loop."""

    def data(self, payload: bytes) -> None: ...

    def hole(self, length: int) -> None: ...

    def passed(self, count: int) -> None:
        """So many bytes are in the file."""

    def over(self, error: OSError | None) -> None:
        """Nothing comes any more; told once, but not after `stop`."""


class FileThread:
    """`opened` is true when the file is a plain one and could be opened; then `begin`.  After `stop` the thread may be
    busy with a last piece; `ended` is done when it is not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, part: Part) -> None:
        self.part = part
        self.opened: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._teller: Teller | None = None
        self._given: SimpleQueue[list[Data] | int | None] = SimpleQueue()
        self._gathered: list[Data] = []
        self._gathered_size = 0
        self._hand_on: asyncio.TimerHandle | None = None
        self._room = threading.Condition()
        self._under_way = 0
        self._stopped = False
        self._begun = threading.Event()
        threading.Thread(target=self._run, name="volume", daemon=True).start()

    def begin(self, teller: Teller) -> None:
        """Read, or write what is given."""
        self._teller = teller
        self._begun.set()

    def give(self, what: Data | int | None) -> None:
        """To be written: bytes, the length of a hole, or None: there is no more.

        The thread is woken for a few pieces at once: each time costs as much as writing half of one."""
        if what is None or isinstance(what, int):
            self._flush()
            self._given.put(what)
            return
        self._gathered.append(what)
        self._gathered_size += len(what)
        if self._gathered_size >= CREDIT_STEP or len(self._gathered) == _MOST:
            self._flush()
        elif self._hand_on is None:
            self._hand_on = self._loop.call_later(_PATIENCE, self._flush)

    def _flush(self) -> None:
        if self._hand_on is not None:
            self._hand_on.cancel()
            self._hand_on = None
        if self._gathered:
            self._given.put(self._gathered)
            self._gathered, self._gathered_size = [], 0

    def credited(self, count: int) -> None:
        """So many bytes of what was read have gone on."""
        with self._room:
            self._under_way -= count
            self._room.notify()

    def stop(self) -> None:
        """End it; nothing more is told."""
        self._stopped = True
        if self._hand_on is not None:
            self._hand_on.cancel()
        self._begun.set()
        self._given.put(None)
        with self._room:
            self._room.notify()

    # ---- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        fd = _open(self.part)
        try:
            self._soon(self._settle, fd is not None)
            self._begun.wait()
            if fd is not None and not self._stopped:
                self._work(fd)
        finally:
            if fd is not None:
                os.close(fd)
            self._soon(self._end)

    def _settle(self, usable: bool) -> None:
        if not self.opened.done():
            self.opened.set_result(usable)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _work(self, fd: int) -> None:
        error = None
        try:
            if self.part.offset:
                os.lseek(fd, self.part.offset, os.SEEK_SET)
            (self._write if self.part.writing else self._read)(fd)
        except OSError as failed:
            error = failed
        self._tell(lambda teller: teller.over(error))

    def _tell(self, what: Callable[[Teller], None]) -> None:
        self._soon(self._told, what)

    def _told(self, what: Callable[[Teller], None]) -> None:
        if not self._stopped and self._teller is not None:
            what(self._teller)

    def _soon(self, what: Callable[..., None], *args: object) -> None:
        # The agent may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *args)

    def _write(self, fd: int) -> None:
        left = self.part.length or None
        while (given := self._given.get()) is not None and not self._stopped:
            if isinstance(given, int):
                length = given if left is None else min(given, left)
                os.ftruncate(fd, os.lseek(fd, length, os.SEEK_CUR))
                count = 0
            else:
                length = count = sum(map(len, given))
                _write_all(fd, given, left)
                if left is not None and length > left:
                    raise Beyond(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if left is not None:
                left -= length
            self._tell(lambda teller, count=count: teller.passed(count))  # type: ignore[misc]

    def _read(self, fd: int) -> None:
        left = self.part.length or None
        while left != 0 and self._has_room():
            at_most = CHUNK if left is None else min(CHUNK, left)
            if self.part.holes:
                hole, section = _section(fd)
                at_most = min(at_most, section)
                if hole:
                    length = section if left is None else min(section, left)
                    os.lseek(fd, length, os.SEEK_CUR)
                    left = None if left is None else left - length
                    self._tell(lambda teller, length=length: teller.hole(length))  # type: ignore[misc]
                    continue
            data = os.read(fd, at_most)
            if not data:
                break
            left = None if left is None else left - len(data)
            self._under_way_more(len(data))
            self._tell(lambda teller, data=data: teller.data(data))  # type: ignore[misc]

    def _under_way_more(self, count: int) -> None:
        with self._room:
            self._under_way += count

    def _has_room(self) -> bool:
        """Wait for it; False when it is over."""
        with self._room:
            self._room.wait_for(lambda: self._stopped or self._under_way < STREAM_WINDOW)
        return not self._stopped


def _open(part: Part) -> int | None:
    """None when libvirtd has to say what is the matter, or knows better how to deal with it."""
    try:
        fd = os.open(part.path, (os.O_WRONLY if part.writing else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _write_all(fd: int, data: list[Data], most: int | None) -> None:
    """All of it, but no more than `most` bytes."""
    left = sum(map(len, data)) if most is None else min(most, sum(map(len, data)))
    views = deque(memoryview(part) for part in data)
    while left:
        written = os.writev(fd, list(views) if most is None else _first(views, left))
        left -= written
        while views and written >= len(views[0]):
            written -= len(views.popleft())
        if written:
            views[0] = views[0][written:]


def _first(views: Iterable[memoryview], count: int) -> list[memoryview]:
    """So many bytes of them."""
    found = []
    for view in views:
        found.append(view[:count])
        count -= len(found[-1])
        if not count:
            break
    return found


def _section(fd: int) -> tuple[bool, int]:
    """Whether we stand in a hole, and how long it or the data is; at the end of the file (False, 0).

    OSError beyond it, as libvirt has it."""
    at = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        data = os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        size = os.fstat(fd).st_size
        if error.errno != errno.ENXIO or size < at:
            raise
        return size > at, size - at
    end = data if data > at else os.lseek(fd, at, os.SEEK_HOLE)
    os.lseek(fd, at, os.SEEK_SET)
    return data > at, end - at
