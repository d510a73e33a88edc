"""A front end without sockets over fake nodes: what tests of use cases start, crash and start again."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from clusterhost.config import ClusterSection, PlacementSection, Settings
from clusterhost.control import keys
from clusterhost.service.ports import Answer, Caller, ClusterEvent
from clusterhost.service.world import World, build
from clusterhost.store.store import Store
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from tests.support.fakelibvirt import Machine, domain_xml
from tests.support.fakenodes import FakeNodes

NODES = ("n1", "n2", "n3")
ANYONE = Caller(session=1, who="test")


class Front:
    """One cluster over its machines; `crash` and `start` may alternate."""

    def __init__(self, directory: Path, names: tuple[str, ...] = NODES, **placement: Any) -> None:
        self.settings = Settings(
            cluster=ClusterSection(name="test", hostname="cluster", state_dir=directory),
            placement=PlacementSection(**placement),
        )
        self.machines: dict[str, Machine] = {}
        for name in names:
            Machine(name, self.machines)
        self.now = 1000.0
        self.shown: list[ClusterEvent] = []
        self.world: World = None  # type: ignore[assignment]
        self.nodes: FakeNodes = None  # type: ignore[assignment]
        self.store: Store = None  # type: ignore[assignment]
        directory.mkdir(parents=True, exist_ok=True)
        if not self.settings.control.key_file.exists():
            keys.save(self.settings.control.key_file, keys.new_pair())

    async def start(self) -> World:
        """Start the front end; all machines that can be reached join."""
        self.store = await Store.open(self.settings.store.url)

        def connect(handler: Any) -> Any:
            self.nodes = FakeNodes(self.machines, handler)
            return self.nodes

        self.world = await build(self.settings, self.store, connect, lambda: self.now)
        self.world.events.subscribe(self.shown.append)
        self.world.start()
        for name in self.machines:
            if name not in self.world.ledger.nodes:
                await self.world.node_admin.add(name, "", "", "test")
        for name in self.machines:
            self.nodes.join(name)
        await self.quiet()
        return self.world

    async def stop(self) -> None:
        """A clean end."""
        self.nodes.kill()
        await self.world.stop()
        await self.store.close()

    async def crash(self) -> None:
        """As kill -9: nothing that was only noted is written, nobody is told anything."""
        self.nodes.kill()
        self.world.context.tasks._closed = True
        writer = self.world.ledger._writer
        background = [
            *self.world._background,
            *self.world.context.tasks._tasks,
            *([writer] if writer else []),
        ]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self.store.close()

    async def quiet(self, most: int = 2000) -> None:
        """Let what was begun in the background come to its end (most: turns of a millisecond)."""
        context = self.world.context
        for _ in range(most):
            await asyncio.sleep(0.001)
            if not context.tasks._tasks and not context.ledger._pending and not context.ledger._waiting:
                return

    async def settled(self, seconds: float = 200.0) -> None:
        """Time passes and recovery looks, until nothing is open."""
        for _ in range(40):
            self.now += seconds / 10
            self.world.recovery.sweep()
            await self.quiet()
            if not self.world.ledger.intents and not list(self.world.context.moves):
                return

    def cut(self, name: str) -> None:
        self.machines[name].reachable = False
        self.nodes.lose(name)

    def mend(self, name: str) -> None:
        self.machines[name].reachable = True
        self.nodes.join(name)

    # -- what clients do

    async def define(
        self, name: str, uuid: bytes | None = None, caller: Caller = ANYONE, **options: Any
    ) -> Answer:
        xml = domain_xml(name, uuid, **options)
        payload = lv.RemoteDomainDefineXmlArgs(xml).to_bytes()
        return await self.world.domains.define(caller, BY_NAME["remote:DOMAIN_DEFINE_XML"], payload, xml)

    async def create(self, name: str, uuid: bytes | None = None, flags: int = 0) -> Answer:
        xml = domain_xml(name, uuid)
        payload = lv.RemoteDomainCreateXmlArgs(xml, flags).to_bytes()
        return await self.world.domains.create_xml(
            ANYONE, BY_NAME["remote:DOMAIN_CREATE_XML"], payload, xml, flags
        )

    async def begin(self, name: str, caller: Caller = ANYONE) -> Answer:
        uuid = self.world.cluster.by_name(name).uuid
        payload = lv.RemoteDomainCreateArgs(self.handle(name)).to_bytes()
        return await self.world.domains.start(caller, BY_NAME["remote:DOMAIN_CREATE"], payload, uuid, 0)

    async def undefine(self, name: str) -> Answer:
        uuid = self.world.cluster.by_name(name).uuid
        payload = lv.RemoteDomainUndefineArgs(self.handle(name)).to_bytes()
        return await self.world.domains.undefine(ANYONE, BY_NAME["remote:DOMAIN_UNDEFINE"], payload, uuid)

    async def relay(self, name: str, procedure: str) -> Answer:
        """What the front end relays raw: destroy, suspend, resume."""
        domain = self.world.cluster.by_name(name)
        kind = BY_NAME[f"remote:DOMAIN_{procedure}"]
        assert kind.args is not None
        payload = kind.args(self.handle(name)).to_bytes()
        self.world.cluster.begin(domain.uuid)
        try:
            return await self.nodes.call(
                domain.node, kind.program_id, kind.number, payload, report=domain.uuid
            )
        finally:
            self.world.cluster.end(domain.uuid)

    def handle(self, name: str) -> lv.RemoteNonnullDomain:
        domain = self.world.cluster.by_name(name)
        return lv.RemoteNonnullDomain(domain.name, domain.uuid, domain.id)

    # -- what is true

    def holders(self, uuid: bytes) -> list[str]:
        return [name for name, machine in self.machines.items() if uuid in machine.guests]

    def runners(self, uuid: bytes) -> list[str]:
        return [
            name
            for name, machine in self.machines.items()
            if uuid in machine.guests and machine.guests[uuid].state == 1
        ]

    def lifecycle(self) -> list[tuple[int, int, int]]:
        """event, detail, id of what clients were shown."""
        told = []
        for event in self.shown:
            message = lv.RemoteDomainEventCallbackLifecycleMsg.from_bytes(event.payload).msg
            told.append((message.event, message.detail, message.dom.id))
        return told


@contextlib.asynccontextmanager
async def running(
    directory: Path, *, beside: str = "", sections: dict[str, Any] | None = None, **options: Any
) -> Any:
    """A started Front, stopped at the end.  beside: a node whose agent runs elsewhere; sections: of the settings."""
    front = Front(directory, **options)
    front.settings = front.settings.model_copy(update=sections or {})
    if beside:
        front.machines[beside].has_files = False
    await front.start()
    try:
        yield front
    finally:
        await front.stop()
