"""Carry out relayed calls: which connection, once only, with what report.  Payloads pass as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from clusterhost.agent.optable import OpTable, Outcome
from clusterhost.agent.outbox import Outbox
from clusterhost.agent.pool import NEVER, Pool
from clusterhost.agent.reports import After, Verdict
from clusterhost.agent.rpc import Done, Rpc
from clusterhost.agent.watch import Watch
from clusterhost.control import messages as m
from compat.libvirt.constants import VIR_NET_MESSAGE_PAYLOAD_MAX
from compat.libvirt.schema import BY_NAME, PROCEDURES

SHARED, SHARED_READ_ONLY, LONG = 4, 2, 32
WAIT_SECONDS = 60.0
_KEEP_LONG = 2
_GIVES_DESCRIPTORS = frozenset(key for key, found in PROCEDURES.items() if found.fds == ("out",))
"""Their answer brings descriptors, which a network does not carry.  (A monitor command takes and gives them; one that
brings none gets none.)"""

_AFTER = {
    (BY_NAME[f"remote:{name}"].program_id, BY_NAME[f"remote:{name}"].number): after
    for name, after in {
        "DOMAIN_DEFINE_XML": After.DEFINED,
        "DOMAIN_DEFINE_XML_FLAGS": After.DEFINED,
        "DOMAIN_UNDEFINE": After.UNDEFINED,
        "DOMAIN_UNDEFINE_FLAGS": After.UNDEFINED,
    }.items()
}
"""Calls that start nothing: they are recorded while they are made, and answered when both is done."""

Respond = Callable[[m.Message, bytes | None], None]
Finish = Callable[[m.Message, bytes], None]
Ready = Callable[[], bool]
Ordered = m.Relay | m.Operation


@dataclass(slots=True)
class _Waiting:
    """A call with an operation id that came while libvirtd was away."""

    go: Callable[[], None]
    fail: Callable[[], None]
    timer: asyncio.TimerHandle


class Calls:
    """dial(readonly) makes an open connection to libvirtd."""

    def __init__(
        self, dial: Callable[[bool], Awaitable[Rpc]], watch: Watch, table: OpTable, out: Outbox
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._dial = dial
        self._watch = watch
        self._table = table
        self._out = out
        self.shared = Pool(loop, lambda: dial(False), SHARED)
        self._read_only = Pool(loop, lambda: dial(True), SHARED_READ_ONLY)
        # One call on each: the next has to wait for none.
        self._long = Pool(loop, lambda: dial(False), LONG, in_flight=1)
        self._long_read_only = Pool(loop, lambda: dial(True), LONG, in_flight=1)
        self._sessions: dict[tuple[int, bool], Pool] = {}
        self._running: dict[str, list[tuple[int, Respond]]] = {}
        self._waiting: list[_Waiting] = []

    # ---- calls --------------------------------------------------------------------------------------------

    def relay(self, message: m.Relay, payload: bytes, respond: Respond) -> None:
        """Carry out a call; `respond` sends its answer if the link it came by still stands."""
        if refused := self._why_not(message, payload):
            respond(refused, None)
        elif message.op or message.generation:

            def act(finish: Finish, ready: Ready = lambda: True) -> None:
                self._try(message, payload, finish, ready)

            starts = (message.program, message.procedure) not in _AFTER
            self.once(message, respond, act, meanwhile=None if starts else act)
        elif self._watch.down:
            respond(m.Failed(message.id, "libvirtd-down", self._watch.down), None)
        elif message.report is None:
            id = message.id

            def answered(ok: bool, reply: bytes, failure: str) -> None:
                if failure:
                    respond(m.Failed(id, failure, reply.decode()), None)
                else:
                    respond(m.Reply(id, ok), reply)

            self._send(message, payload, answered)
        else:
            self._try(message, payload, lambda answer, reply: respond(answer, reply))

    def cancel(self, id: int) -> None:
        """Nobody waits for that call any more."""
        any(pool.cancel(id) for pool in self._pools())

    def _why_not(self, message: m.Relay, payload: bytes) -> m.Failed | None:
        if message.epoch < self._table.epoch:
            text = f"the order is of epoch {message.epoch}, this agent obeys epoch {self._table.epoch}"
            return m.Failed(message.id, "stale-generation", text)
        if (message.program, message.procedure) in _GIVES_DESCRIPTORS:
            return m.Failed(message.id, "unsupported", "file descriptors do not travel between machines")
        fits = len(payload) <= VIR_NET_MESSAGE_PAYLOAD_MAX
        if not (fits and 0 <= message.procedure < 1 << 31 and 0 <= message.program < 1 << 32):
            return m.Failed(
                message.id, "refused", "the call does not fit into a packet of libvirt's protocol"
            )
        return None

    def _send(self, message: m.Relay, payload: bytes, done: Done) -> None:
        expires = self._loop.time() + message.deadline_ms / 1000 if message.deadline_ms else NEVER
        # What has an operation id is done, whoever waits.
        id = 0 if message.op else message.id
        self._pool(message).submit(message.program, message.procedure, payload, done, expires, id)

    def _pool(self, message: m.Relay) -> Pool:
        if message.session:
            key = (message.session, message.readonly)
            pool = self._sessions.get(key)
            if pool is None:
                pool = Pool(self._loop, lambda: self._dial(message.readonly), 1)
                self._sessions[key] = pool
            return pool
        if message.long:
            return self._long_read_only if message.readonly else self._long
        return self._read_only if message.readonly else self.shared

    def _try(self, message: m.Relay, payload: bytes, finish: Finish, ready: Ready = lambda: True) -> None:
        """Send and answer with the report; wait a while for libvirtd when the call has an operation id.

        ready: what is given to `finish` is sent at once."""

        def answered(ok: bool, reply: bytes, failure: str) -> None:
            if failure:
                self._watch.expect_no_more(message.report)
                finish(m.Failed(message.id, failure, reply.decode()), b"")
            elif message.report is None:
                finish(m.Reply(message.id, ok), reply)
            else:
                after = _AFTER.get((message.program, message.procedure)) if ok else None
                self._watch.report(
                    message.report,
                    lambda verdict: reported(ok, reply, verdict),
                    after or After.ANYTHING,
                    ready,
                )

        def reported(ok: bool, reply: bytes, verdict: Verdict) -> None:
            finish(m.Reply(message.id, ok, verdict.report, verdict.gone), reply)

        def down() -> None:
            finish(m.Failed(message.id, "libvirtd-down", self._watch.down or "libvirtd was away"), b"")

        def send() -> None:
            self._watch.expect(message.report)
            self._send(message, payload, answered)

        if not self._watch.down:
            send()
        elif message.op:
            seconds = min(WAIT_SECONDS, message.deadline_ms / 1000 or WAIT_SECONDS)
            self.wait(send, down, seconds)
        else:
            down()

    # ---- once only ----------------------------------------------------------------------------------------

    def once(
        self,
        message: Ordered,
        respond: Respond,
        act: Callable[[Finish], None],
        *,
        meanwhile: Callable[[Finish, Ready], None] | None = None,
    ) -> None:
        """Act unless it was done, is being done, or is older than what was done for the domain.

        It is recorded before, or, `meanwhile` being given, while that acts, as long as records succeed: one
        that fails (it is logged) undoes nothing, the next call is refused."""
        if self._known(message, respond):
            return
        op, id = message.op, message.id
        if op:
            self._running[op] = []

        def finish(answer: m.Message, payload: bytes) -> None:
            others = self._running.pop(op, []) if op else []
            if op and not isinstance(answer, m.Failed):
                outcome = Outcome(m.encode(answer), payload)
                self._table.finish(op, type(answer).__name__, outcome)
            respond(answer, payload)
            for other, respond_other in others:
                respond_other(_again(m.encode(answer), other), payload)

        def recorded(error: str) -> None:
            if error:
                finish(m.Failed(id, "storage", error), b"")
            else:
                act(finish)

        if meanwhile is None or self._table.failing:
            self._table.begin(op, message.domain, message.generation, recorded)
        else:
            both = _Both(finish)
            self._table.begin(op, message.domain, message.generation, both.recorded)
            meanwhile(both.acted, both.is_recorded)

    def _known(self, message: Ordered, respond: Respond) -> bool:
        """It needs no doing: it was done, is being done, or is too old."""
        op, id = message.op, message.id
        if op and (outcome := self._table.outcome(op)) is not None:
            respond(_again(outcome.message, id), outcome.payload)
            return True
        if op and op in self._running:
            self._running[op].append((id, respond))
            return True
        if message.domain is not None and 0 < message.generation < self._table.generation(message.domain):
            text = f"the order is of generation {message.generation}, a later one was carried out already"
            respond(m.Failed(id, "stale-generation", text), None)
            return True
        return False

    # ---- libvirtd comes and goes --------------------------------------------------------------------------

    def wait(self, go: Callable[[], None], fail: Callable[[], None], seconds: float) -> None:
        """Call `go` when libvirtd is back, or `fail` after so many seconds."""

        def expired() -> None:
            self._waiting.remove(waiting)
            fail()

        waiting = _Waiting(go, fail, self._loop.call_later(seconds, expired))
        self._waiting.append(waiting)

    def libvirtd_up(self) -> None:
        """Carry out what waited."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.timer.cancel()
            one.go()

    def libvirtd_down(self, reason: str) -> None:
        """Its process is gone: so are all connections, also those that have not noticed."""
        for pool in self._pools():
            pool.drop(reason)

    # ---- sessions -----------------------------------------------------------------------------------------

    def close_session(self, session: int) -> None:
        """That client is gone; libvirtd ends what it tied to its connection."""
        for key in [key for key in self._sessions if key[0] == session]:
            self._sessions.pop(key).close("the client is gone")

    def close_sessions(self) -> None:
        """No client of the old front end is left."""
        for session in {session for session, _ in self._sessions}:
            self.close_session(session)

    def tidy(self) -> None:
        """Close connections for long calls that idle."""
        self._long.shrink(_KEEP_LONG)
        self._long_read_only.shrink(_KEEP_LONG)

    def close(self) -> None:
        """The agent stops."""
        for waiting in self._waiting:
            waiting.timer.cancel()
        for pool in self._pools():
            pool.close("the agent stops")

    def _pools(self) -> list[Pool]:
        shared = [self.shared, self._read_only, self._long, self._long_read_only]
        return [*shared, *self._sessions.values()]


class _Both:
    """Waits for an answer and for its record."""

    def __init__(self, finish: Finish) -> None:
        self._finish = finish
        self._answer: tuple[m.Message, bytes] | None = None
        self._recorded = False

    def acted(self, answer: m.Message, payload: bytes) -> None:
        """libvirtd has answered."""
        self._answer = answer, payload
        self._try()

    def is_recorded(self) -> bool:
        """An answer is passed on at once."""
        return self._recorded

    def recorded(self, error: str) -> None:
        """It is on the disk, or cannot be."""
        self._recorded = True
        self._try()

    def _try(self) -> None:
        if self._recorded and self._answer is not None:
            self._finish(*self._answer)


_any_answer = msgspec.msgpack.Decoder(m.ToFrontEnd).decode


def _again(message: bytes, id: int) -> m.Message:
    """A recorded answer for another asker."""
    answer: m.Message = _any_answer(message)
    if isinstance(answer, m.Reply):
        return msgspec.structs.replace(answer, id=id, replayed=True)
    return msgspec.structs.replace(answer, id=id)
