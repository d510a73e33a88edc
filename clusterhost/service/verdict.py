"""Who owns a domain after a migration that nobody finished: decided from what both ends say.  Pure.

The rule is reliability.md 4.6: running at the target, it is the target's; paused or absent there, it is the
source's; when the target may have been told to run it and cannot be asked, nobody does anything.
"""

from __future__ import annotations

from enum import StrEnum

from clusterhost.model.domain import PAUSED


class Seen(StrEnum):
    """What an end says."""

    UNKNOWN = "unknown"
    ABSENT = "absent"
    OFF = "off"
    PAUSED = "paused"
    RUNNING = "running"


class Verdict(StrEnum):
    """Whose it is."""

    SOURCE = "source"
    TARGET = "target"
    WAIT = "wait"


def seen(active: bool, state: int) -> Seen:
    """How a copy counts."""
    if not active:
        return Seen.OFF
    return Seen.PAUSED if state == PAUSED else Seen.RUNNING


def decide(source: Seen, target: Seen, *, told_to_run: bool) -> Verdict:
    """told_to_run: the target may have been told to take over."""
    if target is Seen.RUNNING:
        return Verdict.TARGET
    if target is Seen.UNKNOWN:
        if source is Seen.RUNNING or (not told_to_run and source is not Seen.UNKNOWN):
            return Verdict.SOURCE
        return Verdict.WAIT
    if told_to_run and target is Seen.OFF and source is not Seen.RUNNING:
        return Verdict.TARGET  # only a FINISH makes a definition there: it ran, and has ended since
    return Verdict.SOURCE
