"""What this agent was ordered to do, kept on disk: operations, generations of domains, epoch, incarnation.

SQLite with synchronous=FULL in a thread of its own; everything that waits goes into one transaction.  What is
asked often is mirrored in memory.  Knows no libvirt.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusterhost.reserve import reserve_log

log = logging.getLogger(__name__)

KEPT_SECONDS = 24 * 3600
_ENDED_SECONDS = 0.05
"""How long the end of an operation may wait for a commit: it saves one for each operation in a row."""

Statement = tuple[str, tuple[object, ...]]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS operation (
    op TEXT PRIMARY KEY, started REAL NOT NULL, finished INTEGER NOT NULL DEFAULT 0,
    kind TEXT NOT NULL DEFAULT '', message BLOB NOT NULL DEFAULT x'', payload BLOB NOT NULL DEFAULT x'');
CREATE TABLE IF NOT EXISTS generation (uuid BLOB PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation ended with: an encoded control message (a repeat gets its own id) and a payload."""

    message: bytes
    payload: bytes


@dataclass(slots=True)
class _Job:
    statements: list[Statement]
    then: Callable[[str], None] | None


class OpTable:
    """`then` callbacks run on the loop: an error text, or "" once it is on the disk."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._loop = loop
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        connection = self._connect()
        with connection:
            connection.executescript(_SCHEMA)
            connection.execute("DELETE FROM operation WHERE started < ?", (time.time() - KEPT_SECONDS,))
            bump = (
                "INSERT INTO meta VALUES ('incarnation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
            )
            connection.execute(bump)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        self.incarnation: int = meta["incarnation"]
        self.epoch: int = meta.get("epoch", 0)
        self._generations: dict[bytes, int] = dict(connection.execute("SELECT uuid, number FROM generation"))
        finished = connection.execute("SELECT op, message, payload, started FROM operation WHERE finished")
        self._finished = {op: (Outcome(message, payload), when) for op, message, payload, when in finished}
        connection.close()
        self.failing = False
        """The last write did not succeed."""
        self._ended: list[Statement] = []
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._write, name="optable", daemon=True)
        self._thread.start()

    def outcome(self, op: str) -> Outcome | None:
        """What the operation ended with, None when it did not end (as far as we know)."""
        found = self._finished.get(op)
        return found[0] if found is not None else None

    def generation(self, uuid: bytes) -> int:
        """The highest generation ordered for a domain, 0 when none was."""
        return self._generations.get(uuid, 0)

    def begin(self, op: str, uuid: bytes | None, generation: int, then: Callable[[str], None]) -> None:
        """Record that an operation starts, before it does."""
        statements: list[Statement] = []
        if op:
            statements.append(
                ("INSERT OR REPLACE INTO operation (op, started) VALUES (?, ?)", (op, time.time()))
            )
        if uuid is not None and generation > self.generation(uuid):
            self._generations[uuid] = generation
            statements.append(("INSERT OR REPLACE INTO generation VALUES (?, ?)", (uuid, generation)))
        if statements:
            # One commit for what begins and for what has ended meanwhile.
            self._jobs.put(_Job(self._take_ended() + statements, then))
        else:
            then("")

    def finish(self, op: str, kind: str, outcome: Outcome) -> None:
        """Record how it ended.  Not waited for.

        A repeat is answered from memory.  After a crash of this agent and the front end both it is done again,
        and libvirtd answers for the state it finds."""
        self._finished[op] = outcome, time.time()
        statement = "UPDATE operation SET finished = 1, kind = ?, message = ?, payload = ? WHERE op = ?"
        self._ended.append((statement, (kind, outcome.message, outcome.payload, op)))
        if self._timer is None:
            self._timer = self._loop.call_later(_ENDED_SECONDS, self._write_ended)

    def obey(self, epoch: int) -> None:
        """Record the epoch of the front end that is obeyed."""
        self.epoch = epoch
        self._jobs.put(_Job([("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))], None))

    def prune(self) -> None:
        """Forget operations older than a day."""
        self._jobs.put(
            _Job([("DELETE FROM operation WHERE started < ?", (time.time() - KEPT_SECONDS,))], None)
        )

    def close(self) -> None:
        """Write what waits and stop."""
        self._write_ended()
        self._jobs.put(None)
        self._thread.join(timeout=10)

    def _take_ended(self) -> list[Statement]:
        ended, self._ended = self._ended, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return ended

    def _write_ended(self) -> None:
        if ended := self._take_ended():
            self._jobs.put(_Job(ended, None))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _write(self) -> None:
        connection = self._connect()
        with connection:
            connection.execute("UPDATE meta SET value = value")  # the log is there, and has a header
        reserve_log(self._path)
        going = True
        while going:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if self._jobs.empty():
                    break
                job = self._jobs.get()
            going = job is not None
            self._commit(connection, jobs)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        error = ""
        try:
            with connection:
                for job in jobs:
                    for statement, values in job.statements:
                        connection.execute(statement, values)
        except sqlite3.Error as failure:
            error = f"the operation cannot be recorded: {failure}"
            log.error(error)
        self.failing = bool(error)
        callbacks = [job.then for job in jobs if job.then is not None]
        if callbacks:
            self._loop.call_soon_threadsafe(_tell_all, callbacks, error)


def _tell_all(callbacks: list[Callable[[str], None]], error: str) -> None:
    for then in callbacks:
        then(error)
