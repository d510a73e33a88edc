"""The front end as a client sees it that keeps to no rules: states, limits, order, read-only, bad input."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterhost.frontend.libvirt import errors
from clusterhost.model.node import Link
from compat.libvirt import events as wire
from compat.libvirt import messages
from compat.libvirt.constants import (
    KEEPALIVE_PROGRAM,
    QEMU_PROGRAM,
    REMOTE_PROGRAM,
    VirErrorDomain,
    VirErrorNumber,
)
from compat.libvirt.frames import frame
from compat.libvirt.schema import BY_NAME, PROCEDURES
from tests.support.direct import Served, served
from tests.support.libvirtd import PrivateLibvirtd, domain_xml, nodes
from tests.support.rawclient import RawClient
from tests.support.stock import eventually

pytestmark = pytest.mark.real

GET_STATE = "remote:DOMAIN_GET_STATE"


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PrivateLibvirtd]]:
    with nodes(tmp_path_factory.mktemp("s"), "n1", "n2") as started:
        yield started


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, daemons: dict[str, PrivateLibvirtd]) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("f") / "f", daemons, deadline=1.5) as front:
        client = RawClient(front.path)
        for name in ("a", "b"):
            client.ok("remote:DOMAIN_DEFINE_XML", messages.RemoteDomainDefineXmlArgs(domain_xml(name)))
        client.close()
        yield front


@pytest.fixture
def client(front: Served) -> Iterator[RawClient]:
    client = RawClient(front.path)
    yield client
    client.close()


def handle(front: Served, name: str) -> messages.RemoteNonnullDomain:
    domain = front.cluster.by_name(name)
    return messages.RemoteNonnullDomain(domain.name, domain.uuid, domain.id)


def state_args(front: Served, name: str) -> messages.RemoteDomainGetStateArgs:
    return messages.RemoteDomainGetStateArgs(handle(front, name), 0)


# -- opening


def test_before_open_only_open_close_keepalive_and_authentication_are_served(front: Served) -> None:
    client = RawClient(front.path, open_=False)
    assert client.error("remote:CONNECT_GET_TYPE").message == "internal error: hypervisor connection not open"
    assert client.error("remote:DOMAIN_SUSPEND").code == VirErrorNumber.ERR_INTERNAL_ERROR
    feature = messages.RemoteConnectSupportsFeatureArgs
    assert client.error("remote:CONNECT_SUPPORTS_FEATURE", feature(14)).code == 1
    assert client.ok("remote:CONNECT_SUPPORTS_FEATURE", feature(10)).supported == 1
    assert client.ok("remote:AUTH_LIST").types == [0]
    assert client.error("remote:AUTH_SASL_INIT").code == VirErrorNumber.ERR_AUTH_FAILED
    assert client.error("remote:AUTH_POLKIT").code == VirErrorNumber.ERR_AUTH_FAILED
    client.ok("remote:CONNECT_CLOSE")
    assert client.closed()


def test_a_second_open_is_refused_and_the_first_one_stays(client: RawClient) -> None:
    error = client.error("remote:CONNECT_OPEN", messages.RemoteConnectOpenArgs("qemu:///system", 0))
    assert error.message == "internal error: connection already open"
    assert client.ok("remote:CONNECT_GET_TYPE").type == "QEMU"


def test_a_refused_open_leaves_the_connection_usable(front: Served) -> None:
    client = RawClient(front.path, open_=False)
    open_ = messages.RemoteConnectOpenArgs
    assert (
        client.error("remote:CONNECT_OPEN", open_("test:///default", 0)).code == VirErrorNumber.ERR_NO_CONNECT
    )
    unknown = client.error("remote:CONNECT_OPEN", open_("qemu:///system?node=n9", 0))
    assert unknown.message == "no node named 'n9'; known: n1, n2"
    client.ok("remote:CONNECT_OPEN", open_(None, 0))
    assert client.ok("remote:CONNECT_GET_URI").uri == "qemu:///system"
    client.close()


def test_close_answers_and_then_ends_the_connection(front: Served) -> None:
    client = RawClient(front.path)
    assert client.call("remote:CONNECT_CLOSE").ok
    assert client.closed()


def test_features_are_those_of_a_qemu_libvirtd(client: RawClient) -> None:
    wanted = {
        3: 1,
        4: 1,
        5: 0,
        6: 1,
        7: 1,
        9: 1,
        10: 1,
        11: 1,
        12: 1,
        13: 1,
        14: 1,
        15: 1,
        16: 1,
        1: 0,
        2: 0,
        99: 0,
    }
    for number, answer in wanted.items():
        args = messages.RemoteConnectSupportsFeatureArgs(number)
        assert client.ok("remote:CONNECT_SUPPORTS_FEATURE", args).supported == answer, number


# -- read-only


def test_every_denied_procedure_is_refused_before_its_arguments_are_looked_at(front: Served) -> None:
    client = RawClient(front.path, flags=1)
    parsed = len(front.domains.parsed)
    denied = [
        one
        for one in PROCEDURES.values()
        if one.kind == "call" and one.read_only == "denied" and one.program in ("remote", "qemu")
    ]
    assert len(denied) > 150
    for procedure in denied:
        error = client.error(procedure.full_name, payload=b"")
        assert error.code == VirErrorNumber.ERR_OPERATION_DENIED, procedure.full_name
        text = f"operation forbidden: read only access prevents {errors.api_name(procedure)}"
        assert error.message == text
        assert error.domain == errors.object_domain(procedure)
    assert len(front.domains.parsed) == parsed
    client.close()


def test_the_read_only_socket_cannot_be_lifted(front: Served) -> None:
    client = RawClient(front.path_ro, flags=0)
    args = messages.RemoteDomainCreateArgs(handle(front, "a"))
    assert client.error("remote:DOMAIN_CREATE", args).code == VirErrorNumber.ERR_OPERATION_DENIED
    client.close()


def test_a_secure_flag_is_denied_even_with_bytes_behind_the_arguments(front: Served) -> None:
    client = RawClient(front.path, flags=1)
    args = messages.RemoteDomainGetXmlDescArgs(handle(front, "a"), 1).to_bytes()
    for payload in (args, args + b"\0\0\0\0"):
        error = client.error("remote:DOMAIN_GET_XML_DESC", payload=payload)
        assert error.message == "operation forbidden: virDomainGetXMLDesc with secure flag"
    assert client.ok(
        "remote:DOMAIN_GET_XML_DESC", messages.RemoteDomainGetXmlDescArgs(handle(front, "a"), 2)
    ).xml.startswith("<domain")
    client.close()


# -- calls in flight


def test_replies_come_out_of_order_and_one_slow_node_slows_no_other(
    front: Served, daemons: dict[str, PrivateLibvirtd]
) -> None:
    on = {front.cluster.by_name(name).node: name for name in ("a", "b")}
    client = RawClient(front.path)
    info = {node: messages.RemoteDomainGetInfoArgs(handle(front, name)) for node, name in on.items()}
    daemons["n1"].freeze()
    try:
        began = time.monotonic()
        slow = client.send("remote:DOMAIN_GET_INFO", info["n1"])
        assert client.call("remote:DOMAIN_GET_INFO", info["n2"]).ok
        assert client.call(GET_STATE, state_args(front, on["n1"])).ok
        assert time.monotonic() - began < 1.0
        late = messages.VirNetMessageError.from_bytes(client.reply(slow).payload)
        assert late.code == VirErrorNumber.ERR_OPERATION_TIMEOUT
        assert late.message is not None
        assert "n1" in late.message
    finally:
        daemons["n1"].thaw()
    client.close()


def test_a_client_has_at_most_five_calls_under_way(
    front: Served, daemons: dict[str, PrivateLibvirtd]
) -> None:
    name = next(one for one in ("a", "b") if front.cluster.by_name(one).node == "n1")
    client = RawClient(front.path)
    args = messages.RemoteDomainGetInfoArgs(handle(front, name))
    daemons["n1"].freeze()
    try:
        slow = [client.send("remote:DOMAIN_GET_INFO", args) for _ in range(5)]
        sixth = client.send("remote:CONNECT_GET_TYPE")
        assert not select.select([client.sock], [], [], 0.5)[0]
    finally:
        daemons["n1"].thaw()
    assert all(client.reply(serial).ok for serial in slow)
    assert client.reply(sixth).ok
    client.close()


def test_many_pipelined_calls_are_all_answered_in_time(client: RawClient, front: Served) -> None:
    args = state_args(front, "a")
    serials = [client.send(GET_STATE, args) for _ in range(500)]
    assert all(client.reply(serial).ok for serial in serials)


# -- cached answers are never older than a reply


def test_a_domain_that_is_being_changed_is_answered_by_its_node(client: RawClient, front: Served) -> None:
    domain = front.cluster.by_name("a")
    front.cluster.put(domain.with_(state=3, reason=7))
    try:
        assert client.ok(GET_STATE, state_args(front, "a")) == messages.RemoteDomainGetStateRet(3, 7)
        front.cluster.begin(domain.uuid)
        assert client.ok(GET_STATE, state_args(front, "a")).state == 5
        front.cluster.end(domain.uuid)
        assert client.ok(GET_STATE, state_args(front, "a")).state == 3
        front.cluster.mark_stale(domain.uuid)
        assert client.ok(GET_STATE, state_args(front, "a")).state == 5
        front.cluster.mark_fresh([domain.uuid])
    finally:
        front.cluster.put(domain)


def test_flags_nobody_knows_get_the_nodes_own_error(client: RawClient, front: Served) -> None:
    error = client.error(GET_STATE, messages.RemoteDomainGetStateArgs(handle(front, "a"), 1 << 20))
    assert error.code == VirErrorNumber.ERR_INVALID_ARG
    assert error.domain == VirErrorDomain.QEMU


def test_a_domain_of_another_node_is_unknown_in_a_view(front: Served) -> None:
    other = "n2" if front.cluster.by_name("a").node == "n1" else "n1"
    client = RawClient(front.path, name=f"qemu:///system?node={other}")
    error = client.error(GET_STATE, state_args(front, "a"))
    assert (error.code, error.domain) == (VirErrorNumber.ERR_NO_DOMAIN, VirErrorDomain.QEMU)
    client.close()


def test_a_domain_whose_node_is_out_of_reach_is_listed_and_its_calls_name_the_node(
    client: RawClient, front: Served
) -> None:
    name = front.cluster.by_name("a").node
    node = front.cluster.nodes[name]
    front.cluster.put_node(replace(node, link=Link.LOST, since=1700000000.0, reason="no heartbeat"))
    try:
        listed = client.ok("remote:CONNECT_LIST_ALL_DOMAINS", messages.RemoteConnectListAllDomainsArgs(1, 0))
        assert {dom.name for dom in listed.domains} == {"a", "b"}
        assert client.ok(GET_STATE, state_args(front, "a")) == messages.RemoteDomainGetStateRet(0, 0)
        assert client.ok(GET_STATE, state_args(front, "b")).state == 5
        client.ok("remote:DOMAIN_LOOKUP_BY_NAME", messages.RemoteDomainLookupByNameArgs("a"))
        error = client.error(GET_STATE, state_args(front, "a"))
        assert error.message == (
            f"operation failed: node {name} is out of reach since 2023-11-14 22:13:20 UTC: no heartbeat"
        )
        stats = messages.RemoteConnectGetAllDomainStatsArgs(doms=[], stats=0, flags=0)
        records = client.ok("remote:CONNECT_GET_ALL_DOMAIN_STATS", stats).retStats
        assert [record.dom.name for record in records] == ["b"]
    finally:
        front.cluster.put_node(node)


# -- procedures nobody has heard of


def test_a_newer_procedure_about_a_known_domain_goes_to_its_node(client: RawClient, front: Served) -> None:
    body = handle(front, "a").to_bytes()
    serial, data = client.connection.call(REMOTE_PROGRAM, 600, body)
    client.sock.sendall(data)
    error = messages.VirNetMessageError.from_bytes(client.reply(serial).payload)
    # This is the node's own answer; a newer libvirtd there would have carried it out.
    assert (error.code, error.domain, error.message) == (39, 7, "unknown procedure: 600")
    assert not front.cluster._pending


@pytest.mark.parametrize("body", [b"", b"\0\0\0\1x\0\0\0" + b"u" * 16 + b"\0\0\0\0", b"\xff" * 40])
def test_a_newer_procedure_about_anything_else_is_unknown(client: RawClient, body: bytes) -> None:
    for program in (REMOTE_PROGRAM, QEMU_PROGRAM):
        serial, data = client.connection.call(program, 601, body)
        client.sock.sendall(data)
        error = messages.VirNetMessageError.from_bytes(client.reply(serial).payload)
        assert (error.code, error.domain, error.level) == (39, 7, 2)
        assert error.message == "unknown procedure: 601"


def test_calling_an_event_or_another_program_is_refused_as_libvirtd_does(client: RawClient) -> None:
    for program, number, text in (
        (REMOTE_PROGRAM, 318, "unknown procedure: 318"),
        (0x06900690, 1, "Cannot find program 110102160 version 1"),
        (12345, 1, "Cannot find program 12345 version 1"),
    ):
        client.sock.sendall(frame(program, 1, number, 0, 77, 0))
        data = client.sock.recv(65536)
        error = messages.VirNetMessageError.from_bytes(data[28:])
        assert (error.code, error.message) == (39, text)


# -- bad bytes


@pytest.mark.parametrize("length", [0, 3, 27, 33554437, 0x7FFFFFFF, 0xFFFFFFFF])
def test_impossible_lengths_end_the_connection(front: Served, length: int) -> None:
    client = RawClient(front.path)
    client.sock.sendall(struct.pack(">I", length) + b"\0" * 24)
    assert client.closed()


def test_arguments_cut_anywhere_are_an_error_and_never_the_end(client: RawClient, front: Served) -> None:
    whole = messages.RemoteConnectListAllDomainsArgs(1, 0).to_bytes()
    for cut in range(len(whole)):
        assert client.error("remote:CONNECT_LIST_ALL_DOMAINS", payload=whole[:cut]).code == 39
    whole = messages.RemoteDomainGetInfoArgs(handle(front, "a")).to_bytes()
    for name in ("remote:DOMAIN_GET_INFO", GET_STATE, "remote:DOMAIN_CREATE", "remote:DOMAIN_IS_ACTIVE"):
        for cut in range(len(whole) - 4):
            assert client.error(name, payload=whole[:cut]).code in (39, 42), (name, cut)
    for name in (
        "remote:DOMAIN_LOOKUP_BY_NAME",
        "remote:DOMAIN_LOOKUP_BY_UUID",
        "remote:DOMAIN_LOOKUP_BY_ID",
    ):
        for payload in (b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\x09ab"):
            assert client.error(name, payload=payload).code in (39, 42)


def test_every_procedure_answers_no_arguments_and_garbage_with_an_error_or_a_result(front: Served) -> None:
    client = RawClient(front.path)
    left_out = {"remote:CONNECT_CLOSE", "remote:CONNECT_SET_IDENTITY"}
    for procedure in PROCEDURES.values():
        if procedure.kind != "call" or procedure.program == "admin" or procedure.full_name in left_out:
            continue
        if procedure.cls == "migration":
            continue
        for payload in (b"", b"\xff" * 64):
            client.call(procedure.full_name, payload=payload)
    assert client.ok("remote:CONNECT_GET_TYPE").type == "QEMU"
    client.close()


def test_trailing_bytes_are_ignored(client: RawClient) -> None:
    args = messages.RemoteConnectListAllDomainsArgs(1, 0).to_bytes()
    assert client.call("remote:CONNECT_LIST_ALL_DOMAINS", payload=args + b"more").ok


def test_half_a_packet_waits_for_its_other_half_and_disturbs_nobody(front: Served) -> None:
    half = RawClient(front.path)
    procedure = BY_NAME["remote:CONNECT_GET_TYPE"]
    serial, data = half.connection.call(procedure.program_id, procedure.number)
    for byte in data[:-1]:
        half.sock.sendall(bytes([byte]))
    other = RawClient(front.path)
    assert other.ok("remote:CONNECT_GET_TYPE").type == "QEMU"
    half.sock.sendall(data[-1:])
    assert half.reply(serial).ok
    half.close()
    other.close()


def test_descriptors_are_closed_and_the_call_is_not_supported(client: RawClient, front: Served) -> None:
    def passed() -> int:
        return len(os.listdir("/proc/self/fd"))

    procedure = BY_NAME["remote:DOMAIN_OPEN_GRAPHICS"]
    args = messages.RemoteDomainOpenGraphicsArgs(handle(front, "a"), 0, 0).to_bytes()
    before = passed()
    for _ in range(20):
        serial, data = client.connection.call_with_fds(procedure.program_id, procedure.number, args, 1)
        client.sock.sendall(data)
        with Path("/dev/null").open("rb") as null:
            socket.send_fds(client.sock, [b"\0"], [null.fileno()])
        error = messages.VirNetMessageError.from_bytes(client.reply(serial).payload)
        assert error.code == VirErrorNumber.ERR_NO_SUPPORT
    eventually(lambda: passed() == before, 5, "the descriptors are closed")


packets = st.builds(
    frame,
    program=st.sampled_from([REMOTE_PROGRAM, QEMU_PROGRAM, KEEPALIVE_PROGRAM, 0, 0xFFFFFFFF]),
    version=st.integers(0, 2),
    procedure=st.integers(-1, 700).filter(lambda number: number != 2),
    type=st.integers(-1, 8),
    serial=st.integers(0, 3),
    status=st.integers(-1, 3),
    payload=st.binary(max_size=80),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(packets | st.binary(max_size=40), max_size=12))
def test_whatever_a_client_sends_the_next_one_is_served(front: Served, sent: list[bytes]) -> None:
    odd = RawClient(front.path)
    with contextlib.suppress(OSError):
        odd.sock.sendall(b"".join(sent))
    odd.close()
    other = RawClient(front.path)
    assert other.ok("remote:CONNECT_GET_URI").uri == "qemu:///system"
    other.close()


# -- keepalive


def test_a_ping_is_answered_by_a_pong(client: RawClient) -> None:
    client.sock.sendall(client.connection.ping())
    client.until(lambda event: isinstance(event, wire.KeepaliveResponse))


def test_only_a_client_that_asked_for_keepalive_is_pinged_and_dropped_when_silent(
    tmp_path: Path, daemons: dict[str, PrivateLibvirtd]
) -> None:
    with served(tmp_path / "k", {}, keepalive_interval=1, keepalive_count=1) as front:
        plain = RawClient(front.path)
        asked = RawClient(front.path)
        asked.ok("remote:CONNECT_SUPPORTS_FEATURE", messages.RemoteConnectSupportsFeatureArgs(10))
        data = asked.sock.recv(28)
        assert struct.unpack(">IIIiiIi", data) == (28, KEEPALIVE_PROGRAM, 1, 1, 2, 0, 0)
        assert asked.closed()
        assert not select.select([plain.sock], [], [], 1.5)[0]
        assert plain.ok("remote:CONNECT_GET_URI").uri == "qemu:///system"
        plain.close()


# -- the client's connection


def test_nodes_are_told_when_a_client_goes_that_may_have_left_something_with_them(front: Served) -> None:
    client = RawClient(front.path)
    number = max(front.front.front.sessions)  # type: ignore[union-attr]
    client.ok("remote:CONNECT_GET_TYPE")
    xml = messages.RemoteDomainCreateXmlArgs("<domain/>", 2)
    assert client.error("remote:DOMAIN_CREATE_XML", xml).code != 0
    client.close()
    eventually(lambda: number in front.nodes.closed_sessions, 5, "close_session")
    plain = RawClient(front.path)
    plain_number = max(front.front.front.sessions)  # type: ignore[union-attr]
    plain.close()
    eventually(lambda: plain_number not in front.front.front.sessions, 5, "end of the session")  # type: ignore[union-attr]
    assert plain_number not in front.nodes.closed_sessions


def test_the_close_callback_of_a_view_is_told_once_that_its_node_is_lost(front: Served) -> None:
    view = RawClient(front.path, name="qemu:///system?node=n2")
    view.ok("remote:CONNECT_REGISTER_CLOSE_CALLBACK")
    node = front.cluster.nodes["n2"]
    front.cluster.put_node(replace(node, link=Link.LOST))
    try:
        closed = view.until(lambda event: isinstance(event, wire.Message))
        assert (closed.procedure, closed.payload) == (362, struct.pack(">i", 2))
    finally:
        front.cluster.put_node(node)
    view.ok("remote:CONNECT_UNREGISTER_CLOSE_CALLBACK")
    view.close()
