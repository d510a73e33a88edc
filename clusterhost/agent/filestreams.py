"""Streams of a volume that is a file, by a thread that reads or writes it (see filethreads).

Libvirtd's own stream of the same call stays open and empty meanwhile.  So the checks and the refusals are libvirtd's,
and at the end of an upload it finds out by itself what the volume has become.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from clusterhost.agent.errors import stream_error
from clusterhost.agent.filethreads import Beyond, FileThread
from clusterhost.agent.nodestream import NodeStream, SendBulk
from clusterhost.agent.rpc import Rpc
from clusterhost.control import messages as m
from compat.libvirt import events
from compat.libvirt.refusals import rpc_error


class FileStream(NodeStream, ABC):
    """What both directions have in common."""

    def __init__(
        self,
        id: int,
        rpc: Rpc,
        key: events.StreamKey,
        send: SendBulk,
        closed: Callable[[], None],
        thread: FileThread,
    ) -> None:
        super().__init__(id, rpc, key, send, closed)
        self._thread = thread

    def begin(self) -> None:
        """Libvirtd has agreed."""
        self._thread.begin(self)

    def drop(self) -> None:
        """Libvirtd has refused."""
        self._thread.stop()

    def close(self) -> None:
        """Nobody is there for it any more."""
        self._thread.stop()
        super().close()

    def data(self, payload: bytes) -> None:
        """Was read."""
        self._send(m.StreamPacket(self._id, "data"), payload)

    def hole(self, length: int) -> None:
        """Was found."""
        self._send(m.StreamPacket(self._id, "hole", length), b"")

    def passed(self, count: int) -> None:
        """Is in the file."""
        self._uncredited += count
        self._drained()

    @abstractmethod
    def over(self, error: OSError | None) -> None:
        """The thread has ended."""

    def _failed(self, error: bytes) -> None:
        if not self._over:
            self._send(m.StreamPacket(self._id, "failed"), error)
            self.close()

    def _lost(self, reason: str) -> None:
        self._thread.stop()
        super()._lost(reason)


class Upload(FileStream):
    """Libvirtd hears of the end when all is in the file."""

    def packet(self, packet: m.StreamPacket, payload: bytes | bytearray) -> None:
        """A packet from the front end."""
        if packet.kind == "data":
            self._thread.give(payload)
        elif packet.kind == "hole":
            self._thread.give(packet.length)
        elif packet.kind == "finish":
            self._thread.give(None)
        else:
            # Its answer says that nothing is written any more, and the thread may have a piece in hand.
            self._thread.stop()
            self._thread.ended.add_done_callback(lambda _: self._give_up())

    def _give_up(self) -> None:
        if not self._over:
            super().packet(m.StreamPacket(self._id, "abort"), b"")

    def over(self, error: OSError | None) -> None:
        """The thread has ended."""
        if error is None:
            super().packet(m.StreamPacket(self._id, "finish"), b"")
            return
        path = self._thread.part.path
        what = "cannot write to stream" if isinstance(error, Beyond) else f"Unable to write {path}"
        self._failed(stream_error(what, error.errno or 0))


class Download(FileStream):
    """What libvirtd reads ahead for its own stream nobody takes."""

    def credited(self, count: int) -> None:
        """The front end passed on that many bytes."""
        self._thread.credited(count)

    def packet(self, packet: m.StreamPacket, payload: bytes | bytearray) -> None:
        """Its end, whoever wants it: there is nothing that libvirtd would have to do yet."""
        if packet.kind in ("finish", "abort") and not self._over:
            self._send(m.StreamPacket(self._id, "finished"), b"")
            self.close()

    def over(self, error: OSError | None) -> None:
        """The thread has ended."""
        if error is None:
            self._send(m.StreamPacket(self._id, "end"), b"")
        else:
            self._failed(rpc_error("stream had I/O failure").to_bytes())

    def begin(self) -> None:
        """Libvirtd has agreed.  When nobody reads it soon stops sending; not before this, as its data may overtake its
        answer."""
        self._rpc.pause()
        super().begin()

    def _arrived(self, event: events.Event) -> None:
        if isinstance(event, events.StreamFailed):
            super()._arrived(event)
