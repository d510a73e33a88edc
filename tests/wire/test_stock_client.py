"""The server role against stock virsh: a tiny threaded server answers as a host of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from compat.libvirt import constants as c
from compat.libvirt import messages as m
from compat.libvirt.connection import Connection, Role
from compat.libvirt.errors import ProtocolError
from compat.libvirt.events import Call, ConnectionClosed, Event, StreamAbort, StreamFinish
from compat.libvirt.refusals import rpc_error
from compat.libvirt.schema import PROCEDURES, domain_uuid
from compat.libvirt.streams import Direction
from compat.libvirt.uri import parse_uri, remote_name

pytestmark = pytest.mark.real
WEB = m.RemoteNonnullDomain("web", b"w" * 16, 7)
DB = m.RemoteNonnullDomain("db", b"d" * 16, -1)
Answer = Callable[[bytes], bytes]


def state(payload: bytes) -> bytes:
    """Answer by the domain that the arguments begin with."""
    running = domain_uuid(PROCEDURES[c.REMOTE_PROGRAM, 212], payload) == WEB.uuid
    return m.RemoteDomainGetStateRet(c.VIR_DOMAIN_RUNNING if running else c.VIR_DOMAIN_SHUTOFF, 1).to_bytes()


def lookup(payload: bytes) -> bytes:
    wanted = m.RemoteDomainLookupByNameArgs.from_bytes(payload).name
    found = {domain.name: domain for domain in (WEB, DB)}[wanted]
    return m.RemoteDomainLookupByNameRet(found).to_bytes()


ANSWERS: dict[str, Answer] = {
    "AUTH_LIST": lambda _: m.RemoteAuthListRet([c.REMOTE_AUTH_NONE]).to_bytes(),
    "CONNECT_SUPPORTS_FEATURE": lambda payload: m.RemoteConnectSupportsFeatureRet(
        int(m.RemoteConnectSupportsFeatureArgs.from_bytes(payload).feature in (8, 10, 14, 15))
    ).to_bytes(),
    "CONNECT_OPEN": lambda _: b"",
    "CONNECT_CLOSE": lambda _: b"",
    "CONNECT_REGISTER_CLOSE_CALLBACK": lambda _: b"",
    "CONNECT_UNREGISTER_CLOSE_CALLBACK": lambda _: b"",
    "CONNECT_GET_HOSTNAME": lambda _: m.RemoteConnectGetHostnameRet("hôst.example").to_bytes(),
    "CONNECT_GET_URI": lambda _: m.RemoteConnectGetUriRet("qemu:///system").to_bytes(),
    "CONNECT_GET_TYPE": lambda _: m.RemoteConnectGetTypeRet("QEMU").to_bytes(),
    "CONNECT_LIST_ALL_DOMAINS": lambda _: m.RemoteConnectListAllDomainsRet([WEB, DB], 2).to_bytes(),
    "DOMAIN_GET_STATE": state,
    "DOMAIN_LOOKUP_BY_NAME": lookup,
    "DOMAIN_OPEN_GRAPHICS": lambda _: b"",
    "DOMAIN_OPEN_GRAPHICS_FD": lambda _: b"",
    "DOMAIN_SCREENSHOT": lambda _: m.RemoteDomainScreenshotRet("image/png").to_bytes(),
}


class Server:
    """One thread for each client; remembers the names that were opened."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.opened: list[str | None] = []
        self.descriptors: list[int] = []
        self.clients: list[tuple[socket.socket, threading.Thread]] = []
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                thread = threading.Thread(target=self.serve, args=(client,))
                thread.start()
                self.clients.append((client, thread))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        for client, thread in self.clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            client.close()

    def serve(self, client: socket.socket) -> None:
        connection = Connection(Role.SERVER)
        with suppress(OSError, ProtocolError):
            while True:
                # Room for descriptors on every read: they vanish with bytes that are read plainly.
                data, fds, _, _ = socket.recv_fds(client, 65536, 32)
                self.descriptors += fds
                for event in connection.receive_data(data):
                    if isinstance(event, ConnectionClosed):
                        return
                    if isinstance(event, Call) and event.fds:
                        self.greet(event.fds)
                    client.sendall(self.answer(connection, event))
                    self.send_descriptor(client, event)
                client.sendall(connection.data_to_send())

    def greet(self, count: int) -> None:
        """Write into the descriptors that came with a call."""
        mine, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        for fd in mine:
            os.write(fd, b"from the server")
            os.close(fd)

    def send_descriptor(self, client: socket.socket, event: Event) -> None:
        """Send one end of a socket pair behind the reply that announced it."""
        if isinstance(event, Call) and PROCEDURES[event.program, event.procedure].fds == ("out",):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.sendall(b"through the descriptor")
                socket.send_fds(client, [b"\0"], [theirs.fileno()])

    def answer(self, connection: Connection, event: Event) -> bytes:
        if isinstance(event, StreamFinish | StreamAbort):
            return connection.stream_finished(event.key)
        if not isinstance(event, Call):
            return b""
        name = PROCEDURES[event.program, event.procedure].name
        if name == "CONNECT_OPEN":
            self.opened.append(m.RemoteConnectOpenArgs.from_bytes(event.payload).name)
        if name not in ANSWERS:
            return connection.error(event, rpc_error(f"unknown procedure: {event.procedure}"))
        connection.authenticated = True
        if name == "DOMAIN_SCREENSHOT":
            return self.screenshot(connection, event)
        if name == "DOMAIN_OPEN_GRAPHICS_FD":
            return connection.reply_with_fds(event, b"", 1)
        return connection.reply(event, ANSWERS[name](event.payload))

    def screenshot(self, connection: Connection, call: Call) -> bytes:
        """Send data before the reply, as a daemon may."""
        connection.open_stream(call.key, Direction.TO_CLIENT)
        early = connection.stream_data(call.key, b"first ")
        reply = connection.reply(call, ANSWERS["DOMAIN_SCREENSHOT"](b""))
        return (
            early + reply + connection.stream_data(call.key, b"x" * 200_000) + connection.stream_end(call.key)
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    path = tmp_path / "sock"
    server = Server(path)
    yield server, path
    server.close()


def virsh(path: Path, *command: str, uri: str = "qemu+unix:///system") -> subprocess.CompletedProcess[str]:
    join = "&" if "?" in uri else "?"
    words = ["virsh", "-q", "-c", f"{uri}{join}socket={path}", *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)


def test_virsh_asks_for_the_hostname(server: tuple[Server, Path]) -> None:
    done = virsh(server[1], "hostname")
    assert (done.stdout.strip(), done.returncode) == ("hôst.example", 0), done.stderr


def test_virsh_lists_domains_with_their_states(server: tuple[Server, Path]) -> None:
    done = virsh(server[1], "list", "--all")
    assert [line.split(maxsplit=2) for line in done.stdout.strip().splitlines()] == [
        ["7", "web", "running"],
        ["-", "db", "shut off"],
    ]


def test_virsh_goes_on_after_an_unknown_procedure(server: tuple[Server, Path]) -> None:
    done = virsh(server[1], "nodeinfo; hostname")
    assert done.stdout.strip() == "hôst.example"
    assert "unknown procedure: 6" in done.stderr


@pytest.mark.parametrize(
    ("uri", "name", "printed"),
    [
        ("qemu+unix:///system", "qemu:///system", "qemu+unix:///system"),
        ("qemu+unix:///system?node=n2&no_tty=1", "qemu:///system?node=n2", "qemu+unix:///system"),
        ("qemu+unix:///system?node=a%20b%2fc", "qemu:///system?node=a%20b%2Fc", "qemu+unix:///system"),
        ("remote+unix:///", "", "remote+unix:///"),
    ],
)
def test_virsh_opens_the_name_that_we_foretell(
    server: tuple[Server, Path], uri: str, name: str, printed: str
) -> None:
    done = virsh(server[1], "uri", uri=uri)
    assert done.stdout.startswith(printed), done.stderr
    assert [opened or "" for opened in server[0].opened] == [name] == [remote_name(parse_uri(uri))]


def test_virsh_saves_a_stream_to_a_file(server: tuple[Server, Path], tmp_path: Path) -> None:
    done = virsh(server[1], "screenshot", "web", str(tmp_path / "shot"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shot").read_bytes() == b"first " + b"x" * 200_000


def script(path: Path, code: str) -> str:
    """Run libvirt-python in a process of its own, `domain` at hand."""
    head = "import libvirt, os, socket, sys; c = libvirt.open(sys.argv[1]); domain = c.lookupByName('web')"
    words = [sys.executable, "-c", f"{head}\n{code}", f"qemu:///system?socket={path}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def test_libvirt_python_gets_a_descriptor_with_a_reply(server: tuple[Server, Path]) -> None:
    code = "fd = domain.openGraphicsFD(0); print(os.read(fd, 100).decode(), domain.state()[0])"
    assert script(server[1], code) == "through the descriptor 1"


def test_libvirt_python_sends_a_descriptor_with_a_call(server: tuple[Server, Path]) -> None:
    code = (
        "a, b = socket.socketpair(); domain.openGraphics(0, b.fileno())\n"
        "print(a.recv(100).decode(), domain.state()[0])"
    )
    assert script(server[1], code) == "from the server 1"
