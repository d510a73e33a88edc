"""What the `clusterhost image` command may ask: images of pools, their copies, users and health.  No sockets, no
output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

from clusterhost.model.errors import ClusterError, InvalidArgument, InvalidOperation, VolumeNotFound
from clusterhost.service.admin_args import WHO, Args, Method, text_of
from clusterhost.service.image_check import Check, Wish
from clusterhost.service.image_evict import Evict, Evicted
from clusterhost.service.image_facts import Facts, at_once, refuse_one_place
from clusterhost.service.image_flatten import Flatten
from clusterhost.service.image_holds import ALL
from clusterhost.service.image_spread import Spread
from clusterhost.service.pool_admin import pool_named
from clusterhost.service.ports import Caller, Progress
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volume_rows import incomplete
from clusterhost.service.world import World
from imagemgr.model import Copy, CopyState, Held, Kind
from imagemgr.place import newest

SIZED = 256
"""Images of a list whose size nodes are asked for; of more only what is known is shown."""
CALLER = Caller(who=WHO)


def _facts(world: World) -> Facts:
    return Facts(world.context, world.storage.pools, world.storage.volumes)


def _spread(world: World) -> Spread:
    return Spread(world.context, world.storage.pools, world.storage.volumes, world.jobs)


def _pools(world: World, args: Args) -> list[Entry]:
    """The one that is named, else all that are active."""
    if args.get("pool") is None:
        return [entry for entry in world.storage.pools.all() if entry.active]
    entry = pool_named(world, args)
    if not entry.active:
        raise InvalidOperation(f"pool {entry.name} is not active")
    return [entry]


async def image_named(world: World, args: Args) -> tuple[Entry, Held]:
    """By pool and name, or by a name that only one pool has.  VolumeNotFound, InvalidArgument."""
    given, pools, found = text_of(args, "image"), _pools(world, args), []
    for entry in pools:
        held = await world.storage.volumes.found(entry.uuid, given)
        found += [(entry, held)] if held is not None else []
    if not found:
        where = f"pool {pools[0].name} has" if len(pools) == 1 else "no active pool has"
        raise VolumeNotFound(f"{where} {'no' if len(pools) == 1 else 'an'} image '{given}'")
    if len(found) > 1:
        names = ", ".join(entry.name for entry, _ in found)
        raise InvalidArgument(f"pools {names} have an image '{given}': say which with --pool")
    return found[0]


# -- what there is


def _state(world: World, entry: Entry, held: Held) -> tuple[str, str]:
    """One word, and why."""
    row = world.storage.volumes.row(entry.uuid, held.shown)
    if row is not None and incomplete(row):
        return "incomplete", row.reason
    states = {copy.state for copy in newest(held)}
    if CopyState.WHOLE in states:
        return "whole", ""
    nodes = ", ".join(copy.node for copy in newest(held))
    return ("away", f"only {nodes} has it") if states else ("incomplete", "no node has all of it")


def _row(world: World, entry: Entry, held: Held, size: tuple[int, int] | None) -> dict[str, object]:
    state, reason = _state(world, entry, held)
    whole = [copy for copy in newest(held) if copy.state is CopyState.WHOLE]
    return {
        "name": held.shown,
        "pool": entry.name,
        "state": state,
        "capacity_bytes": size[0] if size is not None else None,
        "allocated_bytes": size[1] if size is not None else None,
        "copies": len(whole),
        "nodes": [copy.node for copy in whole if copy.node],
        "shared": entry.kind is Kind.SHARED,
        "reason": reason,
    }


async def _size(world: World, entry: Entry, held: Held) -> tuple[int, int] | None:
    """Of one copy; None where nobody says."""
    volumes = world.storage.volumes
    known = next((copy for copy in newest(held) if copy.capacity and copy.allocation), None)
    if known is not None:
        return known.capacity, known.allocation
    try:
        node = await volumes.place_of(entry.uuid, held)
        return await volumes.calls.size(node, entry.name, held.name)
    except ClusterError:
        return None


async def _images(world: World, args: Args) -> AsyncIterator[tuple[Entry, Held]]:
    for entry in _pools(world, args):
        for held in await world.storage.volumes.all(entry.uuid):
            yield entry, held


async def image_list(world: World, args: Args, progress: Progress) -> object:
    """All of a pool, or of all active pools."""
    found = [each async for each in _images(world, args)]
    asked = await at_once(found[:SIZED], lambda each: _size(world, *each))
    sizes = [*asked, *(None for _ in found[SIZED:])]
    return [_row(world, *each, size) for each, size in zip(found, sizes, strict=True)]


async def _copy_rows(world: World, entry: Entry, held: Held) -> list[dict[str, object]]:
    volumes = world.storage.volumes

    async def row(copy: Copy) -> dict[str, object]:
        allocated = None
        if copy.node and copy.state in (CopyState.WHOLE, CopyState.STALE):
            try:
                allocated = (await volumes.calls.size(copy.node, entry.name, held.name))[1]
            except ClusterError:
                allocated = copy.allocation or None
        return {
            "node": copy.node or "all",
            "state": str(copy.state),
            "current": copy.generation == held.generation and copy.state is not CopyState.STALE,
            "generation": copy.generation,
            "allocated_bytes": allocated,
            "last_used": copy.used,
            "pinned": bool(copy.node) and volumes.pins.pinned(entry.uuid, held.shown, copy.node),
            "digest": copy.digest.hex(),
        }

    return list(await asyncio.gather(*(row(copy) for copy in held.copies)))


async def image_copies(world: World, args: Args, progress: Progress) -> object:
    """The copies of one."""
    return await _copy_rows(world, *await image_named(world, args))


async def _chain_rows(world: World, entry: Entry, held: Held) -> tuple[list[dict[str, object]], str]:
    """What it is an overlay of, and why the rest of it is not known."""
    try:
        links = await world.storage.volumes.chains.chain(entry.uuid, held)
    except ClusterError as error:
        return [], str(error)
    rows: list[dict[str, object]] = []
    for link in links:
        pool = world.storage.pools.by_uuid(link.pool).name if link.held is not None else ""
        shown = link.held.shown if link.held is not None else ""
        rows.append({"image": shown, "pool": pool, "format": link.format, "path": link.path})
    return rows, "" if links[-1].held is not None else f"{links[-1].path} is in no pool"


async def image_show(world: World, args: Args, progress: Progress) -> object:
    """One, with its chain, its copies, and who uses it."""
    entry, held = await image_named(world, args)
    volumes, facts = world.storage.volumes, _facts(world)
    chain, problem = await _chain_rows(world, entry, held)
    try:
        overlays: list[str] = list(await volumes.chains.overlays(entry.uuid, held))
    except ClusterError as error:
        overlays, problem = [], problem or str(error)
    users = await facts.users(entry, held)
    lines = await world.store.journal(10, f"{entry.name}/{held.shown}")
    pinned = volumes.pins.nodes(entry.uuid, held.shown)
    return {
        **_row(world, entry, held, await _size(world, entry, held)),
        "format": chain[0]["format"] if chain else "",
        "path": f"{entry.pool.target.path}/{held.name}" if entry.pool.target.path else "",
        "generation": held.generation,
        "depth": len(chain),
        "pinned": ["all" if node == ALL else node for node in pinned],
        "overlays": overlays,
        "chain_reason": problem,
        "chain": chain,
        "copies": await _copy_rows(world, entry, held),
        "users": [asdict(use) for use in users],
        "journal": [
            {"since": line.time, "kind": line.kind, "who": line.who, "text": line.text} for line in lines
        ],
    }


# -- what is done


def _nodes(world: World, args: Args) -> list[str]:
    """The nodes that are named (NodeNotFound), else all."""
    given = args.get("nodes")
    if given is None:
        return [node.name for node in world.cluster.cells()]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) for name in given):
        raise InvalidArgument(f"'nodes' must be a list of names, found {given!r}")
    return [world.cluster.node(name).name for name in given]


async def image_distribute(world: World, args: Args, progress: Progress) -> object:
    """To nodes, all at once; a row for each."""
    entry, held = await image_named(world, args)
    results = await _spread(world).distribute(entry.uuid, held.shown, _nodes(world, args), progress)
    return [
        {
            "image": result.image,
            "node": result.node,
            "ok": result.ok,
            "received_bytes": result.received,
            "seconds": round(result.seconds, 3),
            "reason": result.reason,
        }
        for result in results
    ]


def _evicted_row(evicted: Evicted) -> dict[str, object]:
    return {
        "image": evicted.image,
        "pool": evicted.pool,
        "node": evicted.node,
        "evicted": not evicted.reason,
        "allocated_bytes": evicted.size,
        "reason": evicted.reason,
    }


async def image_evict(world: World, args: Args, progress: Progress) -> object:
    """One copy, or all that were not used for so many seconds."""
    storage = world.storage
    evict = Evict(world.context, storage.pools, storage.volumes, _facts(world))
    seconds, given = args.get("older_than"), args.get("image")
    if seconds is None:
        entry, held = await image_named(world, args)
        nodes = _nodes(world, {"nodes": args.get("nodes") or []})
        force = args.get("force") is True
        gone = [await evict.one(entry.uuid, held.shown, node, WHO, force=force) for node in nodes]
        return [_evicted_row(evicted) for evicted in gone]
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise InvalidArgument(f"'older_than' must be seconds, found {seconds!r}")
    if given is not None:
        entry, _ = await image_named(world, args)
        entries = [entry]
    else:
        entries = [entry for entry in _pools(world, args) if entry.kind is Kind.LOCAL]
    results: list[Evicted] = []
    for entry in entries:
        results += await evict.unused(entry.uuid, given, _nodes(world, args), seconds, WHO)
    return [_evicted_row(evicted) for evicted in results]


async def image_pin(world: World, args: Args, progress: Progress) -> object:
    """Its copies are not evicted: on nodes, or wherever they are.  on: pin it, or take that back."""
    entry, held = await image_named(world, args)
    refuse_one_place(entry, "evicted")
    nodes = _nodes(world, args) if args.get("nodes") is not None else []
    pins, off = world.storage.volumes.pins, args.get("on") is False
    await (pins.unpin if off else pins.pin)(
        entry.uuid, held.shown, nodes, ("unpin image" if off else "pin image", entry.name, WHO)
    )
    pinned = ["all" if node == ALL else node for node in pins.nodes(entry.uuid, held.shown)]
    return {"image": held.shown, "pool": entry.name, "pinned": pinned}


async def image_verify(world: World, args: Args, progress: Progress) -> object:
    """One image, a pool, or all active pools: a job."""
    given = args.get("image")
    if given is None:
        entries, shown = _pools(world, args), None
    else:
        entry, held = await image_named(world, args)
        entries, shown = [entry], held.shown
    wish = Wish(shown, *(args.get(name) is True for name in ("again", "repair", "drop")))
    storage = world.storage
    check = Check(world.context, storage.pools, storage.volumes, storage.volume_work, _spread(world))

    async def work(tell: Progress) -> dict[str, object]:
        images = read = busy = 0
        findings: list[dict[str, object]] = []
        for entry in entries:
            done = await check.pool(CALLER, entry, wish, tell)
            images, read, busy = images + done.images, read + done.read, busy + done.busy
            for found in done.findings:
                row = asdict(found)
                row["allocated_bytes"] = row.pop("size")
                findings.append(row)
        tell(read, read, f"{read} copies were read, {len(findings)} things were found")
        return {"images": images, "copies_read": read, "images_busy": busy, "findings": findings}

    return await world.jobs.run("verify", shown or ", ".join(each.name for each in entries), work, progress)


async def image_flatten(world: World, args: Args, progress: Progress) -> object:
    """An overlay whose domain runs: a job."""
    entry, held = await image_named(world, args)
    storage = world.storage
    flatten = Flatten(world.context, storage.pools, storage.volumes, _facts(world))

    async def work(tell: Progress) -> None:
        await flatten.one(entry, held, tell)
        tell(1, 1, f"{held.shown} is no overlay any more")

    await world.jobs.run("flatten", held.shown, work, progress)
    return {"image": held.shown, "pool": entry.name, "depth": 1}


async def image_endpoint(world: World, args: Args, progress: Progress) -> object:
    """Where on this machine clients of libvirt connect, and the pool that an upload goes to."""
    entry = pool_named(world, {"pool": args.get("pool") or "default"})
    if not entry.active:
        raise InvalidOperation(f"pool {entry.name} is not active")
    return {
        "socket": str(world.settings.listen.unix_sock_dir / "libvirt-sock"),
        "pool": entry.name,
        "directory": entry.pool.target.path,
        "names": [held.shown for held in await world.storage.volumes.all(entry.uuid)],
    }


METHODS: dict[str, Method] = {
    "image.list": image_list,
    "image.show": image_show,
    "image.copies": image_copies,
    "image.distribute": image_distribute,
    "image.evict": image_evict,
    "image.pin": image_pin,
    "image.verify": image_verify,
    "image.flatten": image_flatten,
    "image.endpoint": image_endpoint,
}
"""Names of the command's calls -> who answers them."""
