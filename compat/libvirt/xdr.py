"""What generated messages share: the base class, padding, limit errors.  Pure; knows no message by name."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

import msgspec

from compat.libvirt.errors import XdrError

PAD = (b"", b"\0\0\0", b"\0\0", b"\0")
"""Zero bytes that follow a body of n bytes: PAD[n & 3]."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A structure of the wire.  Fields have their wire names; `_pack` and `_unpack` are generated."""

    CODES: ClassVar[str] = ""
    """The integer fields and their struct codes ("ret:i flags:I"); read only to explain a failure."""

    def to_bytes(self) -> bytes:
        """Return the XDR form.  XdrError when a value is out of its range or over its limit."""
        out: list[bytes] = []
        try:
            self._pack(out)
        except (struct.error, AttributeError, TypeError, UnicodeEncodeError) as error:
            raise explain(self, error) from None
        return b"".join(out)

    @classmethod
    def from_bytes(cls, data: bytes, offset: int = 0) -> Self:
        """Decode one structure at `offset`; bytes after it are ignored, as libvirtd does; else XdrError."""
        try:
            message, end = cls._unpack(data, offset)
        except struct.error:
            raise short(cls.__name__, data) from None
        # Bodies are sliced without a look at the end of `data`: a cut in the last one shows only here.
        if end > len(data):
            raise short(cls.__name__, data)
        return message

    def _pack(self, out: list[bytes]) -> None:
        """Append the parts of the XDR form."""

    @classmethod
    def _unpack(cls, data: bytes, pos: int) -> tuple[Self, int]:
        return cls(), pos


def over(field: str, found: int, limit: int) -> XdrError:
    """A string, opaque or array has more bytes or items than its limit."""
    return XdrError(field, f"a length of {found}", f"{limit} at most")


def inexact(field: str, found: int, wanted: int) -> XdrError:
    """A fixed opaque or array has not its length."""
    return XdrError(field, f"a length of {found}", f"exactly {wanted}")


def short(name: str, data: bytes) -> XdrError:
    """The bytes end inside the structure."""
    return XdrError(name, f"only {len(data)} bytes", "a complete structure")


def bad_type(field: str, found: object) -> XdrError:
    """A union's discriminant has no arm."""
    return XdrError(field, f"type {found}", "a type from 1 to 7")


def explain(message: Message, cause: Exception) -> XdrError:
    """Find the field that made packing fail.  Slow, for errors only."""
    return search(message) or XdrError(type(message).__name__, str(cause), "values of the declared types")


def search(value: object, field: str = "") -> XdrError | None:
    """Walk a message for the first integer that does not fit its code."""
    if isinstance(value, list):
        return next((found for item in value if (found := search(item, field))), None)
    if not isinstance(value, Message):
        return None
    codes = dict(pair.split(":") for pair in value.CODES.split())
    for name in value.__struct_fields__:
        where = f"{type(value).__name__}.{name}"
        part = getattr(value, name)
        found = misfit(where, part, codes[name]) if name in codes else search(part, where)
        if found:
            return found
    return None


RANGES = {
    "i": "-2147483648 to 2147483647",
    "I": "0 to 4294967295",
    "q": "-9223372036854775808 to 9223372036854775807",
    "Q": "0 to 18446744073709551615",
    "3xB": "0 to 255",
    "2xH": "0 to 65535",
    "3xb": "-128 to 127",
}


def misfit(field: str, value: object, code: str) -> XdrError | None:
    """Return the error of one value (or list of values) for a struct code, or None when it fits."""
    for item in value if isinstance(value, list) else [value]:
        try:
            struct.pack(">" + code, item)
        except struct.error:
            return XdrError(field, repr(item), RANGES[code])
    return None


def widen(text: bytes) -> bytes:
    """Return a `char` array's wire form: each byte a sign-extended 4-byte integer, as x86 peers send it."""
    return struct.pack(f">{len(text)}i", *memoryview(text).cast("b"))
