"""ports.Nodes over plain sockets to libvirtd, without agents: what the front end's tests stand on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from clusterhost.control.messages import STREAM_WINDOW, StreamPacket
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DeadlinePassed, NodeUnreachable
from clusterhost.model.node import Host, Link, Node
from clusterhost.service.events import EventBus
from clusterhost.service.ports import Answer, ClusterEvent, NodeStream, StreamSink
from compat.libvirt import events as wire
from compat.libvirt import messages
from compat.libvirt.connection import Connection, Role
from compat.libvirt.events import StreamKey
from compat.libvirt.schema import BY_NAME, EVENTS, PROCEDURES, rewrite_domains

FIRST_ID = 1000
"""Cluster ids begin here, so that a node's id that slips through is seen."""


class Wire(asyncio.Protocol):
    """One client connection to a libvirtd."""

    def __init__(self) -> None:
        self.connection = Connection(Role.CLIENT)
        self.transport: asyncio.Transport | None = None
        self.waiting: dict[int, Callable[[wire.Reply | None], None]] = {}
        self.on_message: Callable[[wire.Message], None] = lambda message: None
        self.on_stream: Callable[[wire.Event], None] = lambda event: None
        self.on_room: Callable[[], None] = lambda: None
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, wire.Reply):
                self.waiting.pop(event.serial)(event)
            elif isinstance(event, wire.Message):
                self.on_message(event)
            else:
                self.on_stream(event)
        answers = self.connection.data_to_send()
        if answers:
            self.write(answers)

    def connection_lost(self, exc: Exception | None) -> None:
        waiting, self.waiting = self.waiting, {}
        for done in waiting.values():
            done(None)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.on_room()

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def submit(
        self, program: int, number: int, payload: bytes, done: Callable[[wire.Reply | None], None]
    ) -> int:
        serial, data = self.connection.call(program, number, payload)
        self.waiting[serial] = done
        self.write(data)
        return serial

    async def call(self, name: str, args: Any = None) -> wire.Reply:
        procedure = BY_NAME[name]
        return await self.raw(procedure.program_id, procedure.number, args.to_bytes() if args else b"")

    async def raw(self, program: int, number: int, payload: bytes) -> wire.Reply:
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()

        def done(reply: wire.Reply | None) -> None:
            if future.done():
                return
            if reply is None:
                future.set_exception(NodeUnreachable("the connection broke"))
            else:
                future.set_result(reply)

        self.submit(program, number, payload, done)
        return await future


class DirectStream:
    """A ports.NodeStream on a connection of its own."""

    def __init__(self, line: Wire, key: StreamKey, sink: StreamSink) -> None:
        self.line = line
        self.key = key
        self.sink = sink
        self.on_room: Callable[[], None] | None = None
        self.under_way = 0
        self.most_under_way = 0
        line.on_stream = self._event
        line.on_room = self._room

    def _room(self) -> None:
        if self.on_room is not None:
            self.on_room()

    def _event(self, event: wire.Event) -> None:
        kinds = {
            wire.StreamData: "data",
            wire.StreamHole: "hole",
            wire.StreamEnd: "end",
            wire.StreamFinished: "finished",
            wire.StreamFailed: "failed",
        }
        kind = kinds.get(type(event))
        if kind is None:
            return
        payload = getattr(event, "payload", b"")
        self.under_way += len(payload)
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.under_way > STREAM_WINDOW and self.line.transport is not None:
            self.line.transport.pause_reading()
        packet = StreamPacket(0, kind, getattr(event, "length", 0), getattr(event, "flags", 0))
        self.sink.packet(packet, payload)

    def send(self, kind: str, payload: bytes = b"", length: int = 0, flags: int = 0) -> bool:
        connection, key = self.line.connection, self.key
        if kind == "data":
            self.line.write(connection.stream_data(key, payload))
        elif kind == "hole":
            self.line.write(connection.stream_hole(key, length, flags))
        elif kind == "finish":
            self.line.write(connection.stream_finish(key))
        else:
            self.line.write(connection.stream_abort(key))
        return not self.line.full

    def passed_on(self, count: int) -> None:
        self.under_way -= count
        if self.under_way <= STREAM_WINDOW and self.line.transport is not None:
            self.line.transport.resume_reading()

    def close(self) -> None:
        if self.line.transport is not None:
            self.line.transport.close()


class DirectNodes:
    """ports.Nodes without agents; also keeps the model as the service would, as far as tests need it."""

    def __init__(self, cluster: Cluster, bus: EventBus, name: str = "qemu:///system") -> None:
        self.cluster = cluster
        self.bus = bus
        self.open_name = name
        self.lines: dict[tuple[str, bool], Wire] = {}
        self.sockets: dict[str, Path] = {}
        self.closed_sessions: list[int] = []
        self.monitor_wanted: list[bool] = []
        self.streams: list[DirectStream] = []
        self._ids = itertools.count(FIRST_ID)
        self._tasks: set[asyncio.Task[None]] = set()

    # -- connections and the model

    async def add(self, name: str, path: Path) -> None:
        """Connect to a node and adopt its domains."""
        self.sockets[name] = path
        line = await self._line(name, False)
        self.cluster.put_node(
            Node(name, len(self.cluster.nodes), link=Link.UP, host=await self._facts(name, line))
        )
        line.on_message = lambda message: self._event(name, message)
        for number in EVENTS["domain"].events:
            args = messages.RemoteConnectDomainEventCallbackRegisterAnyArgs(eventID=number, dom=None)
            await line.call("remote:CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", args)
        args_all = messages.RemoteConnectListAllDomainsArgs(need_results=1, flags=0)
        reply = await line.call("remote:CONNECT_LIST_ALL_DOMAINS", args_all)
        for handle in messages.RemoteConnectListAllDomainsRet.from_bytes(reply.payload).domains:
            await self.refresh(name, handle.uuid)

    async def _facts(self, name: str, line: Wire) -> Host:
        info = messages.RemoteNodeGetInfoRet.from_bytes((await line.call("remote:NODE_GET_INFO")).payload)
        xml = (await line.call("remote:CONNECT_GET_CAPABILITIES")).payload
        return Host(
            hostname=name,
            memory=info.memory,
            cpus=info.cpus,
            mhz=info.mhz,
            libvirt_version=9000000,
            hypervisor_version=7002000,
            capabilities=messages.RemoteConnectGetCapabilitiesRet.from_bytes(xml).capabilities,
        )

    async def _line(self, name: str, readonly: bool, fresh: bool = False) -> Wire:
        known = self.lines.get((name, readonly))
        if known is not None and not fresh:
            return known
        loop = asyncio.get_running_loop()
        _, line = await loop.create_unix_connection(Wire, str(self.sockets[name]))
        await line.call("remote:AUTH_LIST")
        await line.call("remote:CONNECT_OPEN", messages.RemoteConnectOpenArgs(self.open_name, int(readonly)))
        if not fresh:
            self.lines[(name, readonly)] = line
        return line

    async def refresh(self, node: str, uuid: bytes) -> None:
        """Ask for a domain's report and put it into the model."""
        line = await self._line(node, False)
        reply = await line.call("remote:DOMAIN_LOOKUP_BY_UUID", messages.RemoteDomainLookupByUuidArgs(uuid))
        known = self.cluster.get(uuid)
        if not reply.ok:
            if known is not None and known.node == node:
                self.cluster.drop(uuid)
            return
        handle = messages.RemoteDomainLookupByUuidRet.from_bytes(reply.payload).dom
        state = await line.call("remote:DOMAIN_GET_STATE", messages.RemoteDomainGetStateArgs(handle, 0))
        persistent = await line.call(
            "remote:DOMAIN_IS_PERSISTENT", messages.RemoteDomainIsPersistentArgs(handle)
        )
        saved = await line.call(
            "remote:DOMAIN_HAS_MANAGED_SAVE_IMAGE", messages.RemoteDomainHasManagedSaveImageArgs(handle, 0)
        )
        if not (state.ok and persistent.ok):
            return
        now = messages.RemoteDomainGetStateRet.from_bytes(state.payload)
        known = known or Domain(uuid, handle.name, node)
        self.cluster.put(
            known.with_(
                name=handle.name,
                node=node,
                node_id=handle.id,
                id=self._run_id(known, handle.id),
                state=now.state,
                reason=now.reason,
                persistent=bool(
                    messages.RemoteDomainIsPersistentRet.from_bytes(persistent.payload).persistent
                ),
                managed_save=saved.ok
                and bool(messages.RemoteDomainHasManagedSaveImageRet.from_bytes(saved.payload).result),
            )
        )
        self.cluster.mark_fresh([uuid])

    def _run_id(self, domain: Domain, node_id: int) -> int:
        if node_id == -1:
            return -1
        return domain.id if domain.node_id == node_id and domain.id != -1 else next(self._ids)

    def _id_of(self, node: str) -> Callable[[bytes, int], int]:
        def id_of(uuid: bytes, node_id: int) -> int:
            domain = self.cluster.get(uuid)
            if domain is None or node_id == -1:
                return -1
            number = self._run_id(domain, node_id)
            self.cluster.put(domain.with_(id=number, node_id=node_id))
            return number

        return id_of

    def _event(self, node: str, message: wire.Message) -> None:
        procedure = PROCEDURES[(message.program, message.procedure)]
        seen: list[bytes] = []
        id_of = self._id_of(node)

        def note(uuid: bytes, number: int) -> int:
            seen.append(uuid)
            return id_of(uuid, number)

        payload = rewrite_domains(procedure, "msg", message.payload, note)
        if seen:
            self.cluster.mark_stale(seen[0])
            self.bus.publish(ClusterEvent(message.program, message.procedure, payload, seen[0], node))
            self._spawn(self.refresh(node, seen[0]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Close all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self.lines.values():
            if line.transport is not None:
                line.transport.close()
        for stream in self.streams:
            stream.close()
        await asyncio.sleep(0)

    # -- ports.Nodes

    def submit(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        done: Callable[[Answer | ClusterError], None],
        *,
        readonly: bool = False,
        long: bool = False,
        report: bytes | None = None,
        deadline: float | None = None,
        **rest: object,
    ) -> None:
        line = self.lines.get((node, readonly))
        if line is None or long:
            self._spawn(self._slow(node, program, procedure, payload, done, readonly, long, report, deadline))
            return
        self._send(line, node, program, procedure, payload, done, report, deadline)

    async def _slow(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        done: Callable[[Answer | ClusterError], None],
        readonly: bool,
        long: bool,
        report: bytes | None,
        deadline: float | None,
    ) -> None:
        line = await self._line(node, readonly, fresh=long)

        def finished(answer: Answer | ClusterError) -> None:
            if long and line.transport is not None:
                line.transport.close()
            done(answer)

        self._send(line, node, program, procedure, payload, finished, report, deadline)

    def _send(
        self,
        line: Wire,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        done: Callable[[Answer | ClusterError], None],
        report: bytes | None,
        deadline: float | None,
    ) -> None:
        over = False

        def once(answer: Answer | ClusterError) -> None:
            nonlocal over
            if not over:
                over = True
                done(answer)

        def answered(reply: wire.Reply | None) -> None:
            if reply is None:
                once(NodeUnreachable(f"node {node} broke the connection"))
            elif report is None:
                once(Answer(reply.ok, reply.payload))
            else:
                self._spawn(self._reported(node, report, reply, once))

        line.submit(program, procedure, payload, answered)
        if deadline:
            late = DeadlinePassed(f"node {node} did not answer within {deadline} s")
            asyncio.get_running_loop().call_later(deadline, once, late)

    async def _reported(
        self, node: str, uuid: bytes, reply: wire.Reply, done: Callable[[Answer | ClusterError], None]
    ) -> None:
        await self.refresh(node, uuid)
        done(Answer(reply.ok, reply.payload, gone=self.cluster.get(uuid) is None))

    async def call(self, node: str, program: int, procedure: int, payload: bytes, **options: Any) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer | ClusterError) -> None:
            if future.done():
                return
            if isinstance(answer, Answer):
                future.set_result(answer)
            else:
                future.set_exception(answer)

        self.submit(node, program, procedure, payload, done, **options)
        return await future

    async def fan_out(
        self,
        nodes: Sequence[str],
        program: int,
        procedure: int,
        payload: bytes,
        *,
        readonly: bool = False,
        deadline: float,
    ) -> dict[str, Answer | ClusterError]:
        async def one(node: str) -> Answer | ClusterError:
            try:
                return await self.call(
                    node, program, procedure, payload, readonly=readonly, deadline=deadline
                )
            except ClusterError as error:
                return error

        return dict(zip(nodes, await asyncio.gather(*map(one, nodes)), strict=True))

    async def operate(self, node: str, kind: str, args: bytes, **options: object) -> bytes:
        raise AssertionError("no operations here")

    async def open_stream(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        sink: StreamSink,
        *,
        readonly: bool = False,
        session: int = 0,
        file: str = "",
    ) -> tuple[Answer, NodeStream | None]:
        line = await self._line(node, readonly, fresh=True)
        key = StreamKey(program, procedure, line.connection._serial + 1)
        stream = DirectStream(line, key, sink)
        # The stream has to be known before the reply: data may come with it.
        waiting = asyncio.ensure_future(line.raw(program, procedure, payload))
        await asyncio.sleep(0)
        line.connection.open_stream(key, sparse=bool(PROCEDURES[(program, procedure)].sparse))
        reply = await waiting
        if not reply.ok:
            stream.close()
            return Answer(False, reply.payload), None
        self.streams.append(stream)
        return Answer(True, reply.payload), stream

    def close_session(self, session: int) -> None:
        self.closed_sessions.append(session)

    def abandon(self, unwanted: Callable[[object], bool]) -> None:
        """Calls go to libvirtd at once here: none waits."""

    def subscribe(self, *, monitor_events: bool) -> None:
        self.monitor_wanted.append(monitor_events)
