"""What libvirtd's events are about, and what may have changed with them.  Asks nothing."""

from __future__ import annotations

import logging
from typing import Any

from compat.libvirt.errors import XdrError
from compat.libvirt.messages import RemoteNonnullDomain
from compat.libvirt.schema import BY_NAME, EVENTS, PROCEDURES

log = logging.getLogger(__name__)

DEFINED, UNDEFINED = 0, 1
"""Lifecycle events (virDomainEventType)."""

REPORT, DEFINITION = 1, 2
_NOTEWORTHY = {
    "LIFECYCLE": REPORT,
    "PMWAKEUP": REPORT,
    "PMSUSPEND": REPORT,
    "PMSUSPEND_DISK": REPORT,
    "BALLOON_CHANGE": REPORT,
    "MEMORY_DEVICE_SIZE_CHANGE": REPORT,
    "DEVICE_ADDED": REPORT | DEFINITION,
    "DEVICE_REMOVED": REPORT | DEFINITION,
    "BLOCK_JOB": DEFINITION,
    "METADATA_CHANGE": DEFINITION,
    "TUNABLE": DEFINITION,
}
"""Event -> what may have changed with it."""

NOTEWORTHY = {
    event.number: _NOTEWORTHY[name]
    for event in EVENTS["domain"].events.values()
    if (name := event.id_name.removeprefix("VIR_DOMAIN_EVENT_ID_")) in _NOTEWORTHY
}
_REMOTE = BY_NAME["remote:DOMAIN_GET_XML_DESC"].program_id
_LIFECYCLE = EVENTS["domain"].events[0].number


def noteworthy(program: int, procedure: int) -> int:
    """REPORT and DEFINITION, as may have changed with that event."""
    return NOTEWORTHY.get(procedure, 0) if program == _REMOTE else 0


def about(program: int, procedure: int, payload: bytes) -> tuple[RemoteNonnullDomain | None, int | None]:
    """The domain of an event, and which lifecycle event it is."""
    kind = PROCEDURES[program, procedure].msg
    if kind is None:
        return None, None
    try:
        message = kind.from_bytes(payload)
    except XdrError:
        log.warning("event %d of libvirtd cannot be read", procedure)
        return None, None
    body: Any = getattr(message, "msg", message)
    return body.dom, body.event if procedure == _LIFECYCLE else None
