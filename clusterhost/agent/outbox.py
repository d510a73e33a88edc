"""Numbered messages to the front end, in libvirtd's order.  Knows no libvirt."""

from __future__ import annotations

from collections.abc import Callable

from clusterhost.control import messages as m

Send = Callable[[m.Message, bytes | None], None]


class Outbox:
    """Gives numbers.  While a snapshot is being made what comes is held back: the snapshot goes first."""

    def __init__(self, send: Send) -> None:
        self.seq = 0
        self._send = send
        self._held: list[tuple[m.Message, bytes | None]] | None = None

    def event(self, program: int, procedure: int, payload: bytes) -> None:
        """An event as it came."""
        self.seq += 1
        self.ordered(m.Event(self.seq, program, procedure), payload)

    def changed(self, report: m.DomainReport) -> None:
        """A domain as it is now."""
        self.seq += 1
        self.ordered(m.Changed(self.seq, report))

    def gone(self, uuid: bytes) -> None:
        """A domain is no more."""
        self.seq += 1
        self.ordered(m.Gone(self.seq, uuid))

    def definition(self, uuid: bytes, xml: str) -> None:
        """A new inactive XML."""
        self.seq += 1
        self.ordered(m.Definition(self.seq, uuid, xml))

    def ordered(self, message: m.Message, payload: bytes | None = None) -> None:
        """Send in order with the numbered ones."""
        if self._held is None:
            self._send(message, payload)
        else:
            self._held.append((message, payload))

    def hold(self) -> None:
        """Keep back what comes from now on."""
        if self._held is None:
            self._held = []

    def release(self, first: m.Snapshot | None = None) -> None:
        """Send the snapshot, then what was kept back."""
        held, self._held = self._held or [], None
        if first is not None:
            self._send(first, None)
        for message, payload in held:
            self._send(message, payload)

    def snapshot_number(self) -> int:
        """The number for a snapshot that goes before what is held back."""
        return self.seq - sum(1 for message, _ in self._held or () if hasattr(message, "seq"))

    def forget(self) -> None:
        """The link is gone: what was kept back has nobody to go to."""
        if self._held is not None:
            self._held = []
