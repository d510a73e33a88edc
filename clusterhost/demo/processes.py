"""Find and end the processes of a demo by the marker in their environment.  Knows no libvirt."""

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from clusterhost.demo.layout import MARKER, DemoError

_PROC = Path("/proc")


def marked(state: Path) -> Iterator[int]:
    """Yield the pid of every process that carries the demo's marker; a zombie has none any more."""
    wanted = f"{MARKER}={state}".encode()
    for pid in _pids():
        if pid != os.getpid() and wanted in _read(pid, "environ").split(b"\0"):
            yield pid


def machine_init(state: Path, directory: Path) -> int | None:
    """Return the host's pid of the first process of the machine in `directory`, None when it is off."""
    tail = [b"-m", b"clusterhost.demo.machine", str(directory).encode(), b""]
    for pid in marked(state):
        if _read(pid, "cmdline").split(b"\0")[-4:] == tail and _inner_pid(pid) == (2, 1):
            return pid
    return None


def host_pid(init: int, inner: int) -> int | None:
    """Return the host's pid of process `inner` of the pid namespace whose first process is `init`."""
    namespace = _namespace(init)
    for pid in _pids():
        if _namespace(pid) == namespace and _inner_pid(pid)[1] == inner:
            return pid
    return None


def kill(pid: int, seconds: float = 10.0) -> None:
    """Kill a process and wait until it is gone, with its namespace when it is a first process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not select.select([descriptor], [], [], seconds)[0]:
            raise DemoError(f"process {pid} did not end within {seconds:g} s of SIGKILL")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def kill_marked(state: Path, seconds: float = 20.0) -> int:
    """Kill every process of the demo until none is left; return how many were killed."""
    deadline = time.monotonic() + seconds
    killed: set[int] = set()
    while found := set(marked(state)):
        if time.monotonic() > deadline:
            raise DemoError(
                f"processes {sorted(found)} of the demo in {state} did not end within {seconds:g} s"
            )
        for pid in found:
            kill(pid)
        killed |= found
        # A process caught between fork and exec shows up only in the next look.
        time.sleep(0.02)
    return len(killed)


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _namespace(pid: int) -> str | None:
    try:
        return str((_PROC / str(pid) / "ns" / "pid").readlink())
    except OSError:
        return None


def _inner_pid(pid: int) -> tuple[int, int]:
    """Return in how many of our pid namespaces the process has a number, and the innermost number."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"NSpid:"):
            numbers = line.split()[1:]
            return len(numbers), int(numbers[-1])
    return 0, 0
