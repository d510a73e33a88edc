"""What a Connection reports about the bytes it was given.  Plain frozen values."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec


class Answerable(Protocol):
    """What names a call: a Call event or a StreamKey."""

    @property
    def program(self) -> int: ...
    @property
    def procedure(self) -> int: ...
    @property
    def serial(self) -> int: ...


class StreamKey(NamedTuple):
    """A stream's name on its connection: program, procedure and serial of the call that opened it."""

    program: int
    procedure: int
    serial: int


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that the peer did."""


class Call(Event, frozen=True):
    """The client calls.  `fds` descriptors belong to it: they have arrived when the event is given."""

    program: int
    version: int
    procedure: int
    serial: int
    payload: bytes
    fds: int = 0

    @property
    def key(self) -> StreamKey:
        """The name of the stream that this call may open."""
        return StreamKey(self.program, self.procedure, self.serial)


class Reply(Event, frozen=True):
    """The server answers a call of ours; `payload` is the result, or a VirNetMessageError when not `ok`."""

    program: int
    procedure: int
    serial: int
    ok: bool
    payload: bytes
    fds: int = 0


class Message(Event, frozen=True):
    """The server reports an event of libvirt's."""

    program: int
    procedure: int
    payload: bytes


class StreamData(Event, frozen=True):
    """Bytes of a stream, either direction."""

    key: StreamKey
    payload: bytes | memoryview


class StreamHole(Event, frozen=True):
    """A hole of `length` bytes in a sparse stream, either direction."""

    key: StreamKey
    length: int
    flags: int


class StreamEnd(Event, frozen=True):
    """To a client: the server has no more data; it waits for our finish."""

    key: StreamKey


class StreamFinish(Event, frozen=True):
    """To a server: the client is done; answer with stream_finished or stream_failed."""

    key: StreamKey


class StreamAbort(Event, frozen=True):
    """To a server: the client gives up; answer with stream_finished or stream_failed."""

    key: StreamKey


class StreamFinished(Event, frozen=True):
    """To a client: our finish or abort is confirmed; the stream is gone."""

    key: StreamKey


class StreamFailed(Event, frozen=True):
    """To a client: the stream failed and is gone; `payload` is a VirNetMessageError."""

    key: StreamKey
    payload: bytes


class KeepaliveRequest(Event, frozen=True):
    """A PING came; the PONG is in data_to_send()."""


class KeepaliveResponse(Event, frozen=True):
    """A PONG came."""


class DescriptorsDropped(Event, frozen=True):
    """`count` descriptors arrived with a packet that nobody gets: take them from the queue and close them."""

    count: int


class ConnectionClosed(Event, frozen=True):
    """End of the bytes; `partial` when it came inside a packet."""

    partial: bool = False
