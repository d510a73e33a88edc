"""<ip>, its <dhcp>, and <route>: XML to values, with the rules of subnets and ranges.  Pure."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import NamedTuple

from compat.xmldoc import Element
from netmgr.errors import BadAddress, BadValue, ConfigUnsupported, XmlInvalid
from netmgr.model import (
    Address,
    Bootp,
    Dhcp,
    DhcpHost,
    DhcpRange,
    Ip,
    LeaseTime,
    Route,
    has_class,
)
from netmgr.xml.values import (
    UINT,
    ULONG,
    address,
    choice,
    flag,
    format_address,
    is_multicast,
    number,
    parse_address,
    parse_mac,
)

BITS = {4: 32, 6: 128}
SHORTEST_LEASE = 120
"""Seconds: what dnsmasq raises shorter leases to."""

_ID = re.compile(r"[0-9a-fA-F:]*")
_HOST_NAME = re.compile(r"[A-Za-z0-9]")


class Mask(NamedTuple):
    """A prefix, and whether a netmask was written instead; prefix None: neither."""

    prefix: int | None
    netmask: bool


# -- the host's own addresses


def read_ip(element: Element) -> Ip:
    """<ip>."""
    if not element.get("address"):
        raise XmlInvalid("<ip> has no address")
    where = address(element, "address")
    assert where is not None
    family = choice(element, "family", ("ipv4", "ipv6", "")) or ""
    if where.version != (6 if family == "ipv6" else 4):
        raise ConfigUnsupported(f"<ip> has the address {where} of another family than {family or 'ipv4'}")
    mask = _ip_mask(element, where)
    bare = Ip(where, mask.prefix, mask.netmask, family, flag(element, "localPtr"))
    tftp = element.find("tftp")
    if tftp is not None and where.version == 6:
        raise ConfigUnsupported(f"<ip address='{where}'> has <tftp>, only IPv4 may")
    root = "" if tftp is None else tftp.get("root", "")
    return Ip(*_fields(bare), root, read_dhcp(element.find("dhcp"), bare))


def _fields(ip: Ip) -> tuple[Address, int | None, bool, str, bool | None]:
    return ip.address, ip.prefix, ip.netmask, ip.family, ip.local_ptr


def _ip_mask(element: Element, where: Address) -> Mask:
    prefix, text = number(element, "prefix"), element.get("netmask")
    if not text:
        if prefix is not None and prefix > BITS[where.version]:
            raise ConfigUnsupported(
                f"the prefix of {where} is {prefix}, allowed are 0 to {BITS[where.version]}"
            )
        return Mask(prefix or None, False)
    if where.version == 6:
        raise ConfigUnsupported(f"<ip address='{where}'> has a netmask, only IPv4 may")
    if prefix:
        raise ConfigUnsupported(f"<ip address='{where}'> has both a prefix and a netmask, one is allowed")
    return Mask(parse_netmask(text), True)


def parse_netmask(text: str) -> int:
    """The prefix that says the same; XmlInvalid, also for a mask with holes (libvirt takes it, but no route can)."""
    mask = parse_address(text)
    if not isinstance(mask, IPv4Address):
        raise XmlInvalid(f"the netmask is '{text}', it must be an IPv4 address")
    rest = ~int(mask) & UINT
    if rest & (rest + 1):
        raise XmlInvalid(f"the netmask {text} has holes")
    return 32 - rest.bit_length()


# -- what guests get


def read_dhcp(element: Element | None, ip: Ip) -> Dhcp | None:
    """<dhcp> within an <ip>; None when it gives nothing out."""
    if element is None:
        return None
    ranges = tuple(read_range(child, ip) for child in element.findall("range"))
    hosts = tuple(read_host(child, ip) for child in element.findall("host"))
    bootp = None if ip.version == 6 else _read_bootp(element.findall("bootp"))
    return Dhcp(ranges, hosts, bootp) if ranges or hosts else None


def _read_bootp(elements: list[Element]) -> Bootp | None:
    found = None
    for element in elements:
        if (file := element.get("file")) is not None:
            found = Bootp(file, address(element, "server", BadAddress))
    return found


def read_range(element: Element, ip: Ip) -> DhcpRange:
    """<range> within an <ip>."""
    ends = []
    for name in ("start", "end"):
        end = address(element, name, BadAddress)
        if end is None:
            raise XmlInvalid(f"<range> of <dhcp> has no {name}")
        ends.append(end)
    found = DhcpRange(ends[0], ends[1], _read_lease(element))
    _check_range(found, ip)
    return found


def _check_range(found: DhcpRange, ip: Ip) -> None:
    """What libvirt asks of a range.  Its limit in size is that all but the last 16 bits are the same."""
    start, end = found.start, found.end
    words, subnet = f"the range {start} to {end}", ip.subnet
    if start.version != end.version or start.version != ip.version:
        raise BadValue(f"{words} is not of the family of {ip.address}")
    if ip.prefix is None and not has_class(ip.address):
        raise BadValue(f"{words}: {ip.address} has no prefix")
    if int(start) > int(end):
        raise BadValue(f"{words} is reversed")
    if start not in subnet or end not in subnet:
        raise BadValue(f"{words} is not within {subnet}")
    if start.version == 4 and start == subnet.network_address:
        raise BadValue(f"{words} begins with the address of the network {subnet}")
    if end.version == 4 and end == subnet.broadcast_address:
        raise BadValue(f"{words} ends with the broadcast address of {subnet}")
    if int(start) >> 16 != int(end) >> 16:
        raise BadValue(f"{words} is too large, the addresses may differ in the last 16 bits")


def _read_lease(element: Element) -> LeaseTime | None:
    found = None
    for child in element.findall("lease"):
        expiry = number(child, "expiry", ULONG)
        unit = choice(child, "unit", ("seconds", "minutes", "hours")) or "minutes"
        if expiry is None:
            continue
        found = LeaseTime(expiry, unit if expiry else "minutes")
        if 0 < found.seconds < SHORTEST_LEASE:
            text = f"the lease time is {expiry} {unit}, the least is {SHORTEST_LEASE} seconds"
            raise ConfigUnsupported(text)
    return found


class HostKey(NamedTuple):
    """What names a <host> of <dhcp>; None, "": left open."""

    mac: str
    name: str | None
    ip: Address | None


def read_host(element: Element, ip: Ip) -> DhcpHost:
    """<host> of <dhcp>."""
    key, client = read_host_key(element, ip), element.get("id")
    needed, what = (bool(client), "id") if ip.version == 6 else (bool(key.mac), "mac")
    if not needed and key.name is None:
        raise XmlInvalid(f"<host> of <dhcp> has neither {what} nor name, it needs one")
    if key.ip is None:
        raise XmlInvalid("<host> of <dhcp> has no ip")
    return DhcpHost(
        key.ip, key.mac, element.get("mac", ""), client or "", key.name or "", _read_lease(element)
    )


def read_host_key(element: Element, ip: Ip) -> HostKey:
    """What names a <host> of <dhcp>: a MAC, name or address will do."""
    written, name, client = element.get("mac"), element.get("name"), element.get("id")
    mac = "" if written is None else _host_mac(written, ip)
    if client is not None and _ID.fullmatch(client) is None:
        raise XmlInvalid(f"the id of <host> is '{client}', allowed are hexadecimal digits and colons")
    if name is not None and _HOST_NAME.match(name) is None:
        raise XmlInvalid(f"the name of <host> is '{name}', it must begin with a letter or digit")
    where = address(element, "ip")
    if not mac and name is None and where is None:
        raise XmlInvalid("<host> of <dhcp> has none of mac, name and ip, it needs one")
    return HostKey(mac, name, where)


def _host_mac(text: str, ip: Ip) -> str:
    if ip.version == 6:
        raise XmlInvalid(f"<host> has the mac {text}, for IPv6 an id or a name is allowed")
    try:
        mac = parse_mac(text)
    except BadValue as error:
        raise XmlInvalid(f"<host> of <dhcp>: {error}") from None
    if is_multicast(mac):
        raise XmlInvalid(f"<host> has the multicast mac {text}, only that of one interface is allowed")
    return mac


# -- routes


def read_route(element: Element) -> Route:
    """<route>."""
    where, gateway = address(element, "address"), address(element, "gateway")
    if where is None or gateway is None:
        raise XmlInvalid(f"<route> has no {'address' if where is None else 'gateway'}")
    family = choice(element, "family", ("ipv4", "ipv6", "")) or ""
    for what in (where, gateway):
        if what.version != (6 if family == "ipv6" else 4):
            raise XmlInvalid(f"<route> has the address {what} of another family than {family or 'ipv4'}")
    metric = number(element, "metric")
    if metric == 0:
        raise XmlInvalid("the metric of <route> is 0, allowed are 1 and more")
    mask = _route_mask(element, where)
    route = Route(where, gateway, mask.prefix, mask.netmask, family, metric or 0)
    if route.subnet.network_address != where:
        raise XmlInvalid(f"<route> has the address {where}, which is not that of a network of /{route.bits}")
    return route


def _route_mask(element: Element, where: Address) -> Mask:
    prefix, text = number(element, "prefix"), element.get("netmask")
    if not text:
        if prefix is not None and prefix > BITS[where.version]:
            raise XmlInvalid(f"the prefix of <route> is {prefix}, allowed are 0 to {BITS[where.version]}")
        return Mask(prefix, False)
    if where.version == 6 or prefix is not None:
        raise XmlInvalid(
            f"<route address='{where}'> has a netmask beside a prefix or for IPv6, neither is allowed"
        )
    return Mask(parse_netmask(text), True)


def check_gateway(route: Route, ips: tuple[Ip, ...]) -> None:
    """A gateway must be in a subnet of the network; ConfigUnsupported."""
    for ip in ips:
        if route.gateway in ip.subnet:
            return
    gateway = format_address(route.gateway)
    raise ConfigUnsupported(f"the gateway {gateway} of a <route> is in no subnet of the network")
