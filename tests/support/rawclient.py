"""A blocking client that may break every rule of the protocol."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compat.libvirt import events as wire
from compat.libvirt import messages
from compat.libvirt.connection import Connection, Role
from compat.libvirt.schema import BY_NAME


class RawClient:
    """Calls, replies and events over a unix socket."""

    def __init__(
        self, path: Path, *, name: str | None = "qemu:///system", flags: int = 0, open_: bool = True
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(path))
        self.connection = Connection(Role.CLIENT)
        self.seen: list[wire.Event] = []
        if open_:
            self.open(name, flags)

    @classmethod
    def over(cls, sock: socket.socket) -> RawClient:
        """On a connected socket, opened."""
        client = cls.__new__(cls)
        client.sock, client.connection, client.seen = sock, Connection(Role.CLIENT), []
        client.open("qemu:///system", 0)
        return client

    def open(self, name: str | None, flags: int) -> None:
        """As any client begins."""
        self.ok("remote:AUTH_LIST")
        self.ok("remote:CONNECT_OPEN", messages.RemoteConnectOpenArgs(name, flags))

    def send(self, name: str, args: Any = None, payload: bytes | None = None) -> int:
        procedure = BY_NAME[name]
        body = payload if payload is not None else (args.to_bytes() if args is not None else b"")
        serial, data = self.connection.call(procedure.program_id, procedure.number, body)
        self.sock.sendall(data)
        return serial

    def until(self, wanted: Callable[[wire.Event], bool]) -> Any:
        """The first event, seen already or still to come, that `wanted` accepts."""
        while True:
            for index, event in enumerate(self.seen):
                if wanted(event):
                    return self.seen.pop(index)
            data = self.sock.recv(1 << 20)
            self.seen.extend(self.connection.receive_data(data))
            if not data:
                raise ConnectionError("the front end closed the connection")

    def reply(self, serial: int) -> wire.Reply:
        reply: wire.Reply = self.until(lambda event: isinstance(event, wire.Reply) and event.serial == serial)
        return reply

    def until_reply(self, serial: int) -> wire.Reply:
        """As `reply`, but looks at each event in the order in which it came, and keeps those before it."""
        kept: list[wire.Event] = []
        while True:
            event = self.until(lambda event: True)
            if isinstance(event, wire.Reply) and event.serial == serial:
                self.seen = kept + self.seen
                return event
            kept.append(event)

    def call(self, name: str, args: Any = None, payload: bytes | None = None) -> wire.Reply:
        return self.reply(self.send(name, args, payload))

    def ok(self, name: str, args: Any = None) -> Any:
        """A call that has to succeed; its ret struct."""
        reply = self.call(name, args)
        assert reply.ok, messages.VirNetMessageError.from_bytes(reply.payload)
        kind = BY_NAME[name].ret
        return None if kind is None else kind.from_bytes(reply.payload)

    def error(self, name: str, args: Any = None, payload: bytes | None = None) -> Any:
        """A call that has to fail; its error struct."""
        reply = self.call(name, args, payload)
        assert not reply.ok, reply
        return messages.VirNetMessageError.from_bytes(reply.payload)

    def closed(self) -> bool:
        """The front end has closed the connection (waits for it); then so do we."""
        try:
            while data := self.sock.recv(1 << 20):
                self.seen.extend(self.connection.receive_data(data))
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        self.close()
        return True

    def close(self) -> None:
        self.sock.close()
