"""One client's connection: its state, its calls in flight, its streams.  Knows no procedure (see ROUTES).

States: before authentication (compat's Connection keeps that door), before CONNECT_OPEN, open, closed; an
open one is read-only or not for good, and sees the cluster or one node.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import arriving, errors, passthrough
from clusterhost.frontend.libvirt.descriptors import Arrived
from clusterhost.frontend.libvirt.transport import HIGH_WATER, Descriptor, Transport, close_all
from clusterhost.model.errors import ClusterError
from clusterhost.service.ports import Caller
from compat.libvirt import events as wire
from compat.libvirt.connection import Connection, Role
from compat.libvirt.errors import LocalError, ProtocolError, XdrError
from compat.libvirt.events import Call, StreamKey
from compat.libvirt.keepalive import Action, Keepalive

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.frontend import Front
    from clusterhost.frontend.libvirt.route import Route
    from clusterhost.frontend.libvirt.streams import Bridge

log = logging.getLogger(__name__)

EVENT_BACKLOG = 8 * 1024 * 1024
"""Bytes left unread at which a client that gets events is given up."""


class Session:
    """What the handlers see of a client: `world`, `view` (a node's name or None), `caller`, `readonly`."""

    def __init__(self, front: Front, transport: Transport, number: int, *, readonly: bool, who: str) -> None:
        self.front = front
        self.world = front.world
        self.cluster = front.world.cluster
        self.translator = front.translator
        self.transport = transport
        self.number = number
        self.who = who
        self.readonly = readonly
        self.readonly_socket = readonly
        self.view: str | None = None
        self.opened = False
        self.closed = False
        self.tied = False
        """Nodes may keep something for this client (autodestroy ...): they are told when it goes."""
        self.wants_close_event = False
        self.listed = False
        self.looked_up: set[bytes] = set()
        """Since its last list this client asked for these domains out of reach by name, uuid or id."""
        self.descriptors = Arrived()
        self.connection = Connection(Role.SERVER, pass_unknown=True)
        # No authentication yet: unix sockets by their mode, TCP on loopback only (listeners.py).
        self.connection.authenticated = True
        self.keepalive: Keepalive | None = None
        self.bridges: dict[StreamKey, Bridge] = {}
        self._routes = front.routes
        self._awaited = front.world.arrivals.awaited
        self._limit = front.max_client_requests
        self._in_flight = 0
        self._backlog: deque[wire.Event] = deque()
        self._working = False
        self._others: dict[type[wire.Event], Callable[[Any], None]] = {
            wire.StreamData: self._stream,
            wire.StreamHole: self._stream,
            wire.StreamFinish: self._stream,
            wire.StreamAbort: self._stream,
            wire.DescriptorsDropped: lambda event: close_all(self.descriptors.take(event.count)),
        }

    @property
    def caller(self) -> Caller:
        """Who asks, for the use cases."""
        return Caller(view=self.view, readonly=self.readonly, session=self.number, who=self.who)

    @property
    def busy(self) -> bool:
        """Calls of it are not answered yet."""
        return self._in_flight > 0

    # -- what comes in

    def room(self) -> memoryview | None:
        """For the transport: where the rest of a large packet goes."""
        return self.connection.room()

    def data_received(self, data: memoryview, fds: Sequence[int], placed: int) -> None:
        """From the transport."""
        if fds and not self.descriptors.arrived(fds):
            self.drop("it sent more descriptors than its calls announced")
            return
        if self.keepalive is not None:
            self.keepalive.heard(self.front.loop.time())
        connection = self.connection
        try:
            events = connection.receive_data(data, placed)
        except ProtocolError as error:
            self._backlog.extend(error.events)
            self._work()
            self.drop(error.reason)
            return
        if len(events) == 1 and not self._backlog and self._in_flight < self._limit:
            self._take(events[0])
        elif events:
            self._backlog.extend(events)
            self._work()
        answers = connection.data_to_send()
        if answers:
            self.transport.write(answers)
        if self._backlog or self.transport.buffered > HIGH_WATER:
            self.transport.pause_reading()

    def _work(self) -> None:
        """Take what waits, as far as the limit of calls in flight allows."""
        if self._working:
            return
        self._working = True
        try:
            # A client that does not read its replies gets no new ones made.
            while (
                self._backlog
                and self._in_flight < self._limit
                and self.transport.buffered <= HIGH_WATER
                and not self.closed
            ):
                self._take(self._backlog.popleft())
        finally:
            self._working = False
        if not self._backlog and self.transport.buffered <= HIGH_WATER:
            self.transport.resume_reading()

    def _take(self, event: wire.Event) -> None:
        if type(event) is Call:
            if event.fds:
                with self.descriptors.given_to(event):
                    self._call(event)
            else:
                self._call(event)
        else:
            handler = self._others.get(type(event))
            if handler is not None:
                handler(event)

    def _call(self, call: Call) -> None:
        self._in_flight += 1
        route = self._routes.get((call.program, call.procedure))
        if self._awaited and route is not None and arriving.waits(self, call, route):
            return
        self.answer(call, route)

    def answer(self, call: Call, route: Route | None) -> None:
        """Answer a call that counts as in flight, now or when its node has answered."""
        try:
            if route is None:
                if not self.opened:
                    raise errors.unknown_procedure(call.procedure)
                passthrough.relay_newer(self, call)
                return
            if not self.opened and not route.before_open:
                raise errors.not_open()
            if self.readonly and route.guard is not None:
                route.guard(route.procedure, call.payload)
            run = route.run if self.view is None else route.run_in_view
            run(self, call, route)
        except (ClusterError, XdrError, LocalError) as error:
            self.fail(call, error)
        except Exception:
            # The edge of the wire: whatever went wrong, this client gets an answer and the others go on.
            log.exception("session %d: call %d:%d failed", self.number, call.program, call.procedure)
            self.fail(call, errors.internal("the call failed inside the front end; its log has the reason"))

    def _stream(self, event: Any) -> None:
        bridge = self.bridges.get(event.key)
        if bridge is not None:
            bridge.from_client(event)

    # -- what goes out

    def reply(self, call: Call, payload: bytes = b"") -> None:
        """Answer a call with its ret struct."""
        if not self.closed:
            self.transport.write(self.connection.reply(call, payload))
        self.release()

    def reply_with_descriptor(self, call: Call, payload: bytes, fd: int) -> None:
        """Answer a call with its ret struct and a descriptor, which is ours to close."""
        if self.closed:
            close_all((fd,))
        else:
            self.transport.write(self.connection.reply_with_fds(call, payload, 1))
            self.transport.write(Descriptor.of(fd))
        self.release()

    def fail(self, call: Call, error: Exception) -> None:
        """Answer a call with an error."""
        if not self.closed:
            route = self._routes.get((call.program, call.procedure))
            message = errors.to_wire(error, route.procedure if route is not None else None)
            self.transport.write(self.connection.error(call, message))
        self.release()

    def spawn(self, call: Call, work: Awaitable[Any], finish: Callable[[Any], None]) -> None:
        """Wait for `work` in a task and hand its result to `finish`, which answers the call."""

        async def waited() -> None:
            try:
                finish(await work)
            except (ClusterError, XdrError, LocalError) as error:
                self.fail(call, error)
            except Exception:
                # The edge of the wire, as in _call.
                log.exception("session %d: call %d:%d failed", self.number, call.program, call.procedure)
                self.fail(
                    call, errors.internal("the call failed inside the front end; its log has the reason")
                )

        self.front.spawn(waited())

    def send(self, data: bytes) -> None:
        """Packets of a stream."""
        if not self.closed:
            self.transport.write(data)

    def send_event(self, program: int, procedure: int, payload: bytes) -> None:
        """Report an event; a client that leaves too many unread is dropped."""
        if self.closed:
            return
        self.transport.write(self.connection.message(program, procedure, payload))
        if self.transport.buffered > EVENT_BACKLOG:
            self.drop(f"it left {self.transport.buffered} bytes of events unread")

    # -- room

    def hold(self) -> None:
        """A stream packet waits for its node: it counts like a call in flight."""
        self._in_flight += 1

    def release(self) -> None:
        """A call is answered, or a waiting stream packet is on its way."""
        self._in_flight -= 1
        if self._backlog and not self._working:
            self._work()

    def drained(self) -> None:
        """From the transport: the client reads again."""
        for bridge in list(self.bridges.values()):
            bridge.drained()
        self._work()

    # -- life and death

    def start_keepalive(self) -> None:
        """The client understands keepalive (it asked feature 10): ping it when it is silent."""
        if self.keepalive is None and self.front.keepalive_interval > 0:
            self.keepalive = Keepalive(
                self.front.keepalive_interval, self.front.keepalive_count, self.front.loop.time()
            )

    def tick(self, now: float) -> None:
        """Called each second."""
        if self.keepalive is None or self.closed:
            return
        if self.transport.paused:
            # Its answers may lie unread: the silence is ours.
            self.keepalive.heard(now)
        action = self.keepalive.tick(now)
        if action is Action.PING:
            self.transport.write(self.connection.ping())
        elif action is Action.DEAD:
            self.drop("it does not answer keepalive requests")

    def close_when_answered(self) -> None:
        """CONNECT_CLOSE: what is on its way to the client still goes out."""
        self.transport.close_when_sent()

    def drop(self, reason: str) -> None:
        """End the connection now."""
        if not self.closed:
            log.info("session %d (%s) is dropped: %s", self.number, self.who, reason)
        self.transport.close(reason)

    def connection_lost(self, reason: str) -> None:
        """From the transport, once."""
        self.closed = True
        self._backlog.clear()
        self.descriptors.close()
        for bridge in list(self.bridges.values()):
            bridge.client_gone()
        self.bridges.clear()
        self.front.gone(self)


async def cancelled(tasks: set[asyncio.Task[None]]) -> None:
    """End these tasks and wait until they are over."""
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
