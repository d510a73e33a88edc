"""One end of a tunnel: a socket carried over the bulk connection, with a window each way.  Bytes only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from clusterhost.control import messages as m

"""Bytes passed on before they are told."""
_READ = 65536

SendBulk = Callable[[m.Message, bytes], None]


class Tunnel:
    """One socket, carried.  `origin`: this is the side that dialled."""

    def __init__(
        self, id: int, sock: socket.socket, send: SendBulk, gone: Callable[[int], None], *, origin: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._id = id
        self._socket = sock
        self._send = send
        self._gone = gone
        self._origin = origin
        self._under_way = 0
        self._uncredited = 0
        self._unsent = bytearray()
        self._read_over = self._write_over = self._closed = False
        self._loop.add_reader(sock, self._readable)
        self._reading = True

    def data(self, payload: bytes) -> None:
        """Bytes from the other end; empty: it has no more."""
        if self._closed:
            return
        if payload:
            self._unsent += payload
        else:
            self._write_over = True
        self._write()

    def credited(self, count: int) -> None:
        """The other end passed on that many bytes."""
        self._under_way -= count
        if (
            self._under_way < m.STREAM_WINDOW
            and not self._reading
            and not self._read_over
            and not self._closed
        ):
            self._reading = True
            self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Cut it."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        if not self._read_over:
            self._send(m.TunnelData(self._id, self._origin), b"")
        self._gone(self._id)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        self._send(m.TunnelData(self._id, self._origin), data)
        self._under_way += len(data)
        if not data:
            self._read_over = True
        if not data or self._under_way >= m.STREAM_WINDOW:
            self._reading = False
            self._loop.remove_reader(self._socket)
        self._end_if_both()

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                del self._unsent[:sent]
                self._uncredited += sent
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket, self._write)
        except OSError:
            self.close()
            return
        else:
            self._loop.remove_writer(self._socket)
            if self._write_over:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
        if self._uncredited >= m.CREDIT_STEP:
            self._send(m.Credit(self._id, self._uncredited), b"")
            self._uncredited = 0
        self._end_if_both()

    def _end_if_both(self) -> None:
        if self._read_over and self._write_over and not self._unsent:
            self.close()
