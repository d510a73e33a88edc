"""Named places where a test may kill the process: the only way to try every half-done state.  Knows nothing
else.

`CLUSTERHOST_CRASH=define.after_intent clusterhost serve ...` runs until that place is reached, then dies of
SIGKILL as in a power cut: nothing is flushed, no handler runs.  `CLUSTERHOST_CRASH=@FILE` reads the name from
FILE each time, so that a process that runs can be armed; no file is no name.  Without the variable a crash
point costs one look-up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from clusterhost.model.errors import InvalidArgument

VARIABLE = "CLUSTERHOST_CRASH"
FILE = "@"
"""Before the path of a file that holds the name."""

_INTENT_STEPS = ("before_intent", "after_intent", "after_act", "after_commit")

CRASH_POINTS: frozenset[str] = frozenset(
    [f"{use_case}.{step}" for use_case in ("define", "start", "undefine") for step in _INTENT_STEPS]
    + [f"migrate.{step}" for step in ("prepare", "perform", "finish", "confirm")]
    + [f"images.{step}" for step in ("before_copy", "after_copy", "after_note", "after_raise")]
    + [f"network.{step}" for step in ("before_commit", "after_commit", "after_act")]
    + [f"volume.{step}" for step in ("after_intent", "after_act")]
    + [f"upload.{step}" for step in ("after_intent", "after_act", "after_commit")]
    + [f"delete.{step}" for step in ("after_copy", "after_act")]
    + [f"spread.{step}" for step in ("before_copy", "after_copy", "after_note")]
    + [f"evict.{step}" for step in ("after_intent", "after_act")]
    + ["store.before_commit", "store.after_commit"]
    + ["store.migrate.halfway", "store.migrate.step", "store.migrate.before_commit"]
)
"""Every name that `crash_point` is called with; a test compares it with the code."""


def crash_point(name: str) -> None:
    """Die here if the environment says so."""
    armed = os.environ.get(VARIABLE)
    if armed and (armed == name or (armed.startswith(FILE) and _named_in(armed) == name)):
        os.kill(os.getpid(), signal.SIGKILL)


def _named_in(armed: str) -> str:
    try:
        return Path(armed.removeprefix(FILE)).read_text().strip()
    except FileNotFoundError:
        return ""


def check_armed(environ: Mapping[str, str]) -> str:
    """The crash point that is armed, "" for none; InvalidArgument for a name that no code reaches."""
    name = environ.get(VARIABLE, "")
    if name and not name.startswith(FILE) and name not in CRASH_POINTS:
        raise InvalidArgument(f"{VARIABLE} is '{name}', allowed are {', '.join(sorted(CRASH_POINTS))}")
    return name
