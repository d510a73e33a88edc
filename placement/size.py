"""Sizes as libvirt writes them in XML: a number and a unit.  Pure.

Rules from libvirt's documentation of <memory>: no unit is KiB; b and bytes; KB is 1000 bytes, K and KiB are
1024, likewise M, G, T, P, E; case does not matter; a size that is no whole KiB is rounded up.
"""

from __future__ import annotations

_BYTES = {"b": 1, "byte": 1, "bytes": 1}
_POWERS = {letter: power for power, letter in enumerate("kmgtpe", start=1)}
_LIMIT = 1 << 64


class BadSize(ValueError):
    """Not a size; the text says what was found and what is allowed."""


def kib(number: str, unit: str | None) -> int:
    """The size in KiB, rounded up; BadSize."""
    digits = number.strip()
    if not (digits.isascii() and digits.isdigit()):
        raise BadSize(f"'{number}' is not a size, allowed are whole numbers from 0")
    size = int(digits) * _factor(unit)
    if size >= _LIMIT:
        raise BadSize(f"{digits} {unit or 'KiB'} is too large, allowed are less than 16 EiB")
    return -(-size // 1024)


def _factor(unit: str | None) -> int:
    if not unit:
        return 1024
    lower = unit.lower()
    if lower in _BYTES:
        return 1
    power = _POWERS.get(lower[0])
    base = {"": 1024, "ib": 1024, "b": 1000}.get(lower[1:])
    if power is None or base is None:
        allowed = "b, bytes, and K, M, G, T, P, E with B or iB"
        raise BadSize(f"'{unit}' is not a unit of size, allowed are {allowed}")
    return int(base**power)
