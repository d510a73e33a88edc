"""SQLite as the store: one file, one front end.  WAL, synchronous=FULL, flock, integrity check at every
start."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from clusterhost.model.errors import StoreUnavailable
from clusterhost.reserve import reserve_log
from clusterhost.store import walcheck
from clusterhost.store.backend import PATIENCE
from clusterhost.store.backup import copy
from clusterhost.store.errors import StoreDamaged, StoreInUse

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
"""SQLITE_ERROR is a statement that does not fit the schema: ours always fit, so the schema was not read
right."""


class SqliteBackend:
    """The database at `path`; files beside it: -wal and -shm (SQLite's own) and .lock (ours)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        self.begin = "BEGIN IMMEDIATE"
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None
        self._reserved = False

    def prepare(self, wait: float) -> None:
        self.lock(wait)
        try:
            # Definitions hold passwords; SQLite gives -wal and -shm the mode of the file itself.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._identity = self._identify()
            log = Path(f"{self.path}-wal")
            found = walcheck.damage(log.read_bytes()) if log.exists() else ""
        except OSError as error:
            raise StoreUnavailable(f"cannot open the database {self.path}: {error.strerror}") from error
        if found:
            raise self.damaged(f"the log {log.name}: {found}")

    def lock(self, wait: float) -> None:
        """Keep others out, whatever state the file is in; StoreInUse."""
        try:
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot open the database {self.path}: {error.strerror}") from error
        self._flock(self._lock, wait)

    def engine(self, *, reader: bool = False) -> Engine:
        engine = create_engine(
            f"sqlite:///{self.path}",
            poolclass=NullPool,
            connect_args={"check_same_thread": False, "timeout": PATIENCE},
        )
        event.listen(engine, "connect", _set_up)
        begin = "BEGIN" if reader else self.begin
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def claim(self, connection: Connection, wait: float) -> None:
        found = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(3)")]
        connection.rollback()
        if found != ["ok"]:
            raise self.damaged("; ".join(" ".join(str(line).split()) for line in found))

    def before_change(self) -> None:
        # SQLite goes on writing into a file that was deleted or replaced, and everything is lost at its
        # close.
        if self._identify() != self._identity:
            raise StoreUnavailable(
                f"the database file {self.path} was removed or replaced while in use;"
                " put it back, or stop clusterhost and restore a backup"
            )

    def before_upgrade(self, revision: str) -> None:
        copy(self.path, Path(f"{self.path}.before-upgrade-from-{revision}"))

    def after_commit(self, connection: Connection) -> None:
        # After the first: before it the log may have no header yet.
        if not self._reserved:
            self._reserved = True
            reserve_log(self.path)

    def explain(self, error: DBAPIError) -> StoreUnavailable:
        cause = error.orig
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGE:
            return self.damaged(str(cause))
        return StoreUnavailable(f"the database {self.path} cannot take a change now: {cause}")

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def lost(self) -> None:
        pass

    def damaged(self, found: str) -> StoreDamaged:
        """The sentence for an operator who has never seen this."""
        name = self.path.name
        return StoreDamaged(
            f"the database {self.path} is damaged ({found}); with clusterhost stopped, put a backup in its"
            f" place by 'clusterhost restore', or without a backup move {name}, {name}-wal and {name}-shm away and"
            " run 'clusterhost init' and 'clusterhost node add' again (agents: a new token, no agent.key):"
            " domains stay on their nodes and are found there"
        )

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _flock(self, lock: int, wait: float) -> None:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
                self.release()
                raise StoreInUse(
                    f"the database {self.path} is in use by process {holder}; only one front end may open it"
                ) from None
            os.truncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    # None: the driver begins nothing by itself, so that changes of the schema are inside our transactions
    # too.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(PATIENCE * 1000)}"):
        connection.execute(f"PRAGMA {pragma}")
