"""Tunnels between libvirtds for peer-to-peer migration: a unix socket per peer here, its libvirtd there; and
from the front end to what a domain listens on here (its display).

Bytes only: what the libvirtds say to each other is theirs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from clusterhost.agent.errors import Unavailable
from clusterhost.control import messages as m
from clusterhost.control.tunnel import SendBulk, Tunnel

log = logging.getLogger(__name__)

FIRST_OWN_ID = 1 << 48
"""Ids of tunnels that this agent opens; those that the front end opens count from 1."""
MAX_TUNNELS = 128
DIAL_SECONDS = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Peers:
    """All tunnels of this agent and the sockets they start from.  dial(): raw connection to our libvirtd."""

    def __init__(self, directory: Path, dial: Callable[[], Awaitable[socket.socket]], send: SendBulk) -> None:
        self._directory = directory
        self._dial = dial
        self._send = send
        self._listening: dict[str, socket.socket] = {}
        self._tunnels: dict[int, Tunnel] = {}
        self._early: dict[int, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_id = FIRST_OWN_ID

    def socket_for(self, peer: str) -> str:
        """The path of the socket that leads to `peer`, made when it is not there; raises Unavailable."""
        if not _NAME.fullmatch(peer):
            raise Unavailable("refused", f"{peer!r} is not the name of a node")
        path = self._directory / f"{peer}.sock"
        if peer in self._listening and path.exists():
            return str(path)
        self._stop(peer)
        listening = socket.socket(socket.AF_UNIX)
        listening.setblocking(False)
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.unlink(missing_ok=True)
            listening.bind(os.fspath(path))
            path.chmod(0o600)
            listening.listen(8)
        except OSError as error:
            listening.close()
            raise Unavailable("refused", f"the socket {path} cannot be made: {error}") from error
        self._listening[peer] = listening
        asyncio.get_running_loop().add_reader(listening, self._accept, peer, listening)
        return str(path)

    def opened(self, message: m.TunnelOpen) -> None:
        """A peer's libvirtd wants to talk to ours, or a client of the front end to a display here."""
        if len(self._tunnels) + len(self._tasks) >= MAX_TUNNELS:
            self._send(m.TunnelData(message.id, origin=False), b"")
            return
        self.expect(message.id)
        task = asyncio.get_running_loop().create_task(self._reach(message.id, message.address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def expect(self, id: int) -> None:
        """A tunnel of the front end will end in a socket that is still being made: keep what comes for it."""
        self._early[id] = []

    def forget(self, id: int) -> None:
        """No socket came."""
        self._early.pop(id, None)

    def take(self, id: int, sock: socket.socket) -> None:
        """The socket of a tunnel that was expected; closed when the front end has given it up."""
        early = self._early.pop(id, None)
        if early is None:
            sock.close()
            return
        tunnel = self._add(id, sock, origin=False)
        for payload in early:
            tunnel.data(payload)

    def data(self, message: m.TunnelData, payload: bytes) -> None:
        """Bytes of a tunnel."""
        if tunnel := self._tunnels.get(message.id):
            tunnel.data(payload)
        elif (early := self._early.get(message.id)) is not None:
            early.append(payload)

    def credited(self, id: int, count: int) -> None:
        """Credit for a tunnel."""
        if tunnel := self._tunnels.get(id):
            tunnel.credited(count)

    def cut(self) -> None:
        """The front end is gone, and with it all tunnels."""
        for task in self._tasks:
            task.cancel()
        self._early.clear()
        for tunnel in list(self._tunnels.values()):
            tunnel.close()

    def close(self) -> None:
        """Cut all and stop listening."""
        self.cut()
        for peer in list(self._listening):
            self._stop(peer)
            (self._directory / f"{peer}.sock").unlink(missing_ok=True)

    def _stop(self, peer: str) -> None:
        listening = self._listening.pop(peer, None)
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    def _accept(self, peer: str, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        if len(self._tunnels) >= MAX_TUNNELS:
            sock.close()
            return
        sock.setblocking(False)
        self._last_id += 1
        self._send(m.TunnelOpen(self._last_id, peer), b"")
        self._add(self._last_id, sock, origin=True)

    def _add(self, id: int, sock: socket.socket, *, origin: bool) -> Tunnel:
        tunnel = Tunnel(id, sock, self._send, self._forget, origin=origin)
        self._tunnels[id] = tunnel
        return tunnel

    def _forget(self, id: int) -> None:
        self._tunnels.pop(id, None)

    async def _reach(self, id: int, address: str) -> None:
        try:
            sock = await (dial(address) if address else self._dial())
        except Unavailable as error:
            log.warning("a tunnel was not let through: %s", error)
            self.forget(id)
            self._send(m.TunnelData(id, origin=False), b"")
            return
        self.take(id, sock)


async def dial(address: str) -> socket.socket:
    """Connect to `tcp:HOST:PORT` or `unix:PATH` of this node; raises Unavailable."""
    kind, _, rest = address.partition(":")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET6 if rest.count(":") > 1 else socket.AF_INET
    host, _, port = rest.rpartition(":")
    sock = socket.socket(family)
    sock.setblocking(False)
    try:
        target = rest if kind == "unix" else (host.strip("[]"), int(port))
        async with asyncio.timeout(DIAL_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, target)
    except (OSError, ValueError, TimeoutError) as error:
        sock.close()
        raise Unavailable("refused", f"nothing answers at {address}: {error}") from error
    return sock
