"""The event connection: what the node has and what happens to it, told to the front end in libvirtd's order.

Reports are asked on the connection that events come by.  So when a report is there, every event that libvirtd
had queued before it has gone out already (see docs/design/001-raw-events.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid as uuids
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from clusterhost.agent import host, underlay
from clusterhost.agent.errors import NO_DOMAIN, LibvirtRefused, Unavailable, code_of
from clusterhost.agent.expected import Expected
from clusterhost.agent.news import DEFINED, DEFINITION, REPORT, UNDEFINED, about, noteworthy
from clusterhost.agent.outbox import Outbox
from clusterhost.agent.reports import LOOKUP, After, Reporter, Verdict, handle
from clusterhost.agent.rpc import PROCEDURE, Rpc, decoded
from clusterhost.agent.transport import Target, connect
from clusterhost.control import messages as m
from compat.libvirt.messages import (
    QemuConnectDomainMonitorEventDeregisterArgs,
    QemuConnectDomainMonitorEventRegisterArgs,
    RemoteConnectDomainEventCallbackRegisterAnyArgs,
    RemoteConnectListAllDomainsArgs,
    RemoteDomainDestroyArgs,
    RemoteDomainGetXmlDescArgs,
    RemoteDomainLookupByUuidArgs,
)
from compat.libvirt.schema import EVENTS

log = logging.getLogger(__name__)

BACK_OFF, LAST_BACK_OFF = 0.2, 5.0
HUNG_SECONDS = 3.0
GIVEN_UP_SECONDS = 30.0
POLL_SECONDS = 30.0
_DEFINITION_DELAY = 0.05
_REPORT_DELAY = 0.03
_EVENT_DELAY = 0.005
_AT_ONCE = 64
_INACTIVE_SECURE = 1 | 2
_XML = "remote:DOMAIN_GET_XML_DESC"


@dataclass(frozen=True, slots=True)
class Node:
    """What the agent's settings say of the node."""

    target: Target
    migration_address: str
    has_files: bool
    underlay: Callable[[], str]
    """Asks for it, which may block: names change their addresses."""


class Watch:
    """`on_up` / `on_down(reason)`: libvirtd answers (again), or not.  `down` is "" while it answers."""

    def __init__(
        self,
        node: Node,
        out: Outbox,
        reporter: Reporter,
        generation: Callable[[bytes], int],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
    ) -> None:
        self.down = "libvirtd was not reached yet"
        self.stale: dict[str, int] = {}
        self.known: dict[bytes, m.DomainReport] = {}
        self._node = node
        self._out = out
        self._reporter = reporter
        self._generation = generation
        self._on_up = on_up
        self._on_down = on_down
        self._rpc: Rpc | None = None
        self._facts = m.NodeFacts(migration_address=node.migration_address, has_files=node.has_files)
        self._figures = host.Figures()
        self._wanted = asyncio.Event()
        self._monitor_wanted = False
        self._monitor_id: int | None = None
        self._busy: dict[bytes, bool] = {}
        self._expected = Expected()
        self._later: dict[bytes, asyncio.TimerHandle] = {}
        self._digests: dict[bytes, bytes] = {}
        self._definitions: set[bytes] = set()
        self._definition_timer: asyncio.TimerHandle | None = None

    # ---- life ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, tell what is there and what happens, connect again; until cancelled."""
        back_off = BACK_OFF
        try:
            while True:
                try:
                    rpc = await connect(self._node.target)
                except (Unavailable, LibvirtRefused) as error:
                    self._went_down(str(error))
                else:
                    back_off = BACK_OFF
                    await self._serve(rpc)
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, LAST_BACK_OFF)
        finally:
            if self._rpc is not None:
                self._rpc.close("the agent stops")

    async def _serve(self, rpc: Rpc) -> None:
        """One connection, from open to lost."""
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        rpc.on_lost = lambda reason: None if lost.done() else lost.set_result(reason)
        rpc.on_message = self._event
        self._out.hold()
        self._rpc = rpc
        self._reporter.forget()
        self._monitor_id = None
        try:
            await self._register(rpc)
            await self._figures.prepare(rpc)
            self._went_up()
            address = await asyncio.to_thread(self._node.underlay)
            self._facts = await host.facts(
                rpc,
                migration_address=self._node.migration_address,
                has_files=self._node.has_files,
                underlay=address,
                underlay_mtu=underlay.mtu(address) if address else 0,
            )
            await self._snapshot(rpc)
            while not lost.done():
                await self._next(rpc, lost)
        except (Unavailable, LibvirtRefused) as error:
            rpc.close(str(error))
        except BaseException:
            rpc.close("the agent stops")
            raise
        finally:
            self._rpc = None
            self._busy.clear()
            self._figures.lost()
            self._out.release()
        self._went_down(lost.result() if lost.done() else rpc.lost)

    async def _next(self, rpc: Rpc, lost: asyncio.Future[str]) -> None:
        """Wait for something to do: a snapshot is wanted, or a look whether libvirtd told us everything."""
        wanted = asyncio.ensure_future(self._wanted.wait())
        either: list[asyncio.Future[Any]] = [wanted, lost]
        try:
            await asyncio.wait(either, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        if lost.done():
            return
        if self._wanted.is_set():
            await self._snapshot(rpc)
        else:
            await self._poll(rpc)

    def _went_up(self) -> None:
        self.down = ""
        self._on_up()

    def _went_down(self, reason: str) -> None:
        if self.down != reason:
            log.warning("libvirtd does not answer: %s", reason)
        self.down = reason
        self._on_down(reason)

    # ---- the front end ------------------------------------------------------------------------------------

    def link_up(self, stale: dict[str, int]) -> None:
        """A front end is there: it gets a snapshot before anything else."""
        self.stale = stale
        self._digests.clear()
        self._out.forget()
        self._out.hold()
        if self.down:
            self._out.release(self._as_known())
            if self._rpc is not None:
                self._out.hold()
        self._wanted.set()

    def want_snapshot(self) -> None:
        """The front end missed something."""
        if self._rpc is None:
            self._out.release(self._as_known())
        else:
            self._out.hold()
            self._wanted.set()

    def beat(self, now: float) -> m.Beat:
        """The figures as they are; asks for the next ones."""
        rpc = self._rpc
        if rpc is not None:
            waiting = self._figures.waiting(now)
            if waiting > GIVEN_UP_SECONDS and not self._node.target.local:
                rpc.close(f"libvirtd did not answer for {waiting:.0f} s")
            elif waiting > HUNG_SECONDS:
                self.down = f"libvirtd does not answer for {waiting:.0f} s"
            elif self.down and not waiting:
                self._went_up()
            self._figures.ask(rpc, now)
        return m.Beat(self._out.seq, self._figures.stats, not self.down, self.down)

    def subscribe(self, *, monitor_events: bool) -> None:
        """Ask for QEMU's monitor events, or no more."""
        self._monitor_wanted = monitor_events
        if self._rpc is not None:
            self._ask_monitor_events(self._rpc)

    def report(
        self,
        uuid: bytes,
        done: Callable[[Verdict], None],
        after: After = After.ANYTHING,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """The domain as it is now, after all events before it.  `done` sends it on by itself.

        The call's own events come while this is asked: they ask for nothing more at once.  When the one event
        of a call tells what became of the domain, and `done` is `ready` to send that on, it is not asked at
        all; a new domain's figures follow."""
        told = False

        def reported(verdict: Verdict, late: bool) -> None:
            nonlocal told
            if told:
                return
            told = True
            self._calm(uuid)
            self.expect_no_more(uuid)
            self._note(uuid, verdict, late)
            done(verdict)

        def ask() -> None:
            if self._rpc is None:
                reported(Verdict(), late=True)
            else:
                self._reporter.ask(self._rpc, uuid, reported, after)
                self._want_definition(uuid)

        def foretold(name: str) -> None:
            waiting.cancel()
            if told:
                return
            if not ready():
                ask()
                return
            reported(self._reporter.known_after(after, uuid, name), late=False)
            if after is After.DEFINED:
                self.refresh(uuid, after)

        self._calm(uuid)
        if self._rpc is None or not self._is_plain(uuid, after):
            after = After.ANYTHING if after is After.DEFINED else after
            ask()
            return
        waiting = asyncio.get_running_loop().call_later(_EVENT_DELAY, ask)
        self._expected.when_told(uuid, DEFINED if after is After.DEFINED else UNDEFINED, foretold)

    def _is_plain(self, uuid: bytes, after: After) -> bool:
        """A new domain was defined, or one that is off was undefined."""
        known = self.known.get(uuid)
        if after is After.UNDEFINED:
            return known is not None and known.id == -1 and uuid not in self._busy
        return after is After.DEFINED and known is None

    def _calm(self, uuid: bytes) -> None:
        if timer := self._later.pop(uuid, None):
            timer.cancel()

    def expect(self, uuid: bytes | None) -> None:
        """A call is under way whose answer brings a report: what its events ask for can wait a little."""
        if uuid is not None:
            self._expected.begin(uuid)

    def expect_no_more(self, uuid: bytes | None) -> None:
        """That call is over."""
        if uuid is not None:
            self._expected.end(uuid)

    def refresh(
        self, uuid: bytes, after: After = After.ANYTHING, *, quiet: bool = False, now: bool = False
    ) -> None:
        """Ask about a domain and tell the front end; quiet: only of differences; now: during a call too."""
        if uuid in self._expected and not now:
            if uuid not in self._later:
                self._later[uuid] = asyncio.get_running_loop().call_later(
                    _REPORT_DELAY, self._refresh_later, uuid
                )
            return
        if uuid in self._busy:
            self._busy[uuid] = True
            return
        if self._rpc is None:
            return
        self._busy[uuid] = False

        def reported(verdict: Verdict, late: bool) -> None:
            again = self._busy.pop(uuid, False)
            before = self.known.get(uuid)
            self._note(uuid, verdict, late)
            if not late and not (quiet and _alike(before, verdict)):
                self.tell(uuid, verdict)
            if again:
                self.refresh(uuid)

        self._reporter.ask(self._rpc, uuid, reported, after)

    def _refresh_later(self, uuid: bytes) -> None:
        """The call takes long: do not wait for its answer."""
        del self._later[uuid]
        if uuid in self.known:
            self.refresh(uuid, now=True)
        else:
            self._look_for(uuid)

    def _look_for(self, uuid: bytes) -> None:
        """Not known (any more): one call tells whether the rest is worth asking."""

        def answered(ok: bool, payload: bytes, failure: str) -> None:
            if ok or uuid in self.known:
                self.refresh(uuid, now=True)
            elif not failure and code_of(payload) == NO_DOMAIN:
                self._out.gone(uuid)

        if self._rpc is not None:
            self._rpc.call(*PROCEDURE[LOOKUP][:2], RemoteDomainLookupByUuidArgs(uuid).to_bytes(), answered)

    def tell(self, uuid: bytes, verdict: Verdict) -> None:
        """Send a verdict on."""
        if verdict.report is not None:
            self._out.changed(verdict.report)
        elif verdict.gone:
            self._out.gone(uuid)

    def _note(self, uuid: bytes, verdict: Verdict, late: bool) -> None:
        if late:
            return
        if verdict.report is not None:
            self.known[uuid] = verdict.report
        elif verdict.gone:
            self.known.pop(uuid, None)
            self._digests.pop(uuid, None)

    # ---- snapshot -----------------------------------------------------------------------------------------

    async def _snapshot(self, rpc: Rpc) -> None:
        self._out.hold()
        self._wanted.clear()
        await self._destroy_stale(rpc)
        listed = await self._list(rpc)
        known: dict[bytes, m.DomainReport] = {}
        for start in range(0, len(listed), _AT_ONCE):
            for report in await self._reports(rpc, listed[start : start + _AT_ONCE]):
                known[report.uuid] = report
        self.known = known
        if rpc.lost:
            return
        self._out.release(self._as_known())
        for uuid in known:
            self._want_definition(uuid)

    def _as_known(self) -> m.Snapshot:
        domains = list(self.known.values())
        return m.Snapshot(
            self._out.snapshot_number(), self._facts, domains, self._figures.stats, not self.down
        )

    async def _list(self, rpc: Rpc) -> list[bytes]:
        found = await rpc.ask("remote:CONNECT_LIST_ALL_DOMAINS", RemoteConnectListAllDomainsArgs(1, 0))
        return [dom.uuid for dom in found.domains]

    async def _reports(self, rpc: Rpc, some: Iterable[bytes]) -> list[m.DomainReport]:
        loop = asyncio.get_running_loop()

        def ask(uuid: bytes) -> asyncio.Future[Verdict]:
            future: asyncio.Future[Verdict] = loop.create_future()
            self._reporter.ask(rpc, uuid, lambda verdict, _: future.set_result(verdict))
            return future

        futures = [ask(uuid) for uuid in some]
        return [verdict.report for verdict in await asyncio.gather(*futures) if verdict.report is not None]

    async def _destroy_stale(self, rpc: Rpc) -> None:
        """Domains that were started elsewhere meanwhile must not run here, before anything else is done."""
        stale, self.stale = self.stale, {}
        for text, generation in stale.items():
            uuid = uuids.UUID(text).bytes
            if self._generation(uuid) >= generation:
                continue
            try:
                await rpc.ask("remote:DOMAIN_DESTROY", RemoteDomainDestroyArgs(handle(uuid)))
                log.warning("destroyed the stale copy of domain %s", text)
            except LibvirtRefused as error:
                log.info("stale domain %s: %s", text, error)

    async def _poll(self, rpc: Rpc) -> None:
        """Some changes come without an event (autostart, vCPUs, a file put in place)."""
        for uuid in {*await self._list(rpc), *self.known}:
            self.refresh(uuid, quiet=True)
            self._want_definition(uuid)

    # ---- events -------------------------------------------------------------------------------------------

    async def _register(self, rpc: Rpc) -> None:
        """Register all events; ids that this libvirtd does not know are refused by it and left out."""
        name = EVENTS["domain"].register
        calls = [
            rpc.ask(f"remote:{name}", RemoteConnectDomainEventCallbackRegisterAnyArgs(number, None))
            for number in EVENTS["domain"].events
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, LibvirtRefused):
                raise result
        self._ask_monitor_events(rpc)

    def _ask_monitor_events(self, rpc: Rpc) -> None:
        def registered(ok: bool, payload: bytes, failure: str) -> None:
            if ok:
                self._monitor_id = decoded(name, payload).callbackID

        if self._monitor_wanted and self._monitor_id is None:
            name = "qemu:CONNECT_DOMAIN_MONITOR_EVENT_REGISTER"
            payload = QemuConnectDomainMonitorEventRegisterArgs(None, None, 0).to_bytes()
            rpc.call(*PROCEDURE[name][:2], payload, registered)
        elif not self._monitor_wanted and self._monitor_id is not None:
            payload = QemuConnectDomainMonitorEventDeregisterArgs(self._monitor_id).to_bytes()
            self._monitor_id = None
            rpc.call(*PROCEDURE["qemu:CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER"][:2], payload, lambda *_: None)

    def _event(self, program: int, procedure: int, payload: bytes) -> None:
        self._out.event(program, procedure, payload)
        what = noteworthy(program, procedure)
        if not what:
            return
        dom, lifecycle = about(program, procedure, payload)
        if dom is None:
            return
        if what & REPORT:
            self.refresh(dom.uuid)
        if what & DEFINITION or lifecycle == DEFINED:
            self._want_definition(dom.uuid)
        if lifecycle is not None:
            self._expected.saw(dom.uuid, dom.name, lifecycle)

    # ---- definitions --------------------------------------------------------------------------------------

    def _want_definition(self, uuid: bytes) -> None:
        """Look a moment later whether the inactive XML changed: not in the way of an answer."""
        self._definitions.add(uuid)
        if self._definition_timer is None:
            loop = asyncio.get_running_loop()
            self._definition_timer = loop.call_later(_DEFINITION_DELAY, self._ask_definitions)

    def _ask_definitions(self) -> None:
        self._definition_timer = None
        wanted, self._definitions = self._definitions, set()
        for uuid in wanted:
            report = self.known.get(uuid)
            if report is None and uuid in self._busy:
                # Its first report is on the way.
                self._want_definition(uuid)
            if self._rpc is None or report is None or not report.persistent:
                continue
            payload = RemoteDomainGetXmlDescArgs(handle(uuid), _INACTIVE_SECURE).to_bytes()
            self._rpc.call(*PROCEDURE[_XML][:2], payload, self._defined(uuid))

    def _defined(self, uuid: bytes) -> Callable[[bool, bytes, str], None]:
        def answered(ok: bool, payload: bytes, failure: str) -> None:
            digest = hashlib.blake2b(payload, digest_size=16).digest()
            if ok and uuid in self.known and self._digests.get(uuid) != digest:
                self._digests[uuid] = digest
                self._out.definition(uuid, decoded(_XML, payload).xml)

        return answered


def _alike(before: m.DomainReport | None, verdict: Verdict) -> bool:
    """Nothing that the front end shows differs; the CPU time always does."""
    if before is None or verdict.report is None:
        return before is None and verdict.report is None
    return msgspec.structs.replace(before, cpu_time=0) == msgspec.structs.replace(verdict.report, cpu_time=0)
