"""A Network as libvirt writes it: order, indentation, what is left out.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from types import MappingProxyType

from netmgr.model import (
    Bandwidth,
    Dhcp,
    Dns,
    Forward,
    Ip,
    LeaseTime,
    Mode,
    Nat,
    Network,
    PortGroup,
    Rate,
    Route,
    Srv,
    VirtualPort,
    Vlan,
)
from netmgr.xml.document import DNSMASQ
from netmgr.xml.trees import indented
from netmgr.xml.values import format_address, format_uuid

Attributes = dict[str, object]
_SIGNS = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&apos;"))
_BREAKS = (("\n", "&#10;"), ("\t", "&#9;"), ("\r", "&#13;"))


@dataclass(frozen=True, slots=True)
class Tag:
    """An element to be written.  Attributes None, "" and False are left out; children None: <tag/>; raw: as it is."""

    name: str
    attributes: Attributes
    children: tuple[Tag | None, ...] | None = None
    text: str | None = None
    raw: str = ""


def tag(element: str, children: Iterable[Tag | None] | None = None, /, **attributes: object) -> Tag:
    """An element with these attributes."""
    return Tag(element, attributes, None if children is None else tuple(children))


def _if_any(element: Tag) -> Tag | None:
    """Nothing where there is nothing in it."""
    inside = any(child is not None for child in element.children or ())
    said = any(_said(value) for value in element.attributes.values())
    return replace_children(element, None if not inside else element.children) if inside or said else None


def replace_children(element: Tag, children: tuple[Tag | None, ...] | None) -> Tag:
    """The same with other children."""
    return Tag(element.name, element.attributes, children, element.text, element.raw)


def write(
    network: Network, *, connections: int | None = None, used: Mapping[str, int] = MappingProxyType({})
) -> str:
    """The document; `connections` (of a network in force): how many interfaces are plugged in; used: into each link
    that it forwards to."""
    root = tag(
        "network",
        _parts(network, used),
        xmlns_dnsmasq=DNSMASQ if network.options else None,
        connections=connections or None,
        ipv6=_yes_no(network.guests_ipv6 or None),
        trustGuestRxFilters=_yes_no(network.trust_rx_filters),
    )
    return "\n".join(_lines(root, 0)) + "\n"


def write_port_group(group: PortGroup) -> str:
    """One <portgroup>, as net-update takes it."""
    return "\n".join(_lines(_port_group(group), 0))


def write_interface(dev: str) -> str:
    """One <interface> of <forward>, as net-update takes it."""
    return "\n".join(_lines(_interface(dev), 0))


def _parts(network: Network, used: Mapping[str, int]) -> Iterator[Tag | None]:
    own = network.mode.has_own_bridge
    yield _text("name", network.name)
    yield _text("uuid", format_uuid(network.uuid)) if network.uuid else None
    yield _text("title", network.title) if network.title else None
    yield _text("description", network.description) if network.description else None
    yield _metadata(network.metadata)
    yield _forward(network.forward, used) if network.mode is not Mode.NONE else None
    yield _bridge(network, own)
    yield tag("mtu", size=network.mtu) if network.mtu else None
    yield tag("mac", address=network.mac) if network.mac else None
    if network.domain is not None:
        local, register = _yes_no(network.domain.local_only), _yes_no(network.domain.register)
        yield Tag("domain", {"name": Said(network.domain.name), "localOnly": local, "register": register})
    yield _dns(network.dns)
    yield _vlan(network.vlan)
    yield _bandwidth(network.bandwidth)
    yield _if_any(tag("port", isolated=_yes_no(network.isolated)))
    yield from (_ip(ip) for ip in network.ips)
    yield from (_route(route) for route in network.routes)
    yield _virtual_port(network.virtualport)
    yield from (_port_group(group) for group in network.portgroups)
    yield from (Tag("", {}, raw=text) for text in network.kept)
    if network.options:
        options = [Tag("dnsmasq:option", {"value": Said(value)}) for value in network.options]
        yield tag("dnsmasq:options", options)


def _metadata(items: tuple[str, ...] | None) -> Tag | None:
    if items is None:
        return None
    return tag("metadata", [Tag("", {}, raw=text) for text in items] or None)


def _forward(forward: Forward, used: Mapping[str, int]) -> Tag:
    interfaces = [_interface(dev, used.get(dev, 0)) for dev in forward.interfaces if not forward.pf]
    devices = [
        tag(
            "address",
            type="pci",
            domain=f"0x{device.domain:04x}",
            bus=f"0x{device.bus:02x}",
            slot=f"0x{device.slot:02x}",
            function=f"0x{device.function:x}",
        )
        for device in forward.devices
        if not forward.pf and not interfaces
    ]
    children = [
        tag("driver", name=forward.driver) if forward.driver else None,
        _nat(forward.nat),
        tag("pf", dev=forward.pf) if forward.pf else None,
        *interfaces,
        *devices,
    ]
    managed = ("yes" if forward.managed else "no") if forward.mode is Mode.HOSTDEV else None
    return Tag(
        "forward",
        {"dev": Said(forward.dev) if interfaces else None, "mode": str(forward.mode), "managed": managed},
        tuple(children) if any(child is not None for child in children) else None,
    )


def _interface(dev: str, connections: int = 0) -> Tag:
    return Tag("interface", {"dev": Said(dev), "connections": connections or None})


def _nat(nat: Nat | None) -> Tag | None:
    if nat is None:
        return None
    addresses, ports = nat.addresses, nat.ports
    children = (
        tag("address", start=addresses.start, end=addresses.end) if addresses else None,
        tag("port", start=ports.start, end=ports.end) if ports else None,
    )
    return _if_any(tag("nat", children, ipv6=_yes_no(nat.ipv6)))


def _bridge(network: Network, own: bool) -> Tag | None:
    bridge = network.bridge
    if not own:
        return tag("bridge", name=bridge.name, macTableManager=bridge.mac_table) if bridge.name else None
    return tag(
        "bridge",
        name=bridge.name,
        zone=bridge.zone,
        stp="on" if bridge.stp else "off",
        delay=str(bridge.delay),
        macTableManager=bridge.mac_table,
    )


def _dns(dns: Dns) -> Tag | None:
    children = [
        *(
            Tag(
                "forwarder",
                {"domain": Said(item.domain) if item.addr is None else item.domain, "addr": item.addr},
            )
            for item in dns.forwarders
        ),
        *(Tag("txt", {"name": Said(item.name), "value": Said(item.value)}) for item in dns.txts),
        *(_srv(item) for item in dns.srvs),
        *(tag("host", [_text("hostname", name) for name in item.names], ip=item.ip) for item in dns.hosts),
    ]
    plain = _yes_no(dns.forward_plain_names)
    return _if_any(tag("dns", children, enable=_yes_no(dns.enable), forwardPlainNames=plain))


def _srv(srv: Srv) -> Tag:
    return Tag(
        "srv",
        {
            "service": Said(srv.service),
            "protocol": Said(srv.protocol),
            "domain": srv.domain,
            "target": srv.target,
            "port": srv.port or None,
            "priority": srv.priority or None,
            "weight": srv.weight or None,
        },
    )


def _vlan(vlan: Vlan | None) -> Tag | None:
    if vlan is None:
        return None
    tags = [tag("tag", id=str(item.id), nativeMode=item.native) for item in vlan.tags]
    return tag("vlan", tags, trunk=_yes_no(vlan.trunk or None))


def _bandwidth(bandwidth: Bandwidth | None) -> Tag | None:
    if bandwidth is None:
        return None
    return tag("bandwidth", (_rate("inbound", bandwidth.inbound), _rate("outbound", bandwidth.outbound)))


def _rate(name: str, rate: Rate | None) -> Tag | None:
    if rate is None or not rate.average:
        return None
    return tag(name, average=rate.average, peak=rate.peak or None, burst=rate.burst or None)


def _ip(ip: Ip) -> Tag:
    prefix = None if ip.netmask else ip.prefix
    mask = ip_network((0, ip.prefix or 0)).netmask if ip.netmask else None
    children = (tag("tftp", root=ip.tftp_root) if ip.tftp_root else None, _dhcp(ip.dhcp))
    local = _yes_no(ip.local_ptr)
    return tag(
        "ip", children, family=ip.family, address=ip.address, netmask=mask, prefix=prefix, localPtr=local
    )


def _dhcp(dhcp: Dhcp | None) -> Tag | None:
    if dhcp is None:
        return None
    bootp = dhcp.bootp
    children = (
        *(tag("range", _lease(item.lease), start=item.start, end=item.end) for item in dhcp.ranges),
        *(
            Tag(
                "host",
                {"mac": item.written, "id": item.id, "name": item.name, "ip": item.ip},
                None if item.lease is None else tuple(_lease(item.lease) or ()),
            )
            for item in dhcp.hosts
        ),
        Tag("bootp", {"file": Said(bootp.file), "server": bootp.server}) if bootp is not None else None,
    )
    return tag("dhcp", children)


def _lease(lease: LeaseTime | None) -> list[Tag] | None:
    if lease is None:
        return None
    return [tag("lease", expiry=str(lease.expiry), unit=lease.unit if lease.expiry else None)]


def _route(route: Route) -> Tag:
    mask = ip_network((0, route.prefix or 0)).netmask if route.netmask else None
    prefix = None if route.netmask or route.prefix is None else str(route.prefix)
    return tag(
        "route",
        family=route.family,
        address=route.address,
        netmask=mask,
        prefix=prefix,
        gateway=route.gateway,
        metric=route.metric or None,
    )


def _virtual_port(port: VirtualPort | None) -> Tag | None:
    if port is None:
        return None
    parameters = Tag("parameters", dict(port.parameters)) if port.parameters else None
    return tag("virtualport", [parameters] if parameters else None, type=port.type)


def _port_group(group: PortGroup) -> Tag:
    children = (_vlan(group.vlan), _virtual_port(group.virtualport), _bandwidth(group.bandwidth))
    default, trust = _yes_no(group.default or None), _yes_no(group.trust_rx_filters)
    return tag("portgroup", children, name=group.name, default=default, trustGuestRxFilters=trust)


# -- text


class Said(str):
    """An attribute that is written also when it is empty."""


def _text(name: str, value: str) -> Tag:
    return Tag(name, {}, text=value)


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _said(value: object) -> bool:
    return isinstance(value, Said) or (value is not None and value != "")


def _escape(text: str, signs: Iterable[tuple[str, str]] = _SIGNS) -> str:
    for sign, name in signs:
        text = text.replace(sign, name)
    return text


def _lines(element: Tag, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if element.raw:
        yield indent + indented(element.raw, depth)
        return
    opening = indent + "<" + element.name
    for key, value in element.attributes.items():
        if _said(value):
            text = str(value) if isinstance(value, str | int) else format_address(value)  # type: ignore[arg-type]
            opening += f" {key.replace('xmlns_', 'xmlns:')}='{_escape(text, (*_SIGNS, *_BREAKS))}'"
    if element.text is not None:
        yield f"{opening}>{_escape(element.text)}</{element.name}>"
    elif element.children is None:
        yield opening + "/>"
    else:
        yield opening + ">"
        for child in element.children:
            if child is not None:
                yield from _lines(child, depth + 1)
        yield f"{indent}</{element.name}>"
