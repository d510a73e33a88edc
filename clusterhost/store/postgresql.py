"""PostgreSQL as the store: an advisory lock says who leads, the epoch makes sure of it.

Not through a pooler in transaction mode: the advisory lock belongs to the session.
"""

from __future__ import annotations

import time

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from clusterhost.model.errors import StoreUnavailable
from clusterhost.store.backend import PATIENCE
from clusterhost.store.errors import StoreDamaged, StoreInUse

_LOCK = int.from_bytes(b"clusterh")
"""Key of the advisory lock; PostgreSQL keeps keys apart by database."""

_MILLISECONDS = int(PATIENCE * 1000)
_OPTIONS = (
    f"-c statement_timeout={_MILLISECONDS} -c lock_timeout={_MILLISECONDS} -c synchronous_commit=on"
    f" -c idle_in_transaction_session_timeout={_MILLISECONDS} -c application_name=clusterhost"
    " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
)

_ENDING = 1.0
"""Seconds that a server may take to end the session of who has just closed it, and with it the lock."""
_DATA_CORRUPTED = "XX001"
_UNDEFINED = {"42703", "42P01", "42804"}
"""SQLSTATE of a column, a table or a type that is not as our schema has it."""


class PostgresqlBackend:
    """The database at `url` (postgresql+psycopg://...)."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.where = url.render_as_string(hide_password=True)
        self.begin = ""
        self._locked = False

    def prepare(self, wait: float) -> None:
        pass

    def engine(self, *, reader: bool = False) -> Engine:
        return create_engine(
            self._url,
            poolclass=NullPool,
            isolation_level="REPEATABLE READ" if reader else "READ COMMITTED",
            connect_args={
                "connect_timeout": 3,
                "tcp_user_timeout": _MILLISECONDS,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "options": _OPTIONS,
            },
        )

    def claim(self, connection: Connection, wait: float) -> None:
        deadline = time.monotonic() + max(wait, _ENDING)
        while not self._try_lock(connection):
            if time.monotonic() >= deadline:
                raise StoreInUse(
                    f"the database {self.where} is in use by another front end; only one may open it"
                )
            time.sleep(0.1)

    def before_change(self) -> None:
        pass

    def before_upgrade(self, revision: str) -> None:
        pass

    def after_commit(self, connection: Connection) -> None:
        # After a broken connection the server may think for a while that the old session still holds the
        # lock. The epoch keeps us safe without it; the lock only keeps others from taking over by mistake.
        if not self._locked:
            self._try_lock(connection)

    def explain(self, error: DBAPIError) -> StoreUnavailable:
        state = getattr(error.orig, "sqlstate", None)
        cause = " ".join(str(error.orig).split())
        if state == _DATA_CORRUPTED or state in _UNDEFINED:
            return self.damaged(cause)
        return StoreUnavailable(f"the database {self.where} cannot take a change now: {cause}")

    def release(self) -> None:
        self._locked = False

    def lost(self) -> None:
        """The session is gone, and the lock with it."""
        self._locked = False

    def damaged(self, found: str) -> StoreDamaged:
        """The sentence for an operator who has never seen this."""
        return StoreDamaged(
            f"the database {self.where} is damaged ({found}); with clusterhost stopped, restore it from a"
            " backup (pg_restore), or without one point [store] url at an empty database and run"
            " 'clusterhost init' and 'clusterhost node add' again:"
            " domains stay on their nodes and are found there"
        )

    def _try_lock(self, connection: Connection) -> bool:
        self._locked = bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})").scalar())
        connection.rollback()
        return self._locked
