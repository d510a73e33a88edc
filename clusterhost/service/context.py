"""What every use case needs, and the small questions they share."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field

from clusterhost.config import Settings
from clusterhost.model.cellmap import CellMap
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from clusterhost.model.errors import NodeUnreachable
from clusterhost.model.node import Node
from clusterhost.service.describe import describe_silence
from clusterhost.service.image_stock import DomainImages, NoImages
from clusterhost.service.inventory import Inventory
from clusterhost.service.ledger import Ledger
from clusterhost.service.locks import Locks, Tasks
from clusterhost.service.moving import Moves
from clusterhost.service.placing import Placing
from clusterhost.service.ports import Nodes
from clusterhost.service.seed_stock import DomainSeeds, NoSeeds
from clusterhost.service.virt import Virt


@dataclass(slots=True)
class Context:
    """Shared by all use cases.  in_hand: operations whose doer is alive, so recovery leaves them alone.
    leaving: nodes that are being removed, whose domains are given back to their own libvirtd.  cell_map: the nodes'
    CPU numbers as clients see them.  images, seeds: put there once pools and volumes are wired."""

    settings: Settings
    cluster: Cluster
    ledger: Ledger
    nodes: Nodes
    inventory: Inventory
    moves: Moves
    placing: Placing
    clock: Callable[[], float]
    locks: Locks = field(default_factory=Locks)
    tasks: Tasks = field(default_factory=Tasks)
    in_hand: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)
    cell_map: Callable[[], CellMap] = CellMap
    images: DomainImages = field(default_factory=NoImages)
    seeds: DomainSeeds = field(default_factory=NoSeeds)

    @property
    def virt(self) -> Virt:
        """Calls on our own behalf."""
        return Virt(self.nodes)

    def reachable(self, name: str) -> Node:
        """The node if calls can be sent to it; NodeUnreachable says since when not."""
        node = self.cluster.node(name)
        if not node.usable:
            raise NodeUnreachable(describe_silence(node))
        return node

    async def definition(self, domain: Domain) -> str:
        """Its inactive XML: what is on record, else what its node says (a transient domain is on no record)."""
        row = self.ledger.domains.get(domain.uuid)
        return (
            row.xml if row is not None and row.xml else await self.virt.inactive_xml(domain.node, domain.uuid)
        )


def new_op() -> str:
    """A new operation id."""
    return uuids.uuid4().hex
