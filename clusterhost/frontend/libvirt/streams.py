"""Streams between a client and a node: packets both ways, each side slowed by the other.  Opens no file."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from clusterhost.control.messages import StreamPacket
from clusterhost.frontend.libvirt import errors, passthrough
from clusterhost.frontend.libvirt.route import Route
from clusterhost.frontend.libvirt.transport import LOW_WATER
from clusterhost.model.errors import ClusterError, NodeError
from clusterhost.service.ports import Answer, NodeStream
from clusterhost.service.virt import error_text
from clusterhost.service.volume_uploads import Transfer, Upload
from compat.libvirt import schema
from compat.libvirt.errors import LocalError, XdrError
from compat.libvirt.events import Call, StreamAbort, StreamData, StreamFinish, StreamHole, StreamKey
from compat.libvirt.streams import Direction

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

FromClient = StreamData | StreamHole | StreamFinish | StreamAbort

DIRECTIONS = {
    "server-to-client": Direction.TO_CLIENT,
    "client-to-server": Direction.TO_SERVER,
    "both": Direction.BOTH,
    None: Direction.BOTH,
}


class Bridge:
    """The front end's part of one stream (a ports.StreamSink).

    Towards the client: what the socket does not take gives the node no credit, so this stream stalls and no
    other.  Towards the node: packets without room wait here and count as calls in flight, as in libvirtd.
    """

    def __init__(self, session: Session, key: StreamKey) -> None:
        self.session = session
        self.key = key
        self.node: NodeStream | None = None
        self.over = False
        self.upload: Upload | None = None
        self._early: list[tuple[StreamPacket, bytes | bytearray]] = []
        self._lost: ClusterError | None = None
        self._ready = False
        self._owed = 0
        self._asked_finish = False
        self._waiting: deque[FromClient] = deque()
        self._room = True

    # -- from the node

    def packet(self, packet: StreamPacket, payload: bytes | bytearray) -> None:
        """A packet of the node's libvirtd."""
        if self.over:
            return
        if not self._ready:
            self._early.append((packet, payload))
            return
        try:
            self._to_client(packet, payload)
        except LocalError:
            # The node sent what cannot follow what it sent before (data after its end): the stream is broken.
            self._fail(errors.internal("the node broke the rules of the stream"))

    def _to_client(self, packet: StreamPacket, payload: bytes | bytearray) -> None:
        session, connection = self.session, self.session.connection
        kind = packet.kind
        if kind == "data":
            session.send(connection.stream_data(self.key, payload))
            self._credit(len(payload))
        elif kind == "hole":
            session.send(connection.stream_hole(self.key, packet.length, packet.flags))
        elif kind == "end":
            session.send(connection.stream_end(self.key))
        elif kind == "finished":
            self._finished()
        elif kind == "failed":
            self._fail(NodeError(bytes(payload), error_text(bytes(payload))))

    def _finished(self) -> None:
        """The node has done what the client asked.  Of an upload that is on record before the client hears of it."""
        session = self.session
        if self.upload is not None and self._asked_finish:
            self.over = True
            session.front.spawn(self._recorded(self.upload))
            return
        session.send(session.connection.stream_finished(self.key))
        self._end()

    async def _recorded(self, upload: Upload) -> None:
        try:
            await upload.finished()
        except ClusterError as error:
            self._fail(error)
            return
        if not self.session.closed:
            self.session.send(self.session.connection.stream_finished(self.key))
        self._end()

    def lost(self, error: ClusterError) -> None:
        """The node is gone."""
        if not self._ready:
            self._lost = error
        elif not self.over:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._cut(str(error))
        if self.key in self.session.connection.streams:
            self.session.send(self.session.connection.stream_failed(self.key, errors.to_wire(error)))
        self._end()

    def _cut(self, why: str) -> None:
        if self.upload is not None:
            self.upload.cut(why)

    def _credit(self, count: int) -> None:
        if self.session.transport.buffered > LOW_WATER:
            self._owed += count
        elif self.node is not None:
            self.node.passed_on(count)

    def drained(self) -> None:
        """The client has read: the node may send more."""
        if self._owed and self.node is not None:
            self.node.passed_on(self._owed)
        self._owed = 0

    # -- from the client

    def from_client(self, event: FromClient) -> None:
        """A packet of the client."""
        if self.over or self.node is None:
            return
        if self._room and not self._waiting:
            self._to_node(event)
        else:
            self._waiting.append(event)
            self.session.hold()

    def _to_node(self, event: FromClient) -> None:
        assert self.node is not None
        if isinstance(event, StreamData):
            self._room = self.node.send("data", event.payload)
            self._passed(len(event.payload))
        elif isinstance(event, StreamHole):
            self._room = self.node.send("hole", b"", event.length, event.flags)
            self._passed(event.length)
        elif isinstance(event, StreamFinish):
            self._asked_finish = True
            self.node.send("finish")
        else:
            self._cut("the client gave it up")
            self.node.send("abort")

    def _passed(self, count: int) -> None:
        if self.upload is not None:
            self.upload.passed(count)

    def _on_room(self) -> None:
        self._room = True
        while self._waiting and self._room and not self.over:
            self._to_node(self._waiting.popleft())
            self.session.release()

    # -- beginning and end

    def opened(self, node: NodeStream) -> None:
        """The client has its reply: what came before it follows."""
        self.node = node
        node.on_room = self._on_room
        self._ready = True
        early, self._early = self._early, []
        for packet, payload in early:
            self.packet(packet, payload)
        if self._lost is not None:
            self.lost(self._lost)

    def client_gone(self) -> None:
        """The connection is closed."""
        self.over = True
        self._cut("the client went away")
        self._waiting.clear()
        if self.node is not None:
            self.node.close()

    def _end(self) -> None:
        self.over = True
        self.session.bridges.pop(self.key, None)
        while self._waiting:
            self._waiting.popleft()
            self.session.release()
        if self.node is not None:
            self.node.close()


def run_domain_stream(session: Session, call: Call, route: Route) -> None:
    """Console, channel, screenshot: at the node that has the domain."""
    uuid = schema.domain_uuid(route.procedure, call.payload)
    open_at(session, call, route, session.cluster.by_uuid(uuid, session.view).node)


def run_view_stream(session: Session, call: Call, route: Route) -> None:
    """Volumes and tunnels of the node that the session sees."""
    assert session.view is not None
    open_at(session, call, route, session.view)


def run_tunnel(session: Session, call: Call, route: Route) -> None:
    """A tunnelled migration arrives: the use case of migration says at which node."""
    session.tied = True
    open_at(
        session,
        call,
        route,
        session.world.migrations.prepare_target(session.caller, route.procedure, call.payload),
        tied=session.number,
    )


def open_at(
    session: Session, call: Call, route: Route, where: str | Awaitable[str | Transfer], *, tied: int = 0
) -> None:
    """where: the node's name, or who says it.  tied: number of the session whose end shall end the connection at the
    node, or 0: it ends with the stream."""
    if isinstance(where, str):
        passthrough.reachable(session.cluster, where)
    if call.fds or call.key in session.bridges:
        raise errors.internal("a stream of that serial is open")
    bridge = Bridge(session, call.key)
    session.bridges[call.key] = bridge

    async def opening() -> None:
        try:
            found = where if isinstance(where, str) else await where
            transfer = found if isinstance(found, Transfer) else Transfer(found, call.payload)
            await _begin(bridge, call, route, transfer, tied)
        except BaseException:
            session.bridges.pop(call.key, None)
            raise

    session.spawn(call, opening(), lambda _: None)


async def _begin(bridge: Bridge, call: Call, route: Route, transfer: Transfer, tied: int) -> None:
    """The node is asked, and its answer passed on.  An upload that it does not begin leaves all as it was."""
    begun = False
    try:
        answer, stream = await bridge.session.world.nodes.open_stream(
            transfer.node,
            call.program,
            call.procedure,
            transfer.payload,
            bridge,
            readonly=bridge.session.readonly,
            session=tied,
            file=transfer.file,
        )
        begun = answer.ok and stream is not None and not bridge.session.closed
    finally:
        if transfer.upload is not None and not begun:
            await transfer.upload.refused()
    bridge.upload = transfer.upload
    _opened(bridge, call, route, answer, stream)


def _opened(bridge: Bridge, call: Call, route: Route, answer: Answer, stream: NodeStream | None) -> None:
    session = bridge.session
    if session.closed or stream is None or not answer.ok:
        session.bridges.pop(call.key, None)
        bridge.over = True
        if stream is not None:
            stream.close()
        session.fail(call, NodeError(answer.payload) if not answer.ok else errors.internal("no stream came"))
        return
    direction = DIRECTIONS[route.procedure.stream]
    session.connection.open_stream(call.key, direction, sparse(route, call.payload))
    session.reply(call, session.translator.ret(route, answer.payload))
    bridge.opened(stream)


def sparse(route: Route, payload: bytes) -> bool:
    """The call allows holes in its stream."""
    bit = route.procedure.sparse
    kind = route.procedure.args
    if bit is None or kind is None:
        return False
    try:
        return bool(getattr(kind.from_bytes(payload), "flags", 0) & bit)
    except XdrError:
        return False
