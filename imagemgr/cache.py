"""Copies that a node could do without, as a cache: how much of them it may keep, and which go first.  Pure.

Whoever knows the pools says which copies these are: never the last newest one, nor one in use.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from imagemgr.errors import ImageError

UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
_LIMIT = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?([A-Za-z]{0,3}|%)")


class BadLimit(ImageError):
    """What should be a limit is none."""


@dataclass(frozen=True, slots=True)
class CacheLimit:
    """The most that a node's copies may take which it could do without.  size: bytes; percent: instead of them, of what
    the node's pool can hold."""

    size: int = 0
    percent: float | None = None

    @classmethod
    def read(cls, text: str) -> CacheLimit:
        """`20GiB`, `500 MiB`, `1000` (bytes), `30%`.  BadLimit."""
        found = _LIMIT.fullmatch(text.strip())
        if found is None or found[2] not in (*UNITS, "%"):
            allowed = ", ".join(unit for unit in UNITS if unit)
            raise BadLimit(
                f"'{text}' is no limit; it is a number with {allowed} behind it, as 20GiB, or as 30%"
            )
        number = float(found[1])
        if found[2] != "%":
            return cls(int(number * UNITS[found[2]]))
        if number > 100:
            raise BadLimit(f"'{text}' is more than there is")
        return cls(percent=number)

    def of(self, capacity: int) -> int:
        """Bytes, where the pool can hold so many."""
        return self.size if self.percent is None else int(capacity * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Spare:
    """A copy that its node could do without.  size: bytes that it takes; used: epoch seconds, when it was last."""

    shown: str
    size: int
    used: float


def by_use(spares: Iterable[Spare]) -> list[Spare]:
    """The least recently used first."""
    return sorted(spares, key=lambda spare: (spare.used, spare.shown))


def over(spares: Sequence[Spare], most: int, keep: Collection[str] = ()) -> tuple[Spare, ...]:
    """Those that go, in this order, so that the others take `most` bytes at most.  keep: names that count, but stay."""
    left, going = sum(spare.size for spare in spares), []
    for spare in spares:
        if left <= most:
            break
        if spare.shown not in keep:
            going.append(spare)
            left -= spare.size
    return tuple(going)
