"""Keeps the names outside as they are wanted: at once, after failures, and against drift.  Knows no networks.

What waits while a server is away is no list of changes: it is what is wanted, of which the newest counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from netmgr.names.plan import Update, after, is_ours, steps_to
from netmgr.names.records import Nodes, in_zone, is_in
from netmgr.names.update import BATCH, Connection, Server, ServerRefused, ServerUnreachable, TransferRefused

log = logging.getLogger(__name__)

RESYNC = 60.0
"""Seconds between two looks for drift: one question each for a zone that did not change."""
_FIRST, _LONGEST, _WAITING = 1.0, 60.0, 10.0
"""Waits after a failure, in seconds: doubled each time, up to the longest, which is less while names wait."""
_PASSES = 3
"""How often a zone is read again in one round, when somebody changes it at the same time."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the names outside are.  Times are seconds since the epoch, 0 for never.

    pending: names that are not yet as wanted; error, since: why, and since when; taken: wanted names that are somebody
    else's; names: how many are wanted; synced: when all was last known to be right, but for those taken."""

    pending: int = 0
    error: str = ""
    since: float = 0.0
    taken: tuple[str, ...] = ()
    names: int = 0
    synced: float = 0.0


@dataclass(slots=True)
class _Zone:
    """What we know of a zone.  actual None: must be read.  serial 0: changed since, by us for one.  known: names that
    may be ours, for servers that refuse transfers."""

    name: str
    actual: Nodes | None = None
    serial: int = 0
    known: set[str] = field(default_factory=set)
    taken: tuple[str, ...] = ()
    pending: int = 0
    error: str = ""


def pause(failures: int, *, waiting: bool) -> float:
    """Seconds until a server is asked again after so many failures in a row; waiting: names are not yet as wanted."""
    return min(_FIRST * 2.0 ** min(failures - 1, 10), _WAITING if waiting else _LONGEST)


class Names:
    """The names of a cluster in the zones of one server.

    owner: the cluster's uuid; clock: seconds since the epoch; told: called when what stands in the way has changed."""

    def __init__(
        self,
        server: Server,
        zones: Sequence[str],
        owner: str,
        clock: Callable[[], float],
        *,
        resync: float = RESYNC,
        told: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self._server = server
        # Reverse zones last: by then it is known which names they may lead to.
        self._zones = {zone: _Zone(zone) for zone in sorted(zones, key=lambda zone: is_in(zone, "arpa."))}
        self._owner = owner
        self._clock = clock
        self._resync = resync
        self._told = told
        self._wanted: Nodes | None = None
        self._changed = asyncio.Event()
        self._failures = 0
        self._status = Status()

    @property
    def status(self) -> Status:
        """As of the last attempt; after a change, with what waits."""
        return self._status

    def changed(self, wanted: Nodes) -> None:
        """These names are wanted now, and no others; done by run()."""
        if wanted == self._wanted:
            return
        self._wanted = dict(wanted)
        self._changed.set()
        pending = sum(self._missing(zone, self._wanted) for zone in self._zones.values())
        self._status = replace(self._status, names=len(wanted), pending=pending)

    async def run(self) -> None:
        """For ever; touches nothing before changed() was called first."""
        await self._changed.wait()
        while True:
            self._changed.clear()
            await self.sync()
            await self._pause()

    async def sync(self) -> Status:
        """One round: look, and make right what is not.  Not together with run()."""
        wanted = self._wanted
        if wanted is None:
            return self._status
        try:
            await asyncio.to_thread(self._round, wanted)
        except Exception as oddity:
            # The edge of a task that nobody watches: what nobody thought of shows in the status and is tried again.
            log.exception("names outside")
            for zone in self._zones.values():
                self._fail(zone, wanted, f"{type(oddity).__name__}: {oddity}")
        zones = self._zones.values()
        error = next((zone.error for zone in zones if zone.error), "")
        self._failures = self._failures + 1 if error else 0
        now, old = self._clock(), self._status
        self._status = Status(
            pending=sum(zone.pending for zone in zones),
            error=error,
            since=(old.since if old.error else now) if error else 0.0,
            taken=tuple(sorted(name for zone in zones for name in zone.taken)),
            names=len(wanted),
            synced=old.synced if error else now,
        )
        self._tell(old)
        return self._status

    async def _pause(self) -> None:
        """Until something is wanted, or it is time to look.  A server that is away is hardly asked sooner for a change:
        it may be back for a while by then."""
        if self._failures:
            await self._back_off()
            return
        try:
            async with asyncio.timeout(self._resync):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _back_off(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while (left := began + pause(self._failures, waiting=self._status.pending > 0) - clock()) > 0:
            await asyncio.sleep(min(left, _FIRST))

    def _tell(self, old: Status) -> None:
        new = self._status
        if (old.error, old.taken) == (new.error, new.taken):
            return
        if new.error:
            log.warning("names outside: %d wait: %s", new.pending, new.error)
        elif old.error:
            log.info("names outside: all are right again")
        if new.taken and new.taken != old.taken:
            log.warning("names outside: somebody else has %s", ", ".join(new.taken))
        self._told(new)

    # -- in a thread

    def _round(self, wanted: Nodes) -> None:
        try:
            with Connection(self._server) as connection:
                for zone in self._zones.values():
                    self._look_after(connection, zone, self._mine(zone, wanted))
        except ServerUnreachable as error:
            for zone in self._zones.values():
                self._fail(zone, wanted, str(error))

    def _look_after(self, connection: Connection, zone: _Zone, wanted: Nodes) -> None:
        try:
            for _ in range(_PASSES):
                self._read(connection, zone, wanted)
                if not self._write(connection, zone, wanted):
                    zone.pending, zone.error = 0, ""
                    zone.known = {
                        name for name, node in (zone.actual or {}).items() if is_ours(node, self._owner)
                    }
                    return
            self._fail(zone, wanted, f"zone {zone.name} changes faster than it can be read")
        except ServerRefused as error:
            self._fail(zone, wanted, str(error))

    def _read(self, connection: Connection, zone: _Zone, wanted: Nodes) -> None:
        """Bring `actual` up to date, with one question when the zone did not change."""
        zone.known.update(wanted)
        serial = connection.serial(zone.name)
        if zone.actual is not None and serial == zone.serial:
            return
        try:
            zone.actual, zone.serial = connection.transfer(zone.name)
        except TransferRefused:
            zone.actual, zone.serial = connection.look(sorted(zone.known)), serial

    def _write(self, connection: Connection, zone: _Zone, wanted: Nodes) -> list[Update]:
        """The updates that somebody was in the way of: what we know of the zone is wrong then."""
        actual = zone.actual or {}
        plan = steps_to(zone.name, wanted, actual, self._owner)
        zone.taken = plan.taken
        if not plan.updates:
            return []
        # Whatever happens now, it must be read again before it is trusted.
        before, zone.serial = zone.serial, 0
        races = connection.send(zone.name, plan.updates)
        raced = set(races)
        zone.actual = after(actual, (update for update in plan.updates if update not in raced))
        serial = connection.serial(zone.name)
        if not races and serial == before + -(-len(plan.updates) // BATCH):
            # One more for each of our messages (as BIND counts): nobody else was there.
            zone.serial = serial
        return races

    def _fail(self, zone: _Zone, wanted: Nodes, error: str) -> None:
        zone.serial, zone.error = 0, error
        zone.pending = self._missing(zone, wanted)

    def _missing(self, zone: _Zone, wanted: Nodes) -> int:
        """Names that are not as wanted, as far as we know the zone; of one that was never read, all."""
        return len(steps_to(zone.name, self._mine(zone, wanted), zone.actual or {}, self._owner).updates)

    def _mine(self, zone: _Zone, wanted: Nodes) -> Nodes:
        """What is wanted of a zone; an address does not lead to a name that is somebody else's."""
        taken = frozenset(name for zone in self._zones.values() for name in zone.taken)
        return {
            name: node
            for name, node in in_zone(wanted, zone.name, self._zones)
            if "PTR" not in node or not node["PTR"].data <= taken
        }
