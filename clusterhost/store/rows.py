"""What is kept, and how it changes: frozen values.  No SQL, no I/O.

Every Put replaces the whole row of its key, so repeating a change does no harm (a Journal line alone is added
again).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node.  cell is given once and never reused.  join_key: z85 public half of the one-time key, "" when
    used. uri: set when the agent runs beside the front end.  map: whatever else is kept of it (JSON
    values)."""

    name: str
    cell: int
    admin: str = "enabled"
    public_key: str = ""
    join_key: str = ""
    uri: str = ""
    migration_address: str = ""
    map: dict[str, Any] = field(default_factory=dict)
    incarnation: int = 0
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class DomainRow:
    """A domain.  uuid: 16 raw bytes.  node: owner, or home when it is off.  id is the cluster's, node_id the
    node's,
    -1 when off.  state: virDomainState.  xml: the inactive definition with security data."""

    uuid: bytes
    name: str
    node: str
    id: int = -1
    node_id: int = -1
    generation: int = 0
    autostart: bool = False
    persistent: bool = True
    state: int = 5
    xml: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """Something begun whose end is not recorded yet.  It is also the outbox: with a node named, it is the
    order that must reach that node, under the operation id `op`, until the intent is dropped.  data: JSON.
    created: epoch s."""

    op: str
    kind: str
    uuid: bytes
    node: str
    target: str = ""
    generation: int = 0
    data: str = "{}"
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network.  uuid: 16 raw bytes.  vni: given once, never reused while it lives.  xml: the persistent definition,
    "" of a transient one; live: the one in force, "" while it is off.  serial rises with each change that nodes must
    follow."""

    uuid: bytes
    name: str
    vni: int
    xml: str = ""
    live: str = ""
    autostart: bool = False
    serial: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """An address that a MAC has in a network.  key: network, MAC and family as one text.  mac: lower case with colons.
    family: 4 or 6.  state: bound, reserved, held or released.  since: epoch seconds.  domain: 16 raw bytes, empty
    when it is nobody's."""

    key: str
    network: bytes
    mac: str
    family: int
    address: str
    name: str = ""
    state: str = "bound"
    since: float = 0.0
    domain: bytes = b""


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A storage pool.  uuid: 16 raw bytes.  kind: local (a namespace, each node has files of its own) or shared (one
    place).  xml: its definition.  active: it should be on every node.  persistent: it outlives its destroy.  serial
    rises with each change that nodes must follow."""

    uuid: bytes
    name: str
    xml: str
    kind: str = "local"
    autostart: bool = False
    active: bool = False
    persistent: bool = True
    serial: int = 0


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A name in a pool.  key: the pool's uuid in hex, a slash, and `shown`.  pool: 16 raw bytes.  name: the file's;
    shown: what clients see (`name@node` where nodes clash).  state: whole or incomplete, for `reason`.  copies: lists
    of node, state, generation, digest in hex, capacity and allocation in bytes and, where known, epoch seconds
    of its last use."""

    key: str
    pool: bytes
    name: str
    shown: str
    generation: int = 0
    state: str = "whole"
    reason: str = ""
    copies: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JobRow:
    """A long task as operators see it.  started, finished: epoch seconds; finished None while it runs."""

    id: int | str
    kind: str
    object: str
    state: str
    done: int = 0
    total: int = 0
    text: str = ""
    started: float = 0.0
    finished: float | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """One line of the audit journal: both the change that adds it and what reading gives.  time: epoch
    seconds."""

    time: float
    kind: str
    object: str
    who: str
    text: str
    data: str = ""


@dataclass(frozen=True, slots=True)
class PutNode:
    """Add or replace a node."""

    row: NodeRow


@dataclass(frozen=True, slots=True)
class DropNode:
    """Forget a node; no error when it is not there."""

    name: str


@dataclass(frozen=True, slots=True)
class PutDomain:
    """Add or replace a domain."""

    row: DomainRow


@dataclass(frozen=True, slots=True)
class DropDomain:
    """Forget a domain; no error when it is not there."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class PutIntent:
    """Record what is about to be done."""

    row: Intent


@dataclass(frozen=True, slots=True)
class DropIntent:
    """It is done, or undone: in the same transaction as its result."""

    op: str


@dataclass(frozen=True, slots=True)
class PutNetwork:
    """Add or replace a network."""

    row: NetworkRow


@dataclass(frozen=True, slots=True)
class DropNetwork:
    """Forget a network; no error when it is not there.  Its leases are dropped by their own changes."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class PutLease:
    """Add or replace a lease."""

    row: LeaseRow


@dataclass(frozen=True, slots=True)
class DropLease:
    """Forget a lease; no error when it is not there."""

    key: str


@dataclass(frozen=True, slots=True)
class PutPool:
    """Add or replace a pool."""

    row: PoolRow


@dataclass(frozen=True, slots=True)
class DropPool:
    """Forget a pool; no error when it is not there.  Its volumes are dropped by their own changes."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class PutVolume:
    """Add or replace a volume."""

    row: VolumeRow


@dataclass(frozen=True, slots=True)
class DropVolume:
    """Forget a volume; no error when it is not there."""

    key: str


@dataclass(frozen=True, slots=True)
class PutJob:
    """Add or replace a job."""

    row: JobRow


@dataclass(frozen=True, slots=True)
class SetMeta:
    """Set a value of the cluster's own (uuid, next id ...)."""

    key: str
    value: str


Change = (
    PutNode
    | DropNode
    | PutDomain
    | DropDomain
    | PutIntent
    | DropIntent
    | PutNetwork
    | DropNetwork
    | PutLease
    | DropLease
    | PutPool
    | DropPool
    | PutVolume
    | DropVolume
    | PutJob
    | SetMeta
    | Journal
)


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything that is kept, but for the journal; each list in the order of its key."""

    meta: dict[str, str]
    nodes: list[NodeRow]
    domains: list[DomainRow]
    intents: list[Intent]
    jobs: list[JobRow]
    networks: list[NetworkRow] = field(default_factory=list)
    leases: list[LeaseRow] = field(default_factory=list)
    pools: list[PoolRow] = field(default_factory=list)
    volumes: list[VolumeRow] = field(default_factory=list)
