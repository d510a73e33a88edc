"""How fast a guest's output comes through a stream: its virtio console, and its virtio channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt

from tools.bench.scene import CHANNEL, RUNNING, SceneFailed

Open = Callable[[libvirt.virDomain, libvirt.virStream], object]

PIECE = 65536
SECONDS, STALLED = 3.0, 20.0
# The console's driver hands over 16 bytes at a time, a channel whole buffers.
TO_CONSOLE = "(while :; do cat /bin/busybox; done) >/dev/hvc0 2>/dev/null & J=$!\n"
TO_CHANNEL = (
    f"kill $J; P=$(grep -l {CHANNEL} /sys/class/virtio-ports/*/name | cut -d/ -f5)\n"
    "(while :; do read -r n && dd if=/dev/zero bs=65536 count=$n || sleep 0.1; done) <>/dev/$P >&0 2>/dev/null &\n"
)


@dataclass(frozen=True)
class Load:
    """What the guest writes after `commands`: without end, or `total` bytes for each `ask`.

    Nobody closes a channel with data under way: QEMU 7.2 may never wake a guest whose full port lost its reader (the
    node's own socket has that too). A console cannot be asked: its pty drops what is written while it is reopened.
    """

    opened: Open
    commands: str
    ask: bytes = b""
    total: int | None = None

    def goes_on(self, received: int, taken: float) -> bool:
        """Whether there is more to read after so many bytes and seconds."""
        return taken < SECONDS if self.total is None else received < self.total


def open_shell(domain: libvirt.virDomain, stream: libvirt.virStream) -> None:
    """The serial console."""
    domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)


def open_console(domain: libvirt.virDomain, stream: libvirt.virStream) -> None:
    """The virtio console."""
    domain.openConsole("console1", stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)


def open_channel(domain: libvirt.virDomain, stream: libvirt.virStream) -> None:
    """The virtio channel."""
    domain.openChannel(CHANNEL, stream, libvirt.VIR_DOMAIN_CHANNEL_FORCE)


def tell(connection: libvirt.virConnect, commands: str) -> None:
    """Let the guest's shell, on its serial console, do this beside its own work; SceneFailed."""
    with _stream(connection, open_shell) as stream:
        _read_until(stream, b"count ")
        stream.send(f"\n{commands}echo to''ld\n".encode())
        _read_until(stream, b"told")


def _read_until(stream: libvirt.virStream, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen = seen[-len(wanted) :] + stream.recv(PIECE)


@contextmanager
def _stream(connection: libvirt.virConnect, opened: Open) -> Iterator[libvirt.virStream]:
    """A stream that is closed after STALLED seconds at the latest; SceneFailed."""
    stream = connection.newStream()
    opened(connection.lookupByName(RUNNING), stream)
    watchdog = threading.Timer(STALLED, stream.abort)
    watchdog.start()
    try:
        yield stream
    except libvirt.libvirtError as error:
        raise SceneFailed(f"the guest's {opened.__name__.removeprefix('open_')} stalls: {error}") from error
    finally:
        watchdog.cancel()
    stream.abort()


CONSOLE_LOAD = Load(open_console, TO_CONSOLE)
CHANNEL_LOAD = Load(open_channel, TO_CHANNEL, b"1500\n", 1500 * 65536)


def megabytes_per_second(connection: libvirt.virConnect, load: Load) -> float:
    """How fast a load comes through; SceneFailed when it stalls for good."""
    received, taken = 0, 0.0
    with _stream(connection, load.opened) as stream:
        if load.ask:
            stream.send(load.ask)
        began = time.perf_counter()
        while load.goes_on(received, taken):
            received += len(stream.recv(PIECE))
            taken = time.perf_counter() - began
    return received / taken / 1e6
