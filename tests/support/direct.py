"""A front end without a control plane, in a thread, so that stock clients can be used from a test."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clusterhost.config import Settings
from clusterhost.frontend.libvirt.frontend import LibvirtFrontEnd
from clusterhost.frontend.libvirt.hostview import HostView
from clusterhost.model.cluster import Cluster
from clusterhost.service.events import EventBus
from clusterhost.service.ports import Answer, Caller
from compat.libvirt.schema import Procedure
from tests.support.directnodes import DirectNodes
from tests.support.libvirtd import PrivateLibvirtd


class DirectDomains:
    """Stands where the service's use cases do: every call goes to a node unchanged."""

    def __init__(self, nodes: DirectNodes) -> None:
        self.nodes = nodes
        self.parsed: list[str] = []

    async def _made(self, node: str, procedure: Procedure, payload: bytes) -> Answer:
        answer = await self.nodes.call(node, procedure.program_id, procedure.number, payload)
        if answer.ok and procedure.ret is not None:
            await self.nodes.refresh(node, procedure.ret.from_bytes(answer.payload).dom.uuid)  # type: ignore[attr-defined]
        return answer

    def _emptiest(self, view: str | None) -> str:
        cluster = self.nodes.cluster
        return view or min(cluster.nodes, key=lambda name: (len(list(cluster.domains(name))), name))

    async def define(self, caller: Caller, procedure: Procedure, payload: bytes, xml: str) -> Answer:
        self.parsed.append(xml)
        known = next((one for one in self.nodes.cluster.domains() if f"<name>{one.name}</name>" in xml), None)
        return await self._made(known.node if known else self._emptiest(caller.view), procedure, payload)

    async def create_xml(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, flags: int
    ) -> Answer:
        return await self.define(caller, procedure, payload, xml)

    async def start(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, flags: int
    ) -> Answer:
        node = self.nodes.cluster.by_uuid(uuid, caller.view).node
        return await self.nodes.call(node, procedure.program_id, procedure.number, payload, report=uuid)

    async def undefine(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        return await self.start(caller, procedure, payload, uuid, 0)

    async def rename(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, new_name: str
    ) -> Answer:
        return await self.start(caller, procedure, payload, uuid, 0)

    async def restore(self, caller: Caller, procedure: Procedure, payload: bytes, path: str) -> Answer:
        return await self.nodes.call(
            self._emptiest(caller.view), procedure.program_id, procedure.number, payload
        )

    async def set_autostart(self, caller: Caller, uuid: bytes, on: bool) -> None:
        domain = self.nodes.cluster.by_uuid(uuid, caller.view)
        self.nodes.cluster.put(domain.with_(autostart=on))


class DirectMigrations:
    """Nothing moves here."""

    def __init__(self) -> None:
        self.closed_sessions: list[int] = []

    def closed(self, session: int) -> None:
        self.closed_sessions.append(session)


class Served:
    """A front end in a thread: `path` and `path_ro` are its sockets, `run` runs a coroutine on its loop."""

    def __init__(
        self, directory: Path, nodes: dict[str, Path], *, name: str = "qemu:///system", **listen: Any
    ) -> None:
        self.directory = directory
        self._paths = nodes
        self._name = name
        self._listen = listen
        self._loop = listen.pop("loop", None) or asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front end")
        self.cluster = Cluster(uuid=bytes(range(16)), name="test", hostname="cluster.example")
        self.bus = EventBus()
        self.nodes = DirectNodes(self.cluster, self.bus, name)
        self.domains = DirectDomains(self.nodes)

    def run(self, work: Coroutine[Any, Any, Any] | Awaitable[Any], seconds: float = 30) -> Any:
        """Run on the front end's loop and wait."""

        async def waited() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(waited(), self._loop).result(seconds)

    def __enter__(self) -> Served:
        self._thread.start()
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_thread)
            self.run(self._start())
            undo.pop_all()
        return self

    async def _start(self) -> None:
        listen = {
            "unix_sock_dir": self.directory,
            "listen_tcp": True,
            "tcp_port": 0,
            "keepalive_interval": 5,
            **self._listen,
        }
        calls = {"deadline": listen.pop("deadline", 30.0)}
        cluster = {"state_dir": str(self.directory)}
        settings = Settings.model_validate({"listen": listen, "cluster": cluster, "calls": calls})
        for node, path in self._paths.items():
            await self.nodes.add(node, path)
        self.world: Any = SimpleNamespace(
            arrivals=SimpleNamespace(awaited=set()),
            ledger=SimpleNamespace(domains={}),
            settings=settings,
            cluster=self.cluster,
            nodes=self.nodes,
            events=self.bus,
            domains=self.domains,
            numbering=self.domains,
            migrations=DirectMigrations(),
            # A cluster without networks of its own.
            networking=SimpleNamespace(guests=SimpleNamespace(check_start=lambda uuid: None)),
            # Nor pools: nobody knows what is in an image.
            storage=SimpleNamespace(
                volumes=SimpleNamespace(chains=SimpleNamespace(changing=lambda uuid: None))
            ),
            host=HostView(self.cluster),
        )
        self.front = LibvirtFrontEnd(settings, self.world)
        await self.front.start()

    @property
    def path(self) -> Path:
        return self.directory / "libvirt-sock"

    @property
    def path_ro(self) -> Path:
        return self.directory / "libvirt-sock-ro"

    def uri(self, view: str | None = None) -> str:
        """What a stock client is given."""
        return f"qemu+unix:///system?socket={self.path}" + (f"&node={view}" if view else "")

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            await self.front.stop()
            await self.nodes.stop()

        try:
            self.run(stop())
        finally:
            self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextlib.contextmanager
def served(directory: Path, daemons: dict[str, PrivateLibvirtd], **listen: Any) -> Iterator[Served]:
    """A front end before them."""
    directory.mkdir()
    with Served(directory, {name: daemon.socket for name, daemon in daemons.items()}, **listen) as front:
        yield front
