"""Which node's disk a new partition's name is for.  Pure.

libvirt names a partition itself, and refuses another name only when it has made it, which it leaves there then.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import IntEnum

_NUMBERED = re.compile(r"(.*?)(\d+)")


class Fit(IntEnum):
    """How well a name is for a disk, the best first."""

    NEXT = 0
    """It is that of its next partition."""
    SAME = 1
    """It is one of its partitions'."""
    UNKNOWN = 2
    """It has none yet, and may be called otherwise than its path says, which may be a link."""
    OTHER = 3
    """It is another disk's."""


def fit(name: str, device: str, listed: Collection[str]) -> Fit:
    """device: the disk's path, as the pool has it; listed: its partitions."""
    wanted = _NUMBERED.fullmatch(name)
    if wanted is None:
        return Fit.OTHER
    parts = [part for each in listed if (part := _NUMBERED.fullmatch(each)) is not None]
    prefixes = {part[1] for part in parts} or {prefix_of(device)}
    if wanted[1] in prefixes:
        taken = {int(part[2]) for part in parts}
        first = next(number for number in range(1, len(taken) + 2) if number not in taken)
        return Fit.NEXT if int(wanted[2]) == first else Fit.SAME
    return Fit.OTHER if parts else Fit.UNKNOWN


def prefix_of(device: str) -> str:
    """What a partition's number follows: `sdb`, and `nvme0n1p`."""
    name = device.rpartition("/")[2]
    return f"{name}p" if name[-1:].isdigit() else name
