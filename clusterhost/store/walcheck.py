"""Tell a damaged SQLite write-ahead log from one that a power cut left unfinished.  Bytes in, a finding out:
no I/O.

SQLite itself takes the log only up to the first frame whose checksum is wrong, so one flipped bit silently
undoes every transaction after it.  With synchronous=FULL a transaction is on the disk before the next begins;
so a bad frame that is followed by a *later* transaction of the same generation cannot be the work of a power
cut. Format: SQLite's file format documentation, "The Write-Ahead Log".
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683


def damage(log: bytes) -> str:
    """What is wrong with the log, "" when nothing is.  A bad frame in the last transaction is not called
    damage: it cannot be told from a write that a power cut interrupted."""
    if len(log) <= _HEADER.size:
        return ""
    magic, _, page, _, salt1, salt2, sum1, sum2 = _HEADER.unpack_from(log)
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG):
        return "its header is not one of SQLite's"
    order = "<" if magic == _MAGIC_LITTLE else ">"
    sums = _sum(order, log[:24], (0, 0))
    if sums != (sum1, sum2):
        return "the checksum of its header is wrong"
    size = _FRAME.size + page
    count = (len(log) - _HEADER.size) // size
    for number in range(count):
        start = _HEADER.size + number * size
        found = _FRAME.unpack_from(log, start)
        sums = _sum(order, log[start : start + 8], sums)
        sums = _sum(order, log[start + _FRAME.size : start + size], sums)
        if found[2:] != (salt1, salt2, *sums):
            later = [_FRAME.unpack_from(log, _HEADER.size + n * size) for n in range(number, count)]
            return _finding(number, [frame[1] for frame in later if frame[2:4] == (salt1, salt2)])
    return ""


def _finding(number: int, commits: list[int]) -> str:
    """commits: for each frame of this generation from the bad one on, not zero where it ends a
    transaction."""
    ends = [index for index, pages in enumerate(commits) if pages]
    if ends and ends[0] < len(commits) - 1:
        return f"frame {number + 1} is damaged, and transactions that came after it would be lost"
    return ""


def _sum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for left, right in struct.iter_unpack(f"{order}2I", data):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second
