"""Can nodes have a network?  Asks them for their links and addresses; changes nothing there."""

from __future__ import annotations

import asyncio
import uuid as uuids
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network

import msgspec

from clusterhost.model.errors import ClusterError, NetworkRefused
from clusterhost.model.node import Node
from clusterhost.service.context import Context
from clusterhost.service.interface_map import names_of
from netmgr import check, orders, tags
from netmgr.check import NodeLinks
from netmgr.model import Network

KIND = "network"
"""The agent's operation."""
DEADLINE = 3.0
"""Seconds that a node has to say what it has."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A node.  has_files: it can have links of ours; takes_over: what is in the way of our bridges there goes; links:
    None for one that cannot say."""

    has_files: bool
    takes_over: bool
    links: NodeLinks | None

    def problem(self, network: Network, which: Callable[..., Iterable[str]] = check.on_node) -> str:
        if self.links is None or (network.mode.has_own_bridge and self.takes_over):
            return ""
        return ", ".join(which(network, self.links))


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What nodes said."""

    nodes: tuple[_Asked, ...]

    @property
    def taken(self) -> set[str]:
        """Names of links that are there and not ours: no bridge is to be called so that has no name yet."""
        known = [node.links.links for node in self.nodes if node.links is not None]
        return {name for links in known for name, uuid in links.items() if not uuid}

    def check(self, network: Network, *, new: bool) -> None:
        """NetworkRefused when all nodes that could have it say why they cannot; when it is new, also for what is in its
        way on a single one.  A node that is away, or cannot say, may have it."""
        # The others never have links of ours.
        nodes = [node for node in self.nodes if node.has_files or not tags.is_made(network)]
        found = [node.problem(network) for node in nodes]
        if not (found and all(found)):
            found = [node.problem(network, check.in_the_way) for node in nodes] if new else []
        if said := "; ".join(filter(None, found)):
            kind = "InUse" if network.mode.has_own_bridge else "ConfigUnsupported"
            raise NetworkRefused(f"network '{network.name}': {said}", kind)


class NetworkSurvey:
    """Asks when it is asked; holds no state."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ask(self) -> Surveyed:
        """All nodes that are there."""
        nodes = [node for node in self._context.cluster.cells() if node.usable]
        return Surveyed(tuple(await asyncio.gather(*(self._asked(node) for node in nodes))))

    async def problem(self, network: Network, name: str) -> str:
        """Why a node cannot have it; "" when it can, or cannot say."""
        return (await self._asked(self._context.cluster.node(name))).problem(network)

    async def _asked(self, node: Node) -> _Asked:
        takes_over = self._context.ledger.takes_over(node.name)
        return _Asked(node.host.has_files, takes_over, await self._links(node))

    async def _links(self, node: Node) -> NodeLinks | None:
        if not node.host.has_files:
            return None
        try:
            answer = await self._context.nodes.operate(
                node.name, KIND, orders.encode(orders.Survey()), deadline=DEADLINE
            )
        except ClusterError:
            return None
        found = orders.decode_outcome(msgspec.msgpack.decode(answer, type=bytes)).found
        if found is None:
            return None
        return NodeLinks(
            node.name,
            {link: uuids.UUID(uuid).bytes if uuid else b"" for link, uuid in found.links.items()},
            tuple(ip_network(subnet) for subnet in found.subnets),
            names_of(self._context.ledger, node.name),
        )
