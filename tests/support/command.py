"""The `clusterhost` command as an operator runs it, at one front end.  Knows nothing of what is behind it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.stock import CommandFailed, Outcome


@dataclass(frozen=True)
class Command:
    """The command with one configuration of a front end."""

    config: Path

    def run(self, *words: str, seconds: float = 90) -> Outcome:
        """Run it; any exit code is fine."""
        command = [sys.executable, "-m", "clusterhost", "--config", str(self.config), *words]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CLUSTERHOST_")}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, env=kept
        )
        return Outcome(done.returncode, done.stdout.strip(), done.stderr.strip())

    def __call__(self, *words: str) -> str:
        """Run a command that has to succeed; return what it printed."""
        outcome = self.run(*words)
        if outcome.code != 0:
            raise CommandFailed(f"clusterhost {' '.join(words)}: {outcome.err or outcome.out}")
        return outcome.out

    def json(self, *words: str) -> Any:
        """As a program reads it."""
        return json.loads(self(*words, "--format", "json"))

    def fails(self, *words: str) -> tuple[int, str]:
        """Run a command that has to fail: its exit code, and its sentence on standard error."""
        outcome = self.run(*words)
        if outcome.code == 0:
            raise CommandFailed(f"clusterhost {' '.join(words)} succeeded: {outcome.out}")
        return outcome.code, outcome.err.splitlines()[-1]

    def node(self, name: str) -> dict[str, Any]:
        """The row of `node list` about one node; empty when the cluster does not have it."""
        rows: list[dict[str, Any]] = self.json("node", "list")
        return next((row for row in rows if row["name"] == name), {})

    @contextlib.contextmanager
    def brings_no_image(self) -> Iterator[None]:
        """No job meanwhile copies an image to a node."""
        before = {job["id"] for job in self.json("job", "list")}
        yield
        new = [job["kind"] for job in self.json("job", "list") if job["id"] not in before]
        assert "images" not in new
