"""Steps of the migration protocol: wire to use case.  The work is in clusterhost.service.migration."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from clusterhost.service.ports import Answer
from compat.libvirt.schema import Procedure

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


def step(session: Session, procedure: Procedure, payload: bytes, args: Any) -> Awaitable[Answer]:
    """Begin, prepare, perform, finish, confirm, of every version of the protocol."""
    return session.world.migrations.step(session.caller, procedure, payload)
