"""Sockets that clients connect to: unix read-write, unix read-only, TCP on loopback; or systemd's.

Knows nothing of the protocol: each accepted socket is handed over.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterhost.config import ListenSection
from clusterhost.model.errors import InvalidArgument

log = logging.getLogger(__name__)

RW_NAME = "libvirt-sock"
RO_NAME = "libvirt-sock-ro"
FIRST_PASSED_FD = 3
UCRED = struct.Struct("iII")
ACCEPT_AT_ONCE = 32
"""Clients taken from one listening socket before others have their turn."""
PAUSE = 0.5
"""Seconds without accepting when no file descriptor is left."""

ACTIVATED = {
    "clusterhost.socket": "rw",
    "clusterhost-ro.socket": "ro",
    "clusterhost-tcp.socket": "tcp",
    "rw": "rw",
    "ro": "ro",
    "tcp": "tcp",
}
"""FileDescriptorName of a passed socket -> which listener it is (systemd's default is the unit's name)."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A client that connected.  who: for the audit line."""

    sock: socket.socket
    readonly: bool
    who: str


class Listener:
    """One listening socket.  Not accepting leaves clients in the kernel's queue, as libvirtd does."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        kind: str,
        accepted: Callable[[Accepted], None],
        path: Path | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._path = path
        self._on = False
        self._wanted = False
        self._room: Callable[[], bool] = lambda: True
        self.kind = kind
        sock.setblocking(False)

    @property
    def address(self) -> tuple[str, int] | str:
        """Where it listens."""
        name: tuple[str, int] | str = self._sock.getsockname()
        return name

    def start(self, room: Callable[[], bool]) -> None:
        """Accept while `room()` says so."""
        self._room = room
        self._wanted = True
        self.resume()

    def resume(self) -> None:
        """Accept (again)."""
        if self._wanted and not self._on:
            self._on = True
            self._loop.add_reader(self._sock.fileno(), self._ready)

    def pause(self) -> None:
        """Leave clients waiting."""
        if self._on:
            self._on = False
            self._loop.remove_reader(self._sock.fileno())

    def _ready(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if not self._room():
                self.pause()
                return
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot(error)
                return
            self._take(sock, address)

    def _cannot(self, error: OSError) -> None:
        log.warning("no client can be accepted: %s", error.strerror)
        self.pause()
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._loop.call_later(PAUSE, self.resume)

    def _take(self, sock: socket.socket, address: object) -> None:
        sock.setblocking(False)
        if self.kind == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            who = f"tcp:{address[0]}:{address[1]}" if isinstance(address, tuple) else "tcp"
        else:
            who = peer(sock)
        self._accepted(Accepted(sock, self.kind == "ro", who))

    def close(self) -> None:
        """Stop listening; a socket file of our own is removed."""
        self.pause()
        self._wanted = False
        self._sock.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def peer(sock: socket.socket) -> str:
    """Who is at the other end of a unix socket."""
    pid, uid, gid = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return f"unix:uid={uid},gid={gid},pid={pid}"


Made = tuple[socket.socket, str, Path | None]
"""A listening socket, its kind, and the file that is ours to remove."""


def sockets(settings: ListenSection, environ: Mapping[str, str], pid: int) -> list[Made]:
    """The sockets to listen on.  OSError, InvalidArgument."""
    passed = inherited(environ, pid)
    if passed:
        return [(sock, kind, None) for kind, sock in passed]
    made: list[Made] = []
    directory = settings.unix_sock_dir
    directory.mkdir(parents=True, exist_ok=True)
    group = _group(settings.unix_sock_group)
    for name, kind, mode in (
        (RW_NAME, "rw", settings.unix_sock_rw_perms),
        (RO_NAME, "ro", settings.unix_sock_ro_perms),
    ):
        path = directory / name
        made.append((unix_socket(path, int(mode, 8), group, settings.max_queued_clients), kind, path))
    if settings.listen_tcp:
        made.append((tcp_socket(settings), "tcp", None))
    return made


def unix_socket(path: Path, mode: int, group: int, backlog: int) -> socket.socket:
    """A listening socket whose file never has wider permissions than `mode`.  OSError if another listens."""
    if path.is_socket():
        if _answers(path):
            raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o777)
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        if group != -1:
            os.chown(path, -1, group)
        path.chmod(mode)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def tcp_socket(settings: ListenSection) -> socket.socket:
    """A listening TCP socket.  InvalidArgument unless on loopback: there is no authentication yet."""
    address = loopback(settings.listen_addr)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    where = (str(address), settings.tcp_port)
    return socket.create_server(where, family=family, backlog=settings.max_queued_clients)


def loopback(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address.  InvalidArgument for one that others can reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"listen_addr: found '{text}', an IP address is needed") from None
    if not address.is_loopback:
        raise InvalidArgument(
            f"listen_addr: found {address}; without authentication only loopback addresses are allowed"
        )
    return address


def inherited(environ: Mapping[str, str], pid: int) -> list[tuple[str, socket.socket]]:
    """Sockets passed by systemd (sd_listen_fds): kind and socket.  InvalidArgument for unknown names."""
    if environ.get("LISTEN_PID") != str(pid) or not environ.get("LISTEN_FDS", "").isdigit():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: list[tuple[str, socket.socket]] = []
    for index in range(int(environ["LISTEN_FDS"])):
        name = names[index] if index < len(names) else ""
        if name not in ACTIVATED:
            raise InvalidArgument(
                f"a socket named '{name}' was passed; allowed: {', '.join(sorted(ACTIVATED))}"
            )
        os.set_inheritable(FIRST_PASSED_FD + index, False)
        sock = socket.socket(fileno=FIRST_PASSED_FD + index)
        if sock.family != socket.AF_UNIX:
            loopback(sock.getsockname()[0])
        found.append((ACTIVATED[name], sock))
    return found


def _group(name: str) -> int:
    if not name:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidArgument(f"unix_sock_group: no group is named '{name}'") from None
