"""Elements of a network that stand for themselves: DNS records, VLANs, ports, rates.  XML to values.  Pure.

`partial` reads what names a record to be deleted, which may leave out what it does not care about.
"""

from __future__ import annotations

from collections.abc import Callable

from compat.xmldoc import Element
from netmgr.errors import BadValue, ConfigUnsupported, NetworkError, XmlInvalid, XmlMalformed
from netmgr.model import (
    Address,
    Bandwidth,
    Dns,
    DnsDomain,
    DnsHost,
    Forwarder,
    PortGroup,
    Rate,
    Srv,
    Txt,
    VirtualPort,
    Vlan,
    VlanTag,
)
from netmgr.xml.values import (
    ULONG,
    address,
    any_base,
    choice,
    flag,
    format_uuid,
    number,
    parse_uuid,
    text_of,
)

PROFILE_LENGTH = 39
VLAN_LAST = 4095
PORT_LAST = 65535


# -- names


def read_dns(element: Element | None) -> Dns:
    """<dns>, or none."""
    if element is None:
        return Dns()
    dns = Dns(
        flag(element, "enable"),
        flag(element, "forwardPlainNames"),
        tuple(read_forwarder(child) for child in element.findall("forwarder")),
        tuple(read_txt(child) for child in element.findall("txt")),
        tuple(read_srv(child) for child in element.findall("srv")),
        tuple(read_dns_host(child) for child in element.findall("host")),
    )
    if dns.enable is False and dns.records:
        raise XmlInvalid("<dns enable='no'> holds records, none are allowed where DNS is off")
    return dns


def read_forwarder(element: Element) -> Forwarder:
    """<forwarder>."""
    where, domain = address(element, "addr"), element.get("domain")
    if where is None and domain is None:
        raise XmlInvalid("<forwarder> has neither addr nor domain, it needs one")
    return Forwarder(where, domain or "")


def read_txt(element: Element, *, partial: bool = False) -> Txt:
    """<txt>; partial: without value."""
    name, value = element.get("name"), element.get("value")
    if name is None:
        raise XmlMalformed("<txt> has no name")
    if " " in name:
        raise XmlMalformed(f"the name of <txt> is '{name}', no blanks are allowed")
    if value is None and not partial:
        raise XmlMalformed(f"<txt name='{name}'> has no value")
    return Txt(name, value or "")


def read_srv(element: Element, *, partial: bool = False) -> Srv:
    """<srv>; partial: any field may be missing."""
    service, protocol, target = element.get("service"), element.get("protocol"), element.get("target", "")
    for name, value in (("service", service), ("protocol", protocol)):
        if value is None and not partial:
            raise XmlMalformed(f"<srv> has no {name}")
    numbers = {name: _srv_number(element, name) for name in ("port", "priority", "weight")}
    for name, found in numbers.items():
        if found is not None and not target:
            raise XmlMalformed(f"<srv service='{service}'> has a {name} but no target")
    if numbers["port"] == 0:
        raise XmlMalformed(f"the port of <srv service='{service}'> is 0, allowed are 1 to {PORT_LAST}")
    filled = {name: found or 0 for name, found in numbers.items()}
    return Srv(service or "", protocol or "", element.get("domain", ""), target, **filled)


def _srv_number(element: Element, name: str) -> int | None:
    if not element.get(name):
        return None
    return number(element, name, PORT_LAST, XmlMalformed)


def read_dns_host(element: Element) -> DnsHost:
    """<host> of <dns>."""
    ip, names = read_dns_key(element)
    if ip is None:
        raise XmlMalformed("<host> of <dns> has no ip")
    if not names:
        raise XmlMalformed(f"<host ip='{ip}'> of <dns> has no hostname")
    return DnsHost(ip, names)


def read_dns_key(element: Element) -> tuple[Address | None, tuple[str, ...]]:
    """What names a <host> of <dns>: its address, or names."""
    ip = address(element, "ip", XmlMalformed)
    names = tuple(name for child in element.findall("hostname") if (name := text_of(child)))
    if ip is None and not names:
        raise XmlMalformed("<host> of <dns> has neither ip nor hostname")
    return ip, names


def read_domain(element: Element | None) -> DnsDomain | None:
    """<domain>; without a name it says nothing."""
    if element is None:
        return None
    name = element.get("name")
    local_only, register = flag(element, "localOnly"), flag(element, "register")
    return None if name is None else DnsDomain(name, local_only, register)


# -- ports


def read_port_group(element: Element) -> PortGroup:
    """<portgroup>."""
    name = element.get("name")
    if not name:
        raise XmlInvalid("<portgroup> has no name")
    return PortGroup(
        name,
        element.get("default", "").lower() == "yes",
        flag(element, "trustGuestRxFilters"),
        read_vlan(element.find("vlan")),
        read_virtual_port(element.find("virtualport")),
        read_bandwidth(element.find("bandwidth")),
    )


def read_vlan(element: Element | None) -> Vlan | None:
    """<vlan>."""
    if element is None:
        return None
    tags = tuple(_read_tag(child) for child in element.findall("tag"))
    trunk = flag(element, "trunk")
    natives = [tag for tag in tags if tag.native]
    if not tags:
        raise XmlInvalid("<vlan> has no <tag>, it needs at least one")
    if len(natives) > 1:
        raise XmlInvalid(f"<vlan> has {len(natives)} tags with a nativeMode, one is allowed")
    if trunk is False and (len(tags) > 1 or natives):
        raise XmlInvalid("<vlan trunk='no'> has more tags than one or a nativeMode, only a trunk may")
    return Vlan(tags, trunk or len(tags) > 1)


def _read_tag(element: Element) -> VlanTag:
    tag = number(element, "id", VLAN_LAST)
    if tag is None:
        raise XmlInvalid("<tag> of <vlan> has no id")
    return VlanTag(tag, choice(element, "nativeMode", ("tagged", "untagged")) or "")


def _number(most: int) -> Callable[[Element, str], str | None]:
    def read(element: Element, name: str) -> str | None:
        value = any_base(element, name, most)
        return None if value is None else str(value)

    return read


def _uuid(element: Element, name: str) -> str | None:
    text = element.get(name)
    try:
        return None if text is None else format_uuid(parse_uuid(text))
    except BadValue:
        raise XmlInvalid(f"{name} of <{element.tag!s}> is '{text}', it must be a uuid") from None


def _profile(element: Element, name: str) -> str | None:
    text = element.get(name)
    if text is not None and len(text.encode()) > PROFILE_LENGTH:
        raise XmlInvalid(f"{name} of <{element.tag!s}> has more than {PROFILE_LENGTH} bytes")
    return text


PARAMETERS: dict[str, Callable[[Element, str], str | None]] = {
    "managerid": _number(0xFF),
    "typeid": _number(0xFFFFFF),
    "typeidversion": _number(0xFF),
    "instanceid": _uuid,
    "interfaceid": _uuid,
    "profileid": _profile,
}
"""Parameters of a virtual port, in the order in which libvirt writes them."""

PORT_TYPES = {
    "802.1Qbg": ("managerid", "typeid", "typeidversion", "instanceid"),
    "802.1Qbh": ("profileid",),
    "openvswitch": ("interfaceid", "profileid"),
    "midonet": ("interfaceid",),
}
"""What each type of virtual port knows."""


def read_virtual_port(element: Element | None) -> VirtualPort | None:
    """<virtualport>."""
    if element is None:
        return None
    kind = element.get("type")
    if kind is None:
        raise XmlInvalid("<virtualport> has no type")
    choice(element, "type", PORT_TYPES, ConfigUnsupported)
    given = element.find("parameters")
    if given is None:
        return VirtualPort(kind)
    found = {name: value for name, read in PARAMETERS.items() if (value := read(given, name))}
    for name in found:
        if name not in PORT_TYPES[kind]:
            raise XmlInvalid(f"<virtualport type='{kind}'> has no parameter {name}")
    return VirtualPort(kind, tuple(found.items()))


def read_bandwidth(element: Element | None) -> Bandwidth | None:
    """<bandwidth> of a network or port group, which have neither classID nor floor; None for an empty one."""
    if element is None:
        return None
    if element.get("classID") is not None:
        raise XmlMalformed("<bandwidth> has a classID, only an interface may")
    rates = {name: _read_rate(element, name) for name in ("inbound", "outbound")}
    return Bandwidth(**rates) if any(rate is not None for rate in rates.values()) else None


def _read_rate(parent: Element, name: str) -> Rate | None:
    found = parent.findall(name)
    if len(found) > 1:
        raise XmlMalformed(f"<bandwidth> has {len(found)} <{name}>, one is allowed")
    if not found:
        return None
    element = found[0]
    if element.get("floor") is not None:
        raise ConfigUnsupported(f"<{name}> has a floor, only an interface may")
    average, peak, burst = (
        number(element, key, ULONG, ConfigUnsupported) for key in ("average", "peak", "burst")
    )
    if average is None:
        raise XmlMalformed(f"<{name}> of <bandwidth> has no average")
    return Rate(average, peak or 0, burst or 0) if average else None


def once(parent: Element, name: str, error: type[NetworkError] = XmlInvalid) -> Element | None:
    """The one child of that name, None without; more are an error."""
    found = parent.findall(name)
    if len(found) > 1:
        raise error(f"<{parent.tag!s}> has {len(found)} <{name}>, one is allowed")
    return found[0] if found else None
