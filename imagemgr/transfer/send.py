"""Serves what was offered to whoever shows its ticket: a thread for each connection.  Knows no orders."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field

from imagemgr.chunks import CHUNK
from imagemgr.transfer import files, tls
from imagemgr.transfer.errors import SourceGone
from imagemgr.transfer.limits import Limit
from imagemgr.transfer.manifests import Manifests
from imagemgr.transfer.squeeze import Squeezer
from imagemgr.transfer.supply import Supply
from imagemgr.transfer.wire import (
    PIECE,
    VERSION,
    Channel,
    GetChunk,
    GetHave,
    GetManifest,
    Gone,
    Hello,
    Kind,
    Request,
    Says,
)

log = logging.getLogger(__name__)

LIFE = 3600.0
"""Seconds that an offer is good when nobody uses it."""
IDLE = 300.0
"""Seconds after which a connection is closed that asks for nothing."""
AT_ONCE = 32
"""Connections; each has less than a MiB."""


@dataclass(eq=False)
class Offer:
    """used: when it was used last; users: connections."""

    supply: Supply
    limit: Limit
    used: float
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """`offer` and `listen` say what a receiver needs.  sending: the node's limit, shared by all who fetch; port: 0
    for any."""

    def __init__(self, manifests: Manifests, sending: Limit, port: int = 0) -> None:
        self._manifests = manifests
        self._sending = sending
        self._port = port
        self._identity: tls.Identity | None = None
        self._listeners: dict[str, socket.socket] = {}
        self._offers: dict[bytes, Offer] = {}
        self._lock = threading.Lock()
        self._room = threading.Semaphore(AT_ONCE)

    @property
    def fingerprint(self) -> bytes:
        """Of the certificate; TransferRefused when none can be made."""
        with self._lock:
            if self._identity is None:
                self._identity = tls.Identity()
            return self._identity.fingerprint

    def listen(self, address: str) -> int:
        """Serve at this address of the node too; the port.  TransferRefused."""
        with self._lock:
            listener = self._listeners.get(address)
            if listener is None:
                listener = self._listeners[address] = tls.listen(address, self._port)
                threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            return int(listener.getsockname()[1])

    def offer(self, supply: Supply, bytes_per_second: int) -> bytes:
        """A ticket for it."""
        ticket = secrets.token_bytes(32)
        with self._lock:
            self._forget()
            self._offers[ticket] = Offer(supply, Limit(bytes_per_second), time.monotonic())
        return ticket

    def gives(self, supply: Supply) -> bool:
        """There is an offer of it."""
        with self._lock:
            self._forget()
            return any(offer.supply is supply for offer in self._offers.values())

    def _forget(self) -> None:
        now = time.monotonic()
        for ticket, offer in list(self._offers.items()):
            if not offer.users and now - offer.used > LIFE:
                del self._offers[ticket]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError as error:
                log.warning("no connection can be accepted: %s", error.strerror)
                time.sleep(0.5)
                continue
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()
            else:
                plain.close()

    def _serve(self, plain: socket.socket) -> None:
        assert self._identity is not None
        try:
            with contextlib.closing(plain):
                stream = self._identity.greet(plain)
                self._talk(Channel(stream), stream)
        except (SourceGone, OSError) as error:
            log.info("a receiver is gone: %s", error)
        finally:
            self._room.release()

    def _talk(self, channel: Channel, stream: tls.Stream) -> None:
        hello = channel.request()
        if not isinstance(hello, Hello) or hello.version != VERSION:
            return
        with self._lock:
            offer = self._offers.get(hello.ticket)
            if offer is not None:
                offer.users += 1
        if offer is None:
            channel.send(Gone("its offer has ended"))
            return
        stream.settimeout(IDLE)
        giving = _Giving(channel, offer, hello.receiver, self._manifests, self._sending)
        try:
            giving.run()
        finally:
            giving.close()
            with self._lock:
                offer.users -= 1
                offer.used = time.monotonic()


class _Giving:
    """One connection's answers."""

    def __init__(
        self, channel: Channel, offer: Offer, receiver: bytes, manifests: Manifests, sending: Limit
    ) -> None:
        self._channel = channel
        self._supply = offer.supply
        self._limits = (offer.limit, sending)
        self._receiver = receiver
        self._manifests = manifests
        self._squeezer = Squeezer()
        self._buffer = memoryview(bytearray(PIECE))
        self._fd = -1

    def run(self) -> None:
        """Until the receiver has closed.  SourceGone."""
        while (request := self._channel.request()) is not None:
            try:
                self._answer(request)
            except SourceGone as error:
                self._channel.send(Gone(str(error)))
            except OSError as error:
                self._channel.send(Gone(f"it cannot be read: {error.strerror}"))

    def close(self) -> None:
        """Close its file."""
        if self._fd >= 0:
            os.close(self._fd)

    def _answer(self, request: Request) -> None:
        match request:
            case GetManifest():
                self._give_manifest()
            case GetHave():
                self._channel.send(self._supply.have())
            case GetChunk(index, length):
                self._give_chunk(index, length)
            case Hello():
                raise SourceGone("it has been greeted already")

    def _give_manifest(self) -> None:
        path = self._manifests.path(self._supply.digest)
        if not path.exists():
            self._channel.send(Says(0))
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._channel.send(Says(size, self._supply.room))
            while piece := file.read(PIECE):
                self._channel.send_piece(Kind.RAW, piece)

    def _give_chunk(self, index: int, length: int) -> None:
        if not (self._supply.offers(index) and 0 < length <= CHUNK):
            raise SourceGone(f"it has no chunk {index}")
        if self._fd < 0:
            self._fd = self._supply.descriptor()
        offset, squeezed = index * CHUNK, False
        for at in range(0, length, PIECE):
            view = self._buffer[: min(PIECE, length - at)]
            files.read_into(self._fd, offset + at, view)
            if not at:
                squeezed = self._squeezer.wanted(view)
            if at + len(view) >= length:
                # Before the last piece leaves: what is not what it was is never taken for corrupt.
                self._supply.check(self._fd)
            packed = self._squeezer.packed(view) if squeezed else None
            self._send(Kind.RAW if packed is None else Kind.ZSTD, view if packed is None else packed)

    def _send(self, kind: Kind, body: bytes | memoryview) -> None:
        began = time.monotonic()
        for limit in self._limits:
            limit.take(self._receiver, len(body))
        self._channel.send_piece(kind, body)
        self._squeezer.sent(len(body), time.monotonic() - began)
