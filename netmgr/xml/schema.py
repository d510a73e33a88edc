"""What the format of networks allows, as a table: for clients that ask for validation.  Pure.

Shapes say less than document.py in places (a prefix may be too long for its address) and more in others (nothing
that is not known): as in libvirt a document has to pass both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from compat.xmldoc import Element
from netmgr.errors import SchemaInvalid
from netmgr.xml.document import DNSMASQ
from netmgr.xml.parts import PARAMETERS, PORT_TYPES, PROFILE_LENGTH
from netmgr.xml.values import parse_address

Test = Callable[[str], bool]
MANY = 1 << 30


def _like(pattern: str) -> Test:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _from_to(least: int, most: int, pattern: str = r"\s*\d+\s*") -> Test:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None and least <= int(text) <= most


def _either(*tests: Test) -> Test:
    return lambda text: any(test(text) for test in tests)


def _is_any(_text: str) -> bool:
    return True


def _is_address(text: str) -> bool:
    return parse_address(text) is not None


def _is_ipv4(text: str) -> bool:
    return isinstance(parse_address(text), IPv4Address)


SIGNED = r"\s*[+-]?\d+\s*"
BYTE = "[0-9a-fA-F]{1,2}"
HARDWARE = ":0{1,2}:0?[1-9a-fA-F]"
YES_NO, ON_OFF = _like("yes|no"), _like("on|off")
UINT, ULONG = _from_to(0, 2**32 - 1), _from_to(0, 2**64 - 1)
DIGITS = _from_to(0, 2**32 - 1, r"\d+")
RATE = _from_to(1, 2**32 - 1, r"\d+")
SHORT, PORT = _from_to(0, 65535, SIGNED), _from_to(1, 65535, SIGNED)
PREFIX, TAG = _from_to(0, 128), _from_to(0, 4095)
DEVICE = _like(r"[a-zA-Z0-9_.\-\\:/]+")
ZONE, DNS_NAME = _like(r"[a-zA-Z0-9_\-]+"), _like(r"[a-zA-Z0-9.\-]+")
MAC = _like("[a-fA-F0-9][02468aAcCeE](:[a-fA-F0-9]{2}){5}")
UUID = _like("[a-fA-F0-9]{32}|[a-fA-F0-9]{8}-([a-fA-F0-9]{4}-){3}[a-fA-F0-9]{12}")
SOME = _like(".+")
FAMILY = _like("ipv4|ipv6")
CLIENT_ID = _like(
    f"0{{1,2}}:0?(1{HARDWARE}(:{BYTE}){{10,12}}|2(:{BYTE}){{5,128}}|3{HARDWARE}(:{BYTE}){{6,8}}|4(:{BYTE}){{16}})"
)
PCI = {
    "domain": _either(_like("(0x)?[0-9a-fA-F]{1,8}"), UINT),
    "bus": _either(_like("0x[0-9a-fA-F]{1,2}"), _from_to(0, 255, SIGNED)),
    "slot": _either(_like("(0x)?[0-1]?[0-9a-fA-F]"), _from_to(0, 31, SIGNED)),
    "function": _either(_like("(0x)?[0-7]"), _from_to(0, 7, SIGNED)),
    "multifunction": ON_OFF,
}
PARAMETER: dict[str, Test] = {
    "managerid": _either(_like("0x[0-9a-fA-F]{1,2}"), _from_to(0, 255, SIGNED)),
    "typeid": _either(_like("0x[0-9a-fA-F]{1,6}"), _from_to(0, 0xFFFFFF, SIGNED)),
    "typeidversion": _either(_like("0x[0-9a-fA-F]{1,2}"), _from_to(0, 255, SIGNED)),
    "instanceid": UUID,
    "interfaceid": UUID,
    "profileid": lambda text: len(text) <= PROFILE_LENGTH,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """An element.  attributes: what each may be; needs: those that must be there; children: shape, least, most.

    text: what its text may be (None: blanks alone); apart: at most one of these attributes or children; open: nothing
    in it is looked at; also: what else is wrong with it."""

    attributes: dict[str, Test] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    children: dict[str, tuple[Shape, int, int]] = field(default_factory=dict)
    text: Test | None = None
    apart: tuple[str, ...] = ()
    open: bool = False
    also: Callable[[Element], Iterator[str]] | None = None


def _maybe(shape: Shape) -> tuple[Shape, int, int]:
    return shape, 0, 1


def _many(shape: Shape) -> tuple[Shape, int, int]:
    return shape, 0, MANY


def _host_key(element: Element) -> Iterator[str]:
    if not any(element.get(key) is not None for key in ("mac", "id", "name")):
        yield "<host> has none of mac, id and name"


def _port_type(element: Element) -> Iterator[str]:
    kind = element.get("type")
    given = element.find("parameters")
    if kind == "midonet" and (given is None or given.get("interfaceid") is None):
        yield "<virtualport type='midonet'> has no interfaceid"
    if kind in PORT_TYPES and given is not None:
        for name in given.attrib:
            if name not in PORT_TYPES[kind]:
                yield f"<virtualport type='{kind}'> has a parameter {name!s}"


_DEV = Shape({"dev": DEVICE}, ("dev",))
_LEASE = Shape(
    {"expiry": _from_to(0, 2**64 - 1, r"\d+"), "unit": _like("seconds|minutes|hours")}, ("expiry",)
)
_MASK: dict[str, Test] = {"address": _is_address, "family": FAMILY, "netmask": _is_ipv4, "prefix": PREFIX}
_RATE = Shape({"average": RATE, "peak": RATE, "floor": RATE, "burst": RATE})
_BANDWIDTH = Shape(
    {"classID": _from_to(1, 2**63, r"\d+")}, children={"inbound": _maybe(_RATE), "outbound": _maybe(_RATE)}
)
_VLAN = Shape(
    {"trunk": _like("yes")},
    children={"tag": (Shape({"id": TAG, "nativeMode": _like("tagged|untagged")}, ("id",)), 1, MANY)},
)
_VIRTUAL_PORT = Shape(
    {"type": lambda text: text in PORT_TYPES},
    children={"parameters": _maybe(Shape({name: PARAMETER[name] for name in PARAMETERS}))},
    also=_port_type,
)
_NAT = Shape(
    {"ipv6": YES_NO},
    children={
        "address": _maybe(Shape({"start": _is_ipv4, "end": _is_ipv4}, ("start", "end"))),
        "port": _maybe(Shape({"start": PORT, "end": PORT}, ("start", "end"))),
    },
)
_FORWARD = Shape(
    {
        "dev": DEVICE,
        "mode": _like("nat|route|open|bridge|passthrough|private|vepa|hostdev"),
        "managed": YES_NO,
    },
    children={
        "interface": _many(Shape({"dev": DEVICE, "connections": UINT}, ("dev",))),
        "address": _many(Shape({"type": _like("pci"), **PCI, "connections": UINT}, ("type",))),
        "pf": _maybe(_DEV),
        "driver": _maybe(Shape({"name": _like("kvm|vfio")}, ("name",))),
        "nat": _maybe(_NAT),
    },
    apart=("interface", "address"),
)
_DHCP = Shape(
    children={
        "range": _many(
            Shape({"start": _is_address, "end": _is_address}, ("start", "end"), {"lease": _maybe(_LEASE)})
        ),
        "host": _many(
            Shape(
                {"mac": MAC, "id": CLIENT_ID, "name": _is_any, "ip": _is_address},
                ("ip",),
                {"lease": _maybe(_LEASE)},
                apart=("mac", "id"),
                also=_host_key,
            )
        ),
        "bootp": _maybe(Shape({"file": SOME, "server": DNS_NAME}, ("file",))),
    }
)
_IP = Shape(
    {**_MASK, "localPtr": YES_NO},
    children={"tftp": _maybe(Shape({"root": _is_any}, ("root",))), "dhcp": _maybe(_DHCP)},
    apart=("netmask", "prefix"),
)
_SRV: dict[str, Test] = {
    "service": _is_any,
    "protocol": _like("tcp|udp"),
    "domain": DNS_NAME,
    "target": _is_any,
}
_DNS = Shape(
    {"enable": YES_NO, "forwardPlainNames": YES_NO},
    children={
        "forwarder": _many(Shape({"addr": _is_address, "domain": DNS_NAME})),
        "txt": _many(Shape({"name": DNS_NAME, "value": _is_any}, ("name", "value"))),
        "srv": _many(
            Shape({**_SRV, "port": SHORT, "priority": SHORT, "weight": SHORT}, ("service", "protocol"))
        ),
        "host": _many(Shape({"ip": _is_address}, ("ip",), {"hostname": (Shape(text=DNS_NAME), 1, MANY)})),
    },
)
_BRIDGE = Shape(
    {"name": DEVICE, "zone": ZONE, "stp": ON_OFF, "delay": ULONG, "macTableManager": _like("kernel|libvirt")}
)
_PORT_GROUP = Shape(
    {"name": DEVICE, "default": YES_NO, "trustGuestRxFilters": YES_NO},
    ("name",),
    {"virtualport": _maybe(_VIRTUAL_PORT), "bandwidth": _maybe(_BANDWIDTH), "vlan": _maybe(_VLAN)},
)
_ROUTE = Shape(
    {**_MASK, "gateway": _is_address, "metric": DIGITS}, ("address", "gateway"), apart=("netmask", "prefix")
)
NETWORK = Shape(
    {"connections": UINT, "ipv6": YES_NO, "trustGuestRxFilters": YES_NO},
    children={
        "name": (Shape(text=_is_any), 1, 1),
        "uuid": _maybe(Shape(text=UUID)),
        "title": _maybe(Shape(text=_is_any)),
        "description": _maybe(Shape(text=_is_any)),
        "metadata": _maybe(Shape(open=True)),
        "bridge": _maybe(_BRIDGE),
        "mtu": _maybe(Shape({"size": SHORT}, ("size",))),
        "mac": _maybe(Shape({"address": MAC}, ("address",))),
        "forward": _maybe(_FORWARD),
        "virtualport": _maybe(_VIRTUAL_PORT),
        "portgroup": _many(_PORT_GROUP),
        "domain": _maybe(Shape({"name": DNS_NAME, "localOnly": YES_NO, "register": YES_NO}, ("name",))),
        "dns": _maybe(_DNS),
        "bandwidth": _maybe(_BANDWIDTH),
        "vlan": _maybe(_VLAN),
        "port": _maybe(Shape({"isolated": YES_NO})),
        "ip": _many(_IP),
        "route": _many(_ROUTE),
        f"{{{DNSMASQ}}}options": _maybe(
            Shape(children={f"{{{DNSMASQ}}}option": _many(Shape({"value": _is_any}, ("value",)))})
        ),
    },
)


def check(root: Element) -> None:
    """SchemaInvalid with the first thing that does not fit; root: <network>."""
    for problem in problems(root, NETWORK):
        raise SchemaInvalid(f"the document does not fit the format: {problem}")


def problems(element: Element, shape: Shape) -> Iterator[str]:
    """All of it, one sentence each."""
    if shape.open:
        return
    tag = str(element.tag).rpartition("}")[2]
    for name, value in element.attrib.items():
        test = shape.attributes.get(str(name))
        if test is None:
            yield f"<{tag}> has an attribute {name!s}"
        elif not test(str(value)):
            yield f"{name!s} of <{tag}> cannot be '{value!s}'"
    for name in shape.needs:
        if element.get(name) is None:
            yield f"<{tag}> has no {name}"
    yield from _text_problems(element, tag, shape)
    yield from _child_problems(element, tag, shape)
    if shape.also is not None:
        yield from shape.also(element)


def _text_problems(element: Element, tag: str, shape: Shape) -> Iterator[str]:
    pieces = [element.text or "", *(child.tail or "" for child in element)]
    text = "".join(str(piece) for piece in pieces)
    if shape.text is None:
        if text.strip():
            yield f"<{tag}> has the text '{text.strip()}'"
    elif not shape.text(text):
        yield f"the text of <{tag}> cannot be '{text}'"


def _child_problems(element: Element, tag: str, shape: Shape) -> Iterator[str]:
    counts: dict[str, int] = {}
    for child in element:
        if not isinstance(child.tag, str):
            continue
        counts[child.tag] = counts.get(child.tag, 0) + 1
        if child.tag in shape.children:
            yield from problems(child, shape.children[child.tag][0])
        else:
            yield f"<{tag}> has a <{child.tag}>"
    for name, (_, least, most) in shape.children.items():
        if not least <= counts.get(name, 0) <= most:
            yield f"<{tag}> has {counts.get(name, 0)} <{name}>"
    if sum(name in counts or element.get(name) is not None for name in shape.apart) > 1:
        yield f"<{tag}> has {' and '.join(shape.apart)}"
