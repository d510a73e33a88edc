"""A network in a cluster: alone, beside the others, on a node.  What libvirt takes and we cannot honour.  Pure.

Two networks with bridges of ours may not overlap, whatever their modes: each node has an address in both, and one
routing table, so that answers (DHCP, DNS, and what is routed) of one would leave by the bridge of the other.  libvirt
refuses the same when the second is started.  Networks without <ip>, and those passed to the nodes, never clash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import product

from netmgr import tags
from netmgr.errors import Clash, ConfigUnsupported, InUse
from netmgr.model import LINK_NAME, DhcpHost, Ip, Mode, Network, Subnet
from netmgr.xml.values import format_uuid

NAME_BYTES = 200
"""Of a network: files of nodes are called by it, with endings."""

LAST_VNI = (1 << 24) - 1
MTU = (68, 65535)
MTU_IPV6 = 1280

_DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FREE_TEXT = frozenset({"title", "description", "metadata", "kept"})


def alone(network: Network) -> None:
    """ConfigUnsupported with the first thing that no cluster could honour."""
    for problem in problems(network):
        raise ConfigUnsupported(f"network '{network.name}': {problem}")


def problems(network: Network) -> Iterator[str]:
    """All of that, one sentence each."""
    yield from _names(network)
    yield from _mtu(network)
    yield from _addresses(network)
    for ip in network.ips:
        if ip.dhcp is not None:
            yield from _hosts(ip, ip.dhcp.hosts)
    yield from _texts(network)
    yield from tags.problems(network)


def _names(network: Network) -> Iterator[str]:
    if len(network.name.encode()) > NAME_BYTES:
        yield f"its name has {len(network.name.encode())} bytes, {NAME_BYTES} are allowed"
    if network.name in (".", "..") or not network.name.strip():
        yield f"its name is '{network.name}', which no file can have"
    if network.mode.has_own_bridge or network.bridge.name:
        yield from link_name(network.bridge.name, "bridge")
    forward = network.forward
    for name in (*forward.interfaces, *((forward.pf,) if forward.pf else ())):
        yield from link_name(name, "interface")


def link_name(name: str, what: str) -> Iterator[str]:
    """What is wrong with the name of a link; Linux takes 15 bytes, no blanks, colons and slashes."""
    size = len(name.encode())
    if not 0 < size <= LINK_NAME:
        yield f"the {what} name '{name}' has {size} bytes, allowed are 1 to {LINK_NAME}"
    elif name in (".", "..") or re.search(r"[\s/:%]", name):
        yield f"the {what} name '{name}' is none: blanks, '/', ':' and '%' are not allowed"


def _mtu(network: Network) -> Iterator[str]:
    least = MTU_IPV6 if any(ip.version == 6 for ip in network.ips) else MTU[0]
    if network.mtu and not least <= network.mtu <= MTU[1]:
        yield f"its mtu is {network.mtu}, allowed are {least} to {MTU[1]}"


def _addresses(network: Network) -> Iterator[str]:
    for place, ip in enumerate(network.ips):
        where, subnet = ip.address, ip.subnet
        if where.is_unspecified or where.is_multicast or where.is_loopback:
            yield f"the address {where} is none that a host can have"
        if where.version == 4 and subnet.prefixlen < 31 and where in (subnet[0], subnet[-1]):
            yield f"the address {where} is that of the network {subnet} or its broadcast"
        for other in network.ips[:place]:
            if _overlap(subnet, other.subnet):
                yield f"its subnets {other.subnet} and {subnet} overlap"


def _hosts(ip: Ip, hosts: tuple[DhcpHost, ...]) -> Iterator[str]:
    subnet = ip.subnet
    own = {ip.address, *((subnet[0], subnet[-1]) if ip.version == 4 and subnet.prefixlen < 31 else ())}
    seen: set[tuple[str, object]] = set()
    for host in hosts:
        if host.ip not in subnet:
            yield f"the <host> address {host.ip} is not in {subnet}"
        elif host.ip in own:
            yield f"the <host> address {host.ip} is the gateway's, the network's or the broadcast address"
        for key in (("address", host.ip), ("mac", host.mac), ("id", host.id)):
            if key[1] and key in seen:
                yield f"two <host> entries have the {key[0]} {key[1]}"
            seen.add(key)


def _texts(network: Network) -> Iterator[str]:
    """Names go into configuration files of name servers; what would not be read back as one is refused."""
    names = [("domain", network.domain.name)] if network.domain is not None else []
    dns = network.dns
    names += [("forwarder", item.domain) for item in dns.forwarders if item.domain]
    names += [("hostname", name) for host in dns.hosts for name in host.names]
    for srv in dns.srvs:
        names += [("srv service", srv.service), ("srv protocol", srv.protocol)]
        names += [("srv name", name) for name in (srv.domain, srv.target) if name and name != "."]
    names += [("txt name", txt.name) for txt in dns.txts]
    for ip in network.ips:
        names += [("host name", host.name) for host in (ip.dhcp.hosts if ip.dhcp else ()) if host.name]
    for what, name in names:
        if _DNS_NAME.fullmatch(name) is None:
            yield f"the {what} '{name}' is no name of DNS: letters, digits, '-', '_' and '.' are allowed"
    for text in _all_texts(network):
        if _CONTROL.search(text):
            yield f"{text!r} holds a control character, none is allowed"


def _all_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _all_texts(item)
    elif is_dataclass(value):
        for item in fields(value):
            if item.name not in _FREE_TEXT:
                yield from _all_texts(getattr(value, item.name))


# -- beside the others


def beside(network: Network, others: Iterable[Network]) -> None:
    """Clash when name or uuid is another's, InUse when bridge or subnet is.  others: without the network itself."""
    for other in others:
        _identity(network, other)
        for clash in tags.clashes(network, other):
            raise InUse(f"network '{network.name}': {clash}")
        if not (network.mode.has_own_bridge and other.mode.has_own_bridge):
            continue
        if network.bridge.name and network.bridge.name == other.bridge.name:
            text = f"the bridge name '{network.bridge.name}' is in use by network '{other.name}'"
            raise InUse(f"network '{network.name}': {text}")
        for mine, its in _overlaps(network, other):
            raise InUse(
                f"network '{network.name}': its subnet {mine} overlaps {its} of network '{other.name}'"
            )


def _identity(network: Network, other: Network) -> None:
    if network.name == other.name:
        raise Clash(f"network '{other.name}' already exists with uuid {format_uuid(other.uuid)}")
    if network.uuid and network.uuid == other.uuid:
        raise Clash(f"network '{other.name}' is already defined with uuid {format_uuid(other.uuid)}")


def _overlaps(network: Network, other: Network) -> Iterator[tuple[Subnet, Subnet]]:
    """Subnets that have addresses in common; of static routes only the very same (else the longer wins)."""
    for mine, its in product(network.subnets, other.subnets):
        if _overlap(mine, its):
            yield mine, its
    routed, its_routed = _routed(network), _routed(other)
    yield from _same(routed, (*other.subnets, *its_routed))
    yield from _same(network.subnets, its_routed)


def _same(some: tuple[Subnet, ...], others: tuple[Subnet, ...]) -> Iterator[tuple[Subnet, Subnet]]:
    return ((subnet, subnet) for subnet in some if subnet in others)


def _routed(network: Network) -> tuple[Subnet, ...]:
    return tuple(route.subnet for route in network.routes)


def _overlap(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version and int(one[0]) <= int(other[-1]) and int(other[0]) <= int(one[-1])


def vni(number: int, taken: Mapping[int, str]) -> None:
    """A network's number on the wire.  taken: number -> the network's name.  ConfigUnsupported, InUse."""
    if not 1 <= number <= LAST_VNI:
        raise ConfigUnsupported(f"the VNI is {number}, allowed are 1 to {LAST_VNI}")
    if number in taken:
        raise InUse(f"the VNI {number} is in use by network '{taken[number]}'")


# -- on a node


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """What a node has.  links: name -> uuid of the network that it was made for, b"" for what is not ours.

    subnets: of its own addresses, without those of our bridges.  names: what a device is called there, where that
    differs."""

    node: str
    links: Mapping[str, bytes]
    subnets: tuple[Subnet, ...] = ()
    names: Mapping[str, str] | None = None


def on_node(network: Network, node: NodeLinks) -> Iterator[str]:
    """Why the node cannot have the network, one sentence each."""
    yield from in_the_way(network, node)
    for name in _needed(network):
        if (node.names or {}).get(name, name) == name:
            yield from _lacks(network, node, name)


def in_the_way(network: Network, node: NodeLinks) -> Iterator[str]:
    """Those for which no node may be left out: it has what the network would be, or was given a name for a link that
    it has not."""
    if network.mode.has_own_bridge:
        name = network.bridge.name
        if node.links.get(name, network.uuid) != network.uuid:
            yield f"node {node.node} has a link {name} that is not this network's"
        for mine, its in product(network.subnets, node.subnets):
            if _overlap(mine, its):
                yield f"node {node.node} has addresses in {its}, which overlaps {mine}"
    for name in _needed(network):
        if (node.names or {}).get(name, name) != name:
            yield from _lacks(network, node, name)


def _needed(network: Network) -> tuple[str, ...]:
    if not network.mode.has_own_bridge:
        return devices(network)
    return network.forward.interfaces if network.mode in (Mode.NAT, Mode.ROUTE) else ()


def _lacks(network: Network, node: NodeLinks, name: str) -> Iterator[str]:
    there = (node.names or {}).get(name, name)
    if there not in node.links:
        known_as = "" if there == name else f" (its name for {name})"
        way_out = " to go out by" if network.mode.has_own_bridge else ""
        yield f"node {node.node} has no link {there}{known_as}{way_out}"


def devices(network: Network) -> tuple[str, ...]:
    """The links of a node that a passed-through network names."""
    forward = network.forward
    bridge = (network.bridge.name,) if network.bridge.name else ()
    return (*bridge, *forward.interfaces, *((forward.pf,) if forward.pf else ()))
