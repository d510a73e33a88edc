"""net-update: a part of a network added, changed or taken out, with libvirt's indexes, matches and refusals.  Pure.

Commands and sections have libvirt's numbers (virNetworkUpdateCommand, virNetworkUpdateSection).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from compat.xmldoc import Element
from netmgr import xml
from netmgr.errors import NetworkError, OperationInvalid, OperationUnsupported, XmlInvalid
from netmgr.model import Address, Dhcp, DhcpHost, DnsHost, Ip, Network, Srv, Txt
from netmgr.xml.addresses import HostKey, read_host, read_host_key, read_range
from netmgr.xml.document import parse
from netmgr.xml.parts import read_dns_host, read_dns_key, read_port_group, read_srv, read_txt


class Command(IntEnum):
    """What to do."""

    MODIFY = 1
    DELETE = 2
    ADD_LAST = 3
    ADD_FIRST = 4


class Section(IntEnum):
    """Where."""

    BRIDGE = 1
    DOMAIN = 2
    IP = 3
    IP_DHCP_HOST = 4
    IP_DHCP_RANGE = 5
    FORWARD = 6
    FORWARD_INTERFACE = 7
    FORWARD_PF = 8
    PORTGROUP = 9
    DNS_HOST = 10
    DNS_TXT = 11
    DNS_SRV = 12


@dataclass(frozen=True, slots=True)
class Change:
    """An update.  index: which <ip> a DHCP section is in, from 0; below 0 for the one that has DHCP."""

    command: Command
    index: int
    element: Element


def update(network: Network, command: int, section: int, index: int, text: str) -> Network:
    """The network after the change.

    XmlMalformed, XmlInvalid and what reading the part may raise; OperationInvalid where there is no such entry, or one
    already; OperationUnsupported where the section, or what to do with it, is none."""
    element = parse(text)
    try:
        act = SECTIONS.get(section)
        if act is None:
            name = Section(section).name.lower() if section in set(Section) else str(section)
            raise OperationUnsupported(f"section {name} cannot be updated")
        if command not in set(Command):
            raise OperationUnsupported(f"{command} is no command of an update")
        changed = act(network, Change(Command(command), index, element))
    except NetworkError as error:
        raise type(error)(f"network '{network.name}': {error}") from error
    # As in libvirt, what comes out must read as a document does, and what a document would not hold falls away.
    return xml.read(xml.write(changed))


def _expect(element: Element, name: str) -> None:
    if element.tag != name:
        raise XmlInvalid(f"the element is <{element.tag!s}>, it must be <{name}>")


def _no_modify(change: Change, what: str) -> None:
    if change.command is Command.MODIFY:
        raise OperationUnsupported(f"{what} cannot be modified, only added or deleted")


def _added(items: tuple[Any, ...], item: object, change: Change) -> tuple[Any, ...]:
    return (item, *items) if change.command is Command.ADD_FIRST else (*items, item)


def _without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def _first(items: tuple[Any, ...], fits: Callable[[Any], bool], what: str) -> int:
    """The place of the first that fits; OperationInvalid."""
    for index, item in enumerate(items):
        if fits(item):
            return index
    raise OperationInvalid(f"there is no {what} that matches")


def _no_clash(items: tuple[Any, ...], fits: Callable[[Any], bool], what: str) -> None:
    if any(fits(item) for item in items):
        raise OperationInvalid(f"there is a {what} already that matches")


# -- DHCP


def _ip_at(network: Network, change: Change) -> int:
    """The place of the <ip> that is meant; OperationInvalid."""
    ips = network.ips
    if change.index >= 0:
        if change.index >= len(ips):
            raise OperationInvalid(f"there is no <ip> {change.index}, there are {len(ips)}")
        return change.index
    for fits in (_has_dhcp, _is_ipv4, _is_any):
        for place, ip in enumerate(ips):
            if fits(ip):
                return place
    raise OperationInvalid("there is no <ip>")


def _has_dhcp(ip: Ip) -> bool:
    return ip.dhcp is not None


def _is_ipv4(ip: Ip) -> bool:
    return ip.version == 4


def _is_any(_ip: Ip) -> bool:
    return True


def _no_second_server(network: Network, place: int) -> None:
    version = network.ips[place].version
    for other, ip in enumerate(network.ips):
        if other != place and ip.version == version and ip.dhcp is not None:
            raise OperationInvalid(
                f"<ip address='{ip.address}'> has <dhcp> already, one <ip> of IPv{version} may"
            )


def _with_dhcp(network: Network, place: int, dhcp: Dhcp) -> Network:
    ip = replace(network.ips[place], dhcp=dhcp if dhcp.ranges or dhcp.hosts else None)
    return replace(network, ips=(*network.ips[:place], ip, *network.ips[place + 1 :]))


def _dhcp_host(network: Network, change: Change) -> Network:
    _expect(change.element, "host")
    place = _ip_at(network, change)
    ip = network.ips[place]
    dhcp = ip.dhcp or Dhcp()
    if change.command is Command.DELETE:
        key = read_host_key(change.element, ip)
        index = _first(dhcp.hosts, lambda host: _is_named(host, key), "<host>")
        return _with_dhcp(network, place, replace(dhcp, hosts=_without(dhcp.hosts, index)))
    new = read_host(change.element, ip)
    if new.ip.version != ip.version:
        raise OperationInvalid(f"<host> has the ip {new.ip}, <ip> is of IPv{ip.version}")
    if change.command is Command.MODIFY:
        index = _first(dhcp.hosts, lambda host: _is_like(host, new), "<host>")
        hosts = (*dhcp.hosts[:index], new, *dhcp.hosts[index + 1 :])
    else:
        _no_second_server(network, place)
        _no_clash(dhcp.hosts, lambda host: _is_like(host, new), "<host>")
        hosts = _added(dhcp.hosts, new, change)
    return _with_dhcp(network, place, replace(dhcp, hosts=hosts))


def _is_named(host: DhcpHost, key: HostKey) -> bool:
    """All that the key says is so."""
    return (
        (not key.mac or host.mac == key.mac)
        and (not key.name or host.name == key.name)
        and (key.ip is None or host.ip == key.ip)
    )


def _is_like(host: DhcpHost, other: DhcpHost) -> bool:
    """MAC, name or address are the same."""
    return (
        (bool(other.mac) and host.mac == other.mac)
        or (bool(other.name) and host.name == other.name)
        or host.ip == other.ip
    )


def _dhcp_range(network: Network, change: Change) -> Network:
    _expect(change.element, "range")
    place = _ip_at(network, change)
    _no_modify(change, "ranges")
    ip = network.ips[place]
    dhcp = ip.dhcp or Dhcp()
    new = read_range(change.element, ip)
    ends = new.start, new.end
    if change.command is Command.DELETE:
        index = _first(dhcp.ranges, lambda item: (item.start, item.end) == ends, "<range>")
        ranges = _without(dhcp.ranges, index)
    else:
        _no_second_server(network, place)
        _no_clash(dhcp.ranges, lambda item: (item.start, item.end) == ends, "<range>")
        ranges = _added(dhcp.ranges, new, change)
    return _with_dhcp(network, place, replace(dhcp, ranges=ranges))


# -- interfaces, port groups


def _interface(network: Network, change: Change) -> Network:
    _expect(change.element, "interface")
    _no_modify(change, "interfaces")
    dev, forward = change.element.get("dev"), network.forward
    if dev is None:
        raise XmlInvalid("<interface> has no dev")
    if change.command is Command.DELETE:
        index = _first(forward.interfaces, lambda name: name == dev, "<interface>")
        interfaces = _without(forward.interfaces, index)
    else:
        _no_clash(forward.interfaces, lambda name: name == dev, "<interface>")
        interfaces = _added(forward.interfaces, dev, change)
    return replace(network, forward=replace(forward, interfaces=interfaces))


def _port_group(network: Network, change: Change) -> Network:
    _expect(change.element, "portgroup")
    new, groups = read_port_group(change.element), network.portgroups
    if change.command is Command.DELETE:
        index = _first(groups, lambda group: group.name == new.name, "<portgroup>")
        return replace(network, portgroups=_without(groups, index))
    if new.default:
        others = tuple(group for group in groups if group.name != new.name)
        _no_clash(others, lambda group: group.default, "default <portgroup>")
    if change.command is Command.MODIFY:
        index = _first(groups, lambda group: group.name == new.name, "<portgroup>")
        return replace(network, portgroups=(*groups[:index], new, *groups[index + 1 :]))
    _no_clash(groups, lambda group: group.name == new.name, "<portgroup>")
    return replace(network, portgroups=_added(groups, new, change))


# -- DNS


@dataclass(frozen=True, slots=True)
class Records:
    """A list of DNS records.  whole reads one to be added, key what names one to be deleted.

    clash: a new one and one that is there cannot both be; named: a key names one; alone: a key must name just one."""

    field: str
    element: str
    whole: Callable[[Element], Any]
    key: Callable[[Element], Any]
    clash: Callable[[Any, Any], bool]
    named: Callable[[Any, Any], bool]
    alone: bool

    def __call__(self, network: Network, change: Change) -> Network:
        """The network with one more or less."""
        _no_modify(change, f"records <{self.element}>")
        _expect(change.element, self.element)
        items: tuple[Any, ...] = getattr(network.dns, self.field)
        if change.command is Command.DELETE:
            items = self._without(items, self.key(change.element))
        else:
            new = self.whole(change.element)
            _no_clash(items, lambda item: self.clash(new, item), f"record <{self.element}>")
            items = _added(items, new, change)
        changed: dict[str, Any] = {self.field: items}
        return replace(network, dns=replace(network.dns, **changed))

    def _without(self, items: tuple[Any, ...], key: object) -> tuple[Any, ...]:
        count = sum(self.named(key, item) for item in items)
        if self.alone and count > 1:
            raise OperationInvalid(
                f"{count} records <{self.element}> match, say more of the one that is meant"
            )
        return _without(items, _first(items, lambda item: self.named(key, item), f"record <{self.element}>"))


def _same_srv(key: Srv, record: Srv) -> bool:
    """All that is said of service, protocol, domain and target is so; libvirt does not look at the numbers."""
    said = (
        (getattr(key, name), getattr(record, name)) for name in ("service", "protocol", "domain", "target")
    )
    return all(not wanted or wanted == found for wanted, found in said)


def _same_txt(key: Txt, record: Txt) -> bool:
    return key.name == record.name


def _same_address(new: DnsHost, record: DnsHost) -> bool:
    return new.ip == record.ip


def _names_host(key: tuple[Address | None, tuple[str, ...]], record: DnsHost) -> bool:
    ip, names = key
    return ip == record.ip or any(name in record.names for name in names)


def _txt_key(element: Element) -> Txt:
    return read_txt(element, partial=True)


def _srv_key(element: Element) -> Srv:
    return read_srv(element, partial=True)


SECTIONS: dict[int, Callable[[Network, Change], Network]] = {
    Section.IP_DHCP_HOST: _dhcp_host,
    Section.IP_DHCP_RANGE: _dhcp_range,
    Section.FORWARD_INTERFACE: _interface,
    Section.PORTGROUP: _port_group,
    Section.DNS_HOST: Records("hosts", "host", read_dns_host, read_dns_key, _same_address, _names_host, True),
    Section.DNS_TXT: Records("txts", "txt", read_txt, _txt_key, _same_txt, _same_txt, False),
    Section.DNS_SRV: Records("srvs", "srv", read_srv, _srv_key, _same_srv, _same_srv, True),
}
"""The sections that libvirt can update."""
