"""What a test may leave behind: child processes, network namespaces, bridges, mounts.  Changes nothing."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

MARKER = "CLUSTERHOST_TESTS"
"""Environment variable that every process of a test run inherits; its value is the run's pid."""


@dataclass(frozen=True)
class Traces:
    """What is there now.  Processes by command line: one restarted by a longer-lived fixture is no leak."""

    children: Counter[str]
    namespaces: frozenset[str]
    bridges: frozenset[str]

    def new_since(self, before: Traces) -> list[str]:
        """One phrase for each thing that was not there before."""
        return [
            *(f"child process: {line}" for line in (self.children - before.children)),
            *(f"network namespace: {name}" for name in sorted(self.namespaces - before.namespaces)),
            *(f"bridge: {name}" for name in sorted(self.bridges - before.bridges)),
        ]


def look() -> Traces:
    """The traces of this process now."""
    return Traces(
        Counter(_command(pid) for pid in _children(os.getpid())),
        frozenset(_names(Path("/run/netns"))),
        frozenset(path.parent.name for path in Path("/sys/class/net").glob("*/bridge")),
    )


def marked_processes() -> dict[int, str]:
    """pid to command line of every other process, also an orphaned one, that this test run started."""
    wanted = f"{MARKER}={os.getpid()}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = _command(int(entry.name))
            except OSError:
                continue
    return found


def mounts() -> frozenset[str]:
    """Mount points of this mount namespace."""
    return frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _children(parent: int) -> list[int]:
    pids = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        try:
            pids += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:
            continue
    return [pid for pid in pids if _running(pid)]


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()[:160]
        )
    except OSError:
        return ""


def _names(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []
