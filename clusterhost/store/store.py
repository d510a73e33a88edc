"""The store as the use cases see it: open, load, write, journal, close.  Knows no SQL and no use case."""

from __future__ import annotations

import asyncio

from clusterhost.store.database import Database, backend_of
from clusterhost.store.rows import Change, Journal, Saved
from clusterhost.store.writer import Writer


class Store:
    """An open store.  epoch: rises with each open; a front end with a lower one can write nothing any
    more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = Writer(database.commit)
        self.epoch = database.epoch

    @classmethod
    async def open(cls, url: str, *, wait: float = 0.0, now: float = 0.0) -> Store:
        """Open, create or upgrade the database.

        url: sqlite:////path/to/file or postgresql+psycopg://...; wait: seconds to wait for another front end to go.
        now: seconds since 1970; the numbers of a new database go on from there, as it may stand for one that is lost,
        and agents obey none lower than those that they have seen.  Errors: StoreInUse, StoreDamaged (its text says
        what to do), StoreUnavailable, InvalidArgument (the URL)."""
        database = Database(backend_of(url))
        await asyncio.to_thread(database.open, wait)
        if database.epoch == 1 and now:
            await asyncio.to_thread(database.outlive, int(now), int(now * 1000))
        return cls(database)

    async def load(self) -> Saved:
        """Everything that is kept, but for the journal; StoreDamaged when a row is not what was written."""
        return await asyncio.to_thread(self._database.load)

    async def write(self, *changes: Change) -> None:
        """One transaction: when this returns, all of them are durable.

        StoreUnavailable (within 5 s): not written, or, when its text says so, not known.  Superseded: another
        front end took over.  InvalidArgument: a value that cannot be stored."""
        if changes:
            await self._writer.write(changes)

    async def journal(self, limit: int = 100, object: str | None = None) -> list[Journal]:
        """The newest lines of the audit journal (of one object), newest first."""
        return await asyncio.to_thread(self._database.journal, limit, object)

    async def close(self) -> None:
        """Write what is queued and let go of the database."""
        await self._writer.close()
        await asyncio.to_thread(self._database.close)
