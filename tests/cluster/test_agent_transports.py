"""The ways an agent beside the front end reaches a libvirtd: the far side is a real one behind a real carrier."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from clusterhost.agent import transport
from clusterhost.agent.errors import Unavailable
from tests.support.control import ControlPlane, PrivateLibvirtd

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@contextlib.asynccontextmanager
async def carrier(libvirtd: PrivateLibvirtd, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP port that leads to libvirtd's socket, with libvirt's own greeting when it speaks TLS."""
    writers: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if tls is not None:
            writer.write(b"\1")
        far_reader, far_writer = await asyncio.open_unix_connection(str(libvirtd.socket))
        writers.extend((writer, far_writer))
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.1)


async def hostname(uri: str) -> str:
    rpc = await transport.connect(transport.target(uri))
    found = await rpc.ask("remote:CONNECT_GET_HOSTNAME")
    rpc.close()
    await asyncio.sleep(0.1)
    return str(found.hostname)


async def test_tcp_reaches_libvirtd(libvirtd: PrivateLibvirtd) -> None:
    async with carrier(libvirtd) as port:
        assert await hostname(f"test+tcp://127.0.0.1:{port}/default") == libvirtd.virsh("hostname")


def certificates(directory: Path) -> None:
    """One authority, one certificate for 127.0.0.1 used by both sides."""
    commands = (
        "req -x509 -newkey rsa:2048 -nodes -keyout cakey.pem -out cacert.pem -subj /CN=authority -days 2",
        "req -newkey rsa:2048 -nodes -keyout clientkey.pem -out request.pem -subj /CN=127.0.0.1",
        "x509 -req -in request.pem -CA cacert.pem -CAkey cakey.pem -out clientcert.pem -extfile names",
    )
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


async def test_tls_reaches_libvirtd_and_needs_the_right_authority(
    libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for directory in (good, bad):
        directory.mkdir()
        certificates(directory)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(good / "cacert.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(good / "clientcert.pem", good / "clientkey.pem")
    async with carrier(libvirtd, server) as port:
        uri = f"test+tls://127.0.0.1:{port}/default?pkipath="
        assert await hostname(uri + str(good)) == libvirtd.virsh("hostname")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await transport.connect(transport.target(uri + str(bad)))
        with pytest.raises(Unavailable, match="cannot be reached"):
            await transport.connect(transport.target(uri + str(tmp_path / "absent")))


async def test_an_agent_works_by_ssh_and_its_processes_end_with_it(
    libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    ssh = tmp_path / "ssh"
    # Stands for ssh: runs the last argument, what the far shell would get, here.
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    netcat = tmp_path / "nc"
    netcat.write_text('#!/bin/sh\nexec socat - "UNIX-CONNECT:$2"\n')
    netcat.chmod(0o755)
    uri = f"test+ssh://far/default?command={ssh}&netcat={netcat}&socket={libvirtd.socket}"
    async with ControlPlane(tmp_path) as plane:
        agent = plane.agent("n1", uri)
        snapshot = await plane.up("n1")
        assert [domain.name for domain in snapshot.domains] == ["test"]
        found = await asyncio.gather(*(plane.call("n1", "remote:CONNECT_GET_HOSTNAME") for _ in range(20)))
        assert {one.hostname for one in found} == {libvirtd.virsh("hostname")}
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        assert 2 <= len(children) <= 5


async def test_a_carrier_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="libvirtd cannot be reached: No such file"):
        await transport.connect(transport.target(f"test+unix:///default?socket={tmp_path}/none"))
    with pytest.raises(Unavailable, match=r"transport carrier-pigeon of .* is not one of unix, tcp, ssh"):
        transport.target("test+carrier-pigeon://far/default")
