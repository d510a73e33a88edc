"""What the store holds, kept in memory, and the only way to change it.  Knows rows; no libvirt, no nodes.

`note` is for what nodes told us (written soon, in order, again until it succeeds); `commit` and `intend` are
for what we promise (durable when they return).  One writer, so changes reach the store in the order they were
made; everything that waits goes out as one transaction.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import structlog

from clusterhost.model.errors import ClusterError
from clusterhost.service.leasetable import LeaseTable
from clusterhost.store.errors import Superseded
from clusterhost.store.rows import (
    Change,
    DomainRow,
    DropDomain,
    DropIntent,
    DropLease,
    DropNetwork,
    DropNode,
    DropPool,
    DropVolume,
    Intent,
    JobRow,
    Journal,
    NetworkRow,
    NodeRow,
    PoolRow,
    PutDomain,
    PutIntent,
    PutJob,
    PutLease,
    PutNetwork,
    PutNode,
    PutPool,
    PutVolume,
    SetMeta,
    VolumeRow,
)
from clusterhost.store.store import Store

NOTE_DELAY = 0.05
"""Seconds that a note may wait for company."""
RETRY_DELAY = 1.0
"""Seconds until a failed write is tried again."""
BLOCK = 1000
"""Numbers reserved in the store at a time, so that taking one is synchronous.  A counter with block 0 reserves
none: its numbers have no gaps, and are on record with the change that uses them."""

log = structlog.get_logger("clusterhost.ledger")


class Counter:
    """Numbers that are never given twice, also over a crash.  `reserved` is what the store holds."""

    def __init__(self, name: str, value: int, note: Callable[[Change], None], block: int = BLOCK) -> None:
        self.name = name
        self.block = block
        self.value = value
        self.reserved = value
        self._note = note

    def take(self) -> int:
        """The next number."""
        taken = self.value
        self.value += 1
        self._reserve()
        return taken

    def at_least(self, value: int) -> None:
        """Go on from `value` or higher (somebody else has seen such a number)."""
        if value > self.value:
            self.value = value
            self._reserve()

    def _reserve(self) -> None:
        if self.value + self.block // 2 > self.reserved:
            self.reserved = self.value + self.block
            self._note(SetMeta(self.name, str(self.reserved)))


class Ledger:
    """Rows by key.  Everything here is what the store holds or will hold as soon as it can be written."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.store = store
        self.clock = clock
        self.meta: dict[str, str] = {}
        self.nodes: dict[str, NodeRow] = {}
        self.domains: dict[bytes, DomainRow] = {}
        self.intents: dict[str, Intent] = {}
        self.jobs: dict[str, JobRow] = {}
        self.networks: dict[bytes, NetworkRow] = {}
        self.leases = LeaseTable()
        self.pools: dict[bytes, PoolRow] = {}
        self.volumes: dict[str, VolumeRow] = {}
        self._pending: dict[object, Change] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._kick = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.superseded = asyncio.Event()
        """Another front end took over: stop."""
        self.failing = False
        """The last write did not succeed."""
        self._serial = 0
        self.ids = Counter("next_id", 1, self.note)
        self.generations = Counter("next_generation", 1, self.note)
        self.cells = Counter("next_cell", 0, self.note, block=0)

    async def open(self) -> None:
        """Load everything and start the writer."""
        saved = await self.store.load()
        self.meta = dict(saved.meta)
        self.nodes = {row.name: row for row in saved.nodes}
        self.domains = {row.uuid: row for row in saved.domains}
        self.intents = {row.op: row for row in saved.intents}
        self.jobs = {str(row.id): row for row in saved.jobs}
        self.networks = {row.uuid: row for row in saved.networks}
        self.leases = LeaseTable(saved.leases)
        self.pools = {row.uuid: row for row in saved.pools}
        self.volumes = {row.key: row for row in saved.volumes}
        self.ids = Counter("next_id", int(self.meta.get("next_id", "1")), self.note)
        highest = max((row.generation for row in saved.domains), default=0)
        generation = max(highest + 1, int(self.meta.get("next_generation", "1")))
        self.generations = Counter("next_generation", generation, self.note)
        self.cells = Counter("next_cell", int(self.meta.get("next_cell", "0")), self.note, block=0)
        self._writer = asyncio.create_task(self._write_forever(), name="ledger-writer")

    def cell_for(self, node: str) -> int:
        """A new node's cell: the one that it had before under its name, else one that nobody ever had."""
        kept = self.meta.get(f"cell {node}", "")
        return int(kept) if kept else self.cells.take()

    def cell_kept(self, node: str) -> SetMeta:
        """Goes with a node's row: definitions that name its cell mean it again when it comes back."""
        return SetMeta(f"cell {node}", str(self.nodes[node].cell))

    def underlay(self, node: str) -> str:
        """Where a node's VXLAN links were last said to be; "" for nowhere.  Kept: peers are needed before it speaks."""
        return self.meta.get(f"underlay {node}", "")

    def underlay_mtu(self, node: str) -> int:
        """What the link there carried, in bytes; 0 when it was never said."""
        return int(self.meta.get(f"underlay mtu {node}") or 0)

    def note_underlay(self, node: str, address: str, mtu: int) -> None:
        """Keep both."""
        self.note(SetMeta(f"underlay {node}", address), SetMeta(f"underlay mtu {node}", str(mtu)))

    def takes_over(self, node: str) -> bool:
        """Whether the cluster's networks go before the node's own of the same names."""
        return bool(self.meta.get(f"take over {node}"))

    async def close(self) -> None:
        """Write what is left, give back reserved numbers, stop."""
        for counter in (self.ids, self.generations, self.cells):
            self.note(SetMeta(counter.name, str(counter.value)))
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._flush()

    # -- changing

    def note(self, *changes: Change) -> None:
        """Take it into memory now and into the store soon."""
        for change in changes:
            self._take(change)
        if self._writer is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(NOTE_DELAY, self._due)

    def hurry(self) -> None:
        """Write what was noted now."""
        self._kick.set()

    def _due(self) -> None:
        self._timer = None
        self._kick.set()

    async def commit(self, *changes: Change) -> None:
        """Durable when it returns.  StoreUnavailable: kept in memory and tried again, but not promised
        yet."""
        for change in changes:
            self._take(change)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._kick.set()
        await waiter

    async def intend(self, intent: Intent, *changes: Change) -> None:
        """Durable intent before an act.  StoreUnavailable: the intent is withdrawn; do not act."""
        try:
            await self.commit(PutIntent(intent), *changes)
        except ClusterError:
            self.note(DropIntent(intent.op))
            raise

    async def settle(self, op: str, *changes: Change) -> None:
        """The result of an act and the end of its intent, in one transaction."""
        await self.commit(*changes, DropIntent(op))

    def journal(
        self, kind: str, object_: str, who: str, text: str, data: dict[str, object] | None = None
    ) -> Journal:
        """An audit line as a change (to be noted or committed with what it tells of)."""
        return Journal(
            time=self.clock(), kind=kind, object=object_, who=who, text=text, data=json.dumps(data or {})
        )

    # -- asking

    def pinned(self, uuid: bytes) -> bool:
        """A change of node is not resolved yet: what is recorded stays."""
        return any(
            intent.uuid == uuid and intent.kind in ("move", "migrate") for intent in self.intents.values()
        )

    def change_domain(self, uuid: bytes, **changes: object) -> PutDomain:
        """The domain's row with these fields changed."""
        return PutDomain(replace(self.domains[uuid], **changes))  # type: ignore[arg-type]

    # -- within

    def _take(self, change: Change) -> None:
        key: object
        match change:
            case PutNode(row):
                key, self.nodes[row.name] = ("node", row.name), row
            case DropNode(name):
                key = ("node", name)
                self.nodes.pop(name, None)
            case _:
                key = self._take_domain(change)
        self._pending.pop(key, None)
        self._pending[key] = change

    def _take_domain(self, change: Change) -> object:
        match change:
            case PutDomain(row):
                self.domains[row.uuid] = row
                return ("domain", row.uuid)
            case DropDomain(uuid):
                self.domains.pop(uuid, None)
                return ("domain", uuid)
            case PutIntent(row):
                self.intents[row.op] = row
                return ("intent", row.op)
            case DropIntent(op):
                self.intents.pop(op, None)
                return ("intent", op)
            case _:
                return self._take_network(change)

    def _take_network(self, change: Change) -> object:
        match change:
            case PutNetwork(row):
                self.networks[row.uuid] = row
                return ("network", row.uuid)
            case DropNetwork(uuid):
                self.networks.pop(uuid, None)
                return ("network", uuid)
            case PutLease(row):
                self.leases.put(row)
                return ("lease", row.key)
            case DropLease(key):
                self.leases.drop(key)
                return ("lease", key)
            case _:
                return self._take_storage(change)

    def _take_storage(self, change: Change) -> object:
        match change:
            case PutPool(row):
                self.pools[row.uuid] = row
                return ("pool", row.uuid)
            case DropPool(uuid):
                self.pools.pop(uuid, None)
                return ("pool", uuid)
            case PutVolume(row):
                self.volumes[row.key] = row
                return ("volume", row.key)
            case DropVolume(key):
                self.volumes.pop(key, None)
                return ("volume", key)
            case _:
                return self._take_other(change)

    def _take_other(self, change: Change) -> object:
        match change:
            case PutJob(row):
                self.jobs[str(row.id)] = row
                return ("job", row.id)
            case SetMeta(name, value):
                self.meta[name] = value
                return ("meta", name)
            case _:
                self._serial += 1
                return ("journal", self._serial)

    async def _write_forever(self) -> None:
        while True:
            await self._kick.wait()
            self._kick.clear()
            if not await self._flush():
                asyncio.get_running_loop().call_later(RETRY_DELAY, self._kick.set)

    async def _flush(self) -> bool:
        while self._pending or self._waiting:
            batch, self._pending = self._pending, {}
            waiting, self._waiting = self._waiting, []
            try:
                if batch:
                    await self.store.write(*batch.values())
            except ClusterError as error:
                if isinstance(error, Superseded):
                    self.superseded.set()
                self.failing = True
                log.warning("the store takes no changes", reason=str(error), waiting=len(batch))
                self._pending = batch | self._pending
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_exception(error)
                return False
            self.failing = False
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        return True
