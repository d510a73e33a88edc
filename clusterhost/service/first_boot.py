"""The command's question what a guest has to know at its first boot.  Changes nothing."""

from __future__ import annotations

from clusterhost.model.cluster import format_uuid
from clusterhost.service.admin_args import Args, Method, domain_named
from clusterhost.service.ports import Progress
from clusterhost.service.told import Told
from clusterhost.service.world import World


async def domain_interfaces(world: World, args: Args, progress: Progress) -> object:
    """Interfaces of a domain's definition in their order, each with what imagemgr.seeds.Interface wants."""
    domain = domain_named(world, str(args.get("domain", "")))
    rows = Told(world.cluster, world.networking).interfaces(await world.context.definition(domain))
    return {"domain": domain.name, "uuid": format_uuid(domain.uuid), "interfaces": rows}


METHODS: dict[str, Method] = {"domain.interfaces": domain_interfaces}
"""Names of the command's calls -> who answers them."""
