"""The client role against a real libvirtd and its test driver: what it sends is what the facts say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat import xmldoc
from compat.libvirt import constants as c
from compat.libvirt import messages
from compat.libvirt.connection import Connection, Role
from compat.libvirt.errors import ProtocolError
from compat.libvirt.events import (
    KeepaliveRequest,
    KeepaliveResponse,
    Reply,
    StreamData,
    StreamEnd,
    StreamFinished,
    StreamKey,
)
from compat.libvirt.frames import ERROR, OK, frame
from compat.libvirt.refusals import rpc_error
from compat.libvirt.schema import BEFORE_AUTH, BY_NAME, PROCEDURES, domain_uuid, rewrite_domains
from compat.libvirt.typedparams import from_params
from tests.wire import facts
from tests.wire.daemon import Client, Refused, libvirtd
from tests.wire.test_messages import simplest

pytestmark = pytest.mark.real
WIRE_NAMES = {facts.class_of(name).__name__: name for name in facts.structs()}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Path]:
    with libvirtd() as path:
        yield path


@pytest.fixture
def client(daemon: Path) -> Iterator[Client]:
    client = Client(daemon)
    yield client
    client.close()


@pytest.fixture
def opened(client: Client) -> Client:
    return client.open("test:///default")


@pytest.fixture
def test_domain(opened: Client) -> messages.RemoteNonnullDomain:
    found = opened("remote:DOMAIN_LOOKUP_BY_NAME", "test").dom
    assert isinstance(found, messages.RemoteNonnullDomain)
    return found


def test_a_session_lists_reads_and_closes(client: Client) -> None:
    assert client("remote:AUTH_LIST").types == [c.REMOTE_AUTH_NONE]
    client("remote:CONNECT_OPEN", "test:///default", 0)
    listed = client("remote:CONNECT_LIST_ALL_DOMAINS", 1, 0)
    assert [domain.name for domain in listed.domains] == ["test"]
    assert listed.ret == 1
    assert listed.to_bytes() == client.payload
    assert client("remote:CONNECT_LIST_ALL_DOMAINS", 0, 0) == messages.RemoteConnectListAllDomainsRet([], 1)
    [domain] = listed.domains
    xml = xmldoc.parse(client("remote:DOMAIN_GET_XML_DESC", domain, 0).xml)
    assert xml.text("name") == "test"
    assert xml.text("uuid", "").replace("-", "") == domain.uuid.hex()
    client("remote:CONNECT_CLOSE")
    with pytest.raises(ProtocolError):
        client.read()


def test_what_the_daemon_says_is_byte_for_byte_what_we_would_say(
    opened: Client, test_domain: messages.RemoteNonnullDomain
) -> None:
    calls: dict[str, tuple[Any, ...]] = {
        "remote:CONNECT_GET_TYPE": (),
        "remote:CONNECT_GET_HOSTNAME": (),
        "remote:CONNECT_GET_CAPABILITIES": (),
        "remote:NODE_GET_INFO": (),
        "remote:NODE_GET_FREE_MEMORY": (),
        "remote:NODE_GET_CELLS_FREE_MEMORY": (0, 2),
        "remote:NODE_GET_CPU_MAP": (1, 1, 0),
        "remote:NODE_GET_CPU_STATS": (-1, 8, 0),
        "remote:CONNECT_LIST_DOMAINS": (100,),
        "remote:CONNECT_LIST_ALL_NETWORKS": (1, 0),
        "remote:CONNECT_LIST_ALL_STORAGE_POOLS": (1, 0),
        "remote:CONNECT_LIST_ALL_NODE_DEVICES": (1, 0),
        "remote:CONNECT_LIST_ALL_INTERFACES": (1, 0),
        "remote:CONNECT_GET_ALL_DOMAIN_STATS": ([], 0, 0),
        "remote:DOMAIN_GET_INFO": (test_domain,),
        "remote:DOMAIN_GET_STATE": (test_domain, 0),
        "remote:DOMAIN_GET_VCPUS": (test_domain, 8, 1),
        "remote:DOMAIN_GET_BLOCK_IO_TUNE": (test_domain, "vda", 0, 0),
        "remote:DOMAIN_GET_SCHEDULER_PARAMETERS": (test_domain, 8),
        "remote:DOMAIN_GET_MEMORY_PARAMETERS": (test_domain, 16, 0),
        "remote:DOMAIN_INTERFACE_ADDRESSES": (test_domain, 0, 0),
        "remote:DOMAIN_GET_SECURITY_LABEL": (test_domain,),
    }
    for name, args in calls.items():
        try:
            answer = opened(name, *args)
        except Refused as refused:
            answer = refused.error
        assert answer.to_bytes() == opened.payload, name


def test_typed_parameters_come_with_their_types(opened: Client) -> None:
    [record] = opened("remote:CONNECT_GET_ALL_DOMAIN_STATS", [], 0, 0).retStats
    stats = from_params(record.params)
    assert stats["state.state"] == c.VIR_DOMAIN_RUNNING
    rewritten = rewrite_domains(
        BY_NAME["remote:CONNECT_GET_ALL_DOMAIN_STATS"], "ret", opened.payload, lambda uuid, node_id: 77
    )
    [changed] = messages.RemoteConnectGetAllDomainStatsRet.from_bytes(rewritten).retStats
    assert (changed.dom.id, changed.dom.uuid, changed.params) == (77, record.dom.uuid, record.params)


def test_char_arrays_and_small_integers_are_read(opened: Client, test_domain: Any) -> None:
    info = opened("remote:NODE_GET_INFO")
    assert info.model.rstrip(b"\0") == b"i686"
    assert info.memory == 3 * 1024 * 1024
    assert opened("remote:DOMAIN_GET_INFO", test_domain).state == c.VIR_DOMAIN_RUNNING


def test_the_daemon_looks_a_domain_up_where_domain_uuid_finds_it(opened: Client, test_domain: Any) -> None:
    other = messages.RemoteNonnullDomain("some other name", test_domain.uuid, 99)
    args = messages.RemoteDomainGetStateArgs(other, 0).to_bytes()
    assert domain_uuid(BY_NAME["remote:DOMAIN_GET_STATE"], args) == test_domain.uuid
    assert opened("remote:DOMAIN_GET_STATE", other, 0).state == c.VIR_DOMAIN_RUNNING


def test_an_error_reply_is_the_error_of_the_driver(opened: Client) -> None:
    with pytest.raises(Refused) as caught:
        opened("remote:DOMAIN_LOOKUP_BY_NAME", "nobody")
    error = caught.value.error
    assert (error.code, error.level) == (c.VIR_ERR_NO_DOMAIN, c.VIR_ERR_ERROR)
    assert error.to_bytes() == opened.payload


def test_events_arrive_for_suspend_and_resume(opened: Client, test_domain: Any) -> None:
    callback = opened("remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 0, None).callbackID
    opened("remote:DOMAIN_SUSPEND", test_domain)
    opened("remote:DOMAIN_RESUME", test_domain)
    for expected in (c.VIR_DOMAIN_EVENT_SUSPENDED, c.VIR_DOMAIN_EVENT_RESUMED):
        body = opened.message("remote:DOMAIN_EVENT_CALLBACK_LIFECYCLE")
        assert (body.callbackID, body.msg.dom, body.msg.event) == (callback, test_domain, expected)
    opened("remote:CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", callback)


def screenshot(client: Client, domain: Any) -> tuple[StreamKey, Reply]:
    """Ask for a screenshot with the stream open before the reply, as a client has to."""
    procedure = BY_NAME["remote:DOMAIN_SCREENSHOT"]
    args = messages.RemoteDomainScreenshotArgs(domain, 0, 0).to_bytes()
    serial, data = client.connection.call(procedure.program_id, procedure.number, args)
    key = StreamKey(procedure.program_id, procedure.number, serial)
    client.connection.open_stream(key)
    client.socket.sendall(data)
    reply = client.wait(lambda event: isinstance(event, Reply))
    return key, reply


@pytest.mark.parametrize("pieces", [1000, 65536])
def test_stream_data_comes_whole_and_the_finish_is_confirmed(
    daemon: Path, test_domain: Any, pieces: int
) -> None:
    client = Client(daemon, pieces).open("test:///default")
    key, reply = screenshot(client, test_domain)
    assert reply.ok
    client.wait(lambda event: isinstance(event, StreamEnd))
    image = b"".join(event.payload for event in client.events if isinstance(event, StreamData))
    assert image.startswith(b"\x89PNG")
    assert image.endswith(b"IEND\xaeB`\x82")
    client.socket.sendall(client.connection.stream_finish(key))
    assert client.wait(lambda event: isinstance(event, StreamFinished)).key == key
    client.close()


def test_an_aborted_stream_is_confirmed_too(opened: Client, test_domain: Any) -> None:
    key, _ = screenshot(opened, test_domain)
    opened.socket.sendall(opened.connection.stream_abort(key))
    assert opened.wait(lambda event: isinstance(event, StreamFinished)).key == key
    assert opened("remote:DOMAIN_GET_STATE", test_domain, 0)


def test_keepalive_goes_both_ways(client: Client) -> None:
    client.socket.sendall(client.connection.ping())
    assert client.wait(lambda event: isinstance(event, KeepaliveResponse))
    assert client("remote:CONNECT_SUPPORTS_FEATURE", c.VIR_DRV_FEATURE_PROGRAM_KEEPALIVE).supported == 1
    client.open("test:///default")
    client.socket.settimeout(12)
    assert client.wait(lambda event: isinstance(event, KeepaliveRequest))
    assert client("remote:CONNECT_GET_TYPE").type == "TEST"


@pytest.mark.parametrize(
    ("program", "version", "procedure", "status"),
    [
        (0x1234, 1, 1, OK),
        (c.REMOTE_PROGRAM, 3, 1, OK),
        (c.ADMIN_PROGRAM, 1, 1, OK),
        (c.KEEPALIVE_PROGRAM, 1, 1, OK),
        (c.REMOTE_PROGRAM, 1, 999, OK),
        (c.REMOTE_PROGRAM, 1, 107, OK),
        (c.REMOTE_PROGRAM, 1, -1, OK),
        (c.QEMU_PROGRAM, 1, 6, OK),
        (c.REMOTE_PROGRAM, 1, 66, ERROR),
        (c.REMOTE_PROGRAM, 1, 999, ERROR),
        (c.REMOTE_PROGRAM, 4, 999, ERROR),
    ],
)
def test_our_server_refuses_in_the_very_bytes_of_the_daemon(
    client: Client, program: int, version: int, procedure: int, status: int
) -> None:
    packet = frame(program, version, procedure, c.VIR_NET_CALL, 5, status)
    client.socket.sendall(packet)
    connection = Connection(Role.SERVER)
    connection.authenticated = True
    assert connection.receive_data(packet) == []
    assert connection.data_to_send() == client.socket.recv(65536)


def test_the_daemon_drops_what_we_drop(client: Client) -> None:
    for kind in (c.VIR_NET_STREAM, c.VIR_NET_STREAM_HOLE, c.VIR_NET_MESSAGE):
        client.socket.sendall(frame(c.REMOTE_PROGRAM, 1, 1, kind, 0, OK))
    assert client("remote:AUTH_LIST").types == [0]


@pytest.mark.parametrize(
    "data", [bytes(4), struct.pack(">I", 3), struct.pack(">I", 33554437), struct.pack(">I", 27) + bytes(23)]
)
def test_the_daemon_closes_where_we_raise(client: Client, data: bytes) -> None:
    client.socket.sendall(data)
    assert client.socket.recv(100) == b""


def test_every_call_with_the_simplest_arguments_is_decoded_by_the_daemon(
    daemon: Path, opened: Client
) -> None:
    """The daemon never says that it cannot decode what we encode: our idea of every argument is its own."""
    skipped = {"CONNECT_OPEN", "CONNECT_CLOSE"}
    refused = 0
    for key, procedure in PROCEDURES.items():
        if procedure.program != "remote" or procedure.kind != "call" or procedure.newer:
            continue
        if procedure.name in skipped or key in BEFORE_AUTH or procedure.stream or procedure.fds:
            continue
        payload = simplest(WIRE_NAMES[procedure.args.__name__]).to_bytes() if procedure.args else b""
        serial, data = opened.connection.call(*key, payload)
        opened.socket.sendall(data)
        reply = opened.wait(lambda event, serial=serial: isinstance(event, Reply) and event.serial == serial)
        if reply.ok:
            if procedure.ret:
                assert procedure.ret.from_bytes(reply.payload).to_bytes() == reply.payload, procedure.name
            continue
        error = messages.VirNetMessageError.from_bytes(reply.payload)
        refused += 1
        assert error.code != c.VIR_ERR_RPC, (procedure.name, error.message)
        assert error.to_bytes() == reply.payload
    assert refused > 100


def test_one_byte_less_is_what_the_daemon_cannot_decode(opened: Client) -> None:
    """The daemon's answer to arguments that are cut, for a call of each shape."""
    for name in ("DOMAIN_GET_STATE", "DOMAIN_SET_MEMORY_PARAMETERS", "DOMAIN_MIGRATE_PERFORM3_PARAMS"):
        procedure = BY_NAME["remote:" + name]
        assert procedure.args is not None
        payload = simplest(WIRE_NAMES[procedure.args.__name__]).to_bytes()
        serial, data = opened.connection.call(procedure.program_id, procedure.number, payload[:-4])
        opened.socket.sendall(data)
        reply = opened.wait(lambda event, serial=serial: isinstance(event, Reply) and event.serial == serial)
        error = messages.VirNetMessageError.from_bytes(reply.payload)
        assert error.message == "Unable to decode message payload"
        assert reply.payload == rpc_error("Unable to decode message payload").to_bytes()
