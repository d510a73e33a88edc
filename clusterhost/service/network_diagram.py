"""What a picture of the networks shows: nodes that have them, guests that are on them.  Asks nobody, draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clusterhost.model.domain import Domain
from clusterhost.model.node import Node
from clusterhost.service.admin_args import Args, Method
from clusterhost.service.describe import domain_state, why_closed
from clusterhost.service.network_admin import net_named, node_rows
from clusterhost.service.networks import Net
from clusterhost.service.ports import Progress
from clusterhost.service.world import World
from netmgr import picture, tags


async def network_diagram(world: World, args: Args, progress: Progress) -> object:
    """A Picture of one network, or of all."""
    nets = [net_named(world, args)] if args.get("network") else list(world.networking.networks.all())
    return picture.Picture(
        cluster=world.cluster.name,
        networks=tuple(_net(world, net) for net in nets),
        nodes=tuple(_node(node) for node in world.cluster.cells()),
        guests=tuple(_guests(world, nets)),
    )


def _net(world: World, net: Net) -> picture.Net:
    parts = node_rows(world, net) if net.active else ()
    shown = net.shown
    own = shown.mode.has_own_bridge
    return picture.Net(
        net.name,
        net.active,
        shown.mode.value,
        tags.bridge_name(shown),
        net.row.vni if own else 0,
        tuple(str(subnet) for subnet in shown.subnets),
        tuple(picture.Part(str(row["node"]), bool(row["ok"]), str(row["reason"])) for row in parts),
    )


def _node(node: Node) -> picture.Node:
    return picture.Node(node.name, node.usable, why_closed(node).removeprefix(f"node {node.name} ") or "up")


def _guests(world: World, nets: Iterable[Net]) -> Iterator[picture.Guest]:
    """By name; a guest's interfaces in the networks' order."""
    found: dict[bytes, list[picture.Interface]] = {}
    for net in nets:
        by_mac: dict[tuple[bytes, str], list[str]] = {}
        for row in world.networking.addresses.of_network(net.uuid):
            if row.domain and row.mac:
                by_mac.setdefault((row.domain, row.mac), []).extend([row.address] if row.address else [])
        for (uuid, mac), addresses in by_mac.items():
            found.setdefault(uuid, []).append(picture.Interface(net.name, mac, tuple(addresses)))
    domains = [domain for uuid in found if (domain := world.cluster.get(uuid)) is not None]
    for domain in sorted(domains, key=_by_name):
        state = domain_state(domain.state)
        yield picture.Guest(domain.name, domain.node, domain.active, state, tuple(found[domain.uuid]))


def _by_name(domain: Domain) -> str:
    return domain.name


METHODS: dict[str, Method] = {"network.diagram": network_diagram}
"""Names of the command's calls -> who answers them."""
