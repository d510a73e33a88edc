"""Which calls wait while nodes dial in again after a start of the front end.  Asks nobody."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt.handlers.host import HOST_ROUTES
from clusterhost.frontend.libvirt.route import Kind, Route
from compat.libvirt import schema
from compat.libvirt.errors import XdrError
from compat.libvirt.events import Call

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

NEEDS_NOBODY = frozenset({Kind.SESSION, Kind.EVENT, Kind.UNSUPPORTED})


def needed(session: Session, call: Call, route: Route, awaited: Collection[str]) -> Collection[str]:
    """Nodes whose word the answer depends on: the domain's, or all.  Lists and lookups need none."""
    procedure = route.procedure
    if route.kind in NEEDS_NOBODY:
        return ()
    if procedure.domain_skip is not None:
        try:
            domain = session.cluster.get(schema.domain_uuid(procedure, call.payload))
        except XdrError:
            return ()
        return () if domain is None else (domain.node,)
    if route.kind is Kind.CACHED and (procedure.full_name not in HOST_ROUTES):
        return ()
    return awaited if session.view is None else (session.view,)


def waits(session: Session, call: Call, route: Route) -> bool:
    """The call is answered later, when its nodes have come or it is known that they do not."""
    arrivals = session.world.arrivals
    if not arrivals.awaited or call.fds or not session.opened:
        return False

    def go() -> None:
        if session.closed:
            session.release()
        else:
            session.answer(call, route)

    return bool(arrivals.wait(needed(session, call, route, arrivals.awaited), go))
