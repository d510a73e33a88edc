"""Words about nodes and domains, the same wherever they are told.  No I/O."""

from __future__ import annotations

import time

from clusterhost.model.node import Admin, Link, Node

SAYS = {
    Link.NEVER: "has not connected",
    Link.LOST: "is out of reach",
    Link.VIRT_DOWN: "has no libvirtd that answers",
    Link.UP: "is there",
}
"""What is known of a node, before "since"."""

DOMAIN_STATES = ("no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended")
"""virDomainState, in virsh's words."""


def domain_state(state: int) -> str:
    """Its word; one that is not known is told by its number."""
    return DOMAIN_STATES[state] if 0 <= state < len(DOMAIN_STATES) else str(state)


def describe_silence(node: Node) -> str:
    """Why a node cannot be asked, since when."""
    since = time.strftime("%H:%M:%S", time.localtime(node.since))
    reason = f": {node.reason}" if node.reason else ""
    return f"node {node.name} {SAYS[node.link]} since {since}{reason}"


def why_closed(node: Node) -> str:
    """Why no domain is placed on it; "" when it is open."""
    if not node.usable:
        return describe_silence(node)
    return "" if node.admin is Admin.ENABLED else f"it is {node.admin}"
