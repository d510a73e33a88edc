"""One connection of libvirt's protocol, either side: bytes in, events out.  No sockets, no clock.

What the rules answer by themselves (unknown programs, PING ...) is collected for data_to_send().

Descriptors travel behind a packet of the WITH_FDS types: for each one byte 0 that carries it, sent and
received apart.  Those bytes are part of the data given to receive_data(); the owner of the socket queues the
descriptors, takes `fds` of them for each event that has some and closes as many as DescriptorsDropped says.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import Enum

from compat.libvirt.constants import (
    KEEPALIVE_PROC_PING,
    KEEPALIVE_PROC_PONG,
    KEEPALIVE_PROGRAM,
    LXC_PROGRAM,
    QEMU_PROGRAM,
    REMOTE_PROGRAM,
    VIR_NET_CALL,
    VIR_NET_CALL_WITH_FDS,
    VIR_NET_MESSAGE,
    VIR_NET_MESSAGE_NUM_FDS_MAX,
    VIR_NET_REPLY,
    VIR_NET_REPLY_WITH_FDS,
    VIR_NET_STREAM,
    VIR_NET_STREAM_HOLE,
)
from compat.libvirt.errors import LocalError, ProtocolError, XdrError
from compat.libvirt.events import (
    Answerable,
    Call,
    ConnectionClosed,
    DescriptorsDropped,
    Event,
    KeepaliveRequest,
    KeepaliveResponse,
    Message,
    Reply,
    StreamAbort,
    StreamData,
    StreamEnd,
    StreamFailed,
    StreamFinish,
    StreamFinished,
    StreamHole,
    StreamKey,
)
from compat.libvirt.frames import CONTINUE, ERROR, HEADER, HEADER_SIZE, LENGTH, OK, check_length, frame
from compat.libvirt.large import Large
from compat.libvirt.messages.net import VirNetMessageError, VirNetStreamHole
from compat.libvirt.refusals import rpc_error
from compat.libvirt.schema import BEFORE_AUTH, CALLS, LAST
from compat.libvirt.streams import Direction, Stream, Streams

HYPERVISOR_PROGRAMS: Mapping[int, int] = {REMOTE_PROGRAM: 1, QEMU_PROGRAM: 1, LXC_PROGRAM: 1}
"""The programs of a libvirtd's main socket and their version."""

_CALLS = (VIR_NET_CALL, VIR_NET_CALL_WITH_FDS)
_REPLIES = (VIR_NET_REPLY, VIR_NET_REPLY_WITH_FDS)
_STREAMS = (VIR_NET_STREAM, VIR_NET_STREAM_HOLE)


class Role(Enum):
    """Which side we are."""

    SERVER = "server"
    CLIENT = "client"


_WITH_FDS = {Role.SERVER: VIR_NET_CALL_WITH_FDS, Role.CLIENT: VIR_NET_REPLY_WITH_FDS}
"""What may bring descriptors."""


class Connection:
    """Both ends' rules.  A server calls reply, error, message, stream_*; a client calls call, stream_*.

    `programs` are those that are served (or, by a client, understood) with their version; `known` the calls
    that exist; with `pass_unknown` a server reports calls of a number above the schema's last instead of
    refusing them.  `authenticated` is set by a server's session; until then only the authentication calls get
    through.  It is looked at when bytes come in: calls sent behind an unanswered authentication are refused.
    """

    def __init__(
        self,
        role: Role,
        *,
        programs: Mapping[int, int] = HYPERVISOR_PROGRAMS,
        known: Container[tuple[int, int]] = CALLS,
        pass_unknown: bool = False,
        descriptors: bool = True,
    ) -> None:
        self.role = role
        self.authenticated = False
        self.streams = Streams()
        self._programs, self._known, self._pass_unknown = programs, known, pass_unknown
        # The type that goes the other way is dropped like any other that has no business here.
        self._with_fds = _WITH_FDS[role]
        self._descriptors_limit = VIR_NET_MESSAGE_NUM_FDS_MAX if descriptors else 0
        self._buffer = bytearray()
        self._large = Large()
        self.room = self._large.room
        self._owed = 0
        self._held: Event | None = None
        self._answers: list[bytes] = []
        self._ended: str | None = None
        self._unanswered: dict[tuple[int, int, int], int] = {}
        self._in_flight = 0
        self._waiting: dict[int, tuple[int, int]] = {}
        self._serial = -1
        self._server = role is Role.SERVER
        self._receive = self._server_packet if self._server else self._client_packet

    # What comes in

    def receive_data(self, data: bytes | bytearray | memoryview, placed: int = 0) -> list[Event]:
        """Take what the socket gave (b"" at its end) and return what happened.

        placed: bytes before them that are in `room()` already.  ProtocolError when the peer broke the rules; from then
        on every call raises it."""
        if self._ended is not None:
            raise ProtocolError(self._ended)
        if placed and not self._large.header:
            data = self._large.guessed(placed, self._with_fds) + data
        size = len(data)
        if self._large.header and (placed or size):
            return self._more(memoryview(data), placed)
        if size >= HEADER_SIZE and not self._buffer and not self._owed:
            # By far most reads are exactly one packet: no copy through the buffer.
            header = HEADER.unpack_from(data)
            if header[0] == size and header[4] != self._with_fds:
                return self._single(header, bytes(data[HEADER_SIZE:]))
        if not size:
            self._ended = "the connection is closed"
            return [ConnectionClosed(bool(self._buffer or self._owed or self._large.missing))]
        self._buffer += data
        return self._drain()

    def data_to_send(self) -> bytes:
        """Return what the rules make us send, and forget it; empty when there is nothing."""
        if not self._answers:
            return b""
        data = b"".join(self._answers)
        self._answers.clear()
        return data

    @property
    def in_flight(self) -> int:
        """How many calls have no reply yet."""
        return self._in_flight if self._server else len(self._waiting)

    def _single(self, header: tuple[int, ...], payload: bytes) -> list[Event]:
        try:
            check_length(header[0])
            event = self._receive(header, payload, 0)
        except ProtocolError as error:
            self._ended = error.reason
            raise
        return [] if event is None else [event]

    def _drain(self) -> list[Event]:
        """Take every whole packet out of the buffer."""
        events: list[Event] = []
        pos = 0
        try:
            while (taken := self._take(pos, events)) is not None:
                pos = taken
        except ProtocolError as error:
            self._ended = error.reason
            self._buffer.clear()
            error.events = events
            raise
        del self._buffer[:pos]
        if len(self._buffer) >= HEADER_SIZE and not self._owed:
            header = HEADER.unpack_from(self._buffer)
            if header[4] != self._with_fds and self._large.begins(header, self._buffer):
                self._buffer.clear()
        return events

    def _more(self, data: memoryview, placed: int) -> list[Event]:
        """More of a large packet, and perhaps of what follows it."""
        rest = self._large.take(data, placed)
        if self._large.missing:
            return []
        header = self._large.header
        # What a stream carries is passed on as it is, uncopied: for its rules any byte does.
        carried = header[4] == VIR_NET_STREAM and header[6] == CONTINUE
        whole = self._large.whole(again=carried and not rest)
        events = self._single(header, b"\0" if carried else bytes(whole))
        if carried:
            events = [StreamData(event.key, whole) for event in events if isinstance(event, StreamData)]
        try:
            return events + self.receive_data(rest) if rest else events
        except ProtocolError as error:
            error.events = events + error.events
            raise

    def _take(self, pos: int, events: list[Event]) -> int | None:
        """Take the packet (or the bytes of descriptors) at pos; return where the next one is, None if cut."""
        buffer = self._buffer
        there = len(buffer) - pos
        if self._owed:
            return self._take_descriptors(pos, there, events)
        if there < LENGTH.size:
            return None
        length = check_length(LENGTH.unpack_from(buffer, pos)[0])
        if there < length:
            return None
        header = HEADER.unpack_from(buffer, pos)
        with memoryview(buffer) as view:
            payload = bytes(view[pos + HEADER_SIZE : pos + length])
        fds = 0
        if header[4] == self._with_fds:
            fds, payload = self._descriptors(payload)
        event = self._receive(header, payload, fds)
        if fds:
            self._owed, self._held = fds, event or DescriptorsDropped(fds)
        elif event is not None:
            events.append(event)
        return pos + length

    def _take_descriptors(self, pos: int, there: int, events: list[Event]) -> int | None:
        """Swallow the bytes that carry descriptors; the event they belong to is given when all are there."""
        if not there:
            return None
        taken = min(there, self._owed)
        self._owed -= taken
        if not self._owed and self._held is not None:
            events.append(self._held)
            self._held = None
        return pos + taken

    def _descriptors(self, payload: bytes) -> tuple[int, bytes]:
        """Return the count before the payload and the rest."""
        if len(payload) < 4:
            raise ProtocolError("a packet with descriptors has no count of them")
        (fds,) = LENGTH.unpack_from(payload)
        if fds > self._descriptors_limit:
            raise ProtocolError(f"{fds} descriptors, {self._descriptors_limit} allowed here")
        return fds, payload[4:]

    # Packets, as a server takes them

    def _server_packet(self, header: tuple[int, ...], payload: bytes, fds: int) -> Event | None:
        _, program, version, procedure, kind, serial, status = header
        if kind in _CALLS:
            if (
                not self.authenticated
                or status
                or self._programs.get(program) != version
                or (program, procedure) not in self._known
            ):
                refusal = self._refusal(program, version, procedure, status)
                if refusal:
                    error = rpc_error(refusal).to_bytes()
                    self._answers.append(
                        frame(program, version, procedure, VIR_NET_REPLY, serial, ERROR, error)
                    )
                    return None
            key = (program, procedure, serial)
            unanswered = self._unanswered
            unanswered[key] = unanswered.get(key, 0) + 1
            self._in_flight += 1
            return Call(program, version, procedure, serial, payload, fds)
        if kind in _STREAMS:
            return self._server_stream(StreamKey(program, procedure, serial), kind, status, payload)
        if kind == VIR_NET_MESSAGE:
            return self._keepalive(program, version, procedure)
        return None

    def _refusal(self, program: int, version: int, procedure: int, status: int) -> str | None:
        """Say why a call is refused, in libvirt's order and words; None when it is not."""
        if self._programs.get(program) != version:
            return f"Cannot find program {program} version {version}"
        if status != OK:
            return f"Unexpected message status {status & 0xFFFFFFFF}"
        if (program, procedure) not in self._known and not (
            self._pass_unknown and procedure > LAST.get(program, 0)
        ):
            return f"unknown procedure: {procedure}"
        if not self.authenticated and (program, procedure) not in BEFORE_AUTH:
            return "authentication required"
        return None

    def _server_stream(self, key: StreamKey, kind: int, status: int, payload: bytes) -> Event | None:
        stream = self.streams.find(key)
        if stream is None or stream.asked:
            return None
        if kind == VIR_NET_STREAM_HOLE:
            return self._hole(key, stream, payload)
        if status == CONTINUE:
            return StreamData(key, payload)
        # Any other status but OK is an abort, as in libvirtd.
        self.streams.ask(key, "finish" if status == OK else "abort")
        return StreamFinish(key) if status == OK else StreamAbort(key)

    # Packets, as a client takes them

    def _client_packet(self, header: tuple[int, ...], payload: bytes, fds: int) -> Event | None:
        _, program, version, procedure, kind, serial, status = header
        if kind in _REPLIES:
            return self._reply(header, payload, fds)
        if kind == VIR_NET_MESSAGE:
            if program == KEEPALIVE_PROGRAM:
                return self._keepalive(program, version, procedure)
            if self._programs.get(program) != version:
                raise ProtocolError(f"a message of program {program} version {version}, which nobody expects")
            if status != OK:
                raise ProtocolError(f"a message of status {status}")
            return Message(program, procedure, payload)
        if kind in _STREAMS:
            return self._client_stream(StreamKey(program, procedure, serial), kind, status, payload)
        raise ProtocolError(f"a packet of type {kind}, which no server sends")

    def _reply(self, header: tuple[int, ...], payload: bytes, fds: int) -> Event:
        _, program, _, procedure, _, serial, status = header
        asked = self._waiting.get(serial)
        if asked is None or asked != (program, procedure):
            raise ProtocolError(f"a reply to call {serial} of {program}:{procedure}, which nobody awaits")
        if status not in (OK, ERROR):
            raise ProtocolError(f"a reply of status {status}")
        del self._waiting[serial]
        if status == ERROR:
            self.streams.close((program, procedure, serial))
        return Reply(program, procedure, serial, status == OK, payload, fds)

    def _client_stream(self, key: StreamKey, kind: int, status: int, payload: bytes) -> Event | None:
        stream = self.streams.find(key)
        if stream is None:
            return None
        if status == ERROR and kind == VIR_NET_STREAM:
            self.streams.close(key)
            return StreamFailed(key, payload)
        if kind == VIR_NET_STREAM_HOLE:
            return self._hole(key, stream, payload)
        if status == OK:
            if stream.asked is None:
                raise ProtocolError(f"the end of stream {tuple(key)} is confirmed, nobody asked for it")
            self.streams.close(key)
            return StreamFinished(key)
        if status != CONTINUE:
            raise ProtocolError(f"a stream packet of status {status}")
        return StreamData(key, payload) if payload else StreamEnd(key)

    # Packets that both take

    def _hole(self, key: StreamKey, stream: Stream, payload: bytes) -> Event:
        try:
            hole = VirNetStreamHole.from_bytes(payload)
        except XdrError as error:
            raise ProtocolError(str(error)) from None
        if not stream.sparse:
            raise ProtocolError(f"a hole in stream {tuple(key)}, which is not sparse")
        if hole.length < 0 or hole.flags:
            raise ProtocolError(f"a hole of {hole.length} bytes with flags {hole.flags}")
        return StreamHole(key, hole.length, hole.flags)

    def _keepalive(self, program: int, version: int, procedure: int) -> Event | None:
        if program != KEEPALIVE_PROGRAM or version != 1:
            return None
        if procedure == KEEPALIVE_PROC_PING:
            self._answers.append(self.pong())
            return KeepaliveRequest()
        return KeepaliveResponse() if procedure == KEEPALIVE_PROC_PONG else None

    # What either side sends

    def ping(self) -> bytes:
        """Ask for a sign of life.  Only to peers that have the keepalive program (feature 10 was asked)."""
        return frame(KEEPALIVE_PROGRAM, 1, KEEPALIVE_PROC_PING, VIR_NET_MESSAGE, 0, OK)

    def pong(self) -> bytes:
        """Answer a PING."""
        return frame(KEEPALIVE_PROGRAM, 1, KEEPALIVE_PROC_PONG, VIR_NET_MESSAGE, 0, OK)

    def open_stream(
        self, key: StreamKey, direction: Direction = Direction.BOTH, sparse: bool = False
    ) -> None:
        """Begin a stream.  A server does so before it sends the reply, a client right after call()."""
        self.streams.open(key, direction, sparse)

    def stream_data(self, key: StreamKey, payload: bytes | bytearray) -> bytes:
        """Send bytes of a stream, never empty; keep to frames.STREAM_CHUNK for old peers."""
        wrong = Direction.TO_SERVER if self._server else Direction.TO_CLIENT
        self.streams.may_send(key, wrong, payload)
        return self._stream_frame(key, CONTINUE, payload)

    def stream_hole(self, key: StreamKey, length: int, flags: int = 0) -> bytes:
        """Send a hole of `length` bytes; the stream has to be sparse."""
        self.streams.may_hole(key, Direction.TO_SERVER if self._server else Direction.TO_CLIENT, length)
        payload = VirNetStreamHole(length, flags).to_bytes()
        return frame(key.program, 1, key.procedure, VIR_NET_STREAM_HOLE, key.serial, CONTINUE, payload)

    def _stream_frame(self, key: StreamKey, status: int, payload: bytes | bytearray = b"") -> bytes:
        return frame(key.program, 1, key.procedure, VIR_NET_STREAM, key.serial, status, payload)

    # What a server sends

    def reply(self, call: Answerable, payload: bytes = b"") -> bytes:
        """Answer a call."""
        self._answered(call)
        return frame(call.program, 1, call.procedure, VIR_NET_REPLY, call.serial, OK, payload)

    def reply_with_fds(self, call: Answerable, payload: bytes, fds: int) -> bytes:
        """Answer a call and announce 1 to 32 descriptors.

        Behind these bytes each descriptor goes out with a sendmsg of its own: one byte 0, one SCM_RIGHTS.
        """
        if not 1 <= fds <= self._descriptors_limit:
            raise LocalError(f"{fds} descriptors, 1 to {self._descriptors_limit} allowed here")
        self._answered(call)
        body = LENGTH.pack(fds) + payload
        return frame(call.program, 1, call.procedure, VIR_NET_REPLY_WITH_FDS, call.serial, OK, body)

    def error(self, call: Answerable, error: VirNetMessageError) -> bytes:
        """Refuse a call; a stream that it opened is gone."""
        payload = error.to_bytes()
        self._answered(call)
        self.streams.close((call.program, call.procedure, call.serial))
        return frame(call.program, 1, call.procedure, VIR_NET_REPLY, call.serial, ERROR, payload)

    def _answered(self, call: Answerable) -> None:
        self._as(Role.SERVER)
        key = (call.program, call.procedure, call.serial)
        left = self._unanswered.pop(key, 0) - 1
        if left < 0:
            raise LocalError(f"call {key} awaits no reply")
        if left:
            self._unanswered[key] = left
        self._in_flight -= 1

    def message(self, program: int, procedure: int, payload: bytes) -> bytes:
        """Report an event.  The serial is 1, as the daemon's is."""
        self._as(Role.SERVER)
        return frame(program, 1, procedure, VIR_NET_MESSAGE, 1, OK, payload)

    def stream_end(self, key: StreamKey) -> bytes:
        """Say that there is no more data; the client will finish the stream."""
        self._as(Role.SERVER)
        self.streams.end(key)
        return self._stream_frame(key, CONTINUE)

    def stream_finished(self, key: StreamKey) -> bytes:
        """Confirm a finish or an abort; LocalError when the client asked for none."""
        self._as(Role.SERVER)
        self.streams.finished(key)
        return self._stream_frame(key, OK)

    def stream_failed(self, key: StreamKey, error: VirNetMessageError) -> bytes:
        """Say that the stream failed; nothing is answered and nothing more may follow."""
        self._as(Role.SERVER)
        payload = error.to_bytes()
        self.streams.need(key)
        self.streams.close(key)
        return self._stream_frame(key, ERROR, payload)

    # What a client sends

    def call(self, program: int, procedure: int, payload: bytes = b"") -> tuple[int, bytes]:
        """Return the serial of a new call and its bytes.  Serials count from 0, for all programs together."""
        serial = self._next_serial()
        data = frame(program, 1, procedure, VIR_NET_CALL, serial, OK, payload)
        self._waiting[serial] = (program, procedure)
        return serial, data

    def call_with_fds(self, program: int, procedure: int, payload: bytes, fds: int) -> tuple[int, bytes]:
        """Like call(), announcing descriptors; they go out as reply_with_fds() tells."""
        if not 1 <= fds <= self._descriptors_limit:
            raise LocalError(f"{fds} descriptors, 1 to {self._descriptors_limit} allowed here")
        serial = self._next_serial()
        body = LENGTH.pack(fds) + payload
        data = frame(program, 1, procedure, VIR_NET_CALL_WITH_FDS, serial, OK, body)
        self._waiting[serial] = (program, procedure)
        return serial, data

    def _next_serial(self) -> int:
        self._as(Role.CLIENT)
        serial = (self._serial + 1) & 0xFFFFFFFF
        while serial in self._waiting:
            serial = (serial + 1) & 0xFFFFFFFF
        self._serial = serial
        return serial

    def stream_finish(self, key: StreamKey) -> bytes:
        """Ask for the orderly end of a stream; StreamFinished or StreamFailed follows."""
        self._as(Role.CLIENT)
        self.streams.ask(key, "finish")
        return self._stream_frame(key, OK)

    def stream_abort(self, key: StreamKey) -> bytes:
        """Give a stream up; StreamFinished or StreamFailed follows, data may still come before it."""
        self._as(Role.CLIENT)
        self.streams.ask(key, "abort")
        return self._stream_frame(key, ERROR)

    def _as(self, role: Role) -> None:
        if self.role is not role:
            raise LocalError(f"only a {role.value} sends this")
