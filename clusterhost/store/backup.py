"""Copy a SQLite database while it is in use.  Needs no lock and no stop: a reader among others."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy import make_url

from clusterhost.model.errors import InvalidArgument, StoreUnavailable


def backup(url: str, target: Path) -> int:
    """Write a whole, checked copy to `target` (mode 0600, replaced at once or not at all); return its bytes.

    InvalidArgument for a database that has tools of its own, StoreUnavailable when it cannot be read or
    written. To restore: stop clusterhost, put the copy where the database was, remove its -wal and -shm,
    start.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise InvalidArgument(
            f"only a SQLite database is copied here, this is {parsed.get_backend_name()}: use pg_dump"
        )
    return copy(Path(parsed.database), target)


def copy(source: Path, target: Path) -> int:
    """As `backup`, by path."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        _copy(source, partial)
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
        return target.stat().st_size
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"cannot copy the database {source} to {target}: {error}") from error


def _copy(source: Path, partial: Path) -> None:
    reading = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    try:
        writing = sqlite3.connect(partial)
        try:
            reading.backup(writing)
            # Without it the copy would want a -wal of its own as soon as somebody looks at it.
            writing.execute("PRAGMA journal_mode=DELETE")
            found = writing.execute("PRAGMA integrity_check(1)").fetchone()[0]
        finally:
            writing.close()
    finally:
        reading.close()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is not whole: {found}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
