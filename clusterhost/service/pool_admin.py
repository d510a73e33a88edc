"""What the `clusterhost pool` command may ask: pools, and what nodes say of them.  No sockets, no output."""

from __future__ import annotations

from collections.abc import Iterator

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import InvalidArgument, PoolNotFound
from clusterhost.service.admin_args import WHO, Args, Method, text_of
from clusterhost.service.image_cache import Cache
from clusterhost.service.image_limits import limit_text, set_limit
from clusterhost.service.pools import PoolEntry
from clusterhost.service.ports import Caller, Progress
from clusterhost.service.volume_clones import FULL, LINKED
from clusterhost.service.world import World
from clusterhost.service.xml import parse_uuid


def pool_named(world: World, args: Args) -> PoolEntry:
    """By name or uuid."""
    given, pools = text_of(args, "pool"), world.storage.pools
    try:
        return pools.by_name(given)
    except PoolNotFound:
        if len(given.replace("-", "")) != 32:
            raise
        return pools.by_uuid(parse_uuid(given))


def node_rows(world: World, entry: PoolEntry) -> Iterator[dict[str, object]]:
    """What each node of the cluster has of a pool."""
    nodes = world.storage.pool_nodes
    told = {state.node: state for state in nodes.states(entry.uuid)}
    for node in world.cluster.cells():
        state, place = told.get(node.name), nodes.places.find(entry.uuid, node.name)
        problem = state.problem if state is not None else "it has not answered yet"
        if not node.usable:
            problem = f"the node is {node.link}" + (f"; last: {problem}" if problem else "")
        yield {
            "node": node.name,
            "ok": not problem,
            "active": node.name in nodes.nodes(entry.uuid),
            "whose": "" if place is None else "cluster" if place.made else "node",
            "since": state.since if state is not None else 0.0,
            "reason": problem,
        }


def _pool_row(world: World, entry: PoolEntry) -> dict[str, object]:
    nodes = list(node_rows(world, entry))
    return {
        "name": entry.name,
        "uuid": format_uuid(entry.uuid),
        "active": entry.active,
        "persistent": entry.persistent,
        "autostart": entry.autostart,
        "type": str(entry.pool.type),
        "kind": str(entry.kind),
        "clones": LINKED if world.storage.volume_work.clones.linked(entry) else FULL,
        "cache_limit": limit_text(world.context, entry),
        "target": entry.pool.target.path,
        "nodes_ok": sum(bool(row["ok"]) for row in nodes),
        "nodes_all": len(nodes),
        "reason": "; ".join(f"{row['node']}: {row['reason']}" for row in nodes if not row["ok"]),
    }


async def pool_list(world: World, args: Args, progress: Progress) -> object:
    """All pools."""
    return [_pool_row(world, entry) for entry in world.storage.pools.all()]


async def pool_show(world: World, args: Args, progress: Progress) -> object:
    """One, with its room, and what every node says of it."""
    entry = pool_named(world, args)
    room = await world.storage.pools.info(entry.uuid)
    return {
        **_pool_row(world, entry),
        "place": world.storage.pools.place(entry.uuid),
        "capacity": room.capacity,
        "allocation": room.allocation,
        "available": room.available,
        "nodes": list(node_rows(world, entry)),
    }


async def pool_set(world: World, args: Args, progress: Progress) -> object:
    """Whether its directory is one place on all nodes, whether clones are overlays, and how much nodes may keep that
    could be evicted; what is not given stays."""
    entry, caller = pool_named(world, args), Caller(who=WHO)
    given = {key: args[key] for key in ("shared", "linked") if args.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, bool):
            raise InvalidArgument(f"'{key}' must be true or false, found {value!r}")
    limit = args.get("cache_limit")
    if not given and limit is None:
        raise InvalidArgument("'shared', 'linked' or 'cache_limit' must be given")
    if "shared" in given:
        await world.storage.pools.set_shared(caller, entry.uuid, given["shared"])
    if "linked" in given:
        await world.storage.volume_work.clones.set_linked(caller, entry, given["linked"])
    if limit is not None:
        await set_limit(world.context, caller, pool_named(world, args), text_of(args, "cache_limit"))
        cache = Cache(world.context, world.storage.pools, world.storage.volumes, world.jobs)
        for node in world.storage.pools.nodes(entry.uuid):
            cache.trim_soon([entry.uuid], node)
    return None


METHODS: dict[str, Method] = {"pool.list": pool_list, "pool.show": pool_show, "pool.set": pool_set}
"""Names of the command's calls -> who answers them."""
