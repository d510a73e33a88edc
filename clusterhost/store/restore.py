"""Put a backup in the place of a SQLite database that is lost or damaged.  Nobody may have it open."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from clusterhost.model.errors import InvalidArgument, StoreUnavailable
from clusterhost.store.backend import Backend
from clusterhost.store.backup import copy
from clusterhost.store.database import Database, backend_of
from clusterhost.store.errors import StoreDamaged
from clusterhost.store.sqlite import SqliteBackend

_PARTS = ("", "-wal", "-shm")
"""A database, its log, and the index of the log."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What is there now.  kept: where the database that was there before went, None when there was none."""

    database: str
    kept: Path | None
    epoch: int
    nodes: int
    domains: int


def restore(url: str, source: Path, now: float) -> Restored:
    """Check the backup `source`, bring it to this version's schema and put it in place at once or not at all.

    now: seconds since 1970; epoch and generations go on from there, as agents obey none that is lower than what
    they have seen of the lost database.  Errors: StoreInUse (a front end runs), StoreDamaged (the backup is),
    InvalidArgument (no SQLite), StoreUnavailable."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise InvalidArgument(
            f"only a SQLite database is restored here, this is {parsed.get_backend_name()}: use pg_restore"
        )
    path = Path(parsed.database)
    if source.resolve() == path.resolve():
        raise InvalidArgument(f"{source} is the database itself, not a backup of it")
    backend = SqliteBackend(path)
    backend.lock(0.0)
    try:
        return _restore(path, source, now)
    finally:
        backend.release()


def renumber(url: str, now: float) -> Restored:
    """The same for a database that was put in place by other means (pg_restore): number on, forget what was under
    way.  Errors as of `restore`."""
    epoch, nodes, domains = _prepare(backend_of(url), now)
    return Restored(make_url(url).render_as_string(hide_password=True), None, epoch, nodes, domains)


def _restore(path: Path, source: Path, now: float) -> Restored:
    staged = path.with_name(f"{path.name}.restored")
    try:
        _remove(staged)
        _look(source)
        copy(source, staged)
        try:
            epoch, nodes, domains = _prepare(SqliteBackend(staged), now)
        except StoreDamaged as error:
            found = str(error).partition(";")[0].replace(str(staged), str(source))
            raise StoreDamaged(f"{found}: nothing was restored") from error
        kept = _put_aside(path)
        staged.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise StoreUnavailable(f"cannot put {source} in the place of {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            _remove(staged)
    return Restored(str(path), kept, epoch, nodes, domains)


def _look(source: Path) -> None:
    """It is a database of ours; its rows are read later."""
    try:
        connection = sqlite3.connect(f"file:{source.absolute()}?mode=ro", uri=True)
        try:
            found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{source} is not a backup that can be read: {error}") from error
    if not {"alembic_version", "leader", "domains"} <= found:
        raise InvalidArgument(f"{source} is a database, but none of clusterhost")


def _prepare(backend: Backend, now: float) -> tuple[int, int, int]:
    """Upgrade it, read every row, number on."""
    database = Database(backend)
    database.open(0.0)
    try:
        database.outlive(int(now), int(now * 1000))
        saved = database.load()
    finally:
        database.close()
    return database.epoch, len(saved.nodes), len(saved.domains)


def _put_aside(path: Path) -> Path | None:
    """What is there may be wanted: it goes away under one new name, log and all."""
    if not path.exists():
        _remove(path)  # a log without its database would be taken for the new one's
        return None
    kept = path.with_name(f"{path.name}.before-restore")
    _remove(kept)
    for part in _PARTS:
        with suppress(FileNotFoundError):
            Path(f"{path}{part}").replace(f"{kept}{part}")
    return kept


def _remove(path: Path) -> None:
    for part in _PARTS:
        Path(f"{path}{part}").unlink(missing_ok=True)
    if path.suffix == ".restored":
        Path(f"{path}.lock").unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
