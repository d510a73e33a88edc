"""When to ping and when a silent peer is dead.  Pure: the clock is an argument."""

from __future__ import annotations

from enum import Enum


class Action(Enum):
    """What tick() asks for."""

    NOTHING = "nothing"
    PING = "ping"
    DEAD = "dead"


class Keepalive:
    """libvirt's rule: a ping after `interval` seconds of silence, dead when `count` of them got no answer.

    Any packet is an answer.  So a peer is dead after interval * (count + 1) seconds of silence.  An interval
    of 0 or below never pings.  `now` is any monotonic clock in seconds.
    """

    def __init__(self, interval: float, count: int, now: float) -> None:
        self.interval, self.count = interval, count
        self._since = now
        self._left = count

    def heard(self, now: float) -> None:
        """Bytes arrived from the peer."""
        self._since = now
        self._left = self.count

    def tick(self, now: float) -> Action:
        """Say what is due.  PING counts as sent."""
        if self.interval <= 0 or now - self._since < self.interval:
            return Action.NOTHING
        if self._left <= 0:
            return Action.DEAD
        self._left -= 1
        self._since = now
        return Action.PING

    def due(self) -> float | None:
        """Return the time of the next tick() that is not NOTHING; None when there will be none."""
        return None if self.interval <= 0 else self._since + self.interval
