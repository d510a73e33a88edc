"""Descriptors between clients and the front end: order, limits, and that none is left open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import libvirt
import pytest

from clusterhost.frontend.libvirt.transport import Descriptor, Shared, Transport
from compat.libvirt import messages
from compat.libvirt.constants import VirDrvFeature, VirErrorNumber
from compat.libvirt.schema import BY_NAME
from tests.support.direct import Served, served
from tests.support.libvirtd import PrivateLibvirtd, domain_xml, nodes
from tests.support.rawclient import RawClient
from tests.support.stock import eventually

pytestmark = pytest.mark.real

OPEN_GRAPHICS = BY_NAME["remote:DOMAIN_OPEN_GRAPHICS"]
BIG = b"x" * 3_000_000


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PrivateLibvirtd]]:
    with nodes(tmp_path_factory.mktemp("s"), "n1") as started:
        yield started


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, daemons: dict[str, PrivateLibvirtd]) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("f") / "f", daemons) as front:
        client = RawClient(front.path)
        client.ok("remote:DOMAIN_DEFINE_XML", messages.RemoteDomainDefineXmlArgs(domain_xml("a")))
        client.close()
        yield front


def open_now() -> int:
    return len(os.listdir("/proc/self/fd"))


class Nobody:
    """A transport's reader."""

    def room(self) -> None: ...

    def data_received(self, data: memoryview, fds: Sequence[int], placed: int) -> None: ...

    def drained(self) -> None: ...

    def connection_lost(self, reason: str) -> None: ...


def read_through(sock: socket.socket) -> tuple[bytes, list[tuple[int, int]]]:
    """Everything until the end, and at which byte each descriptor came, by its inode."""
    data, found = b"", []
    while True:
        more, fds, _, _ = socket.recv_fds(sock, 65536, 4)
        if not more:
            return data, found
        for fd in fds:
            found.append((len(data), os.fstat(fd).st_ino))
            os.close(fd)
        data += more


async def test_a_descriptor_keeps_its_place_behind_what_a_slow_client_has_not_read(tmp_path: Path) -> None:
    before = open_now()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = Transport(asyncio.get_running_loop(), ours, Shared())
    transport.start(Nobody())
    files = [tmp_path / name for name in ("one", "two")]
    for path in files:
        transport.write(BIG)
        transport.write(Descriptor.of(os.open(path, os.O_CREAT)))
        transport.write(b"after")
    transport.close_when_sent()
    data, found = await asyncio.to_thread(read_through, theirs)
    assert data == (BIG + b"\0after") * 2
    size = len(BIG) + 1 + len(b"after")
    places = [len(BIG), size + len(BIG)]
    assert [inode for _, inode in found] == [path.stat().st_ino for path in files]
    assert all(at <= place for (at, _), place in zip(found, places, strict=True))
    theirs.close()
    assert open_now() == before


async def test_what_a_client_never_reads_is_closed_with_it(tmp_path: Path) -> None:
    before = open_now()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = Transport(asyncio.get_running_loop(), ours, Shared())
    transport.start(Nobody())
    transport.write(BIG)
    for number in range(5):
        transport.write(Descriptor.of(os.open(tmp_path / str(number), os.O_CREAT)))
    transport.close("it goes")
    theirs.close()
    assert open_now() == before


def test_descriptors_that_no_call_announced_end_the_connection(front: Served) -> None:
    before = open_now()
    client = RawClient(front.path)
    # It may end before the last byte is sent.
    with Path("/dev/null").open("rb") as null, contextlib.suppress(BrokenPipeError):
        for byte in b"\0\0\1\0":
            socket.send_fds(client.sock, [bytes([byte])], [null.fileno()] * 32)
    assert client.closed()
    eventually(lambda: open_now() <= before, 5, "all descriptors are closed")


def test_a_call_that_announces_a_descriptor_and_brings_none_is_refused(front: Served) -> None:
    client = RawClient(front.path)
    dom = messages.RemoteNonnullDomain("a", front.cluster.by_name("a").uuid, -1)
    args = messages.RemoteDomainOpenGraphicsArgs(dom, 0, 0).to_bytes()
    serial, data = client.connection.call_with_fds(OPEN_GRAPHICS.program_id, OPEN_GRAPHICS.number, args, 1)
    client.sock.sendall(data + b"\0")
    error = messages.VirNetMessageError.from_bytes(client.reply(serial).payload)
    assert error.code == VirErrorNumber.ERR_INTERNAL_ERROR
    plain = client.error("remote:DOMAIN_OPEN_GRAPHICS", payload=args)
    assert plain.message == "internal error: No FD available at slot 0"
    client.close()


def test_a_client_on_tcp_gets_no_descriptor(front: Served) -> None:
    host, port = front.front.addresses["tcp"]
    connection = libvirt.open(f"qemu+tcp://{host}:{port}/system")
    with pytest.raises(libvirt.libvirtError, match="fd passing is not supported by this connection"):
        connection.lookupByName("a").openGraphicsFD(0)
    connection.close()
    client = RawClient(front.path)
    asked = messages.RemoteConnectSupportsFeatureArgs(VirDrvFeature.FD_PASSING)
    assert client.ok("remote:CONNECT_SUPPORTS_FEATURE", asked).supported == 1
    client.close()
