"""Which chunk is asked of which source next: rarest first, and the first sender is spared what others have.  Pure.

A set of chunks is an int, a bit for each, so that an image of a tebibyte costs microseconds a question.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

SPARED = 2.0
"""Seconds, and SLOWER times what a chunk takes of late, that a whole source is spared while nothing comes."""
SLOWER = 4
_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Holding:
    """What a source has.  whole: everything; chunks: else these; coming: what it has asked for itself."""

    whole: bool = False
    chunks: int = 0
    coming: int = 0


class Swarm:
    """What one receiver lacks, and whom it asks.

    count: chunks of the image; salt: another one for each receiver, so that they begin at other places and have
    something to give each other; now: seconds of any clock."""

    def __init__(self, wanted: int, count: int, salt: int = 0, now: float = 0.0) -> None:
        self.missing = wanted
        self._last = now
        self._pace = 0.0
        self._count = count
        self._at = salt % count if count else 0
        self._dice = salt
        self._asked: dict[int, Hashable] = {}
        self._asked_mask = 0
        self._holdings: dict[Hashable, Holding] = {}

    @property
    def coming(self) -> tuple[int, ...]:
        """Chunks that were asked for and have not arrived."""
        return tuple(self._asked)

    def learn(self, source: Hashable, holding: Holding) -> None:
        """A source has this now."""
        self._holdings[source] = holding

    def lose(self, source: Hashable) -> None:
        """A source is gone; what it was asked for may be asked of others."""
        self._holdings.pop(source, None)
        for index in [index for index, asked in self._asked.items() if asked == source]:
            self.give_back(index)

    def give_back(self, index: int) -> None:
        """A chunk that was asked for does not come."""
        if self._asked.pop(index, None) is not None:
            self._asked_mask &= ~(1 << index)

    def arrived(self, index: int, now: float) -> None:
        """A chunk is there."""
        self._pace += _WEIGHT * (now - self._last - self._pace)
        self._last = now
        self.give_back(index)
        self.missing &= ~(1 << index)

    def next_for(self, source: Hashable, now: float) -> int | None:
        """The chunk to ask a source for; it counts as asked.  None when there is nothing for it to send.

        A whole source is not asked for what an incomplete one has or will have, unless nothing comes any more."""
        holding = self._holdings.get(source)
        if holding is None:
            return None
        free = self.missing & ~self._asked_mask
        others = [each for name, each in self._holdings.items() if name != source and not each.whole]
        if holding.whole:
            chosen = _spared(free, others)
            if not chosen and now - self._last > max(SPARED, SLOWER * self._pace):
                chosen = free
            if others:
                # They choose at the same moment, and what is first after theirs would be first after ours.
                self._at = self._somewhere()
        else:
            chosen = _rarest(free & holding.chunks, [each.chunks for each in others])
        if not chosen:
            return None
        index = self._from(chosen)
        self._asked[index] = source
        self._asked_mask |= 1 << index
        return index

    def _somewhere(self) -> int:
        """A chunk's number, another one for each receiver each time: Knuth's linear congruential generator."""
        self._dice = (self._dice * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._dice >> 33) % self._count

    def _from(self, chosen: int) -> int:
        """The first at or after where the last one was: in order, as disks like it."""
        later = chosen >> self._at
        index = self._at + _lowest(later) if later else _lowest(chosen)
        self._at = (index + 1) % self._count
        return index


def mask(bits: bytes) -> int:
    """A set of chunks as chunks.Done has it."""
    return int.from_bytes(bits, "little")


def bits(chunks: int, count: int) -> bytes:
    """The other way round."""
    return chunks.to_bytes(-(-count // 8), "little")


def mask_of(indices: Iterable[int]) -> int:
    """A set of chunks from their numbers."""
    found = 0
    for index in indices:
        found |= 1 << index
    return found


def _lowest(chunks: int) -> int:
    return (chunks & -chunks).bit_length() - 1


def _spared(free: int, others: Iterable[Holding]) -> int:
    for each in others:
        free &= ~(each.chunks | each.coming)
    return free


def _rarest(held: int, others: Iterable[int]) -> int:
    """Those of `held` that the fewest others have."""
    had = list(others)
    for most in range(len(had)):
        if few := held & ~_by_more_than(most, had):
            return few
    return held


def _by_more_than(most: int, had: list[int]) -> int:
    """Chunks that more than `most` of them have."""
    at_least = [0] * (most + 1)
    for each in had:
        for level in range(most, 0, -1):
            at_least[level] |= at_least[level - 1] & each
        at_least[0] |= each
    return at_least[most]
