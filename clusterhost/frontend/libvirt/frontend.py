"""The libvirt front end: builds listeners and sessions, and ends them.  Knows no procedure."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from clusterhost.config import Settings
from clusterhost.frontend.libvirt.events import EventRegistry
from clusterhost.frontend.libvirt.graphics import Graphics
from clusterhost.frontend.libvirt.handlers.domains import Lists
from clusterhost.frontend.libvirt.handlers.session import tell_closed_views
from clusterhost.frontend.libvirt.hostview.pinning import tuned_event
from clusterhost.frontend.libvirt.listeners import Accepted, Listener, sockets
from clusterhost.frontend.libvirt.passthrough import Relayed
from clusterhost.frontend.libvirt.plugged import on_networks
from clusterhost.frontend.libvirt.routes import ROUTES
from clusterhost.frontend.libvirt.session import Session, cancelled
from clusterhost.frontend.libvirt.translate import Translator
from clusterhost.frontend.libvirt.transport import Shared, Transport

if TYPE_CHECKING:
    from clusterhost.service.world import World

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between looks at keepalive and closed views."""
SPARE_FDS = 256
"""File descriptors needed beside those of clients."""


class Front:
    """What all sessions share."""

    def __init__(self, settings: Settings, world: World, loop: asyncio.AbstractEventLoop) -> None:
        listen = settings.listen
        self.world = world
        self.loop = loop
        self.routes = ROUTES
        self.translator = Translator(world.cluster)
        self.translator.cell_map = lambda: world.context.cell_map()
        self.lists = Lists(world.cluster, self.translator)
        self.registry = EventRegistry(world.nodes)
        self.registry.numbered = lambda event: tuned_event(event, world.context.cell_map())
        self.max_client_requests = listen.max_client_requests
        self.keepalive_interval = listen.keepalive_interval
        self.keepalive_count = listen.keepalive_count
        self.deadline: float | None = settings.calls.deadline or None
        self.long_deadline: float | None = settings.calls.long_deadline or None
        self.sessions: dict[int, Session] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.graphics = Graphics(world.cluster, world.nodes, settings.graphics, loop, self.spawn)
        self.translator.shown = lambda uuid, xml: on_networks(
            self.graphics.shown(uuid, xml), lambda name: world.networking.networks.is_bridged(name)
        )
        self.on_room: Callable[[], None] = lambda: None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it to its end; only `LibvirtFrontEnd.stop` cancels."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def gone(self, session: Session) -> None:
        """A session has ended."""
        self.sessions.pop(session.number, None)
        self.registry.forget(session)
        if session.busy:
            self.world.nodes.abandon(lambda done: isinstance(done, Relayed) and done.session is session)
        if session.tied:
            self.world.migrations.closed(session.number)
            self.world.nodes.close_session(session.number)
        self.on_room()


class LibvirtFrontEnd:
    """`start()` listens, `stop()` ends every session and leaves nothing behind."""

    def __init__(self, settings: Settings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._listeners: list[Listener] = []
        self._numbers = itertools.count(1)
        self._shared = Shared()
        self._undo = contextlib.ExitStack()
        self._timer: asyncio.TimerHandle | None = None
        self.front: Front | None = None

    async def start(self) -> None:
        """Listen.  OSError or InvalidArgument when a socket cannot be made."""
        loop = asyncio.get_running_loop()
        allow_descriptors(self._settings.listen.max_clients + SPARE_FDS)
        self.front = front = Front(self._settings, self._world, loop)
        front.on_room = self._room_again
        with contextlib.ExitStack() as undo:
            for sock, kind, path in sockets(self._settings.listen, os.environ, os.getpid()):
                listener = Listener(loop, sock, kind, self._accepted, path)
                undo.callback(listener.close)
                self._listeners.append(listener)
            undo.callback(front.registry.attach(self._world.events))
            undo.callback(front.graphics.stop)
            self._undo = undo.pop_all()
        for listener in self._listeners:
            listener.start(self._has_room)
            log.info("clients may connect (%s) at %s", listener.kind, listener.address)
        self._timer = loop.call_later(TICK, self._tick)

    @property
    def addresses(self) -> dict[str, tuple[str, int] | str]:
        """Kind of listener -> where it listens."""
        return {listener.kind: listener.address for listener in self._listeners}

    async def stop(self) -> None:
        """Close the listeners, then every session; calls under way are given up."""
        if self._timer is not None:
            self._timer.cancel()
        self._undo.close()
        self._listeners.clear()
        if self.front is not None:
            for session in list(self.front.sessions.values()):
                session.drop("the front end stops")
            await cancelled(self.front.tasks)

    def _has_room(self) -> bool:
        assert self.front is not None
        return len(self.front.sessions) < self._settings.listen.max_clients

    def _room_again(self) -> None:
        for listener in self._listeners:
            listener.resume()

    def _accepted(self, client: Accepted) -> None:
        front = self.front
        assert front is not None
        number = next(self._numbers)
        transport = Transport(front.loop, client.sock, self._shared)
        session = Session(front, transport, number, readonly=client.readonly, who=client.who)
        front.sessions[number] = session
        transport.start(session)

    def _tick(self) -> None:
        front = self.front
        assert front is not None
        now = front.loop.time()
        for session in list(front.sessions.values()):
            session.tick(now)
        tell_closed_views(front.sessions.values())
        self._timer = front.loop.call_later(TICK, self._tick)


def allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    if target < wanted:
        log.warning("only %d files may be open, %d are needed for max_clients", target, wanted)
