"""Many clients, greedy ones and ones that do not read: the others never notice, memory stays bounded."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterhost.config import ListenSection
from clusterhost.frontend.libvirt import listeners
from clusterhost.frontend.libvirt.session import EVENT_BACKLOG
from clusterhost.frontend.libvirt.transport import HIGH_WATER
from clusterhost.model.domain import Domain
from clusterhost.model.errors import InvalidArgument
from clusterhost.model.node import Link, Node
from clusterhost.service.ports import ClusterEvent
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from tests.support.direct import Served, served
from tests.support.rawclient import RawClient
from tests.support.stock import eventually

LIST_ALL = BY_NAME["remote:CONNECT_LIST_ALL_DOMAINS"]
SPARE = 500


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Served]:
    """A cluster of 200 domains that nobody runs."""
    with served(tmp_path / "f", {}, max_clients=5000) as front:

        async def fill() -> None:
            front.cluster.put_node(Node("n1", 0, link=Link.UP))
            for number in range(200):
                uuid = number.to_bytes(16, "big")
                front.cluster.put(Domain(uuid, f"domain-{number}-{'x' * 80}", "n1"))

        front.run(fill())
        yield front


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def buffered(front: Served) -> int:
    sessions = list(front.front.front.sessions.values())  # type: ignore[union-attr]
    return sum(session.transport.buffered for session in sessions)


def test_a_client_that_sends_without_reading_is_slowed_not_buffered(front: Served) -> None:
    greedy = RawClient(front.path)
    args = messages.RemoteConnectListAllDomainsArgs(1, 0).to_bytes()
    greedy.sock.settimeout(1.0)
    sent = 0
    try:
        while sent < 20000:
            _, data = greedy.connection.call(LIST_ALL.program_id, LIST_ALL.number, args)
            greedy.sock.sendall(data)
            sent += 1
    except TimeoutError:
        pass
    assert sent < 20000
    assert buffered(front) <= HIGH_WATER + 200 * 128
    other = RawClient(front.path)
    began = time.monotonic()
    for _ in range(50):
        other.ok("remote:CONNECT_GET_URI")
    assert time.monotonic() - began < 2.0
    greedy.sock.settimeout(10)
    for _ in range(sent):
        greedy.until(lambda event: True)
    greedy.close()
    other.close()


def test_a_client_that_leaves_its_events_unread_is_dropped_and_others_get_theirs(front: Served) -> None:
    deaf, listening = RawClient(front.path), RawClient(front.path)
    register = messages.RemoteConnectDomainEventCallbackRegisterAnyArgs(eventID=9, dom=None)
    for client in (deaf, listening):
        client.ok("remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", register)
    body = messages.RemoteDomainEventDiskChangeMsg(
        dom=messages.RemoteNonnullDomain("d", b"u" * 16, -1),
        oldSrcPath="o" * 60000,
        newSrcPath=None,
        devAlias="vda",
        reason=0,
    )
    message = messages.RemoteDomainEventCallbackDiskChangeMsg(callbackID=0, msg=body).to_bytes()
    event = ClusterEvent(0x20008086, 327, message, b"u" * 16, "n1")
    count = 2 * EVENT_BACKLOG // len(message)

    async def publish() -> None:
        front.bus.publish(event)

    for _ in range(count):
        front.run(publish())
        listening.until(lambda event: hasattr(event, "procedure") and event.procedure == 327)
    eventually(lambda: len(front.front.front.sessions) == 1, 5, "end of the deaf client")  # type: ignore[union-attr]
    assert listening.ok("remote:CONNECT_GET_URI").uri == "qemu:///system"
    deaf.close()
    listening.close()


def test_thousands_of_idle_clients_cost_little_and_slow_nobody(front: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = 2 * 5000 + SPARE if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(ceiling, 2 * 5000 + SPARE)), hard))
    count = min(4990, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE) // 2)
    before = resident()
    idle = []
    try:
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(front.path))
            idle.append(sock)
        eventually(lambda: len(front.front.front.sessions) == count, 20, "all clients accepted")  # type: ignore[union-attr]
        each = (resident() - before) / count
        print(f"{count} idle clients, {each:.0f} bytes each")
        assert each < 12 * 1024
        other = RawClient(front.path)
        began = time.monotonic()
        for _ in range(200):
            other.ok("remote:CONNECT_LIST_ALL_DOMAINS", messages.RemoteConnectListAllDomainsArgs(1, 0))
        assert time.monotonic() - began < 5.0
        other.close()
    finally:
        for sock in idle:
            sock.close()
    eventually(lambda: not front.front.front.sessions, 20, "all sessions ended")  # type: ignore[union-attr]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_clients_above_the_limit_wait_until_one_leaves(tmp_path: Path) -> None:
    with served(tmp_path / "l", {}, max_clients=2) as front:
        first, second = RawClient(front.path), RawClient(front.path)
        third = RawClient(front.path, open_=False)
        serial = third.send("remote:AUTH_LIST")
        third.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            third.reply(serial)
        first.close()
        third.sock.settimeout(10)
        assert third.reply(serial).ok
        second.close()
        third.close()


def test_a_reset_in_the_middle_of_a_reply_harms_nobody(front: Served) -> None:
    kind, address = "tcp", front.front.addresses["tcp"]
    assert kind in front.front.addresses
    for _ in range(20):
        sock = socket.create_connection(tuple(address))  # type: ignore[arg-type]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client = RawClient.over(sock)
        client.send("remote:CONNECT_LIST_ALL_DOMAINS", messages.RemoteConnectListAllDomainsArgs(1, 0))
        client.close()
    other = RawClient(front.path)
    assert other.ok("remote:CONNECT_GET_URI").uri == "qemu:///system"
    other.close()
    eventually(lambda: not front.front.front.sessions, 10, "all sessions ended")  # type: ignore[union-attr]


def test_it_works_on_uvloop_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    with served(tmp_path / "u", {}, loop=uvloop.new_event_loop()) as front:

        async def fill() -> None:
            front.cluster.put_node(Node("n1", 0, link=Link.UP))
            for number in range(5000):
                front.cluster.put(Domain(number.to_bytes(16, "big"), f"{number}-{'x' * 400}", "n1"))

        front.run(fill())
        client = RawClient(front.path)
        serials = [
            client.send("remote:CONNECT_LIST_ALL_DOMAINS", messages.RemoteConnectListAllDomainsArgs(1, 0))
            for _ in range(8)
        ]
        time.sleep(0.3)
        for serial in serials:
            found = messages.RemoteConnectListAllDomainsRet.from_bytes(client.reply(serial).payload)
            assert len(found.domains) == 5000
        client.close()


# -- listeners


def test_tcp_is_refused_on_addresses_that_others_can_reach() -> None:
    for address in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(InvalidArgument, match="only loopback"):
            listeners.tcp_socket(ListenSection(listen_addr=address, tcp_port=0))
    with pytest.raises(InvalidArgument, match="an IP address is needed"):
        listeners.tcp_socket(ListenSection(listen_addr="example", tcp_port=0))


def test_a_passed_tcp_socket_has_to_be_on_loopback_too() -> None:
    code = (
        "import os, socket\n"
        "from clusterhost.frontend.libvirt.listeners import inherited\n"
        "sock = socket.create_server(('0.0.0.0', 0)); os.dup2(sock.fileno(), 3)\n"
        "env = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'clusterhost-tcp.socket'}\n"
        "inherited(env, os.getpid())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "only loopback addresses are allowed" in done.stderr


def test_socket_files_have_the_configured_modes_and_go_with_the_front_end(tmp_path: Path) -> None:
    with served(tmp_path / "m", {}, unix_sock_rw_perms="0700", unix_sock_ro_perms="0777") as front:
        assert front.path.stat().st_mode & 0o777 == 0o700
        assert front.path_ro.stat().st_mode & 0o777 == 0o777
    assert not front.path.exists()
    assert not front.path_ro.exists()


def test_a_stale_socket_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listeners.unix_socket(path, 0o700, -1, 5).close()
    assert path.exists()
    with listeners.unix_socket(path, 0o700, -1, 5), pytest.raises(OSError, match="another server listens"):
        listeners.unix_socket(path, 0o700, -1, 5)


def test_sockets_passed_by_systemd_are_taken_by_name(tmp_path: Path) -> None:
    code = (
        "import os, socket, sys\n"
        "from clusterhost.frontend.libvirt.listeners import inherited\n"
        "made = [socket.socket(socket.AF_UNIX) for _ in range(2)]\n"
        "for index, sock in enumerate(made):\n"
        f"    sock.bind('{tmp_path}/' + str(index)); sock.listen(); os.dup2(sock.fileno(), 30 + index)\n"
        "for sock in made: sock.close()\n"
        "os.dup2(30, 3); os.dup2(31, 4)\n"
        "env = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '2', 'LISTEN_FDNAMES': sys.argv[1]}\n"
        "print([(kind, sock.getsockname()[-1]) for kind, sock in inherited(env, os.getpid())])\n"
        "print(inherited({**env, 'LISTEN_PID': '1'}, os.getpid()))\n"
    )

    def run(names: str) -> subprocess.CompletedProcess[str]:
        for name in ("0", "1"):
            (tmp_path / name).unlink(missing_ok=True)
        return subprocess.run([sys.executable, "-c", code, names], capture_output=True, text=True, timeout=30)

    assert run("clusterhost.socket:clusterhost-ro.socket").stdout == "[('rw', '0'), ('ro', '1')]\n[]\n"
    assert "a socket named 'other' was passed" in run("rw:other").stderr
