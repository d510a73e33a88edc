"""Storage put together: pools, what nodes have of them, and volumes.  Wires and translates; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from clusterhost.service.context import Context
from clusterhost.service.events import EventBus
from clusterhost.service.pool_nodes import PoolNodes
from clusterhost.service.pools import SHARED, PoolHappened, Pools
from clusterhost.service.ports import ClusterEvent
from clusterhost.service.volume_uploads import Uploads
from clusterhost.service.volume_work import VolumeWork
from clusterhost.service.volumes import Volumes
from compat.libvirt import messages
from compat.libvirt.constants import VirStoragePoolEventLifecycleType
from compat.libvirt.schema import BY_NAME, Procedure

LIFECYCLE = BY_NAME["remote:STORAGE_POOL_EVENT_LIFECYCLE"]
REFRESH = BY_NAME["remote:STORAGE_POOL_EVENT_REFRESH"]


@dataclass(frozen=True, slots=True)
class Storage:
    """What front ends use."""

    pools: Pools
    pool_nodes: PoolNodes
    volumes: Volumes
    volume_work: VolumeWork
    uploads: Uploads

    def load(self) -> None:
        """What the store has."""
        self.pools.load()
        self.volumes.load()

    def follow(self, happened: PoolHappened) -> None:
        """What nodes list may be something else now; of a pool that is gone nothing is known any more."""
        self.volumes.chains.forget(happened.uuid)
        known = any(entry.uuid == happened.uuid for entry in self.pools.all())
        if known and happened.what != SHARED:
            self.volumes.listings.forget(happened.uuid, happened.node)
        else:
            self.volumes.forget_pool(happened.uuid)


def build(context: Context, bus: EventBus) -> Storage:
    """All of it, listening to the inventory."""
    pool_nodes = PoolNodes(context)
    pools = Pools(context, pool_nodes)
    pools.listeners.append(lambda happened: bus.publish(_event(happened)))
    context.inventory.watchers.append(pool_nodes)
    volumes = Volumes(context, pools)
    storage = Storage(pools, pool_nodes, volumes, VolumeWork(context, volumes), Uploads(context, volumes))
    pools.listeners.append(storage.follow)
    return storage


def _event(happened: PoolHappened) -> ClusterEvent:
    handle = messages.RemoteNonnullStoragePool(name=happened.name, uuid=happened.uuid)
    kind = VirStoragePoolEventLifecycleType.__members__.get(happened.what.upper())
    if kind is None:
        refreshed = messages.RemoteStoragePoolEventRefreshMsg(callbackID=0, pool=handle)
        return _published(REFRESH, refreshed.to_bytes(), happened)
    message = messages.RemoteStoragePoolEventLifecycleMsg(callbackID=0, pool=handle, event=kind, detail=0)
    return _published(LIFECYCLE, message.to_bytes(), happened)


def _published(procedure: Procedure, payload: bytes, happened: PoolHappened) -> ClusterEvent:
    return ClusterEvent(procedure.program_id, procedure.number, payload, happened.uuid, happened.node)
