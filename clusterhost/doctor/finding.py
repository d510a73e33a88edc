"""What a check found: one value, and how findings become an exit code.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `mend` tells what to do about it, empty when nothing needs to be done."""

    check: str
    level: Level
    found: str
    mend: str = ""


def good(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Level.GOOD, found)


def warning(check: str, found: str, mend: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding(check, Level.WARNING, found, mend)


def bad(check: str, found: str, mend: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.BAD, found, mend)


def healthy(findings: Iterable[Finding]) -> bool:
    """Nothing is bad."""
    return all(finding.level is not Level.BAD for finding in findings)
