"""A direct connection between front end and agent, TLS over TCP: one system call a message, no thread between.

Carries what needs no order among the numbered messages (design/005-direct-relay.md).  Knows frames, not what is in
them.  Who is at the other end is settled on the control connection: `Welcome` tells the agent the fingerprint of the
front end's certificate and a ticket that only this agent can show.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from struct import Struct

from clusterhost.control.messages import MAX_MESSAGE
from clusterhost.control.tls import HANDSHAKE_SECONDS, PART, RECORD, Secured

log = logging.getLogger(__name__)

FULL = 64 * 1024 * 1024
"""Bytes that the kernel has not taken above which `send` says no."""
HIGH, LOW = 1024 * 1024, 256 * 1024
"""An agent whose answers wait reads no more calls above the one, reads again below the other."""
_HEAD = Struct(">II")
_HEAD_SIZE = _HEAD.size
_READ, _READS = 65536, 4
"""Bytes of one read while nothing large comes; reads in one turn of the loop."""
_SILENCE_MS = 10_000

Deliver = Callable[[bytes, bytes | bytearray], None]


class NoDirect(Exception):
    """The connection could not be made; the text says why."""


class Direct:
    """Owns a TLS connection whose handshake is done: `deliver(body, payload)` for each message, `lost(why)` once.

    pausing: stop reading while much is unsent.  Only one end may, or both might wait for each other.
    most: bytes of a message that are allowed.  A payload longer than a record is delivered as a bytearray."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        secured: Secured,
        deliver: Deliver,
        lost: Callable[[str], None],
        *,
        pausing: bool = False,
        most: int = MAX_MESSAGE,
    ) -> None:
        self.deliver = deliver
        self.lost = lost
        self.closed = False
        self.most = most
        self._loop = loop
        self._secured = secured
        self._fd = secured.sock.fileno()
        self._pausing = pausing
        self._paused = False
        self._buffer = b""
        self._body = b""
        self._payload = bytearray()
        self._missing = 0
        self._unsent: deque[bytes | memoryview] = deque()
        self._batch: list[bytes] = []
        self._size = 0
        loop.add_reader(self._fd, self._readable)
        # What came with the end of the handshake wakes nobody.
        loop.call_soon(self._open)

    def send(self, body: bytes, payload: bytes | memoryview, together: bool = False) -> bool:
        """Send one message; False when too much waits already or it is closed.

        together: with others of this turn of the loop, in one record; for when more calls are under way."""
        if self.closed or self._size > FULL:
            return False
        head = _HEAD.pack(len(body), len(payload)) + body
        if len(payload) > RECORD:
            self._send_batch()
            self._write(payload, head)
        elif together or self._batch:
            data = head + payload
            self._batch.append(data)
            self._size += len(data)
            if len(self._batch) == 1:
                self._loop.call_soon(self._send_batch)
        else:
            self._write(head + payload)
        return True

    def close(self) -> None:
        """Close; `lost` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._unsent.clear()
        self._secured.close()

    # ---- sending ------------------------------------------------------------------------------------------

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, []
        if batch and not self.closed:
            data = b"".join(batch)
            self._size -= len(data)
            self._write(data)

    def _write(self, data: bytes | memoryview, head: bytes = b"") -> None:
        if len(data) <= PART:
            self._put(data, head)
        else:
            view = memoryview(data)
            for at in range(0, len(data), PART):
                self._put(view[at : at + PART], head)
                head = b""

    def _put(self, data: bytes | memoryview, head: bytes = b"") -> None:
        if self.closed:
            return
        try:
            if head:
                self._secured.seal(head)
            self._secured.seal(data)
            sealed: bytes | memoryview = self._secured.sealed()
            if not self._unsent:
                sent = self._secured.sock.send(sealed)
                if sent == len(sealed):
                    return
                sealed = memoryview(sealed)[sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._loop.call_soon(self._end, why(error))
            return
        if not self._unsent:
            self._loop.add_writer(self._fd, self._writable)
        self._unsent.append(sealed)
        self._size += len(sealed)
        if self._pausing and self._size > HIGH and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def _writable(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._secured.sock.send(unsent[0])
                self._size -= sent
                if sent == len(unsent[0]):
                    unsent.popleft()
                else:
                    unsent[0] = memoryview(unsent[0])[sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._end(why(error))
            return
        if not unsent:
            self._loop.remove_writer(self._fd)
        if self._paused and self._size < LOW:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)

    # ---- receiving ----------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(_READS):
            most = PART if self._missing else _READ
            try:
                data = self._secured.sock.recv(most)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(why(error))
                return
            if not data:
                self._end("it was closed at the other end")
                return
            self._secured.feed(data)
            self._open()
            # Less than was asked for: there is no more.
            if len(data) < most or self._paused or self.closed:
                return

    def _open(self) -> None:
        """Deliver what the records say that are there."""
        secured = self._secured
        try:
            while secured.more and not self.closed:
                if self._missing:
                    self._fill()
                else:
                    self._take(secured.read(RECORD))
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self._end("it was closed at the other end")
        except OSError as error:
            self._end(why(error))

    def _fill(self) -> None:
        """More of a large payload."""
        self._missing -= self._secured.fill(memoryview(self._payload)[-self._missing :])
        if self._missing:
            raise ssl.SSLWantReadError
        payload, self._payload = self._payload, bytearray()
        self._deliver(self._body, payload)

    def _take(self, data: bytes) -> None:
        """The next bytes, of small messages or of a large one's beginning; b"" at the end of TLS."""
        if not data:
            raise ssl.SSLZeroReturnError
        data = self._buffer + data if self._buffer else data
        pos, size = 0, len(data)
        while size - pos >= _HEAD_SIZE and not self.closed:
            length, rest = _HEAD.unpack_from(data, pos)
            if length + rest > self.most:
                self._end(f"a message of {length + rest} bytes came, {self.most} are allowed")
                return
            start = pos + _HEAD_SIZE
            middle, end = start + length, start + length + rest
            if end > size:
                if middle <= size and rest > RECORD:
                    self._begin(data[start:middle], data[middle:], rest)
                    pos = size
                break
            pos = end
            self._deliver(data[start:middle], data[middle:end])
        self._buffer = data[pos:]

    def _begin(self, body: bytes, there: bytes, size: int) -> None:
        """The rest of a large payload goes right to its place."""
        self._body = body
        self._payload = bytearray(size)
        self._payload[: len(there)] = there
        self._missing = size - len(there)

    def _deliver(self, body: bytes, payload: bytes | bytearray) -> None:
        try:
            self.deliver(body, payload)
        except Exception:
            # The edge of the wire: one message that upsets its reader must not stop all that follow.
            log.exception("a message was dropped")

    def _end(self, why: str) -> None:
        if not self.closed:
            self.close()
            self.lost(why)


def tune(sock: socket.socket) -> None:
    """No waiting for more bytes, and an end when the other machine acknowledges nothing for 10 s."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)


async def dial(host: str, port: int, fingerprint: bytes) -> Secured:
    """Connect to the front end whose certificate has that SHA-256; raises NoDirect."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, kind, protocol, _, address = found[0]
                plain = undo.enter_context(socket.socket(family, kind, protocol))
                plain.setblocking(False)
                await loop.sock_connect(plain, address)
        except OSError as error:
            raise NoDirect(why(error)) from error
        tune(plain)
        secured = Secured(plain, _context())
        try:
            await secured.handshake(loop)
        except OSError as error:
            raise NoDirect(why(error)) from error
        if hashlib.sha256(secured.certificate).digest() != fingerprint:
            raise NoDirect("it is not the front end's certificate")
        undo.pop_all()
        return secured


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # No authority signed it: the certificate itself is compared, with what came over CURVE.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def why(error: OSError) -> str:
    """What a user understands."""
    if isinstance(error, TimeoutError):
        return "nothing was heard for too long"
    return error.strerror or str(error)
