"""What a lifecycle event makes of a domain: one table.  Pure: no clock, no I/O, no wire formats.

Event, detail, state and reason numbers are libvirt's (virDomainEventType, virDomainEvent*DetailType,
virDomainState, virDomain*Reason); the node's report, which follows each event, has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass

from clusterhost.model.domain import CRASHED, PAUSED, PMSUSPENDED, RUNNING, SHUTDOWN, SHUTOFF, Domain

(
    EV_DEFINED,
    EV_UNDEFINED,
    EV_STARTED,
    EV_SUSPENDED,
    EV_RESUMED,
    EV_STOPPED,
    EV_SHUTDOWN,
    EV_PMSUSPENDED,
    EV_CRASHED,
) = range(9)

SUSPENDED_MIGRATED = 1
RESUMED_MIGRATED = 1
STOPPED_CRASHED = 2
STOPPED_MIGRATED = 3
STOPPED_FAILED = 5
SHUTDOWN_HOST = 2
PAUSED_MIGRATION = 2
"""Reason of a paused domain: its memory is on its way elsewhere."""
RUNNING_MIGRATED = 2
SHUTOFF_MIGRATED = 4


@dataclass(frozen=True, slots=True)
class Change:
    """What an event says; None: nothing about it.  active False: the run is over."""

    state: int | None = None
    active: bool | None = None
    persistent: bool | None = None


AFTER: dict[int, Change] = {
    EV_DEFINED: Change(persistent=True),
    EV_UNDEFINED: Change(persistent=False),
    EV_STARTED: Change(state=RUNNING, active=True),
    EV_SUSPENDED: Change(state=PAUSED, active=True),
    EV_RESUMED: Change(state=RUNNING, active=True),
    EV_STOPPED: Change(state=SHUTOFF, active=False),
    EV_SHUTDOWN: Change(state=SHUTDOWN, active=True),
    EV_PMSUSPENDED: Change(state=PMSUSPENDED, active=True),
    EV_CRASHED: Change(state=CRASHED, active=True),
}

REASONS: dict[int, dict[int, int]] = {
    EV_STARTED: {0: 1, 1: 2, 2: 3, 3: 4, 4: 8},
    EV_SUSPENDED: {0: 1, 1: 2, 2: 5, 3: 6, 4: 7, 5: 7, 6: 14, 7: 12, 8: 13},
    EV_RESUMED: {0: 5, 1: 2, 2: 4, 3: 10, 4: 11},
    EV_STOPPED: {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7},
}
"""Event -> detail -> reason of the state it leads to; 0 (unknown) where nothing is said."""


def starts_run(event: int) -> bool:
    """An event of that kind is only sent of an active domain."""
    change = AFTER.get(event)
    return change is not None and change.active is True


def after(domain: Domain, event: int, detail: int) -> Domain | None:
    """The domain after that event of its own node; None: it does not exist any more.  Ids are the caller's,
    except that a stopped domain has none."""
    change = AFTER.get(event, Change())
    persistent = domain.persistent if change.persistent is None else change.persistent
    if change.active is False:
        if not persistent:
            return None
        domain = domain.with_(id=-1, node_id=-1)
    if not persistent and not domain.active:
        return None
    if change.state is None:
        return domain.with_(persistent=persistent)
    reason = REASONS.get(event, {}).get(detail, 0)
    return domain.with_(persistent=persistent, state=change.state, reason=reason)
