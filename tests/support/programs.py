"""Small programs on libvirt-python, as users write them: `python -m tests.support.programs NAME URI ...`.

Each prints lines of JSON.  A program of its own, because an event loop is registered once and for a whole process,
and because what a library prints or crashes of must be seen.  Knows nothing of clusterhost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import libvirt

from tests.support.guest import LISTENS

PROMPT = b"echo si''xty-$((60 + 4))\n"
REPLY = b"sixty-64"
READABLE = libvirt.VIR_STREAM_EVENT_READABLE
WRITABLE = libvirt.VIR_STREAM_EVENT_WRITABLE
GONE = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


def say(**facts: object) -> None:
    """One line of the answer, at once."""
    print(json.dumps(facts), flush=True)


def loop_in_thread() -> None:
    """libvirt's own event loop, as most programs run it."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def listens(seen: bytes) -> bool:
    """The guest whose console this is from its start on has a shell that hears us."""
    return seen.count(b"count ") >= LISTENS


def until(check: Callable[[], object], seconds: float = 30) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Terminal:
    """A console on a stream that does not block: what comes is kept, what is typed goes when there is room."""

    def __init__(self, stream: libvirt.virStream) -> None:
        self.stream = stream
        self.seen = b""
        self.typed = b""
        self.ended = ""
        stream.eventAddCallback(READABLE | GONE, self._event, None)

    def type(self, text: bytes) -> None:
        self.typed += text
        self.stream.eventUpdateCallback(READABLE | WRITABLE | GONE)

    def _event(self, stream: libvirt.virStream, events: int, opaque: object) -> None:
        try:
            if events & READABLE:
                self._read(stream)
            if events & WRITABLE and self.typed and not self.ended:
                sent = stream.send(self.typed)
                self.typed = self.typed[max(sent, 0) :]
                if not self.typed:
                    stream.eventUpdateCallback(READABLE | GONE)
        except libvirt.libvirtError as error:
            self.ended = f"error {error.get_error_code()}"
        if events & GONE and not self.ended:
            self.ended = "hangup" if events & libvirt.VIR_STREAM_EVENT_HANGUP else "error"

    def _read(self, stream: libvirt.virStream) -> None:
        data = stream.recv(65536)
        if isinstance(data, bytes):
            self.seen += data
            if not data:
                self.ended = "end"
                stream.eventUpdateCallback(0)


def console(uri: str, name: str) -> None:
    """Read, type, be interrupted by the end of the domain; then both ways of ending a stream."""
    loop_in_thread()
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
    domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    terminal = Terminal(stream)
    say(counts=until(lambda: listens(terminal.seen)))
    terminal.type(PROMPT)
    say(answers=until(lambda: REPLY in terminal.seen))
    other = connection.newStream()
    try:
        domain.openConsole(None, other)
    except libvirt.libvirtError as error:
        say(busy=error.get_error_code(), text=error.get_error_message())
    domain.destroy()
    say(ends=until(lambda: terminal.ended, 10), how=terminal.ended)
    stream.eventRemoveCallback()
    for end in (stream.finish, stream.abort):
        try:
            end()
            say(end="done")
        except libvirt.libvirtError as error:
            say(end=error.get_error_code())
    connection.close()


def console_blocking(uri: str, name: str) -> None:
    """sendAll and recv on a stream that blocks, without an event loop; abort leaves the connection usable."""
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    stream = connection.newStream()
    domain.openConsole("serial0", stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    seen = b""
    while not listens(seen):
        seen += stream.recv(1024)
    left = [PROMPT]
    stream.sendAll(lambda _stream, size, _opaque: left.pop()[:size] if left else b"", None)
    while REPLY not in seen:
        seen += stream.recv(1024)
    say(answers=True)
    stream.abort()
    again = connection.newStream()
    domain.openConsole(None, again)
    seen = b""
    while b"count " not in seen:
        seen += again.recv(4096)
    say(reopened=True)
    again.finish()
    connection.close()


def screenshot(uri: str, name: str) -> None:
    """All forms of receiving: in one go, in pieces by events, with holes."""
    loop_in_thread()
    connection = libvirt.open(uri)
    domain = connection.lookupByName(name)
    domain.suspend()  # a cursor blinks
    pieces: list[bytes] = []
    stream = connection.newStream()
    kind = domain.screenshot(stream, 0)
    stream.recvAll(lambda _stream, data, kept: kept.append(data), pieces)
    stream.finish()
    whole = b"".join(pieces)
    say(kind=kind, head=whole[:2].decode("latin-1"), size=len(whole))
    stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
    domain.screenshot(stream, 0)
    terminal = Terminal(stream)
    say(ends=until(lambda: terminal.ended, 10), how=terminal.ended, same=terminal.seen == whole)
    stream.eventRemoveCallback()
    stream.finish()
    sparse: list[object] = []
    stream = connection.newStream()
    domain.screenshot(stream, 0)
    try:
        stream.sparseRecvAll(
            lambda _stream, data, kept: kept.append(len(data)),
            lambda _stream, length, kept: kept.append(f"hole of {length}"),
            sparse,
        )
        stream.finish()
        say(sparse=sum(size for size in sparse if isinstance(size, int)))
    except libvirt.libvirtError as error:
        say(sparse=error.get_error_code(), text=error.get_error_message())
        stream.abort()
    connection.close()


def closing(uri: str, keepalive: str) -> None:
    """Say why the connection was closed.  keepalive: seconds and count as 5,3, or - for none."""
    loop_in_thread()
    connection = libvirt.open(uri)
    reasons: list[int] = []
    connection.registerCloseCallback(lambda _connection, reason, kept: kept.append(reason), reasons)
    if keepalive != "-":
        interval, count = map(int, keepalive.split(","))
        connection.setKeepAlive(interval, count)
    say(alive=connection.isAlive())
    began = time.monotonic()
    closed = until(lambda: reasons, 60)
    say(closed=closed, reasons=reasons, alive=connection.isAlive(), seconds=time.monotonic() - began)
    try:
        connection.getLibVersion()
    except libvirt.libvirtError as error:
        say(code=error.get_error_code(), domain=error.get_error_domain())
    connection.close()


def threads(uri: str, count: str, calls: str) -> None:
    """Many threads on one connection, each call's answer checked against what is known of the domain."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open(uri)
    known = {domain.name(): (domain.UUIDString(), domain.ID()) for domain in connection.listAllDomains()}
    cells = connection.getInfo()
    wrong: list[str] = []
    done: list[str] = []

    def right(number: int, turn: int) -> str:
        name = sorted(known)[(number + turn) % len(known)]
        uuid, identity = known[name]
        domain = connection.lookupByName(name)
        checks: list[Callable[[], bool]] = [
            lambda: connection.lookupByUUIDString(uuid).name() == name,
            lambda: connection.lookupByID(identity).UUIDString() == uuid,
            lambda: f"<uuid>{uuid}</uuid>" in domain.XMLDesc(),
            lambda: domain.state() == [1, 1] and domain.info()[0] == 1,
            lambda: {found.name() for found in connection.listAllDomains()} == set(known),
            lambda: connection.getInfo() == cells,
            lambda: domain.memoryStats()["actual"] == domain.maxMemory(),
            lambda: missing(connection, f"no-{number}-{turn}"),
            lambda: domain.vcpus()[0][0][0] == 0,
            lambda: json.loads(monitor(domain))["return"]["status"] == "running",
        ]
        check = (number * 3 + turn) % len(checks)
        return "" if checks[check]() else f"thread {number}, call {turn}: check {check} of {name}"

    def work(number: int) -> None:
        for turn in range(int(calls)):
            try:
                problem = right(number, turn)
            except libvirt.libvirtError as error:
                problem = f"thread {number}, call {turn}: {error}"
            (wrong if problem else done).append(problem)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(int(count))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    say(right=len(done), wrong=wrong[:5])
    connection.close()


def missing(connection: libvirt.virConnect, name: str) -> bool:
    """Whether the error is this call's own."""
    try:
        connection.lookupByName(name)
    except libvirt.libvirtError as error:
        return error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN and f"'{name}'" in str(error)
    return False


def monitor(domain: libvirt.virDomain) -> str:
    """What QEMU says of itself."""
    import libvirt_qemu

    return str(libvirt_qemu.qemuMonitorCommand(domain, '{"execute":"query-status"}', 0))


def in_asyncio(uri: str, name: str) -> None:
    """libvirt's asyncio loop: events and a stream beside coroutines that poll the state."""
    import libvirtaio

    async def main() -> None:
        libvirtaio.virEventRegisterAsyncIOImpl()
        connection = await asyncio.to_thread(libvirt.open, uri)
        domain = await asyncio.to_thread(connection.lookupByName, name)
        told: list[list[int]] = []
        number = connection.domainEventRegisterAny(
            domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *args: told.append([args[2], args[3]]), None
        )
        await asyncio.to_thread(domain.create)
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        await asyncio.to_thread(domain.openConsole, None, stream)
        terminal = Terminal(stream)
        while not listens(terminal.seen):
            await asyncio.sleep(0.05)
        terminal.type(PROMPT)
        while REPLY not in terminal.seen:
            await asyncio.sleep(0.05)
        stream.eventRemoveCallback()
        await asyncio.to_thread(stream.finish)
        await asyncio.to_thread(domain.destroy)
        stopped = [libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED]
        while (await asyncio.to_thread(domain.state))[0] != libvirt.VIR_DOMAIN_SHUTOFF or stopped not in told:
            await asyncio.sleep(0.05)
        connection.domainEventDeregisterAny(number)
        # QEMU does not always get to say that it shuts down.
        say(told=[event for event in told if event[0] != libvirt.VIR_DOMAIN_EVENT_SHUTDOWN])
        await asyncio.to_thread(connection.close)

    asyncio.run(asyncio.wait_for(main(), 40))


PROGRAMS: dict[str, Callable[..., Any]] = {
    "console": console,
    "console-blocking": console_blocking,
    "screenshot": screenshot,
    "closing": closing,
    "threads": threads,
    "asyncio": in_asyncio,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
