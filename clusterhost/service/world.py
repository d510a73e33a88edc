"""Everything that front ends may use, wired together.  The daemon gives it nodes, a store and a host view."""

from __future__ import annotations

import asyncio
import time
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from clusterhost.config import Settings
from clusterhost.model.cluster import Cluster
from clusterhost.service import network_default, pool_default
from clusterhost.service.agents import Agents
from clusterhost.service.arrivals import GRACE, Arrivals
from clusterhost.service.context import Context
from clusterhost.service.domains import Domains
from clusterhost.service.events import EventBus
from clusterhost.service.filter_bindings import FilterBindings
from clusterhost.service.filters import Filters
from clusterhost.service.images import Images
from clusterhost.service.inventory import Inventory
from clusterhost.service.jobs import Jobs
from clusterhost.service.ledger import Ledger
from clusterhost.service.live import LiveMover
from clusterhost.service.migration import Migrations
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.moving import Moves
from clusterhost.service.networking import Networking
from clusterhost.service.networking import build as build_networking
from clusterhost.service.nodes import Membership, NodeAdmin
from clusterhost.service.numbering import Numbering
from clusterhost.service.pinning import Pinning
from clusterhost.service.placing import Placing
from clusterhost.service.ports import HubHandler, Nodes
from clusterhost.service.reconcile import Reconciler
from clusterhost.service.recovery import Recovery
from clusterhost.service.seeds import Seeds
from clusterhost.service.settling import Settler
from clusterhost.service.storage import Storage
from clusterhost.service.storage import build as build_storage
from clusterhost.service.told import Told
from clusterhost.store.rows import SetMeta
from clusterhost.store.store import Store


class HostRefresh(Protocol):
    """The view of the cluster as one host (frontend.libvirt.hostview); it asks nodes when they come and
    go."""

    async def refresh(self, world: World) -> None: ...


class ControlPlane(Nodes, Membership, Protocol):
    """control.hub.Hub."""


@dataclass(slots=True)
class World:
    """What a session's handlers reach as `session.world`."""

    settings: Settings
    cluster: Cluster
    nodes: Nodes
    store: Store
    events: EventBus
    domains: Domains
    numbering: Numbering
    pinning: Pinning
    networking: Networking
    storage: Storage
    filters: Filters
    migrations: Migrations
    node_admin: NodeAdmin
    jobs: Jobs
    context: Context
    inventory: Inventory
    recovery: Recovery
    agents: Agents
    arrivals: Arrivals
    host: HostRefresh | None = None
    _refreshing: bool = False
    _background: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        """Rows as the store has them."""
        return self.context.ledger

    @property
    def filter_bindings(self) -> FilterBindings:
        """They are the nodes': nothing of them is kept here."""
        return FilterBindings(self.context, self.filters)

    def start(self) -> None:
        """Let agents in and begin to resolve what is open.  The control plane must be listening."""
        for nodes in (self.networking.nodes, self.storage.pool_nodes):
            self.node_admin.departing.append(nodes.leave)
            self.node_admin.departed.append(nodes.left)
        self.node_admin.load()
        self.arrivals.start(min(GRACE, self.settings.calls.deadline or GRACE))
        self._background.append(asyncio.create_task(self.recovery.run(), name="recovery"))
        self._background.append(asyncio.create_task(self.networking.run(), name="networking"))

    async def stop(self) -> None:
        """End what runs in the background and write what is noted.  The store stays open."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.arrivals.stop()
        await self.agents.close()
        await self.context.tasks.close()
        await self.ledger.close()

    def membership_changed(self) -> None:
        """A node came, went or changed: look at the host anew (changes in a row count once)."""
        if self.host is not None and not self._refreshing:
            self._refreshing = True
            self.context.tasks.spawn(self._refresh(), "refresh host")

    async def _refresh(self) -> None:
        try:
            await asyncio.sleep(0.05)
        finally:
            self._refreshing = False
        if self.host is not None:
            await self.host.refresh(self)


async def build(
    settings: Settings,
    store: Store,
    connect: Callable[[HubHandler], ControlPlane],
    clock: Callable[[], float] = time.time,
) -> World:
    """Load the store and wire all use cases.  connect: makes the control plane, given who it tells."""
    ledger = Ledger(store, clock)
    await ledger.open()
    cluster = Cluster(await _cluster_uuid(ledger), settings.cluster.name, settings.cluster.hostname)
    bus, moves, placing = EventBus(), Moves(), Placing(settings.placement, cluster)
    inventory = Inventory(cluster, ledger, moves, bus, clock, store.epoch)
    inventory.load()
    nodes = connect(inventory)
    context = Context(settings, cluster, ledger, nodes, inventory, moves, placing, clock)
    mover = DefinitionMover(context)
    networking = build_networking(context, domains := Domains(context, mover), bus, clock)
    migrations = Migrations(context, settler := Settler(context, mover))
    live = LiveMover(context, migrations)
    arrivals, agents = Arrivals(ledger), Agents(settings.cluster.state_dir)
    jobs = Jobs(ledger, context.tasks, clock)
    jobs.load()
    storage = build_storage(context, bus)
    recovery = Recovery(context, mover, settler)
    recovery.load()
    node_admin = NodeAdmin(context, mover, live, nodes, agents, lambda: world.membership_changed())
    world = World(
        settings=settings,
        cluster=cluster,
        nodes=nodes,
        store=store,
        events=bus,
        domains=domains,
        numbering=Numbering(context, networking.guests),
        networking=networking,
        storage=storage,
        filters=(filters := Filters(context)),
        pinning=Pinning(context, live),
        migrations=migrations,
        node_admin=node_admin,
        jobs=jobs,
        context=context,
        inventory=inventory,
        recovery=recovery,
        agents=agents,
        arrivals=arrivals,
    )
    await _load(world)
    inventory.watchers += [arrivals, node_admin, migrations, filters, Reconciler(context, mover, domains)]
    return world


async def _load(world: World) -> None:
    """What the store has, and what a new cluster begins with."""
    ledger, networking, storage, context = world.ledger, world.networking, world.storage, world.context
    networking.load()
    await network_default.make_once(ledger, networking.networks)
    storage.load()
    await pool_default.make_once(ledger, storage.pools, storage.pool_nodes)
    context.images = images = Images(context, storage.pools, storage.volumes, world.jobs)
    told = Told(world.cluster, networking)
    context.seeds = seeds = Seeds(context, told, storage.volumes, storage.volume_work)
    context.inventory.followers += [images.last_use, seeds]
    context.inventory.watchers.append(seeds)


async def _cluster_uuid(ledger: Ledger) -> bytes:
    """Made once: clients know the host by it."""
    known = ledger.meta.get("cluster_uuid")
    if known is None:
        known = uuids.uuid4().hex
        await ledger.commit(
            SetMeta("cluster_uuid", known),
            SetMeta(network_default.KEY, network_default.WANTED),
            SetMeta(pool_default.KEY, pool_default.WANTED),
        )
    return bytes.fromhex(known)
