"""Open, fence, commit, read: all that blocks.  Knows neither asyncio nor threads; one caller at a time for
changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, make_url, select
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, StatementError

from clusterhost.model.errors import InvalidArgument
from clusterhost.store import schema, tables
from clusterhost.store.backend import Backend
from clusterhost.store.crash import crash_point
from clusterhost.store.errors import StoreDamaged, Superseded
from clusterhost.store.postgresql import PostgresqlBackend
from clusterhost.store.rows import Change, Journal, Saved, SetMeta
from clusterhost.store.sqlite import SqliteBackend
from clusterhost.store.statements import Statements

JOURNAL_KEPT = 200_000
"""Lines of the journal that survive a start."""

_REFUSED = (IntegrityError, DataError, StatementError, UnicodeError, OverflowError, ValueError, TypeError)
"""What one change can be guilty of: a value that no row can hold.  DBAPIError is a StatementError: sorted out
first."""


def backend_of(url: str) -> Backend:
    """The backend of a URL: sqlite:///ABSOLUTE/PATH or postgresql+psycopg://...; InvalidArgument."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidArgument(f"'{url}' is not the URL of a database") from None
    if parsed.drivername == "sqlite" and parsed.database and Path(parsed.database).is_absolute():
        return SqliteBackend(Path(parsed.database))
    if parsed.drivername == "postgresql+psycopg":
        return PostgresqlBackend(parsed)
    shown = parsed.render_as_string(hide_password=True)
    raise InvalidArgument(
        f"database '{shown}': allowed are sqlite:////path/to/file and postgresql+psycopg://..."
    )


class Database:
    """An open database.  `epoch` rose by one at its open; each transaction makes sure that it is still the
    highest."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._writing: Engine = backend.engine()
        self._reading: Engine = backend.engine(reader=True)
        self._statements = Statements(self._writing.dialect)
        self._errors: Any = self._writing.dialect.loaded_dbapi.Error
        self._connection: Connection | None = None
        self._superseded = ""
        self.epoch = 0

    def open(self, wait: float) -> None:
        """Take the database, check it, upgrade it, raise the epoch.  StoreUnavailable and its kinds."""
        self._backend.prepare(wait)
        try:
            with self._explained():
                self._connection = self._writing.connect()
                self._backend.claim(self._connection, wait)
                schema.ensure(self._connection, self._backend)
                self._raise_epoch(self._connection)
        except BaseException:
            self.close()
            raise

    def commit(self, batch: Sequence[Sequence[Change]]) -> None:
        """All changes of all members of the batch, or nothing.

        InvalidArgument: one of them holds a value that cannot be stored.  Superseded: for ever.
        StoreUnavailable: not now (when the connection breaks while it commits, it is not known whether it
        did)."""
        if self._superseded:
            raise Superseded(self._superseded)
        self._backend.before_change()
        with self._explained():
            connection = self._connected()
            leads = self._write(connection, batch)
            if not leads:
                self._supersede(connection)
            crash_point("store.after_commit")
            self._backend.after_commit(connection)

    def load(self) -> Saved:
        """Everything, as one consistent state; StoreDamaged when a row is not what was written."""
        with self._explained(), self._reading.connect() as connection, connection.begin():
            return Saved(
                meta={row.key: row.value for row in _all(connection, tables.META_ROW)},
                nodes=list(_all(connection, tables.NODE)),
                domains=list(_all(connection, tables.DOMAIN)),
                intents=list(_all(connection, tables.INTENT)),
                jobs=list(_all(connection, tables.JOB)),
                networks=list(_all(connection, tables.NETWORK)),
                leases=list(_all(connection, tables.LEASE)),
                pools=list(_all(connection, tables.POOL)),
                volumes=list(_all(connection, tables.VOLUME)),
            )

    def journal(self, limit: int, about: str | None) -> list[Journal]:
        """The newest lines, newest first."""
        query = select(tables.JOURNAL).order_by(tables.JOURNAL.c.id.desc()).limit(limit)
        if about is not None:
            query = query.where(tables.JOURNAL.c.object == about)
        with self._explained(), self._reading.connect() as connection:
            return [tables.JOURNAL_ROW.decode(row) for row in connection.execute(query).mappings()]

    def outlive(self, epoch: int, generation: int) -> None:
        """Come after whatever another database of this cluster gave out: agents obey no lower epoch, and refuse lower
        generations.  What was under way then is forgotten: what came of it, the nodes tell."""
        with self._explained():
            connection = self._connected()
            with connection.begin():
                self.epoch = max(epoch, self.epoch)
                leader = tables.LEADER_ROW.encode(tables.LeaderRow(1, self.epoch))
                connection.execute(self._statements.set_leader, leader)
                connection.execute(delete(tables.INTENTS))
        saved = self.load()
        highest = max([generation, *(row.generation + 1 for row in saved.domains)])
        known = int(saved.meta.get("next_generation", "1"))
        self.commit([[SetMeta("next_generation", str(max(highest, known)))]])

    def close(self) -> None:
        """Let go of it; never fails."""
        self._disconnect()
        self._writing.dispose()
        self._reading.dispose()
        self._backend.release()

    def _raise_epoch(self, connection: Connection) -> None:
        with connection.begin():
            self.epoch = self._leading(connection) + 1
            values = tables.LEADER_ROW.encode(tables.LeaderRow(1, self.epoch))
            connection.execute(self._statements.set_leader, values)
            newest = connection.execute(select(func.max(tables.JOURNAL.c.id))).scalar() or 0
            connection.execute(delete(tables.JOURNAL).where(tables.JOURNAL.c.id <= newest - JOURNAL_KEPT))

    def _leading(self, connection: Connection) -> int:
        # Shared with nobody who raises it: a take-over waits for our transaction, and ours for a take-over.
        row = connection.execute(select(tables.LEADER).with_for_update(read=True)).mappings().first()
        return 0 if row is None else int(tables.LEADER_ROW.decode(row).epoch)

    def _write(self, connection: Connection, batch: Sequence[Sequence[Change]]) -> bool:
        """One transaction; False, and nothing is written, when our epoch is not the highest.

        By the driver alone: every caller waits for this, and SQLAlchemy's part of it would take longer than
        the database's."""
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        try:
            if self._backend.begin:
                cursor.execute(self._backend.begin)
            leads = bool(cursor.execute(self._statements.epoch).fetchone() == (self.epoch,))
            if leads:
                for changes in batch:
                    for change in changes:
                        cursor.execute(*self._statements.of(change))
                crash_point("store.before_commit")
                driver.commit()
            else:
                driver.rollback()
        except self._errors as error:
            self._roll_back(driver)
            broken = self._writing.dialect.is_disconnect(error, driver, cursor)
            raise DBAPIError.instance(
                None, None, error, self._errors, connection_invalidated=broken, dialect=self._writing.dialect
            ) from error
        except BaseException:
            self._roll_back(driver)
            raise
        return leads

    def _roll_back(self, driver: Any) -> None:
        with suppress(self._errors):  # a connection that broke has nothing to roll back
            driver.rollback()

    def _supersede(self, connection: Connection) -> None:
        with connection.begin():
            found = self._leading(connection)
        self._superseded = (
            f"another front end took the database {self._backend.where} over"
            f" (its epoch is {found}, ours {self.epoch}); this one must stop"
        )
        raise Superseded(self._superseded)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._writing.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except DBAPIError:
                connection.invalidate()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError) as error:
            raise InvalidArgument(f"cannot be stored: {' '.join(str(error.orig).split())}") from error
        except DBAPIError as error:
            self._disconnect_broken(error)
            raise self._backend.explain(error) from error
        except StoreDamaged as error:
            raise self._backend.damaged(str(error)) from error
        except _REFUSED as error:
            raise InvalidArgument(f"cannot be stored: {error}") from error

    def _disconnect_broken(self, error: DBAPIError) -> None:
        connection = self._connection
        if connection is not None and (error.connection_invalidated or connection.invalidated):
            self._disconnect()
            self._backend.lost()


def _all(connection: Connection, shape: tables.Shape) -> Iterator[Any]:
    query = select(shape.table).order_by(shape.table.c[shape.key])
    return (shape.decode(row) for row in connection.execute(query).mappings())
