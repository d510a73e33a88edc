"""Frames between an agent and the process that moves its images: a big-endian length, then one of these.  Pure."""

from __future__ import annotations

from struct import Struct

import msgspec

LENGTH = Struct(">I")


class Order(msgspec.Struct, frozen=True, array_like=True):
    """kind and arguments: see orders; address: where other nodes reach this one, "" for unknown."""

    number: int
    kind: str
    arguments: msgspec.Raw
    address: str


class Said(msgspec.Struct, frozen=True, array_like=True):
    """what: done (with a result), problem (with a sentence) or progress (bytes done, bytes in all, a sentence)."""

    number: int
    what: str
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    text: str = ""
    done: int = 0
    total: int = 0
