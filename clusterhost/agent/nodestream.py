"""One stream at a node: the packets of a libvirtd connection of its own, windows both ways.  Opens no connection."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clusterhost.agent.errors import FROM_STREAMS, SYSTEM_ERROR, error_struct
from clusterhost.agent.rpc import Rpc
from clusterhost.control import messages as m
from compat.libvirt import events
from compat.libvirt.errors import LocalError

log = logging.getLogger(__name__)

SendBulk = Callable[[m.Message, bytes | memoryview], None]


class NodeStream:
    """One open stream.  `closed` is called once when it is over."""

    def __init__(
        self,
        id: int,
        rpc: Rpc,
        key: events.StreamKey,
        send: SendBulk,
        closed: Callable[[], None],
        *,
        keep: bool = False,
    ) -> None:
        self._id = id
        self._keep = keep
        self._rpc = rpc
        self._key = key
        self._send = send
        self._closed = closed
        self._under_way = 0
        self._uncredited = 0
        self._over = False
        rpc.on_stream = self._arrived
        rpc.on_drained = self._drained
        rpc.on_lost = self._lost

    def begin(self) -> None:
        """The call that opens it has succeeded."""

    def drop(self) -> None:
        """It has failed: there is no stream."""

    def packet(self, packet: m.StreamPacket, payload: bytes | bytearray) -> None:
        """A packet from the front end."""
        connection = self._rpc.connection
        try:
            if packet.kind == "data":
                self._rpc.write(connection.stream_data(self._key, payload))
            elif packet.kind == "hole":
                self._rpc.write(connection.stream_hole(self._key, packet.length, packet.flags))
            elif packet.kind == "finish":
                self._rpc.write(connection.stream_finish(self._key))
            elif packet.kind == "abort":
                self._keep = False
                self._rpc.write(connection.stream_abort(self._key))
                # Its answer stands behind the data that nobody wants any more.
                self._rpc.resume()
                self._under_way = -m.STREAM_WINDOW * 1024
        except LocalError as error:
            log.info("stream %d: %s", self._id, error)
        self._uncredited += len(payload)
        self._drained()

    def credited(self, count: int) -> None:
        """The front end passed on that many bytes."""
        self._under_way -= count
        if self._under_way < m.STREAM_WINDOW:
            self._rpc.resume()

    def close(self) -> None:
        """Nobody is there for it any more: libvirtd aborts it when its connection goes."""
        if self._over and self._keep:
            return
        self._over = True
        self._rpc.close("the stream is closed")
        self._closed()

    def _arrived(self, event: events.Event) -> None:
        if self._over:
            return
        if isinstance(event, events.StreamData):
            self._send(m.StreamPacket(self._id, "data"), event.payload)
            self._under_way += len(event.payload)
            if self._under_way >= m.STREAM_WINDOW:
                self._rpc.pause()
        elif isinstance(event, events.StreamHole):
            self._send(m.StreamPacket(self._id, "hole", event.length, event.flags), b"")
        elif isinstance(event, events.StreamEnd):
            self._send(m.StreamPacket(self._id, "end"), b"")
        elif isinstance(event, events.StreamFinished):
            self._send(m.StreamPacket(self._id, "finished"), b"")
            self._finished()
        elif isinstance(event, events.StreamFailed):
            self._send(m.StreamPacket(self._id, "failed"), event.payload)
            self.close()

    def _finished(self) -> None:
        """Libvirtd ties a domain that arrives by a tunnel to the connection: that stays until the client goes."""
        if self._keep:
            self._over = True
            self._closed()
        else:
            self.close()

    def _drained(self) -> None:
        """Give credit for what libvirtd's socket took."""
        ready = self._uncredited - self._rpc.unsent
        if ready >= m.CREDIT_STEP and not self._over:
            self._uncredited -= ready
            self._send(m.Credit(self._id, ready), b"")

    def _lost(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._send(m.StreamPacket(self._id, "failed"), error_struct(SYSTEM_ERROR, FROM_STREAMS, reason))
            self._closed()
