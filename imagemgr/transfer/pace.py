"""How fast something goes and how long it will take, in words.  Pure: the caller has the clock."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_REMEMBERED = 5.0
"""Seconds that a rate is taken over."""


class Pace:
    """Fed with how much was done when."""

    def __init__(self, now: float, done: int) -> None:
        self._seen = [(now, done)]

    def rate(self, now: float, done: int) -> float:
        """Bytes a second, of late."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > _REMEMBERED:
            del self._seen[0]
        began, before = self._seen[0]
        return (done - before) / (now - began) if now > began else 0.0


def amount(count: float) -> str:
    """Bytes as people say them."""
    if count < 1024:
        return f"{count:.0f} bytes"
    power = 1
    while count >= 1024 ** (power + 1) and power < len(_UNITS):
        power += 1
    value = count / 1024**power
    return f"{value:.0f} {_UNITS[power - 1]}" if value >= 10 else f"{value:.1f} {_UNITS[power - 1]}"


def said(done: int, total: int, rate: float) -> str:
    """`412 MiB of 1.0 GiB, 96 MiB/s, 6 s left`."""
    text = f"{amount(done)} of {amount(total)}"
    if rate > 0 and done < total:
        text += f", {amount(rate)}/s, {(total - done) / rate:.0f} s left"
    return text
