"""The three errors of the wire code.  Pure; knows nothing of libvirt's error numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compat.libvirt.events import Event


class XdrError(ValueError):
    """A message cannot be encoded or decoded; the connection itself is unharmed.

    `field` names the field ("RemoteNonnullDomain.uuid"), `found` and `allowed` say why in words or numbers.
    """

    def __init__(self, field: str, found: Any, allowed: Any) -> None:
        super().__init__(f"{field}: found {found}, allowed {allowed}")
        self.field = field
        self.found = found
        self.allowed = allowed


class ProtocolError(Exception):
    """The peer broke the rules: drop the connection.

    `events` are those of the same bytes that came before the violation (what a slower peer would have
    delivered in earlier calls), so that what is seen does not depend on how the bytes were cut.
    """

    def __init__(self, reason: str, events: list[Event] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.events: list[Event] = events or []


class LocalError(Exception):
    """Our own side asked for something that the protocol forbids: a bug of the caller, nothing was sent."""
