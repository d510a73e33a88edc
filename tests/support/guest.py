"""Watch a demo guest through `virsh console`: wait for its counter, type into its shell."""

import re
from types import TracebackType
from typing import Self

import pexpect

LISTENS = 3
"""What a guest counts to before its shell hears us: what is typed earlier is lost."""
_COUNT = re.compile(rb"count (\d+)\r")


class Console:
    """A console of a running domain, open from `with` to its end."""

    def __init__(self, uri: str, domain: str, *, seconds: float = 20.0) -> None:
        self._child: pexpect.spawn[bytes] = pexpect.spawn(
            "virsh", ["-c", uri, "console", domain, "--force"], timeout=seconds, dimensions=(24, 200)
        )
        self._hears = False

    def __enter__(self) -> Self:
        self._child.expect(b"Escape character is")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)

    def count(self) -> int:
        """Wait for the next line of the counter and return its number."""
        self._child.expect(_COUNT)
        found = int(self._child.match.group(1))
        self._hears = found >= LISTENS
        return found

    def ready(self) -> None:
        """Wait until its shell hears us."""
        while not self._hears:
            self.count()

    def run(self, command: str) -> str:
        """Run a command in the guest's shell and return what it printed, without lines of the counter."""
        self.ready()
        # The quotes keep the echo of what was typed from matching.
        self._child.sendline(f"echo be''gin; {command}; echo do''ne")
        self._child.expect(rb"begin\r\n(.*?)done\r\n")
        text = self._child.match.group(1).decode(errors="replace")
        return re.sub(r"count \d+\r?\n", "", text).replace("\r", "").strip()
