"""The agent's end of the control plane: dial the front end, stay connected.  Knows no libvirt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import zmq

from clusterhost.control import messages as m
from clusterhost.control.direct import Direct, NoDirect, dial
from clusterhost.control.discovery import Finder
from clusterhost.control.keys import KeyPair, Token
from clusterhost.control.sockets import (
    BULK_HWM,
    CONTROL_HWM,
    Channel,
    Monitor,
    Patient,
    Socket,
    dial_curve,
    tune,
)
from clusterhost.control.srv import LookupFailed

log = logging.getLogger(__name__)

FIRST_BACK_OFF, SOON_BACK_OFF, LAST_BACK_OFF = 0.2, 0.8, 5.0
SOON = 30.0
"""Seconds after the loss of a connection in which it is tried often: a front end that starts anew is back in these,
and its first calls wait 3 s at most (service.arrivals)."""
_ORDERS = (m.Relay, m.Operation, m.OpenStream)
_HANDSHAKE_SECONDS = 8.0
_WELCOME_SECONDS = 5.0
_REFUSED = "the front end refused this agent's key"
_ENDED = {
    zmq.Event.DISCONNECTED: "the connection broke",
    zmq.Event.CLOSED: "nobody listens there",
    zmq.Event.HANDSHAKE_FAILED_AUTH: _REFUSED,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "the other side is not the front end whose key was given",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
}
_WATCHED = int(zmq.Event.HANDSHAKE_SUCCEEDED)
for _event in _ENDED:
    _WATCHED |= int(_event)


Respond = Callable[[m.Message, bytes | None], None]


class TokenRefused(Exception):
    """The join token was already used, withdrawn, or is for another node."""


class LinkLost(Exception):
    """The connection could not be made or has ended; the text says why."""


class KeyRefused(LinkLost):
    """The front end does not know this agent's key."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the front end is (while a Finder has not said so, nowhere) and who we are.  incarnation rises with each
    start; boot_id is the kernel's."""

    node: str
    control: str
    bulk: str
    server_key: str
    incarnation: int
    boot_id: str
    version: str = ""


class LinkHandler(Protocol):
    """What the link tells (agent.agent).  All on the loop, never blocking."""

    def epoch_seen(self) -> int:
        """Highest epoch of a front end that this agent obeyed."""

    def on_up(self, welcome: m.Welcome) -> None: ...

    def on_down(self, reason: str) -> None: ...

    def on_control(self, message: m.ToAgent, payload: bytes) -> None: ...

    def on_bulk(self, message: m.Bulk, payload: bytes) -> None: ...

    def on_direct(self, message: m.Relay, payload: bytes, respond: Respond) -> None: ...


class Dialled:
    """A socket that dials, with news of it: `ready` when the handshake is done, `over` at its end."""

    def __init__(
        self, context: zmq.Context[Socket], address: str, keys: KeyPair, server_key: str, hwm: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self.socket = context.socket(zmq.DEALER)
        tune(self.socket, hwm)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        # A connection that broke is not mended below us: both sockets are made anew, with a new routing id.
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        dial_curve(self.socket, keys, server_key)
        self.socket.setsockopt(zmq.IPV6, int("[" in address))
        self.ready: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()
        self._monitor = Monitor(loop, self.socket, _WATCHED, self._happened)
        self.channel = Channel(loop, self.socket, self._frames)
        self.patient = Patient(loop, self.channel, routed=False)
        self.deliver: Callable[[bytes, bytes], None] = _ignore
        self.channel.start()
        self.socket.connect(address)

    def close(self) -> None:
        """Close it for good."""
        self._monitor.close()
        self.patient.close()
        self.channel.close()
        self.ready.cancel()
        self.over.cancel()

    async def handshake(self) -> None:
        """Wait until messages can be sent; raises LinkLost, KeyRefused."""
        await _first(_HANDSHAKE_SECONDS, self.ready, self.over)
        if self.over.done():
            raise KeyRefused(_REFUSED) if self.over.result() == _REFUSED else LinkLost(self.over.result())
        if not self.ready.done():
            raise LinkLost(f"no answer within {_HANDSHAKE_SECONDS:g} s")

    def send(self, message: m.Message, payload: bytes | memoryview | None = None) -> bool:
        """Send, in order; False when it cannot be kept either."""
        body = m.encode(message)
        return self.patient.send(body) if payload is None else self.patient.send(body, payload)

    def end(self, reason: str) -> None:
        """Say that it is over."""
        if not self.over.done():
            self.over.set_result(reason)

    def _frames(self, frames: list[bytes]) -> None:
        self.deliver(frames[0], frames[1] if len(frames) > 1 else b"")

    def _happened(self, event: zmq.Event) -> None:
        if event is zmq.Event.HANDSHAKE_SUCCEEDED:
            if not self.ready.done():
                self.ready.set_result(None)
        elif event in _ENDED:
            self.end(_ENDED[event])


async def _first(seconds: float | None, *futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done, or the seconds are over."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def _ignore(body: bytes, payload: bytes) -> None:
    """Before anybody listens."""


class Link:
    """Keeps the pair of connections up.  `number` counts them: an answer belongs where its call came from.

    fresh: the key was made just now, so the token comes first.  finder: says whom to dial; `place` does without it."""

    def __init__(
        self,
        place: Place,
        keys: KeyPair,
        handler: LinkHandler,
        token: Token | None = None,
        *,
        fresh: bool = False,
        finder: Finder | None = None,
    ) -> None:
        self.number = 0
        self._dials = 0
        self.up = False
        self._place = place
        self._keys = keys
        self._handler = handler
        self._token = token
        self._fresh = fresh
        self._finder = finder or Finder(place.control, place.bulk)
        self._context: zmq.Context[Socket] = zmq.Context(io_threads=2)
        self._control: Dialled | None = None
        self._bulk: Dialled | None = None
        self._newest = 0
        self._direct: Direct | None = None
        self._dialling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        clock = asyncio.get_running_loop().time
        back_off, lost = FIRST_BACK_OFF, clock()
        told: set[str] = set()
        try:
            while True:
                number = self.number
                try:
                    await self._find()
                    if self._fresh and self._token is not None:
                        await self.register()
                        self._fresh = False
                    await self._connect()
                    reason = "registered"
                except LookupFailed as error:
                    reason = str(error)
                except (LinkLost, TokenRefused) as error:
                    # A token that was used up may have been so by us, in a run that did not hear the answer.
                    self._fresh = False
                    reason = str(error)
                if self.number != number:
                    self._finder.connected()
                    back_off, lost = FIRST_BACK_OFF, clock()
                else:
                    back_off = min(back_off * 2, SOON_BACK_OFF if clock() < lost + SOON else LAST_BACK_OFF)
                said = f"no connection to the front end at {self._place.control or '?'}: {reason}"
                if said not in told:
                    log.warning("%s", said)
                told = set() if self.number != number else {*told, said}
                await asyncio.sleep(back_off * random.uniform(0.8, 1.2))
        finally:
            self._context.destroy(linger=0)

    @property
    def host(self) -> str:
        """Where the front end is."""
        return urlsplit(self._place.control).hostname or ""

    async def _find(self) -> None:
        control, bulk = await self._finder.next()
        self._place = replace(self._place, control=control, bulk=bulk)

    def send(self, message: m.Message, payload: bytes | None = None) -> None:
        """Send on the control connection; dropped when there is none (the next snapshot says it all)."""
        if self.up and self._control is not None and not self._control.send(message, payload):
            self._control.end("the front end does not take messages as fast as they come")

    def send_bulk(self, message: m.Message, payload: bytes | memoryview = b"") -> None:
        """Send on the bulk connection."""
        if self.up and self._bulk is not None and not self._bulk.send(message, payload):
            self._bulk.end("the front end does not take data as fast as it was allowed to come")

    async def register(self) -> None:
        """Trade the one-time token for the right to use our own key; raises TokenRefused, LinkLost."""
        token = self._token
        if token is None:
            raise KeyRefused(_REFUSED)
        dialled = Dialled(
            self._context, self._place.control, token.join_pair, self._place.server_key, CONTROL_HWM
        )
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        dialled.deliver = lambda body, _: None if answer.done() else answer.set_result(body)
        try:
            await dialled.handshake()
            dialled.send(m.Register(self._place.node, self._keys.public))
            await _first(_WELCOME_SECONDS, answer, dialled.over)
            if not answer.done():
                raise LinkLost("the front end did not answer the registration")
            message = m.decode_to_agent(answer.result())
        except KeyRefused as error:
            raise TokenRefused("the join token was already used or withdrawn") from error
        finally:
            answer.cancel()
            dialled.close()
        if not isinstance(message, m.Registered):
            raise TokenRefused(getattr(message, "refused", "the front end refused the registration"))

    async def _connect(self) -> None:
        """One connection, from the first dialling to its end; always raises LinkLost in the end."""
        place = self._place
        control = Dialled(self._context, place.control, self._keys, place.server_key, CONTROL_HWM)
        bulk = Dialled(self._context, place.bulk, self._keys, place.server_key, BULK_HWM)
        try:
            try:
                await control.handshake()
            except KeyRefused:
                if self._token is None:
                    raise
                await self.register()
                return
            await bulk.handshake()
            self._control, self._bulk = control, bulk
            await self._greet(control, bulk)
            await _first(None, control.over, bulk.over)
            raise LinkLost((control.over if control.over.done() else bulk.over).result())
        finally:
            was_up, self.up = self.up, False
            self._control = self._bulk = None
            await self._close_direct()
            control.close()
            bulk.close()
            if was_up:
                self._handler.on_down("the connection to the front end is gone")

    async def _greet(self, control: Dialled, bulk: Dialled) -> None:
        place = self._place
        welcomed: asyncio.Future[m.Welcome] = asyncio.get_running_loop().create_future()

        def wait_for_welcome(body: bytes, payload: bytes) -> None:
            message = self._decode(control, body)
            if isinstance(message, m.Welcome) and not welcomed.done():
                welcomed.set_result(message)
                if not message.refused:
                    self._welcome(control, bulk, message)

        control.deliver = wait_for_welcome
        self._dials += 1
        bulk.send(m.Attach(place.node, place.incarnation, self._dials), b"")
        control.send(
            m.Hello(
                place.node,
                place.incarnation,
                place.boot_id,
                epoch_seen=self._handler.epoch_seen(),
                version=place.version,
                dial=self._dials,
            )
        )
        await _first(_WELCOME_SECONDS, welcomed, control.over)
        if not welcomed.done():
            raise LinkLost("the front end did not answer the greeting")
        if welcomed.result().refused:
            raise LinkLost(f"the front end refused this agent: {welcomed.result().refused}")

    def _welcome(self, control: Dialled, bulk: Dialled, welcome: m.Welcome) -> None:
        """At once, not a turn of the loop later: calls may follow the welcome in the same read."""
        if welcome.epoch < self._handler.epoch_seen():
            control.end(f"the front end's epoch {welcome.epoch} is older than one already obeyed")
            return
        self.number += 1
        self.up = True
        handler = self._handler
        self._newest = 0

        def on_control(body: bytes, payload: bytes) -> None:
            message = self._decode(control, body)
            if isinstance(message, m.Welcome):
                if message.refused:
                    control.end(f"the front end says: {message.refused}")
            elif message is not None and self._is_new(message):
                handler.on_control(message, payload)

        def on_bulk(body: bytes, payload: bytes) -> None:
            if (message := m.decode_bulk(body)) is None:
                log.warning("a bulk message was not understood")
            else:
                handler.on_bulk(message, payload)

        control.deliver, bulk.deliver = on_control, on_bulk
        handler.on_up(welcome)
        if welcome.direct_port:
            self._dialling = asyncio.get_running_loop().create_task(self._dial_direct(welcome))

    def _is_new(self, message: m.ToAgent) -> bool:
        """The ids of orders rise: what comes a second time is not done a second time."""
        if isinstance(message, _ORDERS):
            if message.id <= self._newest:
                return False
            self._newest = message.id
        return True

    async def _dial_direct(self, welcome: m.Welcome) -> None:
        """Without it calls come by control, as they do until it is there."""
        try:
            secured = await dial(self.host, welcome.direct_port, welcome.direct_key)
        except NoDirect as error:
            log.warning("no direct connection to port %d of the front end: %s", welcome.direct_port, error)
            return
        handler = self._handler
        under_way = 0

        def deliver(body: bytes, payload: bytes | bytearray) -> None:
            nonlocal under_way
            try:
                message = m.decode_relay(body)
            except msgspec.DecodeError:
                log.warning("a direct message was not understood")
                return
            under_way += 1
            handler.on_direct(message, bytes(payload), respond)

        def respond(message: m.Message, payload: bytes | None) -> None:
            nonlocal under_way
            under_way -= 1
            if not direct.send(m.encode(message), payload or b"", under_way > 0):
                # Calls whose answers are lost have to end now, not at their deadline.
                direct.close()

        def lost(why: str) -> None:
            log.info("the direct connection broke: %s", why)

        loop = asyncio.get_running_loop()
        direct = self._direct = Direct(loop, secured, deliver, lost, pausing=True)
        direct.send(welcome.ticket, b"")

    async def _close_direct(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait([self._dialling])
            self._dialling = None
        if self._direct is not None:
            self._direct.close()
            self._direct = None

    def _decode(self, control: Dialled, body: bytes) -> m.ToAgent | None:
        with contextlib.suppress(msgspec.DecodeError):
            message: m.ToAgent = m.decode_to_agent(body)
            return message
        answer = m.unsupported(body)
        log.warning("a message was not understood: %r", answer.what)
        control.send(answer)
        return None
