"""What an image says of itself in its first bytes, and how they are looked at.  Pure.

Knows no format.  Whoever has the file gives a way to read it, so that a header may lie anywhere in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imagemgr.errors import HeaderDamaged

LONGEST_NAME = 1023
"""Bytes of a backing file's name (QEMU's limit in all its formats)."""

MOST_READ = 1024 * 1024
"""Bytes that are read of a file at once, whatever it says of itself."""

LARGEST = 2**63 - 512
"""Bytes of the largest disk (QEMU's limit: signed, in whole sectors)."""

SECTOR = 512


@dataclass(frozen=True, slots=True)
class View:
    """A file: its size in bytes, and read(offset, length), which gives less only at the file's end."""

    size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, data: bytes, size: int | None = None) -> View:
        """Of the first bytes of a file of that size; without one they are all of it."""
        return cls(len(data) if size is None else size, lambda offset, length: data[offset : offset + length])

    def at(self, offset: int, length: int, what: str) -> bytes:
        """Exactly these bytes; HeaderDamaged, which says what they are."""
        if length > MOST_READ:
            raise HeaderDamaged(f"{what} has {length} bytes, allowed are {MOST_READ}")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise HeaderDamaged(f"{what} ends at byte {offset + length}, the file has {self.size}")
        found = self.read(offset, length)
        if len(found) != length:
            raise HeaderDamaged(f"{what} needs {length} bytes at {offset}, {len(found)} can be read")
        return found

    def begins(self, magic: bytes, offset: int = 0) -> bool:
        """These bytes are there."""
        return offset + len(magic) <= self.size and self.read(offset, len(magic)) == magic

    def fields(self, form: str, offset: int, what: str) -> tuple[Any, ...]:
        """Numbers as `struct` reads them; HeaderDamaged."""
        return struct.unpack(form, self.at(offset, struct.calcsize(form), what))


@dataclass(frozen=True, slots=True)
class Backing:
    """What an image is the difference to: a name as it is written there, and a format, "" where none is."""

    name: str
    format: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """An image.  capacity: bytes of the disk that a guest sees; cluster: bytes of its unit, 0 where it has none.

    parts: other files that hold its data, as written; features: what a reader has to know, in libvirt's or QEMU's
    words; encryption: "", aes or luks; doubts: sentences about what keeps it from being used."""

    format: str
    capacity: int
    version: int = 0
    cluster: int = 0
    backing: Backing | None = None
    parts: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    encryption: str = ""
    doubts: tuple[str, ...] = ()


def capacity(size: int) -> int:
    """A disk's size as a header says it; HeaderDamaged."""
    if not 0 <= size <= LARGEST:
        raise HeaderDamaged(f"the disk has {size} bytes, allowed are 0 to {LARGEST}")
    return size


def name(data: bytes, what: str) -> str:
    """The name of a file; bytes that are no UTF-8 stay as they are.  HeaderDamaged."""
    if not data:
        raise HeaderDamaged(f"{what} is empty")
    if len(data) > LONGEST_NAME:
        raise HeaderDamaged(f"{what} has {len(data)} bytes, allowed are {LONGEST_NAME}")
    if b"\0" in data:
        raise HeaderDamaged(f"{what} has a zero byte in it")
    return data.decode("utf-8", "surrogateescape")


def power_of_two(number: int, least: int, most: int, what: str) -> int:
    """A unit's size; HeaderDamaged."""
    if not least <= number <= most or number & (number - 1):
        raise HeaderDamaged(f"{what} has {number} bytes, allowed are powers of two from {least} to {most}")
    return number
