"""The tables, and how rows become values: one Shape a row type, each row with a checksum.  No connections
here.

The checksum finds what a database does not: a bit that flipped inside a value.  SQLite's pages carry none.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Table,
    Text,
)

from clusterhost.store.errors import StoreDamaged
from clusterhost.store.rows import (
    DomainRow,
    Intent,
    JobRow,
    Journal,
    LeaseRow,
    NetworkRow,
    NodeRow,
    PoolRow,
    VolumeRow,
)

METADATA = MetaData()

LEADER = Table(
    "leader",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

META = Table(
    "meta",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

NODES = Table(
    "nodes",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("cell", Integer, nullable=False),
    Column("admin", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("join_key", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("migration_address", Text, nullable=False),
    Column("map", Text, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

DOMAINS = Table(
    "domains",
    METADATA,
    Column("uuid", LargeBinary, primary_key=True),
    Column("name", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("node_id", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("autostart", Boolean, nullable=False),
    Column("persistent", Boolean, nullable=False),
    Column("state", Integer, nullable=False),
    Column("xml", Text, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

INTENTS = Table(
    "intents",
    METADATA,
    Column("op", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("uuid", LargeBinary, nullable=False),
    Column("node", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("data", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

NETWORKS = Table(
    "networks",
    METADATA,
    Column("uuid", LargeBinary, primary_key=True),
    Column("name", Text, nullable=False),
    Column("vni", Integer, nullable=False),
    Column("xml", Text, nullable=False),
    Column("live", Text, nullable=False),
    Column("autostart", Boolean, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

LEASES = Table(
    "leases",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("network", LargeBinary, nullable=False),
    Column("mac", Text, nullable=False),
    Column("family", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("domain", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

POOLS = Table(
    "pools",
    METADATA,
    Column("uuid", LargeBinary, primary_key=True),
    Column("name", Text, nullable=False),
    Column("xml", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("autostart", Boolean, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("persistent", Boolean, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

VOLUMES = Table(
    "volumes",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("pool", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("shown", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("copies", Text, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("finished", Float, nullable=True),
    Column("checksum", BigInteger, nullable=False),
)

JOURNAL = Table(
    "journal",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("time", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("journal_object", "object"),
)

_PLAIN: dict[type[Any], Callable[[Any], Any]] = {
    BigInteger: int,
    Boolean: bool,
    Float: float,
    Integer: int,
    LargeBinary: bytes,
    Text: str,
}
"""A value must have the same Python type when it is written and when it is read, or its checksum differs."""


@dataclass(frozen=True)
class Shape:
    """A row type and its table.  json: columns whose value is kept as JSON text."""

    row: type[Any]
    table: Table
    key: str
    json: frozenset[str] = frozenset()

    def encode(self, row: object) -> dict[str, Any]:
        """Column values of a row, with its checksum where the table has one."""
        values = {}
        for name, plain in self._plain_types.items():
            value = getattr(row, name)
            if name in self.json:
                value = json.dumps(value, sort_keys=True)
            values[name] = None if value is None else plain(value)
        if "checksum" in self.table.c:
            values["checksum"] = checksum(values)
        return values

    def decode(self, kept: Mapping[str, Any] | RowMapping) -> Any:
        """The row of these column values; StoreDamaged when it is not what was written."""
        try:
            values = {
                name: None if kept[name] is None else plain(kept[name])
                for name, plain in self._plain_types.items()
            }
            if kept.get("checksum", None) not in (None, checksum(values)):
                raise ValueError("its checksum differs")
            return self.row(**{name: self._given(name, value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            key = kept.get(self.key)
            shown = key.hex() if isinstance(key, bytes) else key
            raise StoreDamaged(f"row '{shown}' of table {self.table.name} is damaged: {error}") from None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the row's fields, which are those of its columns."""
        return tuple(field.name for field in fields(self.row))

    @cached_property
    def _plain_types(self) -> dict[str, Callable[[Any], Any]]:
        # A JSON column's value is text already when it gets there.
        return {name: _PLAIN[type(self.table.c[name].type)] for name in self.columns}

    def _given(self, name: str, value: Any) -> Any:
        return json.loads(value) if name in self.json else value


@dataclass(frozen=True, slots=True)
class MetaRow:
    """A row of table meta."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class LeaderRow:
    """The only row of table leader (id 1): the epoch of the front end that may write."""

    id: int
    epoch: int


NODE = Shape(NodeRow, NODES, "name", frozenset({"map"}))
DOMAIN = Shape(DomainRow, DOMAINS, "uuid")
INTENT = Shape(Intent, INTENTS, "op")
NETWORK = Shape(NetworkRow, NETWORKS, "uuid")
LEASE = Shape(LeaseRow, LEASES, "key")
POOL = Shape(PoolRow, POOLS, "uuid")
VOLUME = Shape(VolumeRow, VOLUMES, "key", frozenset({"copies"}))
JOB = Shape(JobRow, JOBS, "id", frozenset({"id"}))
META_ROW = Shape(MetaRow, META, "key")
LEADER_ROW = Shape(LeaderRow, LEADER, "id")
JOURNAL_ROW = Shape(Journal, JOURNAL, "time")


def checksum(values: Mapping[str, Any]) -> int:
    """CRC-32 of the values in their order, without the checksum itself."""
    return zlib.crc32(repr([value for name, value in values.items() if name != "checksum"]).encode())
