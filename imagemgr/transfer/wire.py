"""What nodes say to each other about an image, in frames on a socket.  Knows neither files nor tickets' meaning.

A frame is a byte for its kind, a big-endian length, and a body: MessagePack of a message, or a piece of a chunk.  A
chunk comes as pieces in order, each raw or a zstd frame of its own, so that neither end ever holds a whole chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import TypeVar

import msgspec
import zstandard

from imagemgr.transfer import tls
from imagemgr.transfer.errors import SourceGone

PIECE = 256 * 1024
"""Bytes of a chunk that travel together, before they are compressed."""
GREETING = 256
"""Bytes of the longest frame that a stranger may send."""
VERSION = 1
_HEAD = Struct(">BI")
_M = TypeVar("_M")


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who fetches.  receiver: random, the same on all connections of one fetch."""

    ticket: bytes
    receiver: bytes
    version: int = VERSION


class GetManifest(msgspec.Struct, frozen=True, tag="manifest"):
    """Answered by Says, then its bytes in parts."""


class GetHave(msgspec.Struct, frozen=True, tag="have"):
    """Answered by Have."""


class GetChunk(msgspec.Struct, frozen=True, tag="chunk"):
    """Answered by pieces, or by Gone."""

    index: int
    length: int


Request = Hello | GetManifest | GetHave | GetChunk


class Says(msgspec.Struct, frozen=True, tag="says"):
    """size: bytes of the encoded manifest, 0 while it is not known; room: bytes that the file takes, 0 for unknown."""

    size: int
    room: int = 0


class Have(msgspec.Struct, frozen=True, tag="has"):
    """Which chunks there are.  whole: all of them; bits: as in chunks.Done; coming: those that are on their way."""

    whole: bool
    bits: bytes = b""
    coming: tuple[int, ...] = ()


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """It has no such chunk, or nothing any more; the text says why."""

    reason: str


Answer = Says | Have | Gone


_request: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class Kind(IntEnum):
    """Of a frame."""

    MESSAGE = 1
    RAW = 2
    ZSTD = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """Came of a chunk: a view that is good until the next is read; `wire` bytes came."""

    data: memoryview
    wire: int


class Channel:
    """One end of a connection, for one thread.  SourceGone when it breaks, or says what it must not."""

    def __init__(self, stream: tls.Stream, most: int = GREETING) -> None:
        self.most = most
        self._stream = stream
        self._buffer = bytearray(PIECE + 64 * 1024)
        self._view = memoryview(self._buffer)
        self._unpack = zstandard.ZstdDecompressor(max_window_size=PIECE)

    def send(self, message: Request | Answer) -> None:
        """One message."""
        body = msgspec.msgpack.encode(message)
        self._send(_HEAD.pack(Kind.MESSAGE, len(body)) + body)

    def send_piece(self, kind: Kind, body: bytes | memoryview) -> None:
        """One piece of a chunk, or of a manifest."""
        self._send(_HEAD.pack(kind, len(body)))
        self._send(body)

    def request(self) -> Request | None:
        """The next one; None when the other end has closed."""
        kind, size = self._head(eof=True)
        return None if not kind else self._decode(kind, size, _request)

    def answer(self) -> Says | Have:
        """The answer to what was asked; a Gone is raised as SourceGone."""
        kind, size = self._head()
        found = self._decode(kind, size, _answer)
        if not isinstance(found, Says | Have):
            raise SourceGone(found.reason)
        return found

    def piece(self, most: int) -> Piece | Gone:
        """The next piece of a chunk of which `most` bytes are to come, or that there are none."""
        kind, size = self._head()
        if kind == Kind.MESSAGE:
            found = self._decode(kind, size, _answer)
            if isinstance(found, Gone):
                return found
            raise SourceGone("it answered what was not asked")
        if size > len(self._buffer) or kind not in (Kind.RAW, Kind.ZSTD):
            raise SourceGone(f"it sent a piece of {size} bytes, {PIECE} are allowed")
        view = self._view[:size]
        self._fill(view)
        wire = size + _HEAD.size
        if kind == Kind.ZSTD:
            try:
                view = memoryview(self._unpack.decompress(view, max_output_size=PIECE))
            except zstandard.ZstdError as error:
                raise SourceGone(f"it sent a piece that cannot be unpacked: {error}") from error
        if not 0 < len(view) <= min(most, PIECE):
            raise SourceGone(f"it sent {len(view)} bytes where {most} were to come")
        return Piece(view, wire)

    def shutdown(self) -> None:
        """From another thread: whoever waits on it, gets SourceGone."""
        self._stream.shutdown()

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def _decode(self, kind: int, size: int, decode: msgspec.msgpack.Decoder[_M]) -> _M:
        if kind != Kind.MESSAGE or size > self.most:
            raise SourceGone(f"it sent a message of {size} bytes, {self.most} are allowed")
        body = bytearray(size)
        self._fill(memoryview(body))
        try:
            return decode.decode(body)
        except msgspec.DecodeError as error:
            raise SourceGone(f"it sent a message that cannot be read: {error}") from error

    def _head(self, *, eof: bool = False) -> tuple[int, int]:
        head = bytearray(_HEAD.size)
        if not self._fill(memoryview(head), eof=eof):
            return 0, 0
        kind, size = _HEAD.unpack(head)
        return int(kind), int(size)

    def _fill(self, view: memoryview, *, eof: bool = False) -> bool:
        try:
            done = self._stream.fill(view)
        except OSError as error:
            raise SourceGone(tls.why(error)) from error
        if done < len(view) and not (eof and not done):
            raise SourceGone("it closed the connection")
        return done == len(view)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._stream.send(data)
        except OSError as error:
            raise SourceGone(tls.why(error)) from error
