"""The control plane of one front end over machines in memory (service.ports.Nodes).  No sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clusterhost.control import messages as m
from clusterhost.model.errors import ClusterError, NodeError, NodeUnreachable
from clusterhost.service.ports import Answer
from compat.libvirt.schema import PROCEDURES
from netmgr.orders import ChangeNetwork, Found, Order, Outcome, Survey, decode_order, encode
from tests.support.fakelibvirt import LIFECYCLE, Machine


@dataclass
class FakeNodes:
    """service.ports.Nodes over machines.  kill(): the front end is gone, nothing is delivered any more.
    lose_reply: names of procedures whose next call is carried out, but whose node goes away before the
    reply.  network_orders: what nodes were told about networks; network_problems: what a node answers then;
    older: nodes that do not know ChangeNetwork yet; found: what links and addresses they have, where they can say."""

    machines: dict[str, Machine]
    handler: Any
    dead: bool = False
    linked: set[str] = field(default_factory=set)
    lose_reply: set[str] = field(default_factory=set)
    nodes_keys: dict[str, str] = field(default_factory=dict)
    joins: dict[str, str] = field(default_factory=dict)
    network_orders: list[tuple[str, Order]] = field(default_factory=list)
    network_problems: dict[str, str] = field(default_factory=dict)
    older: set[str] = field(default_factory=set)
    found: dict[str, Found] = field(default_factory=dict)

    def join(self, name: str) -> None:
        machine = self.machines[name]
        if self.dead or not machine.reachable:
            return
        machine.incarnation += 1
        for session in {guest.session for guest in machine.guests.values()}:
            machine.end_session(session)
        machine.events.clear()
        hello = m.Hello(name, machine.incarnation, f"boot-{machine.boots}")
        welcome = self.handler.on_hello(name, hello)
        assert not welcome.refused, welcome.refused
        self.linked.add(name)
        self.handler.on_snapshot(name, machine.snapshot())

    def lose(self, name: str) -> None:
        self.linked.discard(name)
        if not self.dead:
            self.handler.on_lost(name, "cut")

    def kill(self) -> None:
        self.dead = True
        self.linked.clear()

    def pump(self, name: str) -> None:
        """Events, then reports, as the agent sends them."""
        machine = self.machines[name]
        payloads, machine.events = machine.events, []
        touched, machine.touched = machine.touched, []
        if self.dead or name not in self.linked:
            return
        for payload in payloads:
            self.handler.on_event(name, LIFECYCLE.program_id, LIFECYCLE.number, payload)
        for uuid in touched:
            guest = machine.guests.get(uuid)
            if guest is None:
                self.handler.on_gone(name, uuid)
            else:
                self.handler.on_report(name, machine.report(guest))

    def pump_all(self) -> None:
        for name in self.machines:
            self.pump(name)

    async def _wire(self, name: str) -> None:
        await asyncio.sleep(0)
        if self.dead:
            await asyncio.Event().wait()
        if name not in self.linked or not self.machines[name].reachable:
            raise NodeUnreachable(f"node {name} is out of reach")

    async def call(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        *,
        session: int = 0,
        report: bytes | None = None,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        **_: Any,
    ) -> Answer:
        await self._wire(node)
        machine = self.machines[node]
        ok, answer, replayed = machine.once(
            op, domain, generation, lambda: machine.execute(program, procedure, payload, session)
        )
        kind = PROCEDURES[program, procedure].name
        if kind in self.lose_reply:
            self.lose_reply.discard(kind)
            machine.reachable = False
            self.lose(node)
        await self._wire(node)
        self.pump_all()
        await self._wire(node)
        guest = machine.guests.get(report) if report is not None else None
        told = machine.report(guest) if guest is not None else None
        gone = report is not None and guest is None
        if told is not None:
            self.handler.on_report(node, told)
        if gone:
            self.handler.on_gone(node, report)
        return Answer(ok, answer, told, gone, replayed)

    def submit(
        self, node: str, program: int, procedure: int, payload: bytes, done: Any, **options: Any
    ) -> None:
        raise RuntimeError("use cases await calls")

    async def fan_out(
        self, nodes: Any, program: int, procedure: int, payload: bytes, **_: Any
    ) -> dict[str, Answer | ClusterError]:
        found: dict[str, Answer | ClusterError] = {}
        for node in nodes:
            try:
                found[node] = await self.call(node, program, procedure, payload)
            except ClusterError as error:
                found[node] = error
        return found

    async def operate(
        self,
        node: str,
        kind: str,
        args: bytes,
        *,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        **_: Any,
    ) -> bytes:
        await self._wire(node)
        machine = self.machines[node]
        if kind == "network":
            order = decode_order(args)
            if isinstance(order, Survey):
                return msgspec.msgpack.encode(encode(Outcome(found=self.found.get(node))))
            self.network_orders.append((node, order))
            if node in self.older and isinstance(order, ChangeNetwork):
                raise NodeError(b"", "the arguments of network cannot be read")
            return msgspec.msgpack.encode(encode(Outcome(self.network_problems.get(node, ""))))
        machine.executed.append(kind)
        ok, answer, _replayed = machine.once(op, domain, generation, lambda: machine.operate(kind, args))
        if kind in self.lose_reply:
            self.lose_reply.discard(kind)
            machine.reachable = False
            self.lose(node)
        await self._wire(node)
        self.pump_all()
        if not ok:
            raise NodeError(answer)
        return answer

    async def open_stream(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no streams here")

    def close_session(self, session: int) -> None:
        for name in self.linked:
            self.machines[name].end_session(session)
        self.pump_all()

    def abandon(self, unwanted: Any) -> None: ...

    def subscribe(self, *, monitor_events: bool) -> None: ...

    def set_keys(self, nodes: dict[str, str], joins: dict[str, str]) -> None:
        self.nodes_keys, self.joins = dict(nodes), dict(joins)

    def refusals(self, node: str) -> list[str]:
        return []

    def disconnect(self, node: str) -> None:
        self.linked.discard(node)
