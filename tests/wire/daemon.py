"""A libvirtd of our own, out of everybody's way, and a plain blocking client on compat's Connection."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compat.libvirt.connection import Connection, Role
from compat.libvirt.errors import ProtocolError
from compat.libvirt.events import Event, Message, Reply
from compat.libvirt.messages import VirNetMessageError
from compat.libvirt.schema import BY_NAME

CONF = """
unix_sock_dir = "{folder}"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:{folder}/log"
"""
HIDE = "for d in /run /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do mount -t tmpfs tmpfs $d; done"
START = 'mkdir -p /run/lock; exec libvirtd -f "$1/libvirtd.conf" -p "$1/pid"'


@contextmanager
def libvirtd() -> Iterator[Path]:
    """Run libvirtd out of everybody's way; give the path of its socket."""
    folder = Path(tempfile.mkdtemp(prefix="compat-libvirtd-", dir="/tmp"))
    (folder / "libvirtd.conf").write_text(CONF.format(folder=folder))
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen(
        [*command, "sh", "-c", f"{HIDE}; {START}", "sh", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"LC_ALL": "C"},
    )
    path = folder / "libvirt-sock"
    try:
        deadline = time.monotonic() + 20
        while not answers(path):
            assert process.poll() is None, "libvirtd ended at once"
            assert time.monotonic() < deadline, "libvirtd does not answer"
            time.sleep(0.05)
        yield path
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Refused(Exception):
    """The daemon's error reply."""

    def __init__(self, error: VirNetMessageError) -> None:
        super().__init__(error.message)
        self.error = error


class Client:
    """Calls by name, one at a time; other events wait in `events`."""

    def __init__(self, path: Path, pieces: int = 65536) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.connection = Connection(Role.CLIENT)
        self.events: list[Event] = []
        self.pieces = pieces
        self.payload = b""

    def close(self) -> None:
        self.socket.close()

    def open(self, uri: str, flags: int = 0) -> Client:
        self("remote:AUTH_LIST")
        self("remote:CONNECT_OPEN", uri, flags)
        return self

    def __call__(self, name: str, *args: Any) -> Any:
        """Call a procedure with the members of its args; return its result, keep its bytes in `payload`."""
        procedure = BY_NAME[name]
        payload = procedure.args(*args).to_bytes() if procedure.args else b""
        serial, data = self.connection.call(procedure.program_id, procedure.number, payload)
        self.socket.sendall(data)
        reply = self.wait(lambda event: isinstance(event, Reply) and event.serial == serial)
        self.payload = reply.payload
        if not reply.ok:
            raise Refused(VirNetMessageError.from_bytes(reply.payload))
        return procedure.ret.from_bytes(reply.payload) if procedure.ret else None

    def wait(self, wanted: Callable[[Event], bool]) -> Any:
        """Return the first event that is wanted, out of order."""
        while True:
            for event in self.events:
                if wanted(event):
                    self.events.remove(event)
                    return event
            self.read()

    def read(self) -> None:
        data = self.socket.recv(self.pieces)
        if not data:
            raise ProtocolError("the daemon closed the connection")
        self.events += self.connection.receive_data(data)
        if answer := self.connection.data_to_send():
            self.socket.sendall(answer)

    def message(self, name: str) -> Any:
        """Wait for an event of libvirt's and decode it."""
        procedure = BY_NAME[name]
        event = self.wait(lambda event: isinstance(event, Message) and event.procedure == procedure.number)
        assert procedure.msg is not None
        return procedure.msg.from_bytes(event.payload)
