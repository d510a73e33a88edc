"""A client of libvirt's protocol, blocking: makes a volume and sends its bytes.  Knows no source of them."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from typing import Any

from clusterhost.cli.errors import FAILED, NO_FRONT_END, Failure
from compat.libvirt import events, messages
from compat.libvirt.connection import Connection, Role
from compat.libvirt.errors import ProtocolError, XdrError
from compat.libvirt.schema import BY_NAME
from compat.libvirt.streams import Direction

SPARSE = 1
"""VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM"""
_POLKIT = 2


class Refused(Failure):
    """The endpoint's own sentence.  code: libvirt's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, FAILED)
        self.code = code


class Endpoint:
    """A connection to the endpoint's socket of this machine.  Failure, Refused."""

    def __init__(self, path: str) -> None:
        self._connection = Connection(Role.CLIENT)
        self._seen: list[events.Event] = []
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            text = f"the endpoint does not answer at {path}: {error.strerror}"
            raise Failure(text, NO_FRONT_END) from error
        methods = self.ask("AUTH_LIST").types
        if methods and methods[0] == _POLKIT:
            self.ask("AUTH_POLKIT")
        self.ask("CONNECT_OPEN", messages.RemoteConnectOpenArgs("qemu:///system", 0))

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, name: str, args: Any = None) -> Any:
        """One call of the remote program; its result."""
        procedure = BY_NAME[f"remote:{name}"]
        reply = self._reply(self._call(name, args))
        return None if procedure.ret is None else procedure.ret.from_bytes(reply.payload)

    def pool(self, name: str) -> messages.RemoteNonnullStoragePool:
        """By its name."""
        args = messages.RemoteStoragePoolLookupByNameArgs(name)
        found: messages.RemoteNonnullStoragePool = self.ask("STORAGE_POOL_LOOKUP_BY_NAME", args).pool
        return found

    def create(self, pool: messages.RemoteNonnullStoragePool, xml: str) -> messages.RemoteNonnullStorageVol:
        """A new volume."""
        args = messages.RemoteStorageVolCreateXmlArgs(pool, xml, 0)
        made: messages.RemoteNonnullStorageVol = self.ask("STORAGE_VOL_CREATE_XML", args).vol
        return made

    def volume(self, pool: messages.RemoteNonnullStoragePool, name: str) -> messages.RemoteNonnullStorageVol:
        """One that there is."""
        args = messages.RemoteStorageVolLookupByNameArgs(pool, name)
        found: messages.RemoteNonnullStorageVol = self.ask("STORAGE_VOL_LOOKUP_BY_NAME", args).vol
        return found

    def delete(self, volume: messages.RemoteNonnullStorageVol) -> None:
        """It is no more."""
        self.ask("STORAGE_VOL_DELETE", messages.RemoteStorageVolDeleteArgs(volume, 0))

    def upload(
        self, volume: messages.RemoteNonnullStorageVol, size: int, parts: Iterable[bytes | int]
    ) -> None:
        """Bytes, and lengths of holes, from the volume's beginning on.  What `parts` raises ends the upload as cut."""
        args = messages.RemoteStorageVolUploadArgs(volume, 0, size, SPARSE)
        procedure = BY_NAME["remote:STORAGE_VOL_UPLOAD"]
        serial = self._call("STORAGE_VOL_UPLOAD", args)
        key = events.StreamKey(procedure.program_id, procedure.number, serial)
        self._connection.open_stream(key, Direction.BOTH, True)
        self._reply(serial)
        try:
            for part in parts:
                if isinstance(part, int):
                    self._send(self._connection.stream_hole(key, part))
                else:
                    self._send(self._connection.stream_data(key, part))
                self._look()
        except BaseException:
            self._abort(key)
            raise
        self._send(self._connection.stream_finish(key))
        self._ended(key)

    def _abort(self, key: events.StreamKey) -> None:
        """Waits until it is known to be over, so that the volume is free."""
        if key not in self._connection.streams:
            return
        self._send(self._connection.stream_abort(key))
        self._ended(key)

    def _ended(self, key: events.StreamKey) -> None:
        while True:
            self._look()
            found = next(
                (e for e in self._seen if isinstance(e, events.StreamFinished) and e.key == key), None
            )
            if found is not None:
                self._seen.remove(found)
                return
            self._receive()

    def _call(self, name: str, args: Any) -> int:
        procedure = BY_NAME[f"remote:{name}"]
        payload = b"" if args is None else args.to_bytes()
        serial, data = self._connection.call(procedure.program_id, procedure.number, payload)
        self._send(data)
        return serial

    def _reply(self, serial: int) -> events.Reply:
        while True:
            for event in self._seen:
                if isinstance(event, events.Reply) and event.serial == serial:
                    self._seen.remove(event)
                    if not event.ok:
                        raise _refused(event.payload)
                    return event
            self._receive()

    def _look(self) -> None:
        """Take what has come; Refused when it is that a stream has failed."""
        while select.select([self._socket], [], [], 0)[0]:
            self._receive()
        for event in self._seen:
            if isinstance(event, events.StreamFailed):
                self._seen.remove(event)
                raise _refused(event.payload)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Failure(f"the endpoint is gone: {error.strerror}", NO_FRONT_END) from error

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
            self._seen += self._connection.receive_data(data)
        except (OSError, ProtocolError) as error:
            raise Failure(f"the endpoint is gone: {error}", NO_FRONT_END) from error
        if not data:
            raise Failure("the endpoint ended the connection", NO_FRONT_END)
        if answer := self._connection.data_to_send():
            self._send(answer)


def _refused(payload: bytes) -> Refused:
    try:
        error = messages.VirNetMessageError.from_bytes(payload)
    except XdrError:
        return Refused("the endpoint refused it, with a reason that cannot be read", 0)
    return Refused(error.message or "the endpoint refused it without a reason", error.code)
