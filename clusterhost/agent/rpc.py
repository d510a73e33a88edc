"""One connection to a libvirtd: a non-blocking socket on the loop around compat.libvirt.Connection.

Knows calls, events and stream packets as bytes, not what they mean.  A call makes no task and no future.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from compat.libvirt import events
from compat.libvirt.connection import Connection, Role
from compat.libvirt.errors import ProtocolError, XdrError
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message

log = logging.getLogger(__name__)

_READ = 65536

Done = Callable[[bool, bytes, str], None]
"""ok, payload, failure: "" when libvirtd answered, else a kind of messages.Failed, and payload its text."""

PROCEDURE = {name: (found.program_id, found.number, found.ret_name) for name, found in BY_NAME.items()}


class Rpc:
    """on_answer: after each answer; on_drained: after the kernel took some of what waited.

    limit: how many calls are sent before one is answered; more wait here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, limit: int = 4) -> None:
        self.limit = limit
        self.on_lost: Callable[[str], None] | None = None
        self.on_message: Callable[[int, int, bytes], None] | None = None
        self.on_stream: Callable[[events.Event], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_answer: Callable[[], None] | None = None
        self.connection = Connection(Role.CLIENT)
        self.lost = ""
        self._loop = loop
        self._socket = sock
        self._pending: dict[int, Done] = {}
        self._backlog: deque[tuple[int, int, bytes, Done]] = deque()
        self._unsent = bytearray()
        self._corked: list[bytes] | None = None
        self._reading = True
        loop.add_reader(sock, self._readable)

    @property
    def in_flight(self) -> int:
        """Calls that libvirtd has not answered."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return len(self._unsent)

    def call(self, program: int, procedure: int, payload: bytes, done: Done) -> int:
        """Send a call; `done` is called once, not before this returns.  Returns its serial, -1 if it waits."""
        if len(self._pending) >= self.limit:
            self._backlog.append((program, procedure, payload, done))
            return -1
        serial, data = self.connection.call(program, procedure, payload)
        self._pending[serial] = done
        if self.lost:
            self._loop.call_soon(self._fail_pending)
        else:
            self.write(data)
        return serial

    async def ask(self, name: str, args: Message | None = None) -> Any:
        """Call "program:NAME" and decode the result; raises LibvirtRefused, Unavailable."""
        program, number, _ = PROCEDURE[name]
        future: asyncio.Future[bytes] = self._loop.create_future()
        self.call(program, number, args.to_bytes() if args is not None else b"", settle(future))
        return decoded(name, await future)

    def write(self, data: bytes) -> None:
        """Send bytes in order."""
        if self.lost:
            return
        if self._corked is not None:
            self._corked.append(data)
            return
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._loop.call_soon(self.close, f"libvirtd does not take data: {error.strerror}")
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._socket, self._writable)
        self._unsent += data

    def cork(self) -> None:
        """Gather what is written until `uncork`: several calls in one packet."""
        self._corked = []

    def uncork(self) -> None:
        """Send what was gathered."""
        gathered, self._corked = self._corked, None
        if gathered:
            self.write(b"".join(gathered))

    def pause(self) -> None:
        """Stop reading: libvirtd soon stops sending."""
        if self._reading and not self.lost:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """Read again."""
        if not self._reading and not self.lost:
            self._reading = True
            self._loop.add_reader(self._socket, self._readable)

    def close(self, reason: str = "closed") -> None:
        """Close; every call under way fails as "libvirtd-down"."""
        if self.lost:
            return
        self.lost = reason
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with contextlib.suppress(OSError):
            self._socket.close()
        self._fail_pending()
        if self.on_lost is not None:
            self.on_lost(reason)

    def _fail_pending(self) -> None:
        pending, self._pending = self._pending, {}
        text = self.lost.encode()
        backlog, self._backlog = self._backlog, deque()
        for done in [*pending.values(), *(call[3] for call in backlog)]:
            done(False, text, "libvirtd-down")

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"the connection to libvirtd broke: {error.strerror}")
            return
        try:
            found = self.connection.receive_data(data)
        except ProtocolError as error:
            self._deliver(error.events)
            self.close(f"libvirtd broke the protocol: {error.reason}")
            return
        self._deliver(found)
        if answer := self.connection.data_to_send():
            self.write(answer)

    def _deliver(self, found: list[events.Event]) -> None:
        for event in found:
            try:
                self._one(event)
            except Exception:
                # The edge of the wire: what one answer upsets must not swallow those behind it.
                log.exception("an answer of libvirtd was not dealt with")

    def _one(self, event: events.Event) -> None:
        if type(event) is events.Reply:
            done = self._pending.pop(event.serial, None)
            if done is not None:
                done(event.ok, event.payload, "")
            if self._backlog and len(self._pending) < self.limit:
                self.call(*self._backlog.popleft())
            if self.on_answer is not None:
                self.on_answer()
        elif type(event) is events.Message:
            if self.on_message is not None:
                self.on_message(event.program, event.procedure, event.payload)
        elif type(event) is events.ConnectionClosed:
            self.close("libvirtd closed the connection")
        elif self.on_stream is not None:
            self.on_stream(event)

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(f"libvirtd does not take data: {error.strerror}")
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)
        if self.on_drained is not None:
            self.on_drained()


def settle(future: asyncio.Future[bytes]) -> Done:
    """A `Done` that resolves a future with the payload, or fails it with LibvirtRefused or Unavailable."""

    def done(ok: bool, payload: bytes, failure: str) -> None:
        if future.done():
            return
        if failure:
            future.set_exception(Unavailable(failure, payload.decode()))
        elif ok:
            future.set_result(payload)
        else:
            future.set_exception(LibvirtRefused(payload))

    return done


def decoded(name: str, payload: bytes) -> Any:
    """The ret struct of "program:NAME", None when it has none; raises Unavailable when it cannot be read."""
    kind = BY_NAME[name].ret
    try:
        return None if kind is None else kind.from_bytes(payload)
    except XdrError as error:
        raise Unavailable("libvirtd-down", f"libvirtd's answer to {name} cannot be read: {error}") from error
