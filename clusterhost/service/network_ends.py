"""What a trace goes from and to: a domain's interface, an address of a guest, a gateway, or an address outside."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from clusterhost.model.cluster import format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DomainNotFound, InvalidArgument, NodeError
from clusterhost.service.admin_args import domain_named
from clusterhost.service.interfaces import ON_NETWORK
from clusterhost.service.networks import Net
from clusterhost.service.world import World
from clusterhost.service.xml import parse_uuid
from compat.libvirt import messages
from compat.xmldoc import Element, XmlDocument
from netmgr.hops import Plug
from netmgr.walk import Beyond

GATEWAY = "gateway"
SECONDS = 10.0
"""How long a node has to tell a definition."""
_MAC = re.compile(r"(?i)(?P<domain>.*):(?P<mac>([0-9a-f]{2}:){5}[0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a trace begins and ends."""

    source: Plug
    target: Plug | Beyond

    @property
    def networks(self) -> tuple[str, ...]:
        """uuids of those on the way."""
        found = [self.source.network]
        if isinstance(self.target, Plug):
            found.append(self.target.network)
        return tuple(dict.fromkeys(found))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes on the way, the source's first."""
        found = [self.source.node]
        if isinstance(self.target, Plug):
            found.append(self.target.node)
        return tuple(dict.fromkeys(found))


async def ends(world: World, source: str, target: str) -> Ends:
    """By the words of a command: DOMAIN, DOMAIN:MAC, and for the target an address or `gateway` too.

    Interfaces on one network are preferred.  DomainNotFound, InvalidArgument; ClusterError when a domain's node, which
    alone has its definition, does not answer."""
    starts = await _plugs(world, source)
    address = _address(target)
    beyond = _beyond(world, starts[0], target, address)
    if isinstance(beyond, Beyond):
        return Ends(await _filtered(world, starts[0]), beyond)
    aims = [plug for plug in await _plugs(world, beyond) if not address or address in plug.addresses]
    pairs = [(one, other) for one in starts for other in aims if one.mac != other.mac]
    if not pairs:
        raise InvalidArgument("a trace goes from one interface to another one")
    same = [pair for pair in pairs if pair[0].network == pair[1].network]
    one, other = (same or pairs)[0]
    return Ends(await _filtered(world, one), await _filtered(world, other))


def _address(words: str) -> str:
    """As it is kept; "" when they are none."""
    try:
        return str(ip_address(words))
    except ValueError:
        return ""


def _beyond(world: World, source: Plug, target: str, address: str) -> Beyond | str:
    """An address that no guest has; else the domain's name (with a MAC) that the words mean."""
    net = world.networking.networks.by_uuid(parse_uuid(source.network))
    own = [str(ip.address) for ip in net.shown.ips if ip.address is not None]
    if target == GATEWAY and not _is_domain(world, target):
        if not own:
            raise InvalidArgument(f"network {net.name} has no gateway")
        return Beyond(own[0], gateway=True)
    if not address:
        return target
    if address in own:
        return Beyond(address, gateway=True)
    for other in sorted(world.networking.networks.all(), key=lambda other: other.uuid != net.uuid):
        for row in world.networking.addresses.of_network(other.uuid):
            if row.address == address and (domain := world.cluster.get(row.domain)) is not None:
                return domain.name
    if any(ip_address(address) in subnet for subnet in net.shown.subnets):
        raise InvalidArgument(f"no guest has address {address} of network {net.name}")
    return Beyond(address)


def _is_domain(world: World, name: str) -> bool:
    try:
        domain_named(world, name)
    except DomainNotFound:
        return False
    return True


async def _plugs(world: World, words: str) -> list[Plug]:
    """The interfaces that words mean, on networks of the cluster."""
    found = _MAC.fullmatch(words)
    name, mac = (found["domain"], found["mac"].lower()) if found else (words, "")
    domain = domain_named(world, name)
    xml, problem = await _definition(world, domain)
    plugs = [plug for plug in plugs_of(world, domain, xml, problem) if not mac or plug.mac == mac]
    if not plugs:
        which = f" with MAC {mac}" if mac else ""
        raise InvalidArgument(f"domain {domain.name} has no interface{which} on a network of the cluster")
    return plugs


async def _definition(world: World, domain: Domain) -> tuple[str, str]:
    """What runs; else what would, and why that is all that is known of one that runs."""
    problem = ""
    if domain.active:
        try:
            async with asyncio.timeout(SECONDS):
                return await world.context.virt.live_xml(domain.node, domain.uuid), ""
        except ClusterError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"node {domain.node} did not tell the definition of {domain.name} in {SECONDS:.0f} s"
    return await world.context.definition(domain), problem


def plugs_of(world: World, domain: Domain, xml: str, problem: str = "") -> Iterator[Plug]:
    """Every interface of a domain's document that is on a network of the cluster."""
    nets = {net.name: net for net in world.networking.networks.all()}
    for element in XmlDocument.parse(xml).all(f"devices/{ON_NETWORK}"):
        source = element.find("source")
        net = nets.get(source.get("network") or "") if source is not None else None
        if net is not None:
            yield _plug(world, domain, net, element, problem)


def _plug(world: World, domain: Domain, net: Net, element: Element, problem: str) -> Plug:
    mac = _attribute(element, "mac", "address").lower()
    rows = [row for row in world.networking.addresses.of_network(net.uuid) if row.mac == mac and row.address]
    return Plug(
        domain=domain.name,
        node=domain.node,
        network=format_uuid(net.uuid),
        name=net.name,
        mac=mac,
        addresses=tuple(row.address for row in rows),
        tap=_attribute(element, "target", "dev") if domain.active and not problem else "",
        running=domain.active,
        link_up=_attribute(element, "link", "state") != "down",
        filter=_attribute(element, "filterref", "filter"),
        problem=problem,
    )


def _attribute(element: Element, child: str, name: str) -> str:
    found = element.find(child)
    return (found.get(name) or "") if found is not None else ""


async def _filtered(world: World, plug: Plug) -> Plug:
    """Whether its node has bound the filter that its definition names."""
    if not plug.filter or not plug.tap:
        return plug
    args = messages.RemoteNwfilterBindingLookupByPortDevArgs(plug.tap)
    try:
        await world.context.virt.ask(plug.node, "NWFILTER_BINDING_LOOKUP_BY_PORT_DEV", args)
    except NodeError:
        return replace(plug, bound=False)
    except ClusterError as error:
        return replace(plug, problem=str(error))
    return plug
