"""Calls under way whose answers bring reports, and what events have told of their domains.  Knows no libvirt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Domain:
    """calls: under way.  told: lifecycle events since the first of them began; name: in the last of these."""

    calls: int = 0
    told: list[int] = field(default_factory=list)
    name: str = ""
    awaited: int = -1
    then: Callable[[str], None] | None = None


class Expected:
    """By uuid."""

    def __init__(self) -> None:
        self._domains: dict[bytes, _Domain] = {}

    def __contains__(self, uuid: bytes) -> bool:
        return uuid in self._domains

    def begin(self, uuid: bytes) -> None:
        """A call is under way."""
        self._domains.setdefault(uuid, _Domain()).calls += 1

    def end(self, uuid: bytes) -> None:
        """One of them is over."""
        found = self._domains.get(uuid)
        if found is not None:
            found.calls -= 1
            if found.calls <= 0:
                del self._domains[uuid]

    def saw(self, uuid: bytes, name: str, event: int) -> None:
        """A lifecycle event has been sent on."""
        found = self._domains.get(uuid)
        if found is not None:
            found.told.append(event)
            found.name = name
            _settle(found)

    def when_told(self, uuid: bytes, event: int, then: Callable[[str], None]) -> None:
        """Call `then(name)`, now or later, if that event is the only one of the only call under way."""
        found = self._domains.get(uuid)
        if found is not None:
            found.awaited, found.then = event, then
            _settle(found)


def _settle(found: _Domain) -> None:
    then = found.then
    if then is not None and found.calls == 1 and found.told == [found.awaited]:
        found.then = None
        then(found.name)
