"""The agent of a node: wires its libvirtd to the front end.  The work is in the other modules."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from clusterhost.agent import files, images, transport, underlay
from clusterhost.agent.calls import Calls, Respond
from clusterhost.agent.descriptors import CARRIED, DescriptorRpc, Descriptors
from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.host import boot_id
from clusterhost.agent.looks import Looks
from clusterhost.agent.networks import NetworkWorker
from clusterhost.agent.operations import Operations
from clusterhost.agent.optable import OpTable
from clusterhost.agent.outbox import Outbox
from clusterhost.agent.peers import Peers
from clusterhost.agent.records import Records
from clusterhost.agent.reports import Reporter
from clusterhost.agent.rpc import Rpc
from clusterhost.agent.shadows import Networks
from clusterhost.agent.streams import Streams
from clusterhost.agent.taken import Taken
from clusterhost.agent.watch import Node, Watch
from clusterhost.agent.workers import Progress
from clusterhost.control import keys, link
from clusterhost.control import messages as m
from clusterhost.control.discovery import Finder

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
SESSIONS_OUTLIVE_LINK = 10.0
TIDY_SECONDS = 60.0
DEFAULT = ("tcp://127.0.0.1:16600", "tcp://127.0.0.1:16601")
"""Where a front end of this machine listens."""


class Settings(images.Settings, Protocol):
    """What an agent needs to know (config.AgentSettings)."""

    @property
    def node(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def control(self) -> str: ...
    @property
    def bulk(self) -> str: ...
    @property
    def nameserver(self) -> str: ...
    @property
    def key_file(self) -> Path: ...
    @property
    def server_key(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def migration_address(self) -> str: ...
    @property
    def underlay_address(self) -> str: ...
    @property
    def images_address(self) -> str: ...
    @property
    def peer_dir(self) -> Path: ...


def _finder(settings: Settings, token: keys.Token | None) -> Finder:
    """What is configured, else what the token says."""
    known = (token.control, token.bulk) if token is not None else DEFAULT
    return Finder(settings.control or known[0], settings.bulk or known[1], settings.nameserver)


class Agent:
    """control.link.LinkHandler."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target = transport.target(settings.uri)
        self._table = table = OpTable(settings.state_dir / "operations.db", self._loop)
        self._link = self._make_link(settings)
        self._out = Outbox(self._link.send)
        is_saved = files.has_managed_save if settings.has_files else lambda name: False

        def find(given: str) -> str:
            given = given or settings.underlay_address
            return underlay.address(given, settings.migration_address, self._finder.last or DEFAULT[0])

        node = Node(target, settings.migration_address, settings.has_files, lambda: find(""))
        reporter = Reporter(is_saved, table.generation)
        self._watch = Watch(
            node, self._out, reporter, table.generation, self._libvirtd_up, self._libvirtd_down
        )
        self._calls = Calls(self._dial, self._watch, table, self._out)
        self._streams = Streams(
            self._dial_stream, self._link.send_bulk, lambda: self._link.host, has_files=settings.has_files
        )
        self._peers = Peers(settings.peer_dir / settings.node, self._dial_raw, self._link.send_bulk)
        self._descriptors = Descriptors(self._dial_for_descriptor, self._peers, local=target.local)
        self._worker = NetworkWorker(
            settings.state_dir, settings.underlay_address or settings.migration_address
        )
        self._networks = Networks(
            self._worker,
            self._calls.shared,
            Taken(settings.state_dir / "taken-networks.json"),
            Records(settings.state_dir / "shadows"),
            on_node=settings.has_files,
        )
        self._images = images.ImageWorker(
            settings,
            lambda: images.or_loopback(find(settings.images_address), self._finder.last or DEFAULT[0]),
        )
        self._operations = self._make_operations(settings)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._session_timer: asyncio.TimerHandle | None = None
        self._on: dict[type, Callable[[Any, bytes], None]] = {
            m.OpenStream: self._on_open_stream,
            m.Operation: self._on_operation,
            m.SessionClose: self._on_session_close,
            m.WantSnapshot: self._on_want_snapshot,
            m.Subscribe: self._on_subscribe,
            m.Cancel: self._on_cancel,
        }

    def _make_link(self, settings: Settings) -> link.Link:
        token = keys.read_token(settings.token) if settings.token else None
        fresh = not settings.key_file.exists()
        pair = keys.load_or_make(settings.key_file)
        self._finder = _finder(settings, token)
        place = link.Place(
            settings.node,
            "",
            "",
            settings.server_key or (token.server_key if token else ""),
            self._table.incarnation,
            boot_id(),
            metadata.version("clusterhost"),
        )
        return link.Link(place, pair, self, token, fresh=fresh, finder=self._finder)

    def _make_operations(self, settings: Settings) -> Operations:
        return Operations(
            self._calls.shared,
            self._peers,
            self._networks,
            self._images,
            Looks(settings.state_dir),
            has_files=settings.has_files,
        )

    async def run(self) -> None:
        """Work until cancelled."""
        self._loop.call_later(BEAT_SECONDS, self._beat)
        self._tidy_timer = self._loop.call_later(TIDY_SECONDS, self._tidy)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch.run())
                group.create_task(self._worker.start())
                group.create_task(self._networks.run())
                group.create_task(self._link.run())
        finally:
            self._stopped = True
            if self._session_timer is not None:
                self._session_timer.cancel()
            self._tidy_timer.cancel()
            for task in self._tasks:
                task.cancel()
            self._streams.close()
            self._descriptors.close()
            self._peers.close()
            await self._worker.close()
            await self._images.close()
            self._calls.close()
            self._table.close()

    # ---- control.link.LinkHandler -------------------------------------------------------------------------

    def epoch_seen(self) -> int:
        """See control.link.LinkHandler."""
        return self._table.epoch

    def on_up(self, welcome: m.Welcome) -> None:
        """See control.link.LinkHandler."""
        if self._session_timer is not None:
            self._session_timer.cancel()
            self._session_timer = None
        if welcome.epoch > self._table.epoch:
            # Another front end, or the same one started anew: its clients are others.
            self._table.obey(welcome.epoch)
            self._calls.close_sessions()
        self._watch.link_up(dict(welcome.stale))

    def on_down(self, reason: str) -> None:
        """See control.link.LinkHandler."""
        log.info("%s", reason)
        self._streams.close()
        self._descriptors.close()
        self._peers.cut()
        self._session_timer = self._loop.call_later(SESSIONS_OUTLIVE_LINK, self._calls.close_sessions)

    def on_control(self, message: m.ToAgent, payload: bytes) -> None:
        """See control.link.LinkHandler."""
        if type(message) is m.Relay:
            self._calls.relay(message, payload, self._responder())
        elif act := self._on.get(type(message)):
            act(message, payload)

    def on_direct(self, message: m.Relay, payload: bytes, respond: Respond) -> None:
        """See control.link.LinkHandler."""
        self._calls.relay(message, payload, respond)

    def on_bulk(self, message: m.Bulk, payload: bytes) -> None:
        """See control.link.LinkHandler."""
        if isinstance(message, m.StreamPacket):
            self._streams.packet(message, payload)
        elif isinstance(message, m.TunnelData):
            self._peers.data(message, payload)
        elif isinstance(message, m.Credit):
            if not self._streams.credited(message.id, message.bytes):
                self._peers.credited(message.id, message.bytes)
        elif isinstance(message, m.TunnelOpen):
            self._peers.opened(message)

    # ---- messages -----------------------------------------------------------------------------------------

    def _responder(self) -> Respond:
        """Answers go where the question came from: ids of another link mean something else there."""
        number = self._link.number

        def respond(message: m.Message, payload: bytes | None) -> None:
            if self._link.number != number:
                return
            if type(message) is m.Done or (type(message) is m.Reply and (message.report or message.gone)):
                # Among the numbered ones, which are held while a snapshot is made.
                self._out.ordered(message, payload)
            else:
                self._link.send(message, payload)

        return respond

    def _on_open_stream(self, message: m.OpenStream, payload: bytes) -> None:
        respond = self._responder()

        def answered(ok: bool, reply: bytes, failure: str) -> None:
            if failure:
                respond(m.Failed(message.id, failure, reply.decode()), None)
            else:
                respond(m.Reply(message.id, ok), reply)

        if self._watch.down:
            answered(False, self._watch.down.encode(), "libvirtd-down")
        elif (message.program, message.procedure) in CARRIED:
            self._descriptors.open(message, payload, answered)
        else:
            self._streams.open(message, payload, answered)

    def _on_operation(self, message: m.Operation, payload: bytes) -> None:
        respond = self._responder()

        def progress(done: int, total: int, what: str) -> None:
            respond(m.Progress(message.id, done, total, what), None)

        def act(finish: Callable[[m.Message, bytes], None]) -> None:
            task = self._loop.create_task(self._operate(message, progress, finish))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        if message.epoch < self._table.epoch:
            text = f"the order is of epoch {message.epoch}, this agent obeys epoch {self._table.epoch}"
            self._link.send(m.Failed(message.id, "stale-generation", text))
        else:
            self._calls.once(message, respond, act)

    async def _operate(
        self, message: m.Operation, progress: Progress, finish: Callable[[m.Message, bytes], None]
    ) -> None:
        answer: m.Message
        payload = b""
        try:
            answer = m.Done(message.id, await self._operations.run(message.kind, message.args, progress))
        except Unavailable as error:
            answer = m.Failed(message.id, error.kind, str(error))
        except LibvirtRefused as error:
            answer, payload = m.Reply(message.id, ok=False), error.payload
        if message.domain is not None:
            # Its events, and what it is now, go before the answer.
            told = self._loop.create_future()
            self._watch.report(message.domain, lambda verdict: told.set_result(verdict))
            self._watch.tell(message.domain, await told)
        finish(answer, payload)

    def _on_session_close(self, message: m.SessionClose, payload: bytes) -> None:
        self._calls.close_session(message.session)
        self._streams.close_session(message.session)

    def _on_want_snapshot(self, message: m.WantSnapshot, payload: bytes) -> None:
        self._watch.want_snapshot()

    def _on_cancel(self, message: m.Cancel, payload: bytes) -> None:
        if message.id:  # 0: the front end looks whether the connection still stands
            self._calls.cancel(message.id)
            self._descriptors.cancel(message.id)

    def _on_subscribe(self, message: m.Subscribe, payload: bytes) -> None:
        self._watch.subscribe(monitor_events=message.monitor_events)

    # ---- libvirtd and time --------------------------------------------------------------------------------

    async def _dial(self, readonly: bool) -> Rpc:
        return await transport.connect(self._target, readonly=readonly)

    async def _dial_stream(self, readonly: bool) -> Rpc:
        return await transport.connect(self._target, readonly=readonly, keepalive=False)

    async def _dial_for_descriptor(self, readonly: bool) -> DescriptorRpc:
        return await transport.connect_as(DescriptorRpc, self._target, readonly=readonly, keepalive=False)

    async def _dial_raw(self) -> socket.socket:
        return await transport.dial(self._target)

    def _libvirtd_up(self) -> None:
        self._calls.libvirtd_up()
        self._send_beat()

    def _libvirtd_down(self, reason: str) -> None:
        self._calls.libvirtd_down(reason)
        self._send_beat()

    def _send_beat(self) -> None:
        self._link.send(self._watch.beat(self._loop.time()))

    def _beat(self) -> None:
        if not self._stopped:
            self._loop.call_later(BEAT_SECONDS, self._beat)
            self._send_beat()

    def _tidy(self) -> None:
        self._tidy_timer = self._loop.call_later(TIDY_SECONDS, self._tidy)
        self._calls.tidy()
        self._table.prune()


async def run(settings: Settings) -> None:
    """Be the agent until cancelled; raises KeyFileError, TokenError, Unavailable (a URI it cannot use)."""
    agent = Agent(settings)
    # As in daemon.py: the modules stay, looking through them for garbage would hold up calls.
    gc.collect()
    gc.freeze()
    await agent.run()
