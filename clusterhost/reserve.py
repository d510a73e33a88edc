"""A write-ahead log of SQLite that need not grow.  Knows no table."""

from __future__ import annotations

import os
from pathlib import Path

LOG_SIZE = 1030 * (4096 + 24) + 32
"""Bytes: what the log comes to before SQLite writes it from its start again (after 1000 pages)."""


def reserve_log(database: Path) -> None:
    """Fill up the log of an open database with zeros, which SQLite takes for its end.

    A sync of a file that has grown waits for the file system's journal, and so for what everybody else writes;
    a sync of bytes that were there already does not.  Where there is no room, it grows as ever."""
    try:
        log = os.open(f"{database}-wal", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        before = size = os.fstat(log).st_size
        try:
            while size < LOG_SIZE:
                size += os.pwrite(log, bytes(LOG_SIZE - size), size)
            os.fsync(log)
        except OSError:
            os.ftruncate(log, before)
    finally:
        os.close(log)
