"""Bad input at the endpoint: answered or dropped as a node's own libvirtd does, and nobody else is hurt."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from compat.libvirt import constants as c
from compat.libvirt import messages
from compat.libvirt.frames import CONTINUE, ERROR, HEADER, OK, frame
from compat.libvirt.schema import BY_NAME
from tests.support.rawclient import RawClient

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster
    from tests.support.stock import EventLog

Make = Callable[..., str]
REMOTE = c.REMOTE_PROGRAM
QUIET = 0.4
"""Seconds without a byte after which an answer is over."""


def call(name: str, payload: bytes = b"", **header: int) -> bytes:
    """A packet of a call, parts of its header replaced."""
    procedure = BY_NAME[f"remote:{name}"]
    values = {
        "program": REMOTE,
        "version": 1,
        "procedure": procedure.number,
        "type": 0,
        "serial": 9,
        "status": OK,
    }
    values.update(header)
    return frame(*values.values(), payload)


OPEN = call("CONNECT_OPEN", messages.RemoteConnectOpenArgs("qemu:///system", 0).to_bytes())
READY = call("AUTH_LIST") + OPEN
LIST = call("CONNECT_LIST_ALL_DOMAINS", struct.pack(">iI", 1, 0))
STRING_TOO_LONG = struct.pack(">I", 0xFFFFFFFF)
LOOKUP = "DOMAIN_LOOKUP_BY_NAME"
CONSOLE = BY_NAME["remote:DOMAIN_OPEN_CONSOLE"].number

CASES: dict[str, bytes] = {
    "unknown program": READY + call("AUTH_LIST", program=0x1234),
    "the admin's program": READY + call("AUTH_LIST", program=c.ADMIN_PROGRAM),
    "lxc": READY + call("AUTH_LIST", program=c.LXC_PROGRAM),
    "wrong version": READY + call("AUTH_LIST", version=7),
    "procedure 0": READY + call("AUTH_LIST", procedure=0),
    "procedure -1": READY + call("AUTH_LIST", procedure=-1),
    "procedure 99999": READY + call("AUTH_LIST", procedure=99999),
    "an event called": READY + call("AUTH_LIST", procedure=107),
    "status 1": READY + call("AUTH_LIST", status=ERROR),
    "status 2": READY + call("AUTH_LIST", status=CONTINUE),
    "status 9": READY + call("AUTH_LIST", status=9),
    **{f"type {kind}": READY + call("AUTH_LIST", type=kind) for kind in (1, 2, 3, 5, 6, 99, -1)},
    "no arguments": READY + call(LOOKUP),
    "arguments cut": READY + call(LOOKUP, struct.pack(">I", 8) + b"abc"),
    "a negative length": READY + call(LOOKUP, STRING_TOO_LONG),
    "a length over the limit": READY + call(LOOKUP, struct.pack(">I", 5 << 20) + b"abcd"),
    "a handle cut": READY + call("DOMAIN_GET_INFO", struct.pack(">I", 4) + b"abcd" + bytes(10)),
    "a negative count": READY + call("CONNECT_LIST_DOMAINS", struct.pack(">i", -1)),
    "a count over the limit": READY + call("CONNECT_LIST_DOMAINS", struct.pack(">i", 1 << 30)),
    "names of a negative count": READY + call("CONNECT_LIST_DEFINED_DOMAINS", struct.pack(">i", -1)),
    "flags nobody knows": READY + call("CONNECT_LIST_ALL_DOMAINS", struct.pack(">iI", 1, 0xF0000000)),
    "bytes after the arguments": READY + call("CONNECT_IS_SECURE", b"abcdefgh"),
    "a call before everything": call("CONNECT_GET_TYPE"),
    "a call before open": call("AUTH_LIST") + call("CONNECT_GET_TYPE"),
    "a domain's call before open": call("DOMAIN_GET_INFO", bytes(40)),
    "an unknown procedure before open": call("AUTH_LIST", procedure=99999),
    "a second open": READY + OPEN,
    "open without authentication first": OPEN + call("CONNECT_GET_TYPE"),
    "a path that is none": call("CONNECT_OPEN", messages.RemoteConnectOpenArgs("qemu:///x", 0).to_bytes()),
    "open cut": call("AUTH_LIST") + call("CONNECT_OPEN", b"\0\0"),
    "close": READY + call("CONNECT_CLOSE"),
    "SASL that is not offered": call("AUTH_SASL_INIT"),
    "data of no stream": READY + call("DOMAIN_OPEN_CONSOLE", b"abcd", type=3, status=CONTINUE),
    "the end of no stream": READY + call("DOMAIN_OPEN_CONSOLE", type=3, status=OK),
    "the abort of no stream": READY + call("DOMAIN_OPEN_CONSOLE", type=3, status=ERROR),
    "a hole of no stream": READY + call("DOMAIN_OPEN_CONSOLE", bytes(12), type=6, status=CONTINUE),
    "length 0": READY + bytes(4),
    "length 3": READY + struct.pack(">I", 3),
    "length 27": READY + struct.pack(">I", 27) + bytes(23),
    "length over the limit": READY + struct.pack(">I", (32 << 20) + 5),
    "length 0xffffffff": READY + struct.pack(">I", 0xFFFFFFFF),
    "text": b"GET / HTTP/1.1\r\n\r\n",
}


def exchange(path: Path, data: bytes) -> list[object]:
    """What comes back: headers, payloads of answers, errors taken apart, and whether it was closed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        # A daemon works on pipelined calls at the same time: each that opens the way is waited for.
        for step in (call("AUTH_LIST"), OPEN):
            if data.startswith(step):
                data = data[len(step) :]
                sock.sendall(step)
                assert len(sock.recv(65536)) >= HEADER.size
        sock.sendall(data)
        sock.settimeout(QUIET)
        came, closed = b"", False
        try:
            while more := sock.recv(1 << 20):
                came += more
            closed = True
        except TimeoutError:
            pass
        except ConnectionResetError:
            closed = True
    return [*sorted(map(repr, packets(came))), closed]


def packets(came: bytes) -> Iterator[object]:
    """Each packet; of an error all but what we say beyond libvirt's own sentence."""
    while came:
        length, *header = HEADER.unpack_from(came)
        body, came = came[HEADER.size : length], came[length:]
        if header[-1] == ERROR and header[3] == 1:
            error = messages.VirNetMessageError.from_bytes(body)
            text = (error.message or "").split(" payload")[0]
            yield header, error.code, error.domain, error.level, text
        else:
            yield header, body


def endpoint_socket(cluster: RealCluster) -> Path:
    return cluster.state / "front" / "libvirt-sock"


def node_socket(cluster: RealCluster) -> Path:
    return cluster.state / "nodes" / "n1" / "run" / "libvirt" / "libvirt-sock"


@pytest.mark.parametrize("case", CASES)
def test_it_is_answered_as_a_nodes_own_daemon_does(cluster: RealCluster, case: str) -> None:
    assert exchange(endpoint_socket(cluster), CASES[case]) == exchange(node_socket(cluster), CASES[case])


def test_half_packets_in_every_state_disturb_nobody(cluster: RealCluster) -> None:
    for before in (b"", call("AUTH_LIST"), READY):
        for size in (1, 4, 27, 28, 30):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(endpoint_socket(cluster)))
                sock.sendall(before + OPEN[:size])
    assert cluster.virsh("uri")


def quiet(uri: str, readonly: bool = False) -> libvirt.virConnect:
    """A connection that prints no errors."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt.openReadOnly(uri) if readonly else libvirt.open(uri)


def refused(act: Callable[[], object]) -> libvirt.libvirtError:
    with pytest.raises(libvirt.libvirtError) as caught:
        act()
    return caught.value


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(12))
BOMBS = {
    "entities": f'<!DOCTYPE d [<!ENTITY l0 "ha">{LAUGHS}]><domain><name>&l12;</name></domain>',
    "a file": "<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><domain><name>&f;</name></domain>",
    "a document type": "<!DOCTYPE domain><domain type='qemu'><name>x</name></domain>",
    "depth": "<domain><name>x</name>" + "<a>" * 5000 + "</a>" * 5000 + "</domain>",
    "nodes": "<domain><name>x</name>" + "<a/>" * 300_000 + "</domain>",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["defineXML", "createXML"])
def test_an_xml_bomb_is_refused_at_once(cluster: RealCluster, bomb: str, name: str) -> None:
    connection = quiet(cluster.endpoint)
    began = time.monotonic()
    error = refused(lambda: getattr(connection, name)(BOMBS[bomb]))
    assert error.get_error_code() in (libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_XML_DETAIL)
    assert time.monotonic() - began < 5
    connection.close()


def test_a_document_over_the_protocols_limit_is_refused_as_at_a_node(cluster: RealCluster) -> None:
    text = "<domain type='qemu'><name>x</name><description>" + "x" * (5 << 20) + "</description></domain>"
    told = []
    for uri in (cluster.node_uri("n1"), cluster.endpoint):
        connection = quiet(uri)
        error = refused(lambda connection=connection: connection.defineXML(text))  # type: ignore[misc]
        told.append(error.err)
        connection.close()
    assert told[0] == told[1]


def test_a_read_only_caller_is_refused_before_its_xml_is_read(cluster: RealCluster) -> None:
    connection = quiet(cluster.endpoint, readonly=True)
    for bomb in BOMBS.values():
        assert refused(lambda bomb=bomb: connection.defineXML(bomb)).get_error_code() == 29  # type: ignore[misc]
    connection.close()
    client = RawClient(endpoint_socket(cluster), flags=1)
    assert client.error("remote:DOMAIN_DEFINE_XML", payload=b"\0\0\0\x04<<<<").code == 29
    assert client.error("remote:DOMAIN_DEFINE_XML", payload=b"").code == 29
    client.close()


def test_a_stopped_client_holds_no_lock(
    cluster: RealCluster, make: Make, events: Callable[[str], EventLog]
) -> None:
    name = make("held", start=True)
    log = events(cluster.endpoint)
    silent = RawClient(endpoint_socket(cluster))
    domain = silent.ok("remote:DOMAIN_LOOKUP_BY_NAME", messages.RemoteDomainLookupByNameArgs(name)).dom
    os.kill(log.process.pid, signal.SIGSTOP)
    try:
        # Only suspends: when they take effect is nobody's to know, and a resume of theirs between two of virsh's
        # commands would have made virsh's own fail.
        for _ in range(6):
            silent.send("remote:DOMAIN_SUSPEND", messages.RemoteDomainSuspendArgs(domain))
        for words in (("suspend", name), ("resume", name), ("desc", name, "--live", "--new-desc", "x")):
            assert cluster.virsh(*words, seconds=15) is not None
        cluster.virsh("destroy", name, seconds=15)
        cluster.virsh("start", name, seconds=20)
    finally:
        os.kill(log.process.pid, signal.SIGCONT)
        silent.close()


@pytest.mark.timeout(120)
def test_a_flooded_console_that_nobody_reads_slows_nobody(cluster: RealCluster, make: Make) -> None:
    loud, calm = make("loud", start=True), make("calm", start=True)
    connection = quiet(cluster.endpoint)
    stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
    connection.lookupByName(loud).openConsole(None, stream, 0)
    time.sleep(6)
    stream.send(b"\nwhile true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n")
    time.sleep(3)
    other = quiet(cluster.endpoint)
    began = time.monotonic()
    for _ in range(30):
        assert len(other.listAllDomains()) == 2
        other.lookupByName(calm).info()
        other.lookupByName(loud).info()
    assert time.monotonic() - began < 15
    second = other.newStream(0)
    other.lookupByName(calm).openConsole(None, second, 0)
    assert second.recv(10)
    second.abort()
    stream.abort()
    other.close()
    connection.close()


def test_a_thousand_idle_clients_leave_room_for_work(cluster: RealCluster, make: Make) -> None:
    idle = []
    try:
        for _ in range(1000):
            sock = socket.socket(socket.AF_UNIX)
            idle.append(sock)
            sock.settimeout(10)
            sock.connect(str(endpoint_socket(cluster)))
        name = make("busy", start=True)
        assert cluster.virsh("domstate", name) == "running"
        cluster.virsh("dominfo", name)
    finally:
        for sock in idle:
            sock.close()
