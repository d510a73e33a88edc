"""The connection's rules: cuts, nonsense, calls and replies, before and after authentication."""

from __future__ import annotations

import random
import struct
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.libvirt import messages
from compat.libvirt.connection import Connection, Role
from compat.libvirt.constants import (
    ADMIN_PROGRAM,
    KEEPALIVE_PROGRAM,
    QEMU_PROGRAM,
    REMOTE_PROGRAM,
    VIR_NET_CALL,
    VIR_NET_MESSAGE,
    VIR_NET_REPLY,
    VIR_NET_STREAM,
    VIR_NET_STREAM_HOLE,
)
from compat.libvirt.errors import LocalError, ProtocolError
from compat.libvirt.events import (
    Call,
    ConnectionClosed,
    Event,
    Message,
    Reply,
    StreamData,
    StreamKey,
)
from compat.libvirt.frames import CONTINUE, ERROR, LENGTH_MAX, OK, frame, split
from compat.libvirt.schema import BEFORE_AUTH, CALLS, PROCEDURES
from tests.wire.peers import AUTH_LIST, FOUND, GET_STATE, KEY, OPEN, SPARSE, client, hole, server


def run(connection: Connection, pieces: list[bytes]) -> tuple[list[Event], str | None, bytes]:
    """Feed pieces; return the events, the reason of a violation, and what is to be sent."""
    events: list[Event] = []
    for piece in pieces:
        try:
            events += connection.receive_data(piece)
        except ProtocolError as error:
            return events + error.events, error.reason, connection.data_to_send()
    return events, None, connection.data_to_send()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[low:high] for low, high in pairwise(edges)]


programs = st.sampled_from(
    [REMOTE_PROGRAM, REMOTE_PROGRAM, QEMU_PROGRAM, KEEPALIVE_PROGRAM, ADMIN_PROGRAM, 7]
)
procedures = st.sampled_from([1, 2, OPEN, AUTH_LIST, KEY.procedure, SPARSE.procedure, 107, 400, 454, 999, -1])
payloads = st.one_of(st.binary(max_size=40), st.just(hole), st.just(struct.pack(">I", 2) + b"abcd"))
well_formed = st.builds(
    frame,
    programs,
    st.sampled_from([1, 1, 1, 1, 2]),
    procedures,
    st.integers(0, 7),
    st.sampled_from([0, 1, 5, 6, 9, 11]),
    st.sampled_from([0, 0, 0, 1, 2, 2, 3]),
    payloads,
)
broken = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([0, 3, 27, LENGTH_MAX + 1, 2**32 - 1]).map(lambda length: struct.pack(">I", length)),
)
traffic = st.lists(st.one_of(well_formed, well_formed, well_formed, broken), max_size=8).map(b"".join)
MAKERS = {"server": server, "stranger": lambda: Connection(Role.SERVER), "client": client}


@pytest.mark.parametrize("maker", MAKERS)
@settings(max_examples=300, deadline=None)
@given(data=traffic, places=st.lists(st.integers(0, 10_000), max_size=6))
def test_events_do_not_depend_on_how_the_bytes_were_cut(maker: str, data: bytes, places: list[int]) -> None:
    make = MAKERS[maker]
    whole = run(make(), [data] if data else [])
    assert run(make(), [data[at : at + 1] for at in range(len(data))]) == whole
    assert run(make(), cut(data, places)) == whole


large = st.builds(
    frame,
    st.sampled_from([REMOTE_PROGRAM, 7]),
    st.just(1),
    st.sampled_from([OPEN, KEY.procedure, 999]),
    st.sampled_from([VIR_NET_CALL, VIR_NET_STREAM, VIR_NET_STREAM_HOLE, 4]),
    st.sampled_from([0, KEY.serial]),
    st.sampled_from([OK, ERROR, CONTINUE]),
    st.sampled_from([65535, 65536, 70_000, 262_148, 1024 * 1024]).map(random.Random(1).randbytes),
)


def into_its_room(connection: Connection, pieces: list[bytes]) -> tuple[list[Event], str | None, bytes]:
    """As `run`, but each piece goes where the connection wants it, as far as it does."""
    events: list[Event] = []
    for piece in pieces:
        room = connection.room()
        placed = 0 if room is None else min(len(room), len(piece))
        if room is not None:
            room[:placed] = piece[:placed]
        try:
            events += connection.receive_data(memoryview(piece)[placed:], placed)
        except ProtocolError as error:
            return events + error.events, error.reason, connection.data_to_send()
    return events, None, connection.data_to_send()


@pytest.mark.parametrize("maker", MAKERS)
@settings(max_examples=100, deadline=None)
@given(
    packets=st.lists(st.one_of(large, well_formed, broken), max_size=6),
    places=st.lists(st.integers(0, 3_000_000), max_size=20),
)
def test_large_packets_are_the_same_wherever_their_pieces_are_put(
    maker: str, packets: list[bytes], places: list[int]
) -> None:
    make, data = MAKERS[maker], b"".join(packets)
    whole = run(make(), [data] if data else [])
    assert run(make(), cut(data, places)) == whole
    assert into_its_room(make(), cut(data, places)) == whole
    # As a socket gives them that is read to the end of the room and no further.
    ends = list(accumulate(map(len, packets)))
    assert into_its_room(make(), cut(data, places + ends)) == whole
    heads = [end + 28 for end in ends]
    assert into_its_room(make(), cut(data, [*places, *ends, *heads])) == whole


@pytest.mark.parametrize("most", [5, 27, 28, 29, 70_000, 99_999, 100_027, 100_028, 150_000])
def test_behind_a_large_packet_of_a_stream_there_is_room_for_another_of_its_length(most: int) -> None:
    connection, rng, events, places = server(), random.Random(2), [], 0
    sizes = [100_000, 100_000, 100_000, 4, 100_000, 100_001, 99_999, 100_000, 100_000]
    payloads = [rng.randbytes(size) for size in sizes]
    data = b"".join(
        frame(REMOTE_PROGRAM, 1, KEY.procedure, VIR_NET_STREAM, KEY.serial, CONTINUE, payload)
        for payload in payloads
    )
    assert connection.receive_data(data[:1000]) == []
    data = data[1000:]
    while data:
        room = connection.room()
        size = min(most, len(data), len(data) if room is None else len(room))
        if room is None:
            events += connection.receive_data(data[:size])
        else:
            places += 1
            room[:size] = data[:size]
            events += connection.receive_data(b"", size)
        data = data[size:]
    assert events == [StreamData(KEY, payload) for payload in payloads]
    assert places >= 4
    assert connection.receive_data(b"") == [ConnectionClosed(False)]


def test_no_room_is_kept_behind_what_is_no_stream() -> None:
    connection = server()
    call = frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL, 3, OK, bytes(100_000))
    connection.receive_data(call[:1000])
    room = connection.room()
    assert room is not None
    room[:] = call[1000:]
    assert len(connection.receive_data(b"", len(room))) == 1
    assert connection.room() is None


def test_room_is_made_for_what_has_begun_and_is_not_too_large() -> None:
    def begun(size: int, sent: int) -> memoryview | None:
        connection = server()
        data = frame(REMOTE_PROGRAM, 1, KEY.procedure, VIR_NET_STREAM, KEY.serial, CONTINUE, bytes(size - 28))
        assert connection.receive_data(data[:sent]) == []
        return connection.room()

    room = begun(262_172, 200_000 - 70_000)
    assert room is not None
    assert len(room) == 262_172 - 130_000
    assert begun(262_172, 27) is None
    assert begun(262_172, 262_172 - 1000) is None
    assert begun(LENGTH_MAX, 100_000) is None


@pytest.mark.parametrize("maker", MAKERS)
def test_a_million_random_bytes_give_events_or_a_protocol_error(maker: str) -> None:
    rng = random.Random(maker)
    for _ in range(2000):
        head = struct.pack(">I", rng.choice((28, 32, 60, rng.randrange(100), rng.getrandbits(32))))
        events, reason, _ = run(MAKERS[maker](), [head + rng.randbytes(rng.randrange(500))])
        assert reason is None or events == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_may_come_in_any_kind_of_buffer(kind: Any) -> None:
    data = frame(REMOTE_PROGRAM, 1, AUTH_LIST, VIR_NET_CALL, 3, OK, b"abc")
    for pieces in ([kind(data)], [kind(data[:9]), kind(data[9:])]):
        events, _, _ = run(server(), pieces)
        assert events == [Call(REMOTE_PROGRAM, 1, AUTH_LIST, 3, b"abc")]
        assert isinstance(events[0], Call)
        assert type(events[0].payload) is bytes


def test_a_payload_of_the_greatest_size_is_assembled_from_small_pieces() -> None:
    size = LENGTH_MAX - 28
    data = frame(REMOTE_PROGRAM, 1, KEY.procedure, VIR_NET_STREAM, KEY.serial, CONTINUE, bytes(size))
    events, reason, _ = run(server(), [data[at : at + 65536] for at in range(0, len(data), 65536)])
    assert reason is None
    assert [len(event.payload) for event in events if isinstance(event, StreamData)] == [size]
    with pytest.raises(LocalError, match="at most"):
        frame(REMOTE_PROGRAM, 1, 1, VIR_NET_STREAM, 0, CONTINUE, bytes(size + 1))


@pytest.mark.parametrize("length", [0, 3, 4, 27, LENGTH_MAX + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_anything_is_kept(length: int) -> None:
    connection = server()
    with pytest.raises(ProtocolError, match=str(length)):
        connection.receive_data(struct.pack(">I", length))
    with pytest.raises(ProtocolError):
        connection.receive_data(b"more")


def test_events_before_a_violation_are_not_lost() -> None:
    good = frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL, 0, OK)
    with pytest.raises(ProtocolError) as caught:
        server().receive_data(good + bytes(28))
    assert caught.value.events == [Call(REMOTE_PROGRAM, 1, OPEN, 0, b"")]


def test_the_end_of_the_bytes_is_an_event_that_tells_whether_a_packet_was_cut() -> None:
    connection = server()
    assert connection.receive_data(b"") == [ConnectionClosed(partial=False)]
    with pytest.raises(ProtocolError):
        connection.receive_data(b"")
    connection = server()
    connection.receive_data(b"\0\0")
    assert connection.receive_data(b"") == [ConnectionClosed(partial=True)]


# Calls


def refusal(connection: Connection, data: bytes) -> tuple[tuple[int, ...], messages.VirNetMessageError]:
    """Feed a call that the rules refuse; return the answer's header and error."""
    assert connection.receive_data(data) == []
    header, payload = split(connection.data_to_send())
    assert connection.data_to_send() == b""
    return header, messages.VirNetMessageError.from_bytes(payload)


@pytest.mark.parametrize(
    ("program", "version", "procedure", "status", "text"),
    [
        (0x1234, 1, 1, OK, "Cannot find program 4660 version 1"),
        (REMOTE_PROGRAM, 2, 1, OK, f"Cannot find program {REMOTE_PROGRAM} version 2"),
        (ADMIN_PROGRAM, 1, 1, OK, f"Cannot find program {ADMIN_PROGRAM} version 1"),
        (KEEPALIVE_PROGRAM, 1, 1, OK, f"Cannot find program {KEEPALIVE_PROGRAM} version 1"),
        (REMOTE_PROGRAM, 1, 999, OK, "unknown procedure: 999"),
        (REMOTE_PROGRAM, 1, 0, OK, "unknown procedure: 0"),
        (REMOTE_PROGRAM, 1, -1, OK, "unknown procedure: -1"),
        (REMOTE_PROGRAM, 1, 107, OK, "unknown procedure: 107"),
        (QEMU_PROGRAM, 1, 6, OK, "unknown procedure: 6"),
        (REMOTE_PROGRAM, 1, 1, CONTINUE, "Unexpected message status 2"),
        (REMOTE_PROGRAM, 1, 1, -1, "Unexpected message status 4294967295"),
    ],
)
def test_a_call_against_the_rules_is_refused_by_the_rules(
    program: int, version: int, procedure: int, status: int, text: str
) -> None:
    connection = server()
    data = frame(program, version, procedure, VIR_NET_CALL, 77, status)
    header, error = refusal(connection, data)
    assert header == (program, version, procedure, VIR_NET_REPLY, 77, ERROR)
    assert (error.code, error.domain, error.level, error.message) == (39, 7, 2, text)
    assert connection.in_flight == 0


def test_before_authentication_only_the_authentication_calls_get_through() -> None:
    for key, procedure in PROCEDURES.items():
        if procedure.kind != "call" or procedure.program not in ("remote", "qemu", "lxc"):
            continue
        connection = Connection(Role.SERVER)
        events = connection.receive_data(frame(*key[:1], 1, key[1], VIR_NET_CALL, 0, OK))
        assert bool(events) == (key in BEFORE_AUTH)
        if not events:
            assert b"authentication required" in connection.data_to_send()
    assert {number for _, number in BEFORE_AUTH} == {66, 67, 68, 69, 70}


def test_after_authentication_every_call_of_the_schema_gets_through() -> None:
    connection = server()
    for program, number in sorted(CALLS):
        if program not in (ADMIN_PROGRAM, KEEPALIVE_PROGRAM):
            [event] = connection.receive_data(frame(program, 1, number, VIR_NET_CALL, 1, OK))
            assert event == Call(program, 1, number, 1, b"")


def test_newer_procedures_are_passed_up_on_request_but_gaps_and_events_are_not() -> None:
    connection = server(pass_unknown=True)
    assert connection.receive_data(frame(REMOTE_PROGRAM, 1, 454, VIR_NET_CALL, 1, OK))
    assert connection.receive_data(frame(QEMU_PROGRAM, 1, 8, VIR_NET_CALL, 1, OK))
    for number in (0, -4, 107, 453):
        assert not connection.receive_data(frame(REMOTE_PROGRAM, 1, number, VIR_NET_CALL, 1, OK))


@pytest.mark.parametrize("kind", [VIR_NET_REPLY, VIR_NET_MESSAGE, VIR_NET_STREAM, 7, -1, 2**31 - 1])
def test_a_server_drops_what_only_servers_send(kind: int) -> None:
    connection = server()
    assert connection.receive_data(frame(REMOTE_PROGRAM, 1, OPEN, kind, 0, OK)) == []
    assert connection.data_to_send() == b""


def test_replies_may_come_in_any_order_and_match_by_serial() -> None:
    caller, answerer = Connection(Role.CLIENT), server()
    calls: dict[int, Call] = {}
    for number in (OPEN, GET_STATE, AUTH_LIST):
        serial, data = caller.call(REMOTE_PROGRAM, number, b"args")
        [calls[serial]] = answerer.receive_data(data)  # type: ignore[list-item]
    assert list(calls) == [0, 1, 2]
    assert caller.in_flight == answerer.in_flight == 3
    for serial in (2, 0, 1):
        [reply] = caller.receive_data(answerer.reply(calls[serial], b"ret!"))
        assert reply == Reply(REMOTE_PROGRAM, calls[serial].procedure, serial, True, b"ret!")
    assert caller.in_flight == answerer.in_flight == 0


def test_an_error_reply_carries_the_error() -> None:
    caller, answerer = Connection(Role.CLIENT), server()
    serial, data = caller.call(REMOTE_PROGRAM, OPEN)
    [call] = answerer.receive_data(data)
    assert isinstance(call, Call)
    [reply] = caller.receive_data(answerer.error(call, FOUND))
    assert reply == Reply(REMOTE_PROGRAM, OPEN, serial, False, FOUND.to_bytes())


def test_a_call_is_answered_once() -> None:
    connection = server()
    [call] = connection.receive_data(frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL, 4, OK))
    assert isinstance(call, Call)
    connection.reply(call)
    with pytest.raises(LocalError):
        connection.reply(call)
    with pytest.raises(LocalError):
        connection.error(StreamKey(REMOTE_PROGRAM, OPEN, 5), FOUND)


def test_a_serial_used_twice_by_the_client_gets_two_answers() -> None:
    connection = server()
    data = frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL, 4, OK)
    first, second = connection.receive_data(data + data)
    assert connection.in_flight == 2
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert connection.reply(first) == connection.reply(second)
    assert connection.in_flight == 0


@pytest.mark.parametrize(
    "data",
    [
        frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_REPLY, 99, OK),
        frame(REMOTE_PROGRAM, 1, OPEN + 1, VIR_NET_REPLY, 0, OK),
        frame(QEMU_PROGRAM, 1, OPEN, VIR_NET_REPLY, 0, OK),
        frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_REPLY, 0, CONTINUE),
        frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL, 0, OK),
        frame(REMOTE_PROGRAM, 1, OPEN, 99, 0, OK),
        frame(ADMIN_PROGRAM, 1, 1, VIR_NET_MESSAGE, 0, OK),
        frame(REMOTE_PROGRAM, 1, 107, VIR_NET_MESSAGE, 0, ERROR),
        frame(REMOTE_PROGRAM, 1, SPARSE.procedure, VIR_NET_STREAM, SPARSE.serial, OK),
        frame(REMOTE_PROGRAM, 1, SPARSE.procedure, VIR_NET_STREAM, SPARSE.serial, 3),
        frame(REMOTE_PROGRAM, 1, KEY.procedure, VIR_NET_STREAM_HOLE, KEY.serial, CONTINUE, hole),
    ],
)
def test_a_client_drops_a_server_that_breaks_the_rules(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        client().receive_data(data)


def test_events_of_known_programs_are_messages_also_newer_ones() -> None:
    data = server().message(REMOTE_PROGRAM, 500, b"body")
    assert split(data)[0][4] == 1
    assert client().receive_data(data) == [Message(REMOTE_PROGRAM, 500, b"body")]


def test_each_role_sends_only_what_is_its_own() -> None:
    for attempt in (
        lambda: client().reply(KEY),
        lambda: client().message(REMOTE_PROGRAM, 1, b""),
        lambda: client().stream_end(KEY),
        lambda: client().stream_failed(KEY, FOUND),
        lambda: server().call(REMOTE_PROGRAM, 1),
        lambda: server().stream_finish(KEY),
        lambda: server().stream_abort(KEY),
    ):
        with pytest.raises(LocalError):
            attempt()


def test_serials_wrap_around_and_skip_calls_still_under_way() -> None:
    connection = Connection(Role.CLIENT)
    connection.call(REMOTE_PROGRAM, 1)
    connection._serial = 2**32 - 2
    assert [connection.call(REMOTE_PROGRAM, 1)[0] for _ in range(2)] == [2**32 - 1, 1]
