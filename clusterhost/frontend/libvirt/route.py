"""A row of ROUTES: how one procedure is answered.  Shapes only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from compat.libvirt.events import Call
from compat.libvirt.schema import Procedure

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


class Kind(StrEnum):
    """The kinds of row (design.md, "The life of a call")."""

    SESSION = "session"
    DOMAIN = "domain"
    CACHED = "cached"
    CLUSTER = "cluster"
    FAN_OUT = "fan-out"
    REPLICATED = "replicated"
    NODE = "node"
    UNSUPPORTED = "unsupported"
    EVENT = "event"
    """Sent by us, never called."""


Run = Callable[["Session", Call, "Route"], None]
"""Answers the call now, or sees to it that it will be answered; raises what goes wrong at once."""

Handler = Callable[..., Any]
"""Its arguments depend on `Route.run` (passthrough.py, dispatch.py)."""

Guard = Callable[[Procedure, bytes], None]
"""Raises when a read-only connection may not make this call with this payload."""


@dataclass(frozen=True, slots=True)
class Route:
    """`run` answers in the cluster's view, `run_in_view` in that of one node.

    mutating: may change its domain; long: may take long, so it has another deadline and its own connection
    at the node; rewrite: its ret holds domain handles; xml_id: its ret is a domain's XML; before_open: may be
    called before CONNECT_OPEN.
    """

    procedure: Procedure
    kind: Kind
    run: Run
    run_in_view: Run
    handler: Handler | None = None
    guard: Guard | None = None
    mutating: bool = False
    long: bool = False
    rewrite: bool = False
    xml_id: bool = False
    before_open: bool = False


Routes = dict[tuple[int, int], Route]
"""(program, procedure number) -> row."""
