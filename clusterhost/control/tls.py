"""TLS over a socket, through memory: one system call for many records.  Knows bytes.

`ssl.SSLSocket` makes a system call or two for each record of 16 KiB, and wants the very bytes again that the kernel did
not take.  Here what was sealed once is kept until it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

HANDSHAKE_SECONDS = 5.0
PART = 262144
"""Bytes sealed, or read, at once: OpenSSL keeps memory for that many as long as the connection lives."""
RECORD = 16384
"""A TLS record's most bytes."""


class HandshakeFailed(OSError):
    """The text says why."""


class Secured:
    """A connected non-blocking socket and its TLS.  `handshake` comes first.

    seal(data): at most PART bytes, to go out with what `sealed()` returns next.
    feed(data): what the socket gave; then read(RECORD): what one record says.  It raises ssl.SSLWantReadError when no
    whole one is there, and other ssl.SSLErrors; `more` is false when there is none for sure."""

    __slots__ = ("_arrived", "_leaving", "_tls", "feed", "read", "seal", "sealed", "sock")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        self.sock = sock
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=server_side)
        # As they are: a method around each is a tenth of a small message's way.
        self.seal, self.sealed = self._tls.write, self._leaving.read
        self.feed, self.read = self._arrived.write, self._tls.read

    async def handshake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError (ssl.SSLError, TimeoutError too).  What came behind it waits for `read`."""
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            while not self._shaken():
                await self._send(loop)
                data = await loop.sock_recv(self.sock, PART)
                if not data:
                    raise HandshakeFailed("it was closed at the other end")
                self.feed(data)
            await self._send(loop)

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._leaving.pending:
            await loop.sock_sendall(self.sock, self.sealed())

    @property
    def certificate(self) -> bytes:
        """The other end's, DER; empty when it showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def more(self) -> bool:
        """Something of a record is there that was not read."""
        return bool(self._arrived.pending or self._tls.pending())

    def fill(self, place: memoryview) -> int:
        """Read record after record, as far as they are there; how many bytes are in the place now.

        Raises ssl.SSLError, ssl.SSLZeroReturnError at the end of TLS (`read` gives b"" then)."""
        read, size, at = self.read, len(place), 0
        with contextlib.suppress(ssl.SSLWantReadError):
            while at < size:
                if not (count := read(size, place[at:])):
                    raise ssl.SSLZeroReturnError
                at += count  # type: ignore[operator]
        return at

    def close(self) -> None:
        """The socket."""
        self.sock.close()
