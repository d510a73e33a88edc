"""Where agents dial the front end for direct connections: a certificate made at start, a listener, tickets.

Knows no messages: who shows a ticket is handed to whoever gave it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import socket
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusterhost.control.direct import Direct, NoDirect, tune, why
from clusterhost.control.messages import MAX_MESSAGE
from clusterhost.control.tls import HANDSHAKE_SECONDS, Secured

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Connections that have not shown a ticket yet."""
TICKET_SIZE = 32
"""Bytes, and all that a stranger may send."""
_PAUSE = 0.5
_COMMAND = ("openssl", "req", "-x509", "-batch", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
_OPTIONS = ("-nodes", "-subj", "/CN=clusterhost", "-days", "3650", "-keyout", "-", "-out", "-")

Taken = Callable[[Direct], None]


@dataclass(frozen=True, slots=True)
class Offer:
    """What an agent needs to dial."""

    port: int
    fingerprint: bytes
    ticket: bytes


class DirectServer:
    """`offer(taken)` gives a ticket; the connection that shows it first goes to `taken`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listener: socket.socket | None = None
        self._tickets: dict[bytes, Taken] = {}
        self._greeting: set[asyncio.Task[None]] = set()
        self._unproven: set[Direct] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError, NoDirect (no certificate can be made)."""
        pem = await _new_certificate()
        self._context = _context(pem)
        self._fingerprint = hashlib.sha256(_der(pem)).digest()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = listener = socket.create_server((host, port), family=family, backlog=128)
        listener.setblocking(False)
        self._port = int(listener.getsockname()[1])
        self._loop.add_reader(listener.fileno(), self._accept)

    async def stop(self) -> None:
        """Close the listener and what nobody has taken; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        greeting = list(self._greeting)
        for task in greeting:
            task.cancel()
        await asyncio.gather(*greeting, return_exceptions=True)
        self._tickets.clear()
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def offer(self, taken: Taken) -> Offer | None:
        """A new ticket, good once; None while nobody listens."""
        if self._listener is None:
            return None
        ticket = secrets.token_bytes(TICKET_SIZE)
        self._tickets[ticket] = taken
        return Offer(self._port, self._fingerprint, ticket)

    def withdraw(self, ticket: bytes) -> None:
        """That ticket is good no more."""
        self._tickets.pop(ticket, None)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("no direct connection can be accepted: %s", error.strerror)
            self._loop.remove_reader(self._listener.fileno())
            self._timer = self._loop.call_later(_PAUSE, self._resume)
            return
        if len(self._greeting) >= AT_ONCE:
            sock.close()
            return
        task = self._loop.create_task(self._greet(sock))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    async def _greet(self, plain: socket.socket) -> None:
        """Handshake, then the first message is the ticket."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(plain)
            plain.setblocking(False)
            tune(plain)
            secured = Secured(plain, self._context, server_side=True)
            try:
                await secured.handshake(self._loop)
            except OSError as error:
                log.info("a direct connection failed: %s", why(error))
                return
            undo.pop_all()
        shown: asyncio.Future[bytes] = self._loop.create_future()

        def first(body: bytes, payload: bytes | bytearray) -> None:
            if not shown.done():
                shown.set_result(body)
                # At once: calls may be sent on it from now on, and no second message is due before.
                if taken := self._tickets.pop(body, None):
                    self._unproven.discard(direct)
                    direct.most = MAX_MESSAGE
                    taken(direct)
                else:
                    direct.close()

        def lost(_: str) -> None:
            shown.cancel()

        direct = Direct(self._loop, secured, first, lost, most=TICKET_SIZE)
        self._unproven.add(direct)
        try:
            await asyncio.wait([shown], timeout=HANDSHAKE_SECONDS)
        finally:
            if direct in self._unproven:
                self._unproven.discard(direct)
                direct.close()


async def _new_certificate() -> bytes:
    """A fresh key and a certificate that it signed itself, as PEM; raises NoDirect."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, *_OPTIONS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        pem, said = await process.communicate()
    except OSError as error:
        raise NoDirect(f"openssl cannot be run: {error.strerror}") from error
    if process.returncode:
        raise NoDirect(f"openssl made no certificate: {said.decode(errors='replace').strip()}")
    return pem


def _context(pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Nobody resumes a session.
    context.num_tickets = 0
    with tempfile.TemporaryDirectory(prefix="clusterhost-") as directory:
        path = Path(directory, "direct.pem")
        path.touch(mode=0o600)
        path.write_bytes(pem)
        context.load_cert_chain(path)
    return context


def _der(pem: bytes) -> bytes:
    text = pem.decode("ascii")
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :].strip())
