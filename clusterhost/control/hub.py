"""The front end's end of the control plane: agents dial in, calls go out, reports come back.

Knows no libvirt: payloads pass as bytes.  Everything runs on one event loop; the hot path (`submit`, then a
`Reply`) makes no task and no future.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import zmq

from clusterhost.control import messages as m
from clusterhost.control.directs import Directs
from clusterhost.control.gate import Gate
from clusterhost.control.hubstreams import HubStream, Tunnels
from clusterhost.control.inbound import Inbound
from clusterhost.control.keys import KeyPair
from clusterhost.control.nodelink import NEVER, NodeLink, Pending, gathered, hour, lasting, result, settle
from clusterhost.control.sockets import (
    BULK_HWM,
    CONTROL_HWM,
    Monitor,
    Patient,
    PeerGone,
    RouterChannel,
    endpoint,
    serve_curve,
    tune,
)
from clusterhost.control.zap import NODE, ZapServer
from clusterhost.model.errors import ClusterError, DeadlinePassed, NodeBusy, NodeUnreachable
from clusterhost.service.ports import Answer, HubHandler, NodeStream, Progress, StreamSink

log = logging.getLogger(__name__)

_TICK = 0.25
_PROBE_AFTER = 0.05
_BAD_FRAME = (msgspec.DecodeError, UnicodeDecodeError)


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Addresses are ZeroMQ endpoints (direct: see Directs.start); times in seconds, `silence` of an agent."""

    control: str
    bulk: str
    direct: str = ""
    deadline: float = 30.0
    operation_deadline: float = 120.0
    silence: float = 4.0
    max_calls: int = 4096


class Hub:
    """service.ports.Nodes.  `clock` gives wall time in seconds, for what people read."""

    def __init__(
        self,
        settings: HubSettings,
        keys: KeyPair,
        handler: HubHandler,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._handler = handler
        self._clock = clock
        self._gate = gate = Gate(clock)
        self.refusals = gate.refusals
        self._links: dict[str, NodeLink] = {}
        self._by_control: dict[bytes, NodeLink] = {}
        self._by_bulk: dict[bytes, NodeLink] = {}
        self._unclaimed: dict[str, tuple[m.Attach, bytes]] = {}
        self._lost: dict[str, tuple[float, str]] = {}
        self._last_id = 0
        self._monitor_events = False
        self._tunnels = Tunnels(self, self._links.get, self._new_id, self._send_call)
        self.carry, self.open_socket = self._tunnels.carry, self._tunnels.open_socket
        self._inbound = Inbound(handler, self._tell)

    # ---- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on both addresses; raises zmq.ZMQError when one is taken."""
        self._loop = loop = asyncio.get_running_loop()
        # Two I/O threads, one for each socket: encrypting bulk data must not delay a heartbeat.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
        self._zap = ZapServer(loop, self._context, self._gate.user, self._gate.stranger)
        control = self._listen(self._settings.control, CONTROL_HWM, 1)
        bulk = self._listen(self._settings.bulk, BULK_HWM, 2)
        self.endpoints = (endpoint(control), endpoint(bulk))
        self._control = RouterChannel(loop, control, self._control_message, self._by_control)
        self._bulk = RouterChannel(loop, bulk, self._bulk_message, self._by_bulk)
        self._directs = Directs(loop, self._inbound.take)
        await self._directs.start(self._settings.direct, self.endpoints[0], self._settings.bulk)
        self._patient_control = Patient(loop, self._control, routed=True)
        self._patient_bulk = Patient(loop, self._bulk, routed=True)
        self._monitor = Monitor(loop, control, int(zmq.Event.DISCONNECTED), self._disconnected)
        self._control.start()
        self._bulk.start()
        self._ticked = loop.time()
        self._timer = loop.call_later(_TICK, self._tick)

    def _listen(self, address: str, hwm: int, thread: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        tune(socket, hwm)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.AFFINITY, thread)
        serve_curve(socket, self._keys)
        socket.bind(address)
        return socket

    async def stop(self) -> None:
        """Fail what is under way and close."""
        self._timer.cancel()
        for link in list(self._links.values()):
            self._forget(link, "the front end stops")
        await self._directs.stop()
        self._monitor.close()
        for part in (self._patient_control, self._patient_bulk, self._control, self._bulk, self._zap):
            part.close()
        self._context.destroy(linger=0)

    def set_keys(self, nodes: Mapping[str, str], joins: Mapping[str, str]) -> None:
        """Take the keys that may connect and drop the links of all others.

        nodes: node -> public key; joins: one-time public key -> node."""
        revoked = [node for node in self._links if self._gate.user(nodes.get(node, "")) != NODE + node]
        self._gate.replace(nodes, joins)
        for node in revoked:
            self.disconnect(node)

    def disconnect(self, node: str) -> None:
        """Drop the node's agent; it may dial again if its key still stands."""
        link = self._links.get(node)
        if link is not None:
            self._refuse(link.control, "disconnected by the front end")
            self._lose(link, "it was disconnected by the front end")

    def connected(self, node: str) -> bool:
        """An agent of that node is there."""
        return node in self._links

    # ---- service.ports.Nodes ------------------------------------------------------------------------------

    def submit(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        done: Callable[[Any], None],
        *,
        readonly: bool = False,
        long: bool = False,
        session: int = 0,
        report: bytes | None = None,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        deadline: float | None = None,
    ) -> None:
        """See service.ports.Nodes.submit."""
        link = self._links.get(node)
        if link is None:
            done(self.unreachable(node))
            return
        seconds = self._deadline(deadline, NEVER if long else self._settings.deadline)
        self._last_id = id = self._last_id + 1
        message = m.Relay(
            id,
            program,
            procedure,
            link.epoch,
            readonly,
            long,
            session,
            report,
            op,
            domain,
            generation,
            0 if seconds == NEVER else max(1, int(seconds * 1000)),
        )
        # What brings a report, is recorded or tied to a session keeps its order among the numbered messages.
        ordered = report is not None or op or session or generation
        pending = Pending(done, self._loop.time() + seconds, report, None, not ordered)
        self._send_call(link, id, message, payload, pending)

    async def call(self, node: str, program: int, procedure: int, payload: bytes, **options: Any) -> Answer:
        """See service.ports.Nodes.call."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        self.submit(node, program, procedure, payload, lambda outcome: settle(future, outcome), **options)
        return await future

    async def fan_out(
        self,
        nodes: Sequence[str],
        program: int,
        procedure: int,
        payload: bytes,
        *,
        readonly: bool = False,
        deadline: float,
    ) -> dict[str, Answer | ClusterError]:
        """See service.ports.Nodes.fan_out."""
        ask = partial(self.submit, readonly=readonly, deadline=deadline)
        return await gathered(nodes, lambda node, done: ask(node, program, procedure, payload, done))

    async def operate(
        self,
        node: str,
        kind: str,
        args: bytes,
        *,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """See service.ports.Nodes.operate.  A libvirt error inside it is raised as NodeError."""
        link = self._links.get(node)
        if link is None:
            raise self.unreachable(node)
        seconds = self._deadline(deadline, self._settings.operation_deadline)
        future: asyncio.Future[bytes] = self._loop.create_future()
        id = self._new_id()
        message = m.Operation(
            id, kind, args, op, link.epoch, domain, generation, max(1, int(min(seconds, 1e9) * 1000))
        )
        pending = lasting(
            lambda outcome: settle(future, result(outcome)), self._loop.time(), seconds, progress
        )
        self._send_call(link, id, message, b"", pending)
        return await future

    async def open_stream(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        sink: StreamSink,
        *,
        readonly: bool = False,
        session: int = 0,
        file: str = "",
    ) -> tuple[Answer, NodeStream | None]:
        """See service.ports.Nodes.open_stream."""
        link = self._links.get(node)
        if link is None or not link.bulk:
            raise self.unreachable(node)
        id = self._new_id()
        stream = link.streams[id] = HubStream(self, link, id, sink)
        future: asyncio.Future[Answer] = self._loop.create_future()
        message = m.OpenStream(id, program, procedure, link.epoch, readonly, session, file)
        message = self._directs.carried(link, stream, message)
        until = self._loop.time() + self._settings.deadline
        pending = Pending(lambda outcome: settle(future, outcome), until)
        self._send_call(link, id, message, payload, pending)
        try:
            answer = await future
        except BaseException:
            stream.close()
            raise
        if not answer.ok:
            stream.drop()
            return answer, None
        # After the caller has taken the stream.
        self._loop.call_soon(stream.release)
        return answer, stream

    def close_session(self, session: int) -> None:
        """See service.ports.Nodes.close_session."""
        for link in list(self._links.values()):
            self._tell(link, m.SessionClose(session))

    def abandon(self, unwanted: Callable[[object], bool]) -> None:
        """See service.ports.Nodes.abandon."""
        for one in list(self._links.values()):
            for id in one.unwanted(unwanted):
                self._tell(one, m.Cancel(id))

    def subscribe(self, *, monitor_events: bool) -> None:
        """See service.ports.Nodes.subscribe."""
        self._monitor_events = monitor_events
        for link in list(self._links.values()):
            self._tell(link, m.Subscribe(monitor_events))

    def unreachable(self, node: str) -> NodeUnreachable:
        """The error of a call to a node that is not connected."""
        if node not in self._lost:
            return NodeUnreachable(f"node {node} is out of reach: its agent has not connected yet")
        since, reason = self._lost[node]
        return NodeUnreachable(f"node {node} is out of reach since {hour(since)}: {reason}")

    # ---- sending ------------------------------------------------------------------------------------------

    def send_bulk(self, link: NodeLink, message: m.Message, payload: bytes | memoryview = b"") -> None:
        """Send on the bulk socket; a node that takes nothing any more is lost."""
        if not link.bulk or link.node not in self._links:
            return
        try:
            if self._patient_bulk.send(link.bulk, m.encode(message), payload):
                return
        except PeerGone:
            self._lose(link, "its bulk connection broke")
            return
        self.disconnect(link.node)

    def _send_call(
        self, link: NodeLink, id: int, message: m.Message, payload: bytes, pending: Pending
    ) -> None:
        if len(link.calls) >= self._settings.max_calls:
            pending.done(
                NodeBusy(f"node {link.node} has {len(link.calls)} calls under way, allowed are as many")
            )
            return
        link.calls[id] = pending
        if (
            pending.direct
            and (direct := link.direct)
            and direct.send(m.encode(message), payload, len(link.calls) > 1)
        ):
            return
        pending.direct = False
        try:
            if not self._control.send(link.control, m.encode(message), payload):
                del link.calls[id]
                pending.done(NodeBusy(f"node {link.node} does not take calls as fast as they come"))
        except PeerGone:
            # Ends this call too.
            self._lose(link, "its connection broke")

    def _tell(self, link: NodeLink, message: m.Message) -> None:
        try:
            self._patient_control.send(link.control, m.encode(message))
        except PeerGone:
            self._lose(link, "its connection broke")

    def _refuse(self, identity: bytes, reason: str) -> None:
        try:
            self._control.send(identity, m.encode(m.Welcome(m.PROTOCOL, 0, refused=reason)))
        except PeerGone:
            return

    # ---- receiving ----------------------------------------------------------------------------------------

    def _control_message(self, identity: bytes, user: str, body: bytes, payload: bytes) -> None:
        try:
            message = m.decode_to_front_end(body)
        except _BAD_FRAME:
            self._not_understood(identity, body)
            return
        link = self._by_control.get(identity)
        if link is not None:
            link.alive = True
            self._inbound.take(link, message, payload)
        elif isinstance(message, m.Hello):
            self._on_hello(identity, user, message)
        elif isinstance(message, m.Register):
            self._on_register(identity, user, message)
        else:
            # It was given up (silence), or the front end started anew: it has to begin again.
            self._refuse(identity, "unknown connection: dial again")

    def _not_understood(self, identity: bytes, body: bytes) -> None:
        """A newer agent may say what we do not know; anything else ends nothing either."""
        answer = m.unsupported(body)
        log.warning("a message was not understood: %r", answer.what)
        if identity in self._by_control:
            self._control.send(identity, m.encode(answer))

    def _bulk_message(self, identity: bytes, user: str, body: bytes, payload: bytes) -> None:
        message = m.decode_bulk(body)
        if message is None:
            log.warning("a bulk message was not understood")
            return
        link = self._by_bulk.get(identity)
        if link is None:
            if isinstance(message, m.Attach) and user == NODE + message.node:
                self._unclaimed[message.node] = (message, identity)
                self._attach(message.node)
        elif isinstance(message, m.StreamPacket):
            if stream := link.streams.get(message.id):
                stream.arrived(message, payload)
        elif isinstance(message, m.Credit):
            if stream := link.streams.get(message.id):
                stream.credited(message.bytes)
            else:
                self._tunnels.credit(link, message)
        elif isinstance(message, m.TunnelData):
            self._tunnels.data(link, message, payload)
        elif isinstance(message, m.TunnelOpen):
            self._tunnels.opened(link, message)

    def _attach(self, node: str) -> None:
        """Join the two connections of one agent, whichever came first."""
        if (link := self._links.get(node)) is None or node not in self._unclaimed:
            return
        attach, identity = self._unclaimed[node]
        # An agent that dials anew may attach before its new greeting is read: not to the old link.
        if not link.bulk and (attach.incarnation, attach.dial) == (link.incarnation, link.dial):
            del self._unclaimed[node]
            link.bulk = identity
            self._by_bulk[identity] = link

    def _on_register(self, identity: bytes, user: str, message: m.Register) -> None:
        if refused := self._gate.why_not_register(user, message):
            self._refuse(identity, refused)
            return
        self._gate.use_up(message.node, message.public_key)
        self._handler.on_register(message.node, message.public_key)
        self._control.send(identity, m.encode(m.Registered(message.node)))

    def _on_hello(self, identity: bytes, user: str, hello: m.Hello) -> None:
        old = self._links.get(hello.node)
        if refused := self._gate.why_not_greet(user, hello, old.incarnation if old is not None else 0):
            self._refuse(identity, refused)
            return
        welcome = self._handler.on_hello(hello.node, hello)
        if welcome.refused:
            self._refuse(identity, welcome.refused)
            return
        if old is not None:
            # Not told as a loss: the node itself is there.
            self._lost[hello.node] = (self._clock(), "its agent connected anew")
            self._forget(old, f"node {hello.node}: its agent connected anew while the call was under way")
        link = NodeLink(hello.node, hello.incarnation, hello.dial, identity, welcome.epoch, self._loop.time())
        self._links[hello.node] = self._by_control[identity] = link
        self._lost.pop(hello.node, None)
        self._attach(hello.node)
        welcome = self._directs.invited(link, welcome)
        self._tell(link, msgspec.structs.replace(welcome, protocol=min(hello.highest, m.PROTOCOL)))
        if self._monitor_events:
            self._tell(link, m.Subscribe(monitor_events=True))

    # ---- loss and time ------------------------------------------------------------------------------------

    def _disconnected(self, _: zmq.Event) -> None:
        # The event does not say which connection; a send that cannot be routed does.
        self._loop.call_later(_PROBE_AFTER, self._probe)

    def _probe(self) -> None:
        for link in list(self._links.values()):
            self._tell(link, m.Cancel(0))

    def _lose(self, link: NodeLink, reason: str) -> None:
        if self._links.get(link.node) is not link:
            return
        self._lost[link.node] = (self._clock(), reason)
        log.warning("node %s is out of reach: %s", link.node, reason)
        self._forget(link, str(self.unreachable(link.node)))
        self._handler.on_lost(link.node, reason)

    def _forget(self, link: NodeLink, why: str) -> None:
        if self._links.get(link.node) is link:
            del self._links[link.node]
        self._by_control.pop(link.control, None)
        self._by_bulk.pop(link.bulk, None)
        self._directs.forget(link)
        self._patient_control.forget(link.control)
        self._patient_bulk.forget(link.bulk)
        self._tunnels.lost(link)
        link.fail_all(NodeUnreachable(why))

    def _tick(self) -> None:
        now = self._loop.time()
        # When this process was stopped, what the agents said meanwhile still waits to be read.
        late = max(0.0, now - self._ticked - 2 * _TICK)
        self._ticked = now
        self._timer = self._loop.call_later(_TICK, self._tick)
        for link in list(self._links.values()):
            if link.alive:
                link.alive, link.heard = False, now
            link.heard += late
            if now - link.heard > self._settings.silence:
                self._lose(link, f"its agent said nothing for {now - link.heard:.0f} s")
                continue
            for id in link.expired(now):
                pending = link.calls.pop(id)
                self._tell(link, m.Cancel(id))
                pending.done(DeadlinePassed(f"node {link.node} did not answer within the deadline"))

    def _deadline(self, asked: float | None, usual: float) -> float:
        seconds = usual if asked is None else asked
        return seconds if seconds > 0 else NEVER

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id
