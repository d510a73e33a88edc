"""One client's socket on the event loop: reads, descriptors, bounded writes.  Knows bytes, not the protocol.

asyncio's own transports cannot pass file descriptors, and cost a few microseconds more for each call.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Protocol

READ_SIZE = 262144
"""Bytes taken by one read."""
HIGH_WATER = 1024 * 1024
"""Bytes waiting to be written above which the client is not read."""
LOW_WATER = 256 * 1024
"""At this they go on; streams get no credit above it."""
MAX_BUFFERED = 64 * 1024 * 1024
"""Bytes waiting to be written at which the client is given up: it does not read."""
MAX_FDS = 32
"""File descriptors that one read may bring (framing.md 4)."""
CONTROL = 4 * MAX_FDS + 16
READS = 8
"""Reads in one turn of the loop."""
NOTHING = memoryview(b"")
PIECES = 64
"""Buffers handed to one sendmsg."""


class Reader(Protocol):
    """What the transport tells (the session).  Never blocks."""

    def room(self) -> memoryview | None:
        """Where it wants the next bytes, and no others; None: any, in a buffer of ours."""

    def data_received(self, data: memoryview, fds: Sequence[int], placed: int) -> None:
        """Either these, which are there until this returns, or `placed` bytes in its room."""

    def drained(self) -> None:
        """The write buffer was above LOW_WATER and is no more."""

    def connection_lost(self, reason: str) -> None:
        """Called once, whoever ended it; `reason` is empty at the client's EOF."""


class Descriptor(bytes):
    """The byte that carries a file descriptor, which is closed once it is sent (framing.md 7)."""

    fd: int

    @classmethod
    def of(cls, fd: int) -> Descriptor:
        """It is ours to close from now on."""
        made = cls(b"\0")
        made.fd = fd
        return made


class Shared:
    """The read buffer that all transports of a loop use in turn (what is kept of it is copied)."""

    def __init__(self) -> None:
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)


class Transport:
    """Owns a connected, non-blocking stream socket until `close`."""

    __slots__ = (
        "_closing", "_fd", "_loop", "_paused", "_queue", "_reader", "_shared", "_size", "_sock",
        "_waiting",
        "closed", "unix",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, shared: Shared) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._shared = shared
        self._reader: Reader | None = None
        self._queue: deque[bytes | memoryview] = deque()
        self._size = 0
        self._paused = True
        self._closing = False
        self._waiting = False
        self.closed = False
        self.unix = sock.family == socket.AF_UNIX

    def start(self, reader: Reader) -> None:
        """Begin to read."""
        self._reader = reader
        self.resume_reading()

    # -- reading

    def pause_reading(self) -> None:
        """Leave what the client sends in the kernel's buffer."""
        if not self._paused and not self.closed:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Read again."""
        if self._paused and not self.closed and not self._closing:
            self._paused = False
            self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        """Once; on while the reader has places for what comes, up to a few packets: others want their turn."""
        assert self._reader is not None
        room = self._reader.room()
        for _ in range(READS):
            if not self._read_to(room) or self._paused or self.closed:
                return
            room = self._reader.room()
            if room is None:
                return

    def _read_to(self, room: memoryview | None) -> bool:
        """False when nothing was there, or it is over."""
        into = (self._shared.buffer if room is None else room,)
        try:
            # Control data must be asked for at every read, or descriptors vanish with the bytes read plainly.
            count, ancillary, _, _ = self._sock.recvmsg_into(into, CONTROL if self.unix else 0)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.close(error.strerror or str(error))
            return False
        if count == 0:
            self.close("")
            return False
        assert self._reader is not None
        fds = descriptors(ancillary) if ancillary else ()
        if room is None:
            self._reader.data_received(self._shared.view[:count], fds, 0)
        else:
            self._reader.data_received(NOTHING, fds, count)
        return True

    # -- writing

    @property
    def paused(self) -> bool:
        """We leave the client unread."""
        return self._paused

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._size

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, keep the rest; closes a client that lets MAX_BUFFERED pile up."""
        if self.closed:
            return
        if not self._size and type(data) is not Descriptor:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.close(error.strerror or str(error))
                return
            if sent == len(data):
                return
            data = data[sent:] if len(data) < READ_SIZE else memoryview(data)[sent:]  # type: ignore[assignment]
        if not self._size:
            self._loop.add_writer(self._fd, self._flush)
        self._queue.append(data)
        self._size += len(data)
        if self._size > LOW_WATER:
            self._waiting = True
        if self._size > MAX_BUFFERED:
            self.close(f"it left {self._size} bytes unread, {MAX_BUFFERED} are allowed")

    def _flush(self) -> None:
        queue = self._queue
        try:
            if isinstance(queue[0], Descriptor):
                sent = socket.send_fds(self._sock, [queue[0]], [queue[0].fd])
            else:
                sent = self._sock.sendmsg(pieces(queue))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        self._size -= sent
        while sent:
            first = queue[0]
            if sent < len(first):
                queue[0] = memoryview(first)[sent:]
                break
            sent -= len(first)
            queue.popleft()
            if isinstance(first, Descriptor):
                os.close(first.fd)
        if not queue:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self.close("closed by us")
                return
        if self._waiting and self._size <= LOW_WATER:
            self._waiting = False
            assert self._reader is not None
            self._reader.drained()

    # -- the end

    def close_when_sent(self) -> None:
        """Close after what is buffered has gone out."""
        if self._size:
            self.pause_reading()
            self._closing = True
        else:
            self.close("closed by us")

    def close(self, reason: str) -> None:
        """Close now; what is buffered is lost."""
        if self.closed:
            return
        self.closed = True
        if not self._paused:
            self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        close_all([piece.fd for piece in self._queue if isinstance(piece, Descriptor)])
        self._queue.clear()
        self._sock.close()
        if self._reader is not None:
            self._reader.connection_lost(reason)


def pieces(queue: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """What one sendmsg may take: up to the next descriptor, which goes alone."""
    return list(
        itertools.takewhile(lambda piece: not isinstance(piece, Descriptor), itertools.islice(queue, PIECES))
    )


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The file descriptors in a read's control data."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            part = array.array("i")
            part.frombytes(data[: len(data) - len(data) % part.itemsize])
            found.extend(part)
    return found


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)
