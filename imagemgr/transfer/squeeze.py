"""Whether a chunk is compressed on its way: where a sample saves an eighth, and the link is slower than compressing."""

from __future__ import annotations

import time
from collections.abc import Callable

import zstandard

SAMPLE = 32 * 1024
"""Bytes that are tried of a chunk."""
SAVES = 1 / 8
_LEVEL = 1
_TRY_EVERY = 16
"""A chunk in so many is compressed even if that did not pay: links and contents change."""
_WEIGHT = 0.2


class Squeezer:
    """For one connection."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL)
        self._wire = 0.0
        self._packing = 0.0
        self._skipped = 0

    def wanted(self, first: memoryview) -> bool:
        """Whether to compress a chunk that begins so."""
        sample = first[len(first) // 2 :][:SAMPLE]
        saved = 1 - len(self._zstd.compress(sample)) / len(sample)
        if saved < SAVES:
            return False
        if self._skipped < _TRY_EVERY and not self.pays(saved):
            self._skipped += 1
            return False
        self._skipped = 0
        return True

    def pays(self, saved: float) -> bool:
        """Compressing takes less time than sending what it saves.  saved: of 1."""
        return not (self._wire and self._packing) or self._packing < saved * self._wire

    def packed(self, piece: memoryview) -> bytes | None:
        """The piece as a zstd frame; None where that does not save an eighth."""
        began = self._clock()
        found = self._zstd.compress(piece)
        self._packing = _mean(self._packing, (self._clock() - began) / len(piece))
        return found if len(found) <= (1 - SAVES) * len(piece) else None

    def sent(self, count: int, seconds: float) -> None:
        """So many bytes took so long on the link."""
        self._wire = _mean(self._wire, seconds / count)


def _mean(old: float, new: float) -> float:
    return new if not old else old + _WEIGHT * (new - old)
