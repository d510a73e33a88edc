"""ZeroMQ sockets driven by their FD on an asyncio loop.  Knows frames, not what is in them.

The FD of a ZeroMQ socket is edge-triggered: it fires once, and any call on the socket (a send too) may
consume the edge.  So a reader drains until EAGAIN, and a send outside a drain looks whether something became
readable.
No task and no future is made for a message.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq
import zmq.backend
from zmq.utils.monitor import parse_monitor_message

from clusterhost.control.keys import KeyPair
from clusterhost.control.messages import MAX_MESSAGE

log = logging.getLogger(__name__)

CONTROL_HWM = 1000
BULK_HWM = 10_000
ZAP_DOMAIN = b"agents"
_BATCH = 256
_RETRY = 0.005
_WAITING_LIMIT = 64 * 1024 * 1024

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.SNDMORE) | _NOBLOCK
_EVENTS, _RCVMORE, _POLLIN = int(zmq.EVENTS), int(zmq.RCVMORE), int(zmq.POLLIN)
# The wrappers of the public class cost as much again as the calls below.
_recv: Any = zmq.backend.Socket.recv
_send: Any = zmq.backend.Socket.send
_get: Any = zmq.backend.Socket.get

Socket = zmq.Socket[bytes]


class PeerGone(Exception):
    """A router has no connection of that routing id."""


def tune(socket: Socket, hwm: int) -> None:
    """Set what every socket of the control plane has: heartbeats, bounds, no waiting (ms, bytes)."""
    options = {
        zmq.LINGER: 0,
        zmq.SNDTIMEO: 0,
        zmq.SNDHWM: hwm,
        zmq.RCVHWM: hwm,
        zmq.MAXMSGSIZE: MAX_MESSAGE,
        zmq.HEARTBEAT_IVL: 1000,
        zmq.HEARTBEAT_TIMEOUT: 3000,
        zmq.HEARTBEAT_TTL: 4000,
        zmq.HANDSHAKE_IVL: 5000,
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 30,
        zmq.TCP_KEEPALIVE_INTVL: 5,
        zmq.TCP_KEEPALIVE_CNT: 3,
    }
    for option, value in options.items():
        socket.setsockopt(option, value)


def serve_curve(socket: Socket, keys: KeyPair) -> None:
    """Make it the CURVE server whose clients the ZAP handler judges."""
    socket.curve_server = True
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.zap_domain = ZAP_DOMAIN


def dial_curve(socket: Socket, keys: KeyPair, server_key: str) -> None:
    """Make it a CURVE client that accepts no other server than the one with `server_key`."""
    socket.curve_serverkey = server_key.encode()
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()


def endpoint(socket: Socket) -> str:
    """The address that a socket is bound to, its port filled in."""
    found = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(found, bytes)
    return found.rstrip(b"\0").decode()


class Channel:
    """One socket with one peer (DEALER, PAIR, REP): `deliver(frames)` for each message."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: Socket, deliver: Callable[[list[bytes]], None]
    ) -> None:
        self.socket = socket
        self._loop = loop
        self._deliver = deliver
        self._draining = False
        self._closed = False
        self._fd = int(socket.getsockopt(zmq.FD))

    def start(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Stop reading and close the socket, dropping what is queued."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self.socket.close(linger=0)

    def send(self, *frames: bytes | memoryview) -> bool:
        """Queue one message; False when the high-water mark is reached or nobody is connected.

        Raises PeerGone when a router does not know the routing id."""
        if self._closed:
            return False
        socket = self.socket
        last = len(frames) - 1
        try:
            for frame in frames[:last]:
                _send(socket, frame, _MORE)
            _send(socket, frames[last], _NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                raise PeerGone from None
            raise
        if not self._draining and _get(socket, _EVENTS) & _POLLIN:
            self._loop.call_soon(self._drain)
        return True

    def _drain(self) -> None:
        if self._draining or self._closed:
            return
        self._draining = True
        try:
            for _ in range(_BATCH):
                self._one()
                if self._is_closed():
                    return
        except zmq.Again:
            return
        finally:
            self._draining = False
        # More may be there, but others on the loop come first.
        self._loop.call_soon(self._drain)

    def _is_closed(self) -> bool:
        """Whoever got a message may have closed us."""
        return self._closed

    def _one(self) -> None:
        frames = [_recv(self.socket, _NOBLOCK)]
        while _get(self.socket, _RCVMORE):
            frames.append(_recv(self.socket))
        try:
            self._deliver(frames)
        except Exception:
            # The edge of the wire: one message that upsets its reader must not stop all that follow.
            log.exception("a message was dropped")


class RouterChannel(Channel):
    """A ROUTER: `route(identity, user, body, payload)` for each message.

    `user` (ZAP's User-Id of the connection) is looked up only while the identity is not in `known`.
    Identities are the ones that the router itself gives: they begin with a zero byte, which no peer may
    choose (libzmq refuses it), and are not given twice: what was once bound to a key stays bound to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: Socket,
        route: Callable[[bytes, str, bytes, bytes], None],
        known: dict[bytes, Any],
    ) -> None:
        super().__init__(loop, socket, lambda _: None)
        self._route = route
        self._known = known

    def _one(self) -> None:
        socket = self.socket
        identity = _recv(socket, _NOBLOCK)
        user = ""
        if identity in self._known:
            body = _recv(socket)
        else:
            frame = socket.recv(copy=False)
            user = str(frame.get("User-Id"))
            body = frame.bytes
        payload = _recv(socket) if _get(socket, _RCVMORE) else b""
        while _get(socket, _RCVMORE):
            _recv(socket)
        if identity[:1] != b"\0":
            return
        try:
            self._route(identity, user, body, payload)
        except Exception:
            # The edge of the wire: one message that upsets its reader must not stop all that follow.
            log.exception("a message was dropped")


class Patient:
    """Sends that must not be dropped at the high-water mark: they wait here, in order, up to 64 MiB."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel, *, routed: bool) -> None:
        self._loop = loop
        self._channel = channel
        self._routed = routed
        self._waiting: dict[bytes, deque[tuple[bytes | memoryview, ...]]] = {}
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, *frames: bytes | memoryview) -> bool:
        """Send, or keep for later; False when too much waits already.  PeerGone as `Channel.send`."""
        peer = bytes(frames[0]) if self._routed else b""
        if peer not in self._waiting and self._channel.send(*frames):
            return True
        size = sum(map(len, frames))
        if self._size + size > _WAITING_LIMIT:
            return False
        self._waiting.setdefault(peer, deque()).append(frames)
        self._size += size
        if self._timer is None:
            self._timer = self._loop.call_later(_RETRY, self._retry)
        return True

    def forget(self, peer: bytes) -> None:
        """Drop what waits for a peer that is gone."""
        for frames in self._waiting.pop(peer, ()):
            self._size -= sum(map(len, frames))

    def close(self) -> None:
        """Drop everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._size = 0

    def _retry(self) -> None:
        self._timer = None
        for peer in list(self._waiting):
            self._flush(peer)
        if self._waiting:
            self._timer = self._loop.call_later(_RETRY, self._retry)

    def _flush(self, peer: bytes) -> None:
        queue = self._waiting[peer]
        try:
            while queue and self._channel.send(*queue[0]):
                self._size -= sum(map(len, queue.popleft()))
        except PeerGone:
            self.forget(peer)
            return
        if not queue:
            del self._waiting[peer]


class Monitor:
    """Tells of connections that came and went: `happened(event)` with a zmq.Event of `events`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: Socket,
        events: int,
        happened: Callable[[zmq.Event], None],
    ) -> None:
        self._watched = socket
        self._channel = Channel(
            loop,
            socket.get_monitor_socket(events),
            lambda frames: happened(zmq.Event(parse_monitor_message(frames)["event"])),
        )
        self._channel.start()

    def close(self) -> None:
        """Stop watching; call it before the watched socket is closed."""
        self._watched.disable_monitor()
        self._channel.close()
