"""The connection's rules: streams, keepalive, descriptors."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.libvirt.connection import Connection, Role
from compat.libvirt.constants import (
    REMOTE_PROGRAM,
    VIR_NET_CALL,
    VIR_NET_CALL_WITH_FDS,
    VIR_NET_REPLY_WITH_FDS,
    VIR_NET_STREAM,
    VIR_NET_STREAM_HOLE,
)
from compat.libvirt.errors import LocalError, ProtocolError
from compat.libvirt.events import (
    Call,
    DescriptorsDropped,
    KeepaliveRequest,
    KeepaliveResponse,
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
from compat.libvirt.frames import CONTINUE, OK, frame, split
from compat.libvirt.keepalive import Action, Keepalive
from tests.wire.peers import AUTH_LIST, FOUND, KEY, OPEN, SPARSE, client, hole, server


def pair(sparse: bool = False) -> tuple[Connection, Connection, StreamKey]:
    """A client and a server with one stream between them."""
    caller, answerer = Connection(Role.CLIENT), server()
    _, data = caller.call(REMOTE_PROGRAM, KEY.procedure)
    [call] = answerer.receive_data(data)
    assert isinstance(call, Call)
    caller.open_stream(call.key, sparse=sparse)
    answerer.open_stream(call.key, sparse=sparse)
    caller.receive_data(answerer.reply(call))
    return caller, answerer, call.key


def test_a_stream_carries_data_both_ways_and_ends_in_order() -> None:
    caller, answerer, key = pair()
    assert answerer.receive_data(caller.stream_data(key, b"in")) == [StreamData(key, b"in")]
    assert caller.receive_data(answerer.stream_data(key, b"out")) == [StreamData(key, b"out")]
    assert caller.receive_data(answerer.stream_end(key)) == [StreamEnd(key)]
    with pytest.raises(LocalError, match="ended"):
        answerer.stream_data(key, b"late")
    assert answerer.receive_data(caller.stream_finish(key)) == [StreamFinish(key)]
    assert caller.receive_data(answerer.stream_finished(key)) == [StreamFinished(key)]
    assert key not in caller.streams
    assert key not in answerer.streams


def test_an_abort_is_confirmed_and_late_data_does_no_harm() -> None:
    caller, answerer, key = pair()
    late = answerer.stream_data(key, b"late")
    assert answerer.receive_data(caller.stream_abort(key)) == [StreamAbort(key)]
    assert caller.receive_data(late) == [StreamData(key, b"late")]
    assert caller.receive_data(answerer.stream_finished(key)) == [StreamFinished(key)]
    assert caller.receive_data(late) == []


def test_a_failed_stream_is_over_on_both_sides_with_no_answer() -> None:
    caller, answerer, key = pair()
    assert caller.receive_data(answerer.stream_failed(key, FOUND)) == [StreamFailed(key, FOUND.to_bytes())]
    with pytest.raises(LocalError):
        caller.stream_data(key, b"x")
    late = frame(key.program, 1, key.procedure, VIR_NET_STREAM, key.serial, CONTINUE, b"x")
    assert answerer.receive_data(late) == []
    assert answerer.data_to_send() == b""


def test_a_server_never_confirms_an_end_that_nobody_asked_for() -> None:
    _, answerer, key = pair()
    with pytest.raises(LocalError, match="asked for no end"):
        answerer.stream_finished(key)


def test_holes_travel_in_sparse_streams_only() -> None:
    caller, answerer, key = pair(sparse=True)
    assert answerer.receive_data(caller.stream_hole(key, 2**40)) == [StreamHole(key, 2**40, 0)]
    assert caller.receive_data(answerer.stream_hole(key, 1)) == [StreamHole(key, 1, 0)]
    with pytest.raises(LocalError):
        caller.stream_hole(key, -1)
    caller, answerer, key = pair()
    with pytest.raises(LocalError, match="not sparse"):
        caller.stream_hole(key, 1)
    data = frame(key.program, 1, key.procedure, VIR_NET_STREAM_HOLE, key.serial, CONTINUE, hole)
    with pytest.raises(ProtocolError):
        answerer.receive_data(data)


@pytest.mark.parametrize("body", [b"", struct.pack(">qI", -1, 0), struct.pack(">qI", 1, 8)])
def test_a_malformed_hole_ends_the_connection(body: bytes) -> None:
    _, answerer, key = pair(sparse=True)
    data = frame(key.program, 1, key.procedure, VIR_NET_STREAM_HOLE, key.serial, CONTINUE, body)
    with pytest.raises(ProtocolError):
        answerer.receive_data(data)


def test_data_before_the_reply_reaches_the_client() -> None:
    connection = Connection(Role.CLIENT)
    serial, _ = connection.call(REMOTE_PROGRAM, KEY.procedure)
    key = StreamKey(REMOTE_PROGRAM, KEY.procedure, serial)
    connection.open_stream(key)
    data = frame(*key[:1], 1, key.procedure, VIR_NET_STREAM, serial, CONTINUE, b"early")
    assert connection.receive_data(data) == [StreamData(key, b"early")]


def test_a_refused_call_leaves_no_stream_on_either_side() -> None:
    caller, answerer = Connection(Role.CLIENT), server()
    _, data = caller.call(REMOTE_PROGRAM, KEY.procedure)
    [call] = answerer.receive_data(data)
    assert isinstance(call, Call)
    caller.open_stream(call.key)
    answerer.open_stream(call.key)
    caller.receive_data(answerer.error(call, FOUND))
    assert call.key not in caller.streams
    assert call.key not in answerer.streams


def test_data_goes_only_in_the_direction_of_its_stream() -> None:
    connection = server()
    with pytest.raises(LocalError, match="client-to-server only"):
        connection.stream_data(SPARSE, b"x")
    with pytest.raises(LocalError, match="end of the stream"):
        connection.stream_data(KEY, b"")
    with pytest.raises(LocalError, match="open already"):
        connection.open_stream(KEY)


# Keepalive


def test_a_ping_is_answered_at_any_time() -> None:
    for connection in (Connection(Role.SERVER), server(), client()):
        assert connection.receive_data(client().ping()) == [KeepaliveRequest()]
        assert connection.data_to_send() == server().pong()
        assert connection.receive_data(server().pong()) == [KeepaliveResponse()]
        assert connection.data_to_send() == b""


@given(st.integers(1, 60), st.integers(0, 10))
def test_a_silent_peer_is_dead_after_interval_times_count_plus_one(interval: int, count: int) -> None:
    rule = Keepalive(interval, count, now=0.0)
    actions = [(now, action) for now in range(1, 1000) if (action := rule.tick(now)) is not Action.NOTHING]
    assert actions[:count] == [(interval * (n + 1), Action.PING) for n in range(count)]
    assert actions[count] == (interval * (count + 1), Action.DEAD)


def test_any_sign_of_life_starts_the_count_anew() -> None:
    rule = Keepalive(5, 1, now=0.0)
    assert rule.tick(5) is Action.PING
    rule.heard(9)
    assert rule.due() == 14
    assert [rule.tick(now) for now in (13.9, 14, 19)] == [Action.NOTHING, Action.PING, Action.DEAD]


@pytest.mark.parametrize("interval", [-1, 0])
def test_an_interval_of_nothing_never_pings(interval: int) -> None:
    rule = Keepalive(interval, 5, now=0.0)
    assert rule.due() is None
    assert rule.tick(1e9) is Action.NOTHING


# Descriptors


def test_descriptors_arrive_before_their_call_is_reported() -> None:
    connection = server()
    _, data = Connection(Role.CLIENT).call_with_fds(REMOTE_PROGRAM, OPEN, b"args", 2)
    following = frame(REMOTE_PROGRAM, 1, AUTH_LIST, VIR_NET_CALL, 1, OK)
    assert connection.receive_data(data) == []
    assert connection.receive_data(b"\0") == []
    assert connection.receive_data(b"\0" + following) == [
        Call(REMOTE_PROGRAM, 1, OPEN, 0, b"args", 2),
        Call(REMOTE_PROGRAM, 1, AUTH_LIST, 1, b""),
    ]


def test_descriptors_of_a_refused_call_are_reported_to_be_closed() -> None:
    connection = Connection(Role.SERVER)
    _, data = Connection(Role.CLIENT).call_with_fds(REMOTE_PROGRAM, OPEN, b"", 3)
    assert connection.receive_data(data + bytes(3)) == [DescriptorsDropped(3)]
    assert b"authentication required" in connection.data_to_send()


def test_a_reply_may_carry_descriptors() -> None:
    caller, answerer = Connection(Role.CLIENT), server()
    serial, data = caller.call(REMOTE_PROGRAM, OPEN)
    [call] = answerer.receive_data(data)
    assert isinstance(call, Call)
    sent = answerer.reply_with_fds(call, b"ret!", 1) + b"\0"
    assert split(sent[:-1])[0][3] == VIR_NET_REPLY_WITH_FDS
    assert caller.receive_data(sent) == [Reply(REMOTE_PROGRAM, OPEN, serial, True, b"ret!", 1)]


@pytest.mark.parametrize("body", [b"", b"\0\0\0", struct.pack(">I", 33), struct.pack(">I", 2**32 - 1)])
def test_a_wrong_count_of_descriptors_ends_the_connection(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        server().receive_data(frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL_WITH_FDS, 0, OK, body))


def test_where_descriptors_cannot_travel_none_are_accepted_or_sent() -> None:
    connection = server(descriptors=False)
    none = frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL_WITH_FDS, 0, OK, bytes(4) + b"args")
    assert connection.receive_data(none) == [Call(REMOTE_PROGRAM, 1, OPEN, 0, b"args", 0)]
    with pytest.raises(LocalError):
        connection.reply_with_fds(StreamKey(REMOTE_PROGRAM, OPEN, 0), b"", 1)
    one = frame(REMOTE_PROGRAM, 1, OPEN, VIR_NET_CALL_WITH_FDS, 0, OK, struct.pack(">I", 1))
    with pytest.raises(ProtocolError, match="1 descriptors, 0 allowed"):
        connection.receive_data(one)
