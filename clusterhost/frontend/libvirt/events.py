"""Who wants which events, and the fan-out of the cluster's events.  Knows sessions only to send to them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.translate import after_handle, string_at_start
from clusterhost.service.events import EventBus
from clusterhost.service.ports import ClusterEvent, Nodes
from compat.libvirt.constants import REMOTE_PROGRAM
from compat.libvirt.schema import BY_NAME, EVENTS

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

ID = Struct(">i")
DOMAIN_EVENTS = EVENTS["domain"].events
TUNABLE = BY_NAME["remote:DOMAIN_EVENT_CALLBACK_TUNABLE"]
MONITOR = BY_NAME["qemu:DOMAIN_MONITOR_EVENT"]
MONITOR_KEY = (MONITOR.program_id, MONITOR.number)
KEYS = {
    source: {(REMOTE_PROGRAM, event.number) for event in table.events.values()}
    for source, table in EVENTS.items()
} | {"qemu monitor": {MONITOR_KEY}}
"""Whose events a message is: each kind is deregistered by its own call."""
REASON_BEFORE_MSG = (11, 12, 14)
"""Events whose callback form has a `reason` between callbackID and the old message (framing.md 11)."""
LAST_LEGACY = 15
REGEX, IGNORE_CASE = 1, 2
"""virConnectDomainQemuMonitorEventRegisterFlags"""


@dataclass(frozen=True, slots=True)
class Registration:
    """One callback of one client.

    number: callback id; uuid: only that domain; skip: bytes of the callback form that the old form
    lacks, 0 in callback form; procedure: the message's number; matches: which monitor events.
    """

    session: Session
    number: int
    key: tuple[int, int]
    procedure: int
    uuid: bytes | None
    skip: int = 0
    matches: Callable[[str], bool] | None = None

    def wants(self, event: ClusterEvent) -> bool:
        """It is about the right domain, in what the client sees."""
        if self.uuid is not None and self.uuid != event.uuid:
            return False
        view = self.session.view
        if view is not None and view != event.node:
            return False
        return self.matches is None or self.matches(monitor_event_name(event.payload))

    def deliver(self, event: ClusterEvent) -> None:
        """Send it with the client's own callback id, or in the old form."""
        payload = event.payload[self.skip :] if self.skip else ID.pack(self.number) + event.payload[4:]
        self.session.send_event(event.program, self.procedure, payload)


class EventRegistry:
    """All registrations of all sessions."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._ids = itertools.count()
        self._by_message: dict[tuple[int, int], list[Registration]] = {}
        self._monitored = False
        self.numbered: Callable[[ClusterEvent], ClusterEvent] = lambda event: event
        """A tunable event with CPUs by the cluster's numbers."""

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """Listen to the cluster's events; returns how to stop."""
        return bus.subscribe(self.publish)

    def publish(self, event: ClusterEvent) -> None:
        """One event to all that want it, in the order in which they registered."""
        registrations = self._by_message.get((event.program, event.procedure))
        if registrations:
            # In a node's view its own CPU numbers are the right ones.
            shown = self.numbered(event) if event.procedure == TUNABLE.number else event
            for registration in tuple(registrations):
                if registration.wants(event):
                    registration.deliver(shown if registration.session.view is None else event)

    # -- registering

    def register(self, session: Session, event_id: int, uuid: bytes | None, source: str = "domain") -> int:
        """Callback form, events of a source (domain, network, storage-pool); returns the callback id."""
        event = EVENTS[source].events.get(event_id)
        if event is None:
            raise errors.unsupported_event(event_id)
        key = (REMOTE_PROGRAM, event.number)
        self._refuse_second(session, key, uuid)
        return self._add(Registration(session, next(self._ids), key, event.number, uuid))

    def register_legacy(self, session: Session, event_id: int) -> None:
        """Old form: messages of their own numbers, without a callback id, for all domains."""
        event = DOMAIN_EVENTS.get(event_id)
        if event is None or event.legacy_number is None:
            raise errors.unsupported_event(event_id)
        key = (REMOTE_PROGRAM, event.number)
        self._refuse_second(session, key, None)
        skip = 8 if event_id in REASON_BEFORE_MSG else 4
        self._add(Registration(session, next(self._ids), key, event.legacy_number, None, skip))

    def register_monitor(self, session: Session, uuid: bytes | None, event: str | None, flags: int) -> int:
        """QEMU's own events; returns the callback id."""
        matches = None if event is None else monitor_matcher(event, flags)
        number = next(self._ids)
        registration = Registration(session, number, MONITOR_KEY, MONITOR.number, uuid, 0, matches)
        self._add(registration)
        self._watch_monitors()
        return number

    def _refuse_second(self, session: Session, key: tuple[int, int], uuid: bytes | None) -> None:
        """libvirtd tracks both forms together."""
        for other in self._by_message.get(key, ()):
            if other.session is session and other.uuid == uuid:
                raise errors.invalid_event("event callback already tracked")

    def _add(self, registration: Registration) -> int:
        self._by_message.setdefault(registration.key, []).append(registration)
        return registration.number

    # -- the end of registrations

    def deregister(self, session: Session, number: int, source: str = "domain") -> None:
        """By callback id; source: as registered, or qemu monitor."""
        self._remove_one(
            lambda one: (
                one.session is session and one.number == number and not one.skip and one.key in KEYS[source]
            ),
            f"{source.replace('-', ' ')} event callback {number} not registered",
        )
        self._watch_monitors()

    def deregister_legacy(self, session: Session, event_id: int) -> None:
        """Old form."""
        event = DOMAIN_EVENTS.get(event_id)
        if event is None or event.legacy_number is None:
            raise errors.unsupported_event(event_id)
        legacy = event.legacy_number
        self._remove_one(
            lambda one: one.session is session and bool(one.skip) and one.procedure == legacy,
            f"domain event {event_id} not registered",
        )

    def _remove_one(self, matches: Callable[[Registration], bool], missing: str) -> None:
        for registrations in self._by_message.values():
            for one in registrations:
                if matches(one):
                    registrations.remove(one)
                    return
        raise errors.internal(missing)

    def forget(self, session: Session) -> None:
        """The client is gone."""
        for key, registrations in self._by_message.items():
            if any(one.session is session for one in registrations):
                self._by_message[key] = [one for one in registrations if one.session is not session]
        self._watch_monitors()

    def _watch_monitors(self) -> None:
        wanted = bool(self._by_message.get(MONITOR_KEY))
        if wanted != self._monitored:
            self._monitored = wanted
            self._nodes.subscribe(monitor_events=wanted)


def monitor_event_name(payload: bytes) -> str:
    """The event's name in a DOMAIN_MONITOR_EVENT message: callbackID, dom, event ..."""
    body = payload[4:]
    return string_at_start(body[after_handle(body) :])


def monitor_matcher(event: str, flags: int) -> Callable[[str], bool]:
    """Which names a registration wants: one name, or those that a regular expression matches."""
    pattern = event if flags & REGEX else f"^{re.escape(event)}$"
    try:
        compiled = re.compile(pattern, re.IGNORECASE if flags & IGNORE_CASE else 0)
    except re.error as error:
        raise errors.invalid_event(f"cannot compile event pattern '{event}': {error}") from None
    return lambda name: compiled.search(name) is not None
