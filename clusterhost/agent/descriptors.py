"""Calls that give libvirtd a descriptor or get one from it (a domain's display): its other end is carried to the
front end as a tunnel.  What is said on it is none of our business.

libvirtd can pass descriptors over its unix socket only, so this works for an agent that runs on its node.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.peers import Peers
from clusterhost.agent.rpc import Done, Rpc
from clusterhost.control import messages as m
from compat.libvirt.errors import ProtocolError
from compat.libvirt.schema import BY_NAME

_TAKES, _GIVES = (
    (found.program_id, found.number)
    for found in (BY_NAME["remote:DOMAIN_OPEN_GRAPHICS"], BY_NAME["remote:DOMAIN_OPEN_GRAPHICS_FD"])
)
CARRIED = frozenset({_TAKES, _GIVES})
"""Calls with one descriptor that is a connection: what is said on it can travel, a file cannot."""

_READ = 65536

Answer = Callable[[bool, bytes, str], None]


class DescriptorRpc(Rpc):
    """A connection that is used for one call with a descriptor: it reads those that come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.received: list[int] = []
        super().__init__(loop, sock)

    def call_giving(self, program: int, procedure: int, payload: bytes, given: int, done: Done) -> None:
        """Make the call with a descriptor of ours, which is sent before this returns and stays ours."""
        serial, data = self.connection.call_with_fds(program, procedure, payload, 1)
        self._pending[serial] = done
        self.write(data)
        if not self.unsent:
            socket.send_fds(self._socket, [b"\0"], [given])
        else:
            self._loop.call_soon(self.close, "libvirtd does not take a call with a descriptor")

    def _readable(self) -> None:
        # Control data must be asked for at every read, or descriptors vanish with the bytes read plainly.
        try:
            data, found, _, _ = socket.recv_fds(self._socket, _READ, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"the connection to libvirtd broke: {error.strerror}")
            return
        self.received += found
        try:
            events = self.connection.receive_data(data)
        except ProtocolError as error:
            self.close(f"libvirtd broke the protocol: {error.reason}")
            return
        self._deliver(events)

    def taken(self) -> socket.socket | None:
        """The descriptor that came, as a socket; None when none came or it is no socket."""
        if not self.received:
            return None
        found, *others = self.received
        self.received = []
        for one in others:
            os.close(one)
        try:
            sock = socket.socket(fileno=found)
        except OSError:
            os.close(found)
            return None
        sock.setblocking(False)
        return sock


class Descriptors:
    """dial(readonly) makes a connection of its own for each call."""

    def __init__(
        self, dial: Callable[[bool], Awaitable[DescriptorRpc]], peers: Peers, *, local: bool
    ) -> None:
        self._dial = dial
        self._peers = peers
        self._local = local
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[int, DescriptorRpc] = {}

    def open(self, message: m.OpenStream, payload: bytes, answer: Answer) -> None:
        """Make the call; when it succeeds, tunnel `message.id` leads to the descriptor's other end."""
        if not self._local:
            answer(
                False, b"its libvirtd is reached over a network, which carries no descriptors", "unsupported"
            )
            return
        self._peers.expect(message.id)
        task = asyncio.get_running_loop().create_task(self._opened(message, payload, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, id: int) -> None:
        """Nobody waits for that call any more."""
        if rpc := self._under_way.get(id):
            rpc.close("nobody waits for the call")

    def close(self) -> None:
        """The front end is gone."""
        for task in self._tasks:
            task.cancel()
        for rpc in list(self._under_way.values()):
            rpc.close("the front end is gone")

    async def _opened(self, message: m.OpenStream, payload: bytes, answer: Answer) -> None:
        try:
            rpc = await self._dial(message.readonly)
        except (Unavailable, LibvirtRefused) as error:
            self._peers.forget(message.id)
            kind = error.kind if isinstance(error, Unavailable) else "libvirtd-down"
            answer(False, str(error).encode(), kind)
            return
        self._under_way[message.id] = rpc
        ours: socket.socket | None = None

        def answered(ok: bool, reply: bytes, failure: str) -> None:
            sock = ours if ours is not None else rpc.taken()
            self._under_way.pop(message.id, None)
            rpc.close("the call with a descriptor is answered")
            if ok and sock is not None:
                self._peers.take(message.id, sock)
                answer(True, reply, "")
                return
            self._peers.forget(message.id)
            if sock is not None:
                sock.close()
            if ok:
                answer(False, b"libvirtd gave no socket", "libvirtd-down")
            else:
                answer(False, reply, failure)

        if (message.program, message.procedure) == _TAKES:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with theirs:
                rpc.call_giving(message.program, message.procedure, payload, theirs.fileno(), answered)
        else:
            rpc.call(message.program, message.procedure, payload, answered)
