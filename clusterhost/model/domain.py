"""A domain as the cluster sees it: one value, replaced on change.  Pure: no clock, no I/O, no wire formats.

State numbers are libvirt's virDomainState (facts of the field: 1 running, 3 paused, 5 shut off ...).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NOSTATE, RUNNING, BLOCKED, PAUSED, SHUTDOWN, SHUTOFF, CRASHED, PMSUSPENDED = range(8)


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain.  Memory: KiB.  `id` is the cluster's (one for a whole run), `node_id` the node's; -1: off.

    `node` is the node that runs it, or the home whose libvirtd holds the definition.
    `known_as` is the name clients see: `name`, or `name@node` while another domain holds that name.
    """

    uuid: bytes
    name: str
    node: str
    id: int = -1
    node_id: int = -1
    state: int = SHUTOFF
    reason: int = 0
    persistent: bool = True
    autostart: bool = False
    managed_save: bool = False
    max_memory: int = 0
    memory: int = 0
    vcpus: int = 0
    os_type: str = "hvm"
    generation: int = 0
    known_as: str = ""

    @property
    def active(self) -> bool:
        """It has a running or paused process (libvirt's notion of active)."""
        return self.id != -1

    def with_(self, **changes: object) -> Domain:
        """A copy with these fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]
