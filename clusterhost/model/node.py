"""A node as the cluster sees it.  Pure: no clock, no I/O: times are given in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Admin(StrEnum):
    """What the operator wants of the node."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DRAINING = "draining"


class Link(StrEnum):
    """What is known of the node's agent and libvirtd."""

    NEVER = "never-connected"
    UP = "up"
    VIRT_DOWN = "libvirtd-down"
    LOST = "out-of-reach"


@dataclass(frozen=True, slots=True)
class Host:
    """Fixed facts of a node.  memory in KiB, mhz in MHz, versions as libvirt's (9000000 is 9.0.0);
    domain_capabilities: one document for each domain type; underlay: the IP address for VXLAN;
    underlay_mtu: of the link that has it, in bytes, 0 when it is not known."""

    hostname: str = ""
    model: str = ""
    memory: int = 0
    cpus: int = 0
    mhz: int = 0
    numa_nodes: int = 1
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    libvirt_version: int = 0
    hypervisor_version: int = 0
    hypervisor_type: str = "QEMU"
    capabilities: str = ""
    domain_capabilities: tuple[str, ...] = ()
    uri: str = ""
    migration_address: str = ""
    has_files: bool = True
    underlay: str = ""
    underlay_mtu: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What changes by the second.  free_memory in bytes; cpu in cumulative nanoseconds; memory in KiB by
    libvirt's names."""

    free_memory: int = 0
    cpu: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """One node.  `cell` is its NUMA cell number, given once and never reused; `since` is when `link` last
    changed (epoch seconds, for messages)."""

    name: str
    cell: int
    admin: Admin = Admin.ENABLED
    link: Link = Link.NEVER
    since: float = 0.0
    reason: str = ""
    host: Host = Host()
    figures: Figures = Figures()

    @property
    def usable(self) -> bool:
        """Calls can be sent to it."""
        return self.link is Link.UP

    @property
    def open(self) -> bool:
        """New domains may be placed on it."""
        return self.usable and self.admin is Admin.ENABLED
