"""The state of the streams of one connection.  Pure; moves no bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from compat.libvirt.errors import LocalError
from compat.libvirt.events import StreamKey


class Direction(Enum):
    """Where the data of a stream goes."""

    TO_CLIENT = "server-to-client"
    TO_SERVER = "client-to-server"
    BOTH = "both"


@dataclass(slots=True)
class Stream:
    """One open stream.  `asked`: the end that is asked for ("finish", "abort"); `ended`: server is done."""

    direction: Direction
    sparse: bool
    asked: str | None = None
    ended: bool = False


class Streams:
    """The open streams by key.  Every misuse by our side is a LocalError."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int, int], Stream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, key: tuple[int, int, int]) -> bool:
        return key in self._open

    def keys(self) -> list[StreamKey]:
        """Return the keys of all open streams."""
        return [StreamKey(*key) for key in self._open]

    def find(self, key: tuple[int, int, int]) -> Stream | None:
        """Return an open stream, or None: packets of streams that nobody knows are normal."""
        return self._open.get(key)

    def open(self, key: StreamKey, direction: Direction, sparse: bool) -> None:
        """Begin a stream."""
        if key in self._open:
            raise LocalError(f"stream {tuple(key)} is open already")
        self._open[key] = Stream(direction, sparse)

    def close(self, key: tuple[int, int, int]) -> None:
        """Forget a stream; that it is gone already is no error."""
        self._open.pop(key, None)

    def need(self, key: tuple[int, int, int]) -> Stream:
        """Return a stream that has to be open."""
        stream = self._open.get(key)
        if stream is None:
            raise LocalError(f"stream {tuple(key)} is not open")
        return stream

    def may_send(self, key: StreamKey, wrong: Direction, payload: bytes | bytearray) -> None:
        """Check that our side may send data now."""
        stream = self.need(key)
        if not payload:
            raise LocalError("empty stream data would mean the end of the stream")
        if stream.direction is wrong:
            raise LocalError(f"stream {tuple(key)} carries data {stream.direction.value} only")
        if stream.ended or (wrong is Direction.TO_CLIENT and stream.asked):
            raise LocalError(f"stream {tuple(key)} has been ended by us")

    def may_hole(self, key: StreamKey, wrong: Direction, length: int) -> None:
        """Check that our side may send a hole now."""
        self.may_send(key, wrong, b"hole")
        if not self.need(key).sparse:
            raise LocalError(f"stream {tuple(key)} is not sparse")
        if length < 0:
            raise LocalError(f"a hole of {length} bytes")

    def end(self, key: StreamKey) -> None:
        """The server has no more data."""
        stream = self.need(key)
        if stream.ended:
            raise LocalError(f"stream {tuple(key)} has been ended by us")
        stream.ended = True

    def ask(self, key: StreamKey, what: str) -> None:
        """The client asks for the end."""
        stream = self.need(key)
        if stream.asked:
            raise LocalError(f"stream {tuple(key)} already awaits the answer to {stream.asked}")
        stream.asked = what

    def finished(self, key: StreamKey) -> None:
        """The server confirms the end: only when asked, or the client would drop the connection."""
        if self.need(key).asked is None:
            raise LocalError(f"stream {tuple(key)}: the client asked for no end")
        self.close(key)
