"""What the `clusterhost network` command may ask: networks, what nodes say of them, leases.  No sockets, no output."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import InvalidArgument, NetworkNotFound
from clusterhost.service.admin_args import WHO, Args, Method, text_of
from clusterhost.service.network_documents import refusals
from clusterhost.service.networks import Net
from clusterhost.service.ports import Progress
from clusterhost.service.world import World
from clusterhost.service.xml import parse_uuid
from clusterhost.store.rows import LeaseRow
from netmgr import macs, tags


def net_named(world: World, args: Args) -> Net:
    """By name or uuid."""
    given = text_of(args, "network")
    networks = world.networking.networks
    try:
        return networks.by_name(given)
    except NetworkNotFound:
        if len(given.replace("-", "")) != 32:
            raise
        return networks.by_uuid(parse_uuid(given))


# -- networks


def node_rows(world: World, net: Net) -> Iterator[dict[str, object]]:
    """What each node of the cluster has of an active network."""
    told = {state.node: state for state in world.networking.nodes.states(net.uuid)}
    for node in world.cluster.cells():
        state = told.get(node.name)
        problem = state.problem if state is not None else "it has not answered yet"
        if not node.usable:
            problem = f"the node is {node.link}" + (f"; last: {problem}" if problem else "")
        yield {
            "node": node.name,
            "ok": not problem,
            "address": node.host.underlay,
            "since": state.since if state is not None else 0.0,
            "reason": problem,
        }


def _network_row(world: World, net: Net) -> dict[str, object]:
    shown = net.shown
    nodes = list(node_rows(world, net)) if net.active else []
    return {
        "name": net.name,
        "uuid": format_uuid(net.uuid),
        "active": net.active,
        "persistent": net.persistent,
        "autostart": net.row.autostart,
        "mode": shown.mode.value,
        "bridge": tags.bridge_name(shown),
        "vni": net.row.vni if shown.mode.has_own_bridge else None,
        "subnets": [str(subnet) for subnet in shown.subnets],
        "leases": len(world.networking.addresses.of_network(net.uuid)),
        "running": world.networking.addresses.connections(net.uuid) if net.active else 0,
        "nodes_ok": sum(bool(row["ok"]) for row in nodes),
        "nodes_all": len(nodes),
        "reason": "; ".join(f"{row['node']}: {row['reason']}" for row in nodes if not row["ok"]),
    }


async def network_list(world: World, args: Args, progress: Progress) -> object:
    """All networks."""
    return [_network_row(world, net) for net in world.networking.networks.all()]


async def network_show(world: World, args: Args, progress: Progress) -> object:
    """One, with what every node says of it."""
    net = net_named(world, args)
    return {**_network_row(world, net), "nodes": list(node_rows(world, net)) if net.active else []}


async def network_names(world: World, args: Args, progress: Progress) -> object:
    """How the names in a DNS server outside are."""
    outside, settings = world.networking.outside, world.settings.names
    status = outside.status
    return {
        "server": f"{settings.server} port {settings.port}" if outside.enabled else "",
        "zones": settings.zones.split(),
        "names": status.names,
        "pending": status.pending,
        "error": status.error,
        "error_since": status.since,
        "last_synced": status.synced,
        "taken": list(status.taken),
        "left_out": list(outside.left_out),
    }


# -- leases


def _lease_row(world: World, net: Net, row: LeaseRow) -> dict[str, object]:
    domain = world.cluster.get(row.domain) if row.domain else None
    return {
        "network": net.name,
        "address": row.address,
        "mac": row.mac,
        "name": row.name,
        "state": row.state,
        "node": domain.node if domain is not None and domain.active else "",
        "since": row.since,
    }


async def lease_list(world: World, args: Args, progress: Progress) -> object:
    """Of one network, or of all; by address, interfaces without one last."""
    nets = [net_named(world, args)] if args.get("network") else list(world.networking.networks.all())
    found = []
    for net in nets:
        rows = world.networking.addresses.of_network(net.uuid)
        found += [_lease_row(world, net, row) for row in sorted(rows, key=_by_address)]
    return found


def _by_address(row: LeaseRow) -> tuple[int, int, str]:
    if not row.address:
        return (9, 0, row.mac)
    address = ip_address(row.address)
    return (address.version, int(address), row.mac)


async def lease_hold(world: World, args: Args, progress: Progress) -> object:
    """Nobody gets this address."""
    net, address = net_named(world, args), _address(args)
    with refusals():
        changes = world.networking.addresses.hold(net, address)
    await world.ledger.commit(*changes, world.ledger.journal("hold lease", net.name, WHO, address))
    return None


async def lease_reserve(world: World, args: Args, progress: Progress) -> object:
    """A MAC gets this address, and nobody else."""
    net, address = net_named(world, args), _address(args)
    with refusals():
        mac = macs.claim(text_of(args, "mac"), "", {})
        changes = world.networking.addresses.reserve(net, mac, address)
    line = world.ledger.journal("reserve lease", net.name, WHO, f"{address} for {mac}")
    await world.ledger.commit(*changes, line)
    world.networking.addresses.announce(net.uuid, mac)
    return None


async def lease_release(world: World, args: Args, progress: Progress) -> object:
    """An address that was held, reserved or used is anybody's again."""
    net, address = net_named(world, args), _address(args)
    with refusals():
        mac, changes = world.networking.addresses.forget(net, address)
    await world.ledger.commit(*changes, world.ledger.journal("release lease", net.name, WHO, address))
    if mac:
        world.networking.addresses.announce(net.uuid, mac)
    return None


def _address(args: Args) -> str:
    given = text_of(args, "address")
    try:
        return str(ip_address(given))
    except ValueError as error:
        raise InvalidArgument(f"'{given}' is no IP address") from error


METHODS: dict[str, Method] = {
    "network.list": network_list,
    "network.show": network_show,
    "network.names": network_names,
    "network.lease.list": lease_list,
    "network.lease.hold": lease_hold,
    "network.lease.reserve": lease_reserve,
    "network.lease.release": lease_release,
}
"""Names of the command's calls -> who answers them."""
