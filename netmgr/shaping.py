"""What a network's <bandwidth> means at a node's bridge, in bytes and seconds.  Pure.

As libvirt has it: inbound is what guests receive from outside of the bridge, outbound what they send there; what
guests say to each other is not counted.  average and peak are in units of 1000 bytes a second, burst in KiB.  Outbound
is policed by a rule of nftables: tc's police, which libvirt asks for, is missing in some kernels and does the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from netmgr.wanted import WantedRate

UNLIMITED = 10_000_000_000
"""Bytes a second; more is no limit, and no number that nftables could count with."""
_MOST_BURST = (1 << 32) - 1
_FRAME = 1600
_TICK = 1_000_000
"""Part of a second that the kernel is told a burst in."""


@dataclass(frozen=True, slots=True)
class Queue:
    """How a bridge sends: bytes a second, at least and at most; burst in bytes."""

    rate: int
    ceil: int
    burst: int

    def is_like(self, other: Queue) -> bool:
        """The same, but for what the kernel loses of a burst: it keeps the time that one takes."""
        near = self.rate // _TICK * 2 + self.burst // 32 + 64
        return (self.rate, self.ceil) == (other.rate, other.ceil) and abs(self.burst - other.burst) <= near


def queue(inbound: WantedRate) -> Queue | None:
    """None for no limit."""
    rate = inbound.average * 1000
    if not 0 < rate <= UNLIMITED:
        return None
    ceil = min(max(inbound.peak * 1000, rate), UNLIMITED)
    return Queue(rate, ceil, min(max(inbound.burst * 1024, least_burst(ceil)), rate * 100 + _FRAME))


def least_burst(rate: int) -> int:
    """Bytes: a millisecond's worth, or a timer that is late costs bandwidth."""
    return rate // 1000 + _FRAME


def police(outbound: WantedRate) -> str:
    """A limit in nftables' words, "" for none."""
    rate = outbound.average * 1000
    if not 0 < rate <= UNLIMITED:
        return ""
    burst = min((outbound.burst or outbound.average) * 1024, _MOST_BURST)
    return f"rate over {rate} bytes/second burst {burst} bytes"
