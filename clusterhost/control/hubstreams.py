"""Streams and tunnels at the front end's side: windows, credit, routing.  Sends through the hub."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from clusterhost.control.direct import Direct
from clusterhost.control.messages import (
    CREDIT_STEP,
    STREAM_WINDOW,
    Credit,
    Message,
    OpenStream,
    StreamPacket,
    Taken,
    TunnelData,
    TunnelOpen,
    decode_bulk,
    encode,
)
from clusterhost.control.nodelink import NodeLink, Pending, settle
from clusterhost.control.tunnel import Tunnel as SocketTunnel
from clusterhost.model.errors import ClusterError, NodeUnreachable
from clusterhost.service.ports import Answer, StreamSink

log = logging.getLogger(__name__)

OVER = frozenset({"finished", "failed"})
"""What ends a stream when it comes from the node."""


SendCall = Callable[[NodeLink, int, Message, bytes, Pending], None]
"""link, id, message, payload, what waits for its answer"""


class BulkSender(Protocol):
    """The hub, as its streams see it."""

    def send_bulk(self, link: NodeLink, message: Message, payload: bytes | memoryview = b"") -> None: ...

    def unreachable(self, node: str) -> ClusterError: ...


class HubStream:
    """service.ports.NodeStream.  Packets that come before the answer to the opening call wait for it."""

    def __init__(self, hub: BulkSender, link: NodeLink, id: int, sink: StreamSink) -> None:
        self.on_room: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self._direct: Direct | None = None
        self._hub = hub
        self._link = link
        self._id = id
        self._sink = sink
        self._under_way = 0
        self._uncredited = 0
        self._full = False
        self._over = False
        self._early: deque[tuple[StreamPacket, bytes | bytearray]] | None = deque()
        self._lost: ClusterError | None = None

    def send(self, kind: str, payload: bytes | memoryview = b"", length: int = 0, flags: int = 0) -> bool:
        """Send a packet towards the node; False when the window is used up (the packet itself went)."""
        if self._over:
            return True
        self._post(StreamPacket(self._id, kind, length, flags), payload)
        self._under_way += len(payload)
        self._full = self._under_way >= STREAM_WINDOW
        return not self._full

    def passed_on(self, count: int) -> None:
        """Give the node new credit for bytes that went out."""
        self._uncredited += count
        if self._uncredited >= CREDIT_STEP and not self._over:
            self._post(Credit(self._id, self._uncredited))
            self._uncredited = 0

    def close(self) -> None:
        """Forget it; the node is told to abort when it is not over yet."""
        if not self._over:
            self._post(StreamPacket(self._id, "abort"))
        self._end()

    def taken(self, direct: Direct) -> None:
        """The agent has made a connection for this stream alone: all its packets go there, the agent's too."""
        if self._over:
            direct.close()
            return
        self._direct = direct
        direct.deliver, direct.lost = self._delivered, self._broken
        direct.send(encode(Taken()), b"")

    def _delivered(self, body: bytes, payload: bytes | bytearray) -> None:
        message = decode_bulk(body)
        if isinstance(message, StreamPacket):
            self.arrived(message, payload)
        elif isinstance(message, Credit):
            self.credited(message.bytes)
        else:
            log.warning(
                "node %s: a message that belongs to no stream came on its connection", self._link.node
            )

    def _broken(self, why: str) -> None:
        self.lose(
            NodeUnreachable(f"node {self._link.node}: the connection that carried the stream broke: {why}")
        )

    def _post(self, message: Message, payload: bytes | memoryview = b"") -> None:
        if self._direct is None:
            self._hub.send_bulk(self._link, message, payload)
        elif not self._direct.send(encode(message), payload):
            self._direct.close()
            self._broken("the node does not take data as fast as it was allowed to come")

    def release(self) -> None:
        """The opening call was answered and its caller has run: deliver what came before."""
        early, self._early = self._early, None
        for packet, payload in early or ():
            self.arrived(packet, payload)
        if self._lost is not None:
            self._sink.lost(self._lost)

    def arrived(self, packet: StreamPacket, payload: bytes | bytearray) -> None:
        """A packet from the node."""
        if self._early is not None:
            self._early.append((packet, payload))
            return
        if packet.kind in OVER:
            self._end()
        self._sink.packet(packet, payload)

    def credited(self, count: int) -> None:
        """The node passed on that many bytes."""
        self._under_way -= count
        if self._full and self._under_way < STREAM_WINDOW:
            self._full = False
            if self.on_room is not None:
                self.on_room()

    def lose(self, error: ClusterError) -> None:
        """The node is gone."""
        if self._over:
            return
        self._end()
        if self._early is None:
            self._sink.lost(error)
        else:
            # Whoever opens it hears the error of the call; nobody holds the stream yet.
            self._lost = error

    def drop(self) -> None:
        """The opening call failed: there is no stream."""
        self._end()

    def _end(self) -> None:
        self._over = True
        self._link.streams.pop(self._id, None)
        if self.on_end is not None:
            self.on_end()
        if self._direct is not None:
            # For the agent its end is that of the stream, if that has not ended yet.
            self._direct.close()


@dataclass(slots=True, eq=False)
class Tunnel:
    """A connection of a node's libvirtd to another's.  Each end: its link and the tunnel's id there."""

    dialler: tuple[NodeLink, int]
    acceptor: tuple[NodeLink, int]
    closed: set[bool] = field(default_factory=set)


class Tunnels:
    """Routes tunnels between agents; windows are kept by the ends, credit only passes through."""

    def __init__(
        self,
        hub: BulkSender,
        link_of: Callable[[str], NodeLink | None],
        new_id: Callable[[], int],
        send_call: SendCall,
    ) -> None:
        self._hub = hub
        self._link_of = link_of
        self._new_id = new_id
        self._send_call = send_call
        self._ends: dict[tuple[NodeLink, int], Tunnel] = {}
        self._own: dict[tuple[NodeLink, int], SocketTunnel] = {}

    def carry(self, node: str, address: str, sock: socket.socket) -> bool:
        """Carry our connected, non-blocking socket to `address` on a node; it is closed when either end closes.
        False, and the socket is left alone, when the node is not there."""
        link = self._link_of(node)
        if link is None or not link.bulk:
            return False
        id = self._new_id()
        self._hub.send_bulk(link, TunnelOpen(id, "", address))
        self._add(link, id, sock)
        return True

    async def open_socket(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        sock: socket.socket,
        *,
        readonly: bool = False,
        deadline: float,
    ) -> Answer:
        """See service.ports.Nodes.open_socket."""
        link = self._link_of(node)
        if link is None or not link.bulk:
            sock.close()
            raise self._hub.unreachable(node)
        id = self._new_id()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        # What the node's side says first may come before the answer.
        tunnel = self._add(link, id, sock)
        message = OpenStream(id, program, procedure, link.epoch, readonly)
        pending = Pending(lambda outcome: settle(future, outcome), loop.time() + deadline)
        try:
            self._send_call(link, id, message, payload, pending)
            answer = await future
        except BaseException:
            tunnel.close()
            raise
        if not answer.ok:
            tunnel.close()
        return answer

    def _add(self, link: NodeLink, id: int, sock: socket.socket) -> SocketTunnel:
        def gone(id: int) -> None:
            self._own.pop((link, id), None)

        def send(message: Message, payload: bytes) -> None:
            self._hub.send_bulk(link, message, payload)

        tunnel = self._own[link, id] = SocketTunnel(id, sock, send, gone, origin=True)
        return tunnel

    def opened(self, link: NodeLink, message: TunnelOpen) -> None:
        """An agent wants a tunnel to the libvirtd of `message.peer`."""
        peer = self._link_of(message.peer)
        if peer is None or not peer.bulk or (link, message.id) in self._ends:
            self._hub.send_bulk(link, TunnelData(message.id, origin=False))
            return
        tunnel = Tunnel((link, message.id), (peer, self._new_id()))
        self._ends[tunnel.dialler] = self._ends[tunnel.acceptor] = tunnel
        self._hub.send_bulk(peer, TunnelOpen(tunnel.acceptor[1], link.node))

    def data(self, link: NodeLink, message: TunnelData, payload: bytes) -> None:
        """Bytes, or the end of one direction."""
        if own := self._own.get((link, message.id)):
            own.data(payload)
            return
        tunnel = self._ends.get((link, message.id))
        if tunnel is None:
            return
        origin = (link, message.id) == tunnel.dialler
        to_link, to_id = tunnel.acceptor if origin else tunnel.dialler
        self._hub.send_bulk(to_link, TunnelData(to_id, origin), payload)
        if not payload:
            tunnel.closed.add(origin)
            if len(tunnel.closed) == 2:
                self._forget(tunnel)

    def credit(self, link: NodeLink, message: Credit) -> None:
        """Pass credit to the other end."""
        if own := self._own.get((link, message.id)):
            own.credited(message.bytes)
            return
        tunnel = self._ends.get((link, message.id))
        if tunnel is not None:
            to_link, to_id = tunnel.acceptor if (link, message.id) == tunnel.dialler else tunnel.dialler
            self._hub.send_bulk(to_link, Credit(to_id, message.bytes))

    def lost(self, link: NodeLink) -> None:
        """A node is gone: close the other end of each of its tunnels."""
        for own in [own for (owner, _), own in self._own.items() if owner is link]:
            own.close()
        for tunnel in {tunnel for (owner, _), tunnel in self._ends.items() if owner is link}:
            self._forget(tunnel)
            origin = tunnel.dialler[0] is link
            other, id = tunnel.acceptor if origin else tunnel.dialler
            if other is not link:
                self._hub.send_bulk(other, TunnelData(id, origin))

    def _forget(self, tunnel: Tunnel) -> None:
        self._ends.pop(tunnel.dialler, None)
        self._ends.pop(tunnel.acceptor, None)
