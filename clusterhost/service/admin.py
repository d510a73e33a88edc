"""What the `clusterhost` command may ask: a table of calls, values as JSON has them.  No sockets, no
output."""

from __future__ import annotations

from dataclasses import asdict

from clusterhost.model.cluster import format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.node import Admin, Link, Node
from clusterhost.service import (
    first_boot,
    image_admin,
    interface_map,
    network_admin,
    network_diagram,
    network_trace,
    pool_admin,
)
from clusterhost.service.admin_args import WHO, Args, Method, domain_named, text_of
from clusterhost.service.describe import domain_state
from clusterhost.service.disks import copy_storage
from clusterhost.service.named_files import NamedFiles
from clusterhost.service.ports import Progress
from clusterhost.service.world import World
from clusterhost.store.rows import JobRow
from placement import Match, explain

# -- nodes


def _node_row(world: World, node: Node) -> dict[str, object]:
    domains = list(world.cluster.domains(node.name))
    return {
        "name": node.name,
        "cell": node.cell,
        "admin": str(node.admin),
        "link": str(node.link),
        "domains": len(domains),
        "running": sum(domain.active for domain in domains),
        "cpus": node.host.cpus,
        "memory_kib": node.host.memory,
        "free_kib": node.figures.free_memory // 1024,
        "since": node.since,
        "reason": node.reason or _refusal(world, node),
    }


def _refusal(world: World, node: Node) -> str:
    """Why nobody came, as far as it was seen."""
    refusals = [] if node.link is Link.UP else world.node_admin.refusals(node.name)
    return f"refused {refusals[-1]}" if refusals else ""


async def node_list(world: World, args: Args, progress: Progress) -> object:
    """All nodes by cell."""
    return [_node_row(world, node) for node in world.cluster.cells()]


async def node_show(world: World, args: Args, progress: Progress) -> object:
    """Everything known of one."""
    node = world.cluster.node(text_of(args, "name"))
    row = world.ledger.nodes[node.name]
    host = asdict(node.host)
    del host["capabilities"], host["domain_capabilities"]
    clashes = [text for (name, _), text in world.inventory.clashes.items() if name == node.name]
    shown = {**_node_row(world, node), "libvirt_uri": host.pop("uri"), "agent_uri": row.uri, **host}
    return {
        **shown,
        "boot_id": row.boot_id,
        "joined": bool(row.public_key),
        "interfaces": interface_map.shown(world.ledger, node.name),
        "refused": world.node_admin.refusals(node.name),
        "clashes": clashes,
    }


async def node_add(world: World, args: Args, progress: Progress) -> object:
    """A token for its agent, or an agent beside us."""
    token = await world.node_admin.add(
        text_of(args, "name"),
        text_of(args, "uri", ""),
        text_of(args, "migration_address", ""),
        WHO,
        take_over=bool(args.get("take_over")),
    )
    return {"name": args["name"], "token": token}


async def node_set(world: World, args: Args, progress: Progress) -> object:
    """What is kept of a node: what it calls the links that networks name; answers all of these."""
    name = world.cluster.node(text_of(args, "name")).name
    changes = interface_map.read(args.get("map_interface"))
    await world.networking.interface_map.change(name, changes, WHO)
    return interface_map.shown(world.ledger, name)


async def node_enable(world: World, args: Args, progress: Progress) -> object:
    """Domains may be placed on it."""
    await world.node_admin.set_admin(text_of(args, "name"), Admin.ENABLED, WHO)
    return None


async def node_disable(world: World, args: Args, progress: Progress) -> object:
    """No more domains are placed on it."""
    await world.node_admin.set_admin(text_of(args, "name"), Admin.DISABLED, WHO)
    return None


async def node_drain(world: World, args: Args, progress: Progress) -> object:
    """A job: everything leaves."""
    name = world.cluster.node(text_of(args, "name")).name
    copy = copy_storage(args.get("copy_storage"))

    async def work(tell: Progress) -> dict[str, object]:
        return await world.node_admin.drain(name, WHO, tell, copy_storage=copy)

    return await world.jobs.run("drain", name, work, progress)


async def node_remove(world: World, args: Args, progress: Progress) -> object:
    """It must be empty."""
    await world.node_admin.remove(text_of(args, "name"), WHO, force=bool(args.get("force")))
    return None


# -- domains


def _domain_row(domain: Domain) -> dict[str, object]:
    return {
        "id": domain.id if domain.active else None,
        "name": domain.known_as or domain.name,
        "uuid": format_uuid(domain.uuid),
        "state": domain_state(domain.state),
        "node": domain.node,
        "vcpus": domain.vcpus,
        "max_memory_kib": domain.max_memory,
        "autostart": domain.autostart,
        "persistent": domain.persistent,
    }


async def domain_list(world: World, args: Args, progress: Progress) -> object:
    """All domains with their nodes."""
    return [_domain_row(domain) for domain in world.cluster.domains()]


async def domain_show(world: World, args: Args, progress: Progress) -> object:
    """Everything known of one, with the last lines of its journal."""
    domain = domain_named(world, str(args.get("domain", "")))
    lines = await world.store.journal(10, domain.name)
    outcome = world.context.placing.last_outcome(domain)
    return {
        **_domain_row(domain),
        "node_id": domain.node_id,
        "generation": domain.generation,
        "managed_save": domain.managed_save,
        "why": outcome.reasons[0].text if isinstance(outcome, Match) else "",
        "journal": [
            {"time": line.time, "kind": line.kind, "who": line.who, "text": line.text} for line in lines
        ],
    }


async def domain_where(world: World, args: Args, progress: Progress) -> object:
    """The node that runs it or keeps its definition."""
    domain = domain_named(world, str(args.get("domain", "")))
    return {"domain": domain.name, "node": domain.node, "running": domain.active}


async def domain_move(world: World, args: Args, progress: Progress) -> object:
    """A job: to a node, or where placement says."""
    domain = domain_named(world, str(args.get("domain", "")))
    target = text_of(args, "to", "")
    live, copy = args.get("live", True) is not False, copy_storage(args.get("copy_storage"))

    async def work(tell: Progress) -> str:
        return await world.node_admin.move_domain(
            domain.uuid, target, WHO, tell, live=live, copy_storage=copy
        )

    node = await world.jobs.run("move", domain.name, work, progress)
    return {"domain": domain.name, "node": node}


async def placement_explain(world: World, args: Args, progress: Progress) -> object:
    """Why it is where it is, why it could not start, or where it would go now."""
    domain = domain_named(world, str(args.get("domain", "")))
    outcome = world.context.placing.last_outcome(domain)
    if outcome is None:
        xml = await world.context.definition(domain)
        stock = await NamedFiles(world.context).stock(domain, xml)
        outcome = world.context.placing.preview(domain, xml, stock.closed, stock.coming, stock.freeing)
    reasons = [
        {"node": reason.node, "ok": reason.ok, "verdict": told["verdict"], "score": round(reason.score, 3)}
        | {"text": reason.text}
        for told, reason in zip(explain(outcome), outcome.reasons, strict=True)
    ]
    chosen = outcome.node if isinstance(outcome, Match) else ""
    return {"domain": domain.name, "node": domain.node, "chosen": chosen, "reasons": reasons}


# -- jobs and all


def _job_row(row: JobRow) -> dict[str, object]:
    return asdict(row)


async def job_list(world: World, args: Args, progress: Progress) -> object:
    """Newest first."""
    return [_job_row(row) for row in world.jobs.rows()]


async def job_show(world: World, args: Args, progress: Progress) -> object:
    """One job."""
    return _job_row(world.jobs.show(args.get("id", "")))


async def status(world: World, args: Args, progress: Progress) -> object:
    """The cluster in a few lines."""
    nodes = world.cluster.cells()
    domains = list(world.cluster.domains())
    return {
        "cluster": world.cluster.name,
        "uuid": format_uuid(world.cluster.uuid),
        "hostname": world.cluster.hostname,
        "epoch": world.store.epoch,
        "nodes": len(nodes),
        "nodes_up": sum(node.usable for node in nodes),
        "domains": len(domains),
        "running": sum(domain.active for domain in domains),
        "open_intents": len(world.ledger.intents),
        "moves": len(list(world.context.moves)),
        "clashes": sorted(world.inventory.clashes.values()),
        "refused": world.node_admin.refusals(""),
    }


METHODS: dict[str, Method] = {
    "node.add": node_add,
    "node.list": node_list,
    "node.show": node_show,
    "node.set": node_set,
    "node.enable": node_enable,
    "node.disable": node_disable,
    "node.drain": node_drain,
    "node.remove": node_remove,
    "domain.list": domain_list,
    "domain.show": domain_show,
    "domain.where": domain_where,
    "domain.move": domain_move,
    "placement.explain": placement_explain,
    "job.list": job_list,
    "job.show": job_show,
    "status": status,
    **network_admin.METHODS,
    **network_trace.METHODS,
    **network_diagram.METHODS,
    **first_boot.METHODS,
    **pool_admin.METHODS,
    **image_admin.METHODS,
}
"""Names of the command's calls -> who answers them."""
