"""Saving a domain to a file: the node's alone, but for where that file is.  Wire to use case and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt.dispatch import decoded, finish
from clusterhost.frontend.libvirt.handlers.define import SAVE_FILE
from clusterhost.frontend.libvirt.route import Route, Run
from clusterhost.service.saves import Saves
from compat.libvirt import typedparams
from compat.libvirt.events import Call

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


def run_save(session: Session, call: Call, route: Route) -> None:
    """DOMAIN_SAVE, _FLAGS and _PARAMS."""
    args = decoded(route, call.payload)
    work = Saves(session.world.context).save(
        session.caller, route.procedure, call.payload, args.dom.uuid, path_in(args)
    )
    session.spawn(call, work, lambda done: finish(session, call, route, done))


def path_in(args: Any) -> str:
    """The file in any of the three forms; "" for a managed save."""
    if hasattr(args, "params"):
        return str(typedparams.get(args.params, SAVE_FILE, "") or "")
    return str(args.to)


SAVES: dict[str, Run] = {f"remote:DOMAIN_{name}": run_save for name in ("SAVE", "SAVE_FLAGS", "SAVE_PARAMS")}
"""Rows of ROUTES, in both views."""
