"""What is asked, what is offered, what came out of it: frozen values.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

POLICIES = ("striping", "packing")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a domain needs.  Memory in KiB; "" and None: anything will do.

    vcpus: those it starts with.  home: the node that holds the definition; it wins when it fits.
    only: None for every node.  cpu_model: a model's name, or host-model, host-passthrough, maximum.
    cpu_checked: the hypervisor must be able to run it; else knowing its name will do.
    cpu_fallback: another model may stand in for one that the hypervisor does not know.
    cells: NUMA cells (nodes, by number) that its definition allows, None for any; near: those that it would rather
    be on than at home."""

    name: str
    memory_kib: int = 0
    vcpus: int = 1
    arch: str = ""
    machine: str = ""
    domain_type: str = ""
    cpu_model: str | None = None
    cpu_checked: bool = True
    cpu_fallback: bool = False
    emulator: str | None = None
    home: str | None = None
    only: frozenset[str] | None = None
    avoid: frozenset[str] = frozenset()
    cells: frozenset[int] | None = None
    near: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class CpuModels:
    """CPU models and host modes of one kind of hypervisor (kvm, qemu) for its own architecture.

    known: all that it has a name for; usable: those of them that it can run here."""

    arch: str = ""
    known: frozenset[str] = frozenset()
    usable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node has.  Memory in KiB.

    free_kib: memory less the reserve less what running domains may take at most (not what is unused just
    now). why_not: why it is not open ("disabled", "out of reach since 12:03:04").
    cpu_models: by domain type; what is not there is let through and the node's libvirtd decides.
    running: active domains; homes: inactive definitions (a domain counts in one of the two only).
    cell: the node's number.
    coming: bytes of the domain's images that it lacks, which must get there first; freeing: bytes of copies of other
    images that it has and needs not, which would go so that there is room."""

    node: str
    cell: int = -1
    open: bool = True
    why_not: str = ""
    memory_kib: int = 0
    free_kib: int = 0
    cpus: int = 0
    vcpus_granted: int = 0
    arches: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()
    domain_types: frozenset[str] = frozenset()
    emulators: frozenset[str] = frozenset()
    cpu_models: Mapping[str, CpuModels] = field(default_factory=dict)
    running: int = 0
    homes: int = 0
    coming: int = 0
    freeing: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """How to choose.  name: striping (spread) or packing (fill).  Overcommit: ratio of granted to real;
    reserve_kib: memory of each node that is never granted (already taken off in Offer.free_kib).
    ValueError."""

    name: str = "striping"
    cpu_overcommit: float = 16.0
    memory_overcommit: float = 1.0
    reserve_kib: int = 0

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            allowed = ", ".join(POLICIES)
            raise ValueError(f"placement policy '{self.name}' is not known, allowed are {allowed}")
        if self.cpu_overcommit <= 0 or self.memory_overcommit <= 0:
            found = f"{self.cpu_overcommit:g} (cpu) and {self.memory_overcommit:g} (memory)"
            raise ValueError(f"overcommit ratios are {found}, allowed are numbers above 0")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node, or why not.  score: the higher the better, 0 where ok is False."""

    node: str
    ok: bool
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """The node that was chosen; reasons of all, the chosen first, then by score, then those that do not
    fit."""

    node: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """No node fits; reasons of all, by name."""

    reasons: tuple[Reason, ...]


Outcome = Match | NoMatch
