"""<network> as a whole: XML to a Network.  Knows no other network.  Pure."""

from __future__ import annotations

from lxml import etree

from compat import xmldoc
from compat.xmldoc import Element
from netmgr.errors import (
    BadValue,
    ConfigUnsupported,
    NameMissing,
    NetworkError,
    XmlInvalid,
    XmlMalformed,
    XmlRefused,
)
from netmgr.model import Bridge, Network
from netmgr.xml.addresses import check_gateway, read_ip, read_route
from netmgr.xml.links import check_mode, read_bridge, read_forward, read_mac
from netmgr.xml.parts import (
    read_bandwidth,
    read_dns,
    read_domain,
    read_port_group,
    read_virtual_port,
    read_vlan,
)
from netmgr.xml.trees import as_text
from netmgr.xml.values import flag, number, parse_uuid, text_of

DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
"""Namespace of <dnsmasq:options>."""

KNOWN = frozenset(
    {"name", "uuid", "title", "description", "metadata", "forward", "bridge", "mtu", "mac", "domain", "dns"}
    | {"vlan", "virtualport", "bandwidth", "portgroup", "port", "ip", "route"}
)
"""Elements below <network> that are read; what else there is, is kept as it came."""


def parse_network(xml: str) -> Element:
    """The root of a network's document; XmlMalformed, XmlRefused, XmlInvalid."""
    root = parse(xml)
    if root.tag != "network":
        raise XmlInvalid(f"the root element is <{root.tag!s}>, it must be <network>")
    return root


def parse(xml: str) -> Element:
    """The root of a text; XmlMalformed, XmlRefused."""
    try:
        return xmldoc.parse(xml).root
    except xmldoc.XmlMalformed as error:
        raise XmlMalformed(str(error)) from error
    except xmldoc.XmlError as error:
        raise XmlRefused(str(error)) from error


def read_root(root: Element) -> Network:
    """The network that an element describes; any error but those of updates."""
    name = read_name(root)
    try:
        return _read(root, name)
    except NetworkError as error:
        raise type(error)(f"network '{name}': {error}") from error


def read_name(root: Element) -> str:
    """Its name; NameMissing, XmlMalformed."""
    name = text_of(root.find("name"))
    if not name:
        raise NameMissing("the network has no name")
    for sign, word in (("/", "a slash"), ("\n", "a line break")):
        if sign in name:
            raise XmlMalformed(f"the name of the network has {word} in it: {name!r}")
    return name


def _read(root: Element, name: str) -> Network:
    element, forward = root.find("bridge"), read_forward(root.find("forward"))
    bridge = read_bridge(element)
    network = Network(
        name=name,
        uuid=_read_uuid(root),
        title=text_of(root.find("title")),
        description=text_of(root.find("description")),
        metadata=_read_metadata(root.find("metadata")),
        forward=forward,
        bridge=bridge if bridge.name or forward.mode.has_own_bridge else Bridge(),
        mtu=_read_mtu(root.find("mtu")),
        mac=read_mac(root.find("mac")),
        domain=read_domain(root.find("domain")),
        dns=read_dns(root.find("dns")),
        vlan=read_vlan(root.find("vlan")),
        virtualport=read_virtual_port(root.find("virtualport")),
        bandwidth=read_bandwidth(root.find("bandwidth")),
        portgroups=tuple(read_port_group(child) for child in root.findall("portgroup")),
        isolated=_read_isolated(root.find("port")),
        guests_ipv6=bool(flag(root, "ipv6")),
        trust_rx_filters=flag(root, "trustGuestRxFilters"),
        ips=tuple(read_ip(child) for child in root.findall("ip")),
        routes=tuple(read_route(child) for child in root.findall("route")),
        options=_read_options(root),
        kept=tuple(as_text(child) for child in root if _is_unknown(child)),
    )
    for route in network.routes:
        check_gateway(route, network.ips)
    check_mode(network, options=element is not None and _has_options(element, bridge))
    return network


def _has_options(element: Element, bridge: Bridge) -> bool:
    return element.get("stp") is not None or bool(bridge.zone or bridge.delay)


def _read_uuid(root: Element) -> bytes:
    text = text_of(root.find("uuid"))
    return parse_uuid(text) if text else b""


def _read_mtu(element: Element | None) -> int:
    return 0 if element is None else number(element, "size") or 0


def _read_isolated(element: Element | None) -> bool | None:
    return None if element is None else flag(element, "isolated")


def _read_options(root: Element) -> tuple[str, ...]:
    found = []
    for child in root.findall(f"{{{DNSMASQ}}}options/{{{DNSMASQ}}}option"):
        if (value := child.get("value")) is None:
            raise BadValue("<dnsmasq:option> has no value")
        if "\n" in value:
            raise ConfigUnsupported("<dnsmasq:option> has a line break in its value, none is allowed")
        found.append(value)
    return tuple(found)


def _read_metadata(element: Element | None) -> tuple[str, ...] | None:
    """One element for each namespace, as libvirt keeps them; None where there is no <metadata>."""
    if element is None:
        return None
    found: dict[str, str] = {}
    for child in element:
        if isinstance(child.tag, str) and (space := etree.QName(child).namespace):
            found.setdefault(space, as_text(child))
    return tuple(found.values())


def _is_unknown(child: Element) -> bool:
    return isinstance(child.tag, str) and child.tag not in KNOWN and child.tag != f"{{{DNSMASQ}}}options"
