"""Work that takes longer than a call, as operators see it: kept in the store, with progress."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from clusterhost.model.errors import ClusterError, JobNotFound
from clusterhost.service.ledger import Counter, Ledger
from clusterhost.service.locks import Tasks
from clusterhost.service.ports import Progress
from clusterhost.store.rows import JobRow, PutJob

KEPT = 200
"""Finished jobs shown."""
T = TypeVar("T")


class Jobs:
    """Runs and remembers them."""

    def __init__(self, ledger: Ledger, tasks: Tasks, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._clock = clock
        self._rows: dict[int | str, JobRow] = {}
        self._numbers = Counter("next_job", 1, ledger.note, block=0)

    def load(self) -> None:
        """What was under way when the last front end ended is over."""
        self._numbers.value = int(self._ledger.meta.get("next_job", "1"))
        for row in self._ledger.jobs.values():
            if row.finished is None:
                row = replace(row, state="interrupted", finished=self._clock())
                self._ledger.note(PutJob(row))
            self._rows[row.id] = row

    def rows(self) -> list[JobRow]:
        """Newest first."""
        return sorted(self._rows.values(), key=lambda row: row.started, reverse=True)[:KEPT]

    def show(self, number: int | str) -> JobRow:
        """One job; JobNotFound."""
        for row in self._rows.values():
            if str(row.id) == str(number):
                return row
        raise JobNotFound(f"no job {number}")

    async def run(
        self,
        kind: str,
        object_: str,
        work: Callable[[Progress], Awaitable[T]],
        progress: Progress,
    ) -> T:
        """Do `work` to its end, whoever waits for it."""
        row = JobRow(self._numbers.take(), kind, object_, "running", started=self._clock())
        self._keep(row)
        return await self._tasks.finish(self._run(row.id, work, progress), f"{kind} {object_}")

    async def _run(
        self, number: int | str, work: Callable[[Progress], Awaitable[T]], progress: Progress
    ) -> T:
        def tell(done: int, total: int, text: str) -> None:
            # Progress is for those who look now; the store gets it when the job ends.
            self._rows[number] = replace(self._rows[number], done=done, total=total, text=text)
            progress(done, total, text)

        try:
            result = await work(tell)
        except ClusterError as error:
            self._keep(replace(self._rows[number], state="failed", text=str(error), finished=self._clock()))
            raise
        self._keep(replace(self._rows[number], state="done", finished=self._clock()))
        return result

    def _keep(self, row: JobRow) -> None:
        self._rows[row.id] = row
        self._ledger.note(PutJob(row))
