"""Changes as SQL: each change is the text of one statement and its parameters.  Executes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ClauseElement, Dialect, bindparam, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from clusterhost.store import tables
from clusterhost.store.rows import (
    Change,
    DropDomain,
    DropIntent,
    DropLease,
    DropNetwork,
    DropNode,
    DropPool,
    DropVolume,
    Journal,
    PutDomain,
    PutIntent,
    PutJob,
    PutLease,
    PutNetwork,
    PutNode,
    PutPool,
    PutVolume,
    SetMeta,
)
from clusterhost.store.tables import Shape

_INSERT: dict[str, Callable[..., Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

Parameters = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """order: of the parameters where the driver takes them by position."""

    text: str
    values: Callable[[Any], dict[str, Any]]
    order: tuple[str, ...] | None


class Statements:
    """Compiled once for a dialect (sqlite or postgresql): every caller waits for the transaction that
    executes them, and SQLAlchemy's way from a statement to its text takes longer than SQLite does."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._prepared: dict[type[Any], _Prepared] = {
            PutNode: self._put(tables.NODE),
            PutDomain: self._put(tables.DOMAIN),
            PutIntent: self._put(tables.INTENT),
            PutNetwork: self._put(tables.NETWORK),
            PutLease: self._put(tables.LEASE),
            PutPool: self._put(tables.POOL),
            PutVolume: self._put(tables.VOLUME),
            PutJob: self._put(tables.JOB),
            DropNode: self._drop(tables.NODE, "name"),
            DropDomain: self._drop(tables.DOMAIN, "uuid"),
            DropIntent: self._drop(tables.INTENT, "op"),
            DropNetwork: self._drop(tables.NETWORK, "uuid"),
            DropLease: self._drop(tables.LEASE, "key"),
            DropPool: self._drop(tables.POOL, "uuid"),
            DropVolume: self._drop(tables.VOLUME, "key"),
            SetMeta: self._compiled(
                _upsert(dialect.name, tables.META_ROW),
                _columns(tables.META_ROW),
                lambda change: tables.META_ROW.encode(tables.MetaRow(change.key, change.value)),
            ),
            Journal: self._compiled(
                insert(tables.JOURNAL).inline(), tables.JOURNAL_ROW.columns, tables.JOURNAL_ROW.encode
            ),
        }
        self.set_leader = _upsert(dialect.name, tables.LEADER_ROW)
        leader = select(tables.LEADER.c.epoch).with_for_update(read=True)
        self.epoch = str(leader.compile(dialect=dialect))

    def of(self, change: Change) -> tuple[str, Parameters]:
        """The statement of a change and its parameters, as the driver takes them."""
        prepared = self._prepared[type(change)]
        values = prepared.values(change)
        if prepared.order is None:
            return prepared.text, values
        return prepared.text, tuple([values[name] for name in prepared.order])

    def _put(self, shape: Shape) -> _Prepared:
        statement = _upsert(self._dialect.name, shape)
        return self._compiled(statement, _columns(shape), lambda change: shape.encode(change.row))

    def _drop(self, shape: Shape, key: str) -> _Prepared:
        statement = delete(shape.table).where(shape.table.c[key] == bindparam("key"))
        return self._compiled(statement, (), lambda change: {"key": getattr(change, key)})

    def _compiled(
        self, statement: ClauseElement, columns: tuple[str, ...], values: Callable[[Any], dict[str, Any]]
    ) -> _Prepared:
        keys = list(columns) or None
        compiled: Any = statement.compile(dialect=self._dialect, column_keys=keys)
        order = tuple(compiled.positiontup) if compiled.positional else None
        return _Prepared(str(compiled), values, order)


def _columns(shape: Shape) -> tuple[str, ...]:
    return (*shape.columns, "checksum") if "checksum" in shape.table.c else shape.columns


def _upsert(dialect: str, shape: Shape) -> Any:
    statement = _INSERT[dialect](shape.table)
    others = {name: statement.excluded[name] for name in (*shape.columns, "checksum") if name != shape.key}
    return statement.on_conflict_do_update(index_elements=[shape.key], set_=others)
