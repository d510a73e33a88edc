"""One pool in memory behind a unix socket that speaks libvirt's protocol: as much as an upload needs."""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compat.libvirt import events
from compat.libvirt import messages as lv
from compat.libvirt.connection import Connection, Role
from compat.libvirt.constants import VIR_ERR_STORAGE_VOL_EXIST
from compat.libvirt.schema import PROCEDURES

POOL = lv.RemoteNonnullStoragePool("default", b"P" * 16)


@dataclass
class Endpoint:
    """volumes: what is in them; whole: those whose upload was ended; holes: bytes of each that came as holes;
    breaks: bytes of an upload after which it fails."""

    path: Path
    volumes: dict[str, bytearray] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    holes: dict[str, int] = field(default_factory=dict)
    breaks: int | None = None
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                Session(self, client).run()


class Session:
    """A client."""

    def __init__(self, store: Endpoint, client: socket.socket) -> None:
        self.store = store
        self.client = client
        self.connection = Connection(Role.SERVER)
        self.connection.authenticated = True
        self.name = ""
        self.offset = 0

    def run(self) -> None:
        while data := self.client.recv(1 << 20):
            for event in self.connection.receive_data(data):
                self.one(event)
            if answer := self.connection.data_to_send():
                self.client.sendall(answer)

    def one(self, event: events.Event) -> None:
        if isinstance(event, events.Call):
            self.call(event)
        elif isinstance(event, events.StreamData):
            self.write(event.key, event.payload)
        elif isinstance(event, events.StreamHole):
            self.store.holes[self.name] = self.store.holes.get(self.name, 0) + event.length
            self.write(event.key, bytes(event.length))
        elif isinstance(event, events.StreamFinish | events.StreamAbort):
            if isinstance(event, events.StreamFinish):
                self.store.whole.add(self.name)
            self.client.sendall(self.connection.stream_finished(event.key))

    def write(self, key: events.StreamKey, data: bytes) -> None:
        self.store.volumes[self.name][self.offset : self.offset + len(data)] = data
        self.offset += len(data)
        if (
            self.store.breaks is not None
            and self.offset >= self.store.breaks
            and key in self.connection.streams
        ):
            self.client.sendall(self.connection.stream_failed(key, error(38, "no space left on node n2")))

    def call(self, call: events.Call) -> None:
        procedure = PROCEDURES[call.program, call.procedure]
        self.store.calls.append(procedure.name)
        args = procedure.args.from_bytes(call.payload) if procedure.args is not None else None
        result = getattr(self, procedure.name.lower())(call, args)
        if isinstance(result, lv.VirNetMessageError):
            self.client.sendall(self.connection.error(call, result))
        else:
            self.client.sendall(self.connection.reply(call, result.to_bytes() if result is not None else b""))

    def auth_list(self, call: events.Call, args: Any) -> Any:
        return lv.RemoteAuthListRet([0])

    def connect_open(self, call: events.Call, args: Any) -> Any:
        return None

    def storage_pool_lookup_by_name(self, call: events.Call, args: Any) -> Any:
        return lv.RemoteStoragePoolLookupByNameRet(POOL)

    def storage_vol_lookup_by_name(self, call: events.Call, args: Any) -> Any:
        return lv.RemoteStorageVolLookupByNameRet(lv.RemoteNonnullStorageVol("default", args.name, args.name))

    def storage_vol_create_xml(self, call: events.Call, args: Any) -> Any:
        name = re.search(r"<name>(.*)</name>", args.xml)[1]  # type: ignore[index]
        size = int(re.search(r"<capacity>(\d+)</capacity>", args.xml)[1])  # type: ignore[index]
        if name in self.store.volumes:
            return error(VIR_ERR_STORAGE_VOL_EXIST, f"storage volume '{name}' exists already")
        self.store.volumes[name] = bytearray(size)
        return lv.RemoteStorageVolCreateXmlRet(lv.RemoteNonnullStorageVol("default", name, name))

    def storage_vol_delete(self, call: events.Call, args: Any) -> Any:
        del self.store.volumes[args.vol.name]

    def storage_vol_upload(self, call: events.Call, args: Any) -> Any:
        self.name, self.offset = args.vol.name, 0
        key = events.StreamKey(call.program, call.procedure, call.serial)
        self.connection.open_stream(key, sparse=bool(args.flags & 1))


def error(code: int, text: str) -> lv.VirNetMessageError:
    return lv.VirNetMessageError(code, 18, text, 2, None, "%s", text, None, -1, -1, None)
