"""Stock clients against a URI: virsh as users run it, and small waits.  Knows nothing of clusterhost's insides."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a command printed and returned."""

    code: int
    out: str
    err: str


class CommandFailed(AssertionError):
    """A command that had to succeed did not; the text holds what it printed."""


WATCHED = frozenset({"save", "managedsave", "dump", "migrate"})
"""What virsh does in a thread of its own while its main thread watches the job."""
LOOK = 5.0
"""Seconds between two looks at a command that has not ended."""


def lost(pid: int) -> bool:
    """Whether a virsh that watches a job has no thread left that does it: only its main thread and its event loop.

    A worker that ends before the main thread has begun to wait is not noticed, and virsh waits for ever (9.0, found
    at a node's own socket: 2 of 900 `dump --format` without `--memory-only`, which virsh itself refuses).  A worker
    that waits for an answer is a third thread, so a call that nobody answers is not taken for this.
    """
    return len(os.listdir(f"/proc/{pid}/task")) <= 2


def ended(command: list[str], seconds: float, text: str | None, again: bool) -> Outcome | None:
    """What the command printed and returned; None (only with `again`) if it was lost and is killed.

    Raises subprocess.TimeoutExpired, and kills the command, if it takes longer.
    """
    environment = {"EDITOR": "true", **os.environ, "LC_ALL": "C"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=None if text is None else pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    ) as process:
        end = time.monotonic() + seconds
        before = False
        try:
            while True:
                try:
                    out, err = process.communicate(text, min(LOOK, max(0.0, end - time.monotonic())))
                except subprocess.TimeoutExpired:
                    text = None  # it has its input
                    # Twice: one that is ending has no worker either.
                    gone = again and lost(process.pid)
                    if gone and before:
                        return None
                    before = gone
                    if time.monotonic() >= end:
                        raise
                else:
                    return Outcome(process.returncode, out.strip(), err.strip())
        finally:
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True)
class Virsh:
    """virsh with one URI."""

    uri: str

    def run(self, *words: str, seconds: float = 60, text: str | None = None) -> Outcome:
        """Run a command; any exit code is fine.  One that virsh itself lost (see `lost`) is run again, once."""
        command = ["virsh", "-q", "-c", self.uri, *words]
        for attempt in range(2):
            outcome = ended(command, seconds, text, again=attempt == 0 and WATCHED.issuperset(words[:1]))
            if outcome is not None:
                return outcome
        raise AssertionError("the second attempt returns or raises")

    def __call__(self, *words: str, seconds: float = 60) -> str:
        """Run a command that has to succeed; return what it printed."""
        outcome = self.run(*words, seconds=seconds)
        if outcome.code != 0:
            raise CommandFailed(f"virsh {' '.join(words)} at {self.uri}: {outcome.err or outcome.out}")
        return outcome.out

    def fails(self, *words: str, seconds: float = 60) -> str:
        """Run a command that has to fail; return its error text."""
        outcome = self.run(*words, seconds=seconds)
        if outcome.code == 0:
            raise CommandFailed(f"virsh {' '.join(words)} at {self.uri} succeeded: {outcome.out}")
        return outcome.err

    def names(self, *flags: str) -> set[str]:
        """The names that `virsh list --name` prints."""
        return set(self("list", "--name", *flags).split())

    def define(self, xml: str, where: Path) -> None:
        """Define from a file, as a user does."""
        path = where / f"{time.monotonic_ns()}.xml"
        path.write_text(xml)
        self("define", str(path))


class EventLog:
    """`virsh event --all --loop` in the background; `lines` are what it printed so far, without the time."""

    def __init__(self, uri: str, *extra: str) -> None:
        command = ["stdbuf", "-oL", "virsh", "-c", uri, "event", "--all", "--loop", *extra]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self.process.stdout is not None
        self._pipe = self.process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        self._text = b""
        time.sleep(1.0)  # registrations have no visible sign; virsh makes them right after it connects

    @property
    def lines(self) -> list[str]:
        """Everything printed so far."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._text += chunk
        whole = self._text.decode().splitlines()
        return [line for line in whole if line.startswith("event ")]

    def until(self, pattern: str, seconds: float = 20) -> list[str]:
        """Wait for a line that matches; return all lines."""
        eventually(lambda: any(re.search(pattern, line) for line in self.lines), seconds, f"event {pattern}")
        return self.lines

    def close(self) -> None:
        """End the process that we started."""
        self.process.terminate()
        self.process.wait(10)
        self._pipe.close()


def eventually(check: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `check` is true; AssertionError that says what did not come."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
