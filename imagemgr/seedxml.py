"""The seed that a domain's definition asks for: its metadata element read, and the disk that a run of it has.  Pure."""

from __future__ import annotations

import base64
import binascii
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from compat.xmldoc import Element, XmlDocument, XmlError
from imagemgr import seeds
from imagemgr.errors import ConfigUnsupported, ImageError, XmlInvalid
from imagemgr.names import check_name

NAMESPACE = "urn:clusterhost:seed:1"
POOL = "default"
"""Where it is when the element does not say."""
SUFFIX = "-seed.iso"
"""Behind a domain's name: the volume's."""

AUTO, DHCP, NONE = "auto", "dhcp", "none"
BUSES = ("ide", "sata", "usb", "virtio")

_SEED, _KEY, _USER_DATA = (f"{{{NAMESPACE}}}{name}" for name in ("seed", "key", "user-data"))
_ATTRIBUTES = ("name", "pool", "network", "instance-id", "bus")
_OF_USER_DATA = ("volume", "pool", "encoding")
_PC = frozenset({"x86_64", "i686", ""})
_PLACES = {
    "ide": {
        name: f"0 {at // 2} {at % 2}" for at, name in reversed(list(enumerate(("hda", "hdb", "hdc", "hdd"))))
    },
    "sata": {f"sd{letter}": f"0 0 {at}" for at, letter in reversed(list(enumerate("abcdef")))},
}
"""Target -> controller, bus and unit that libvirt gives it, of the first controller.  The last ones first: what a user
plugs in later begins with the others."""
_FREE = {
    "usb": [f"sd{letter}" for letter in "zyxwvutsrq"],
    "virtio": [f"vd{letter}" for letter in "zyxwvutsrq"],
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the element says.  name: the guest's host name, "" for the domain's; volume: pool and name of one whose
    bytes are the user-data; bus: of the disk, "" for what the machine usually has."""

    name: str = ""
    pool: str = POOL
    network: str = AUTO
    instance: str = ""
    bus: str = ""
    keys: tuple[str, ...] = ()
    user_data: bytes = b""
    volume: tuple[str, str] | None = None


def mentions(xml: str) -> bool:
    """A quick look: False when there is no such element."""
    return NAMESPACE in xml


def wish_of(xml: str) -> Wish | None:
    """What a domain's definition asks for, all of it checked that can be before a start; None when it asks for none, or
    is no document.  XmlInvalid, ConfigUnsupported."""
    document = _parsed(xml) if mentions(xml) else None
    found = [] if document is None else list(document.all(f"metadata/*[namespace-uri()='{NAMESPACE}']"))
    if document is None or not found:
        return None
    if len(found) > 1 or found[0].tag != _SEED:
        raise XmlInvalid(f"metadata of {NAMESPACE} are one element <seed>")
    wish = _read(found[0])
    name = (document.text("/domain/name") or "").strip()
    try:
        check_name(name + SUFFIX)
        seeds.documents(seeds.Guest(wish.name or name, wish.instance, wish.keys, wish.user_data))
    except ImageError as error:
        raise XmlInvalid(f"the seed of the domain: {error}") from error
    return wish


def with_disk(xml: str, path: str, bus: str) -> str:
    """The domain with a disk that is the file at `path`, only to be read.  ConfigUnsupported when that bus is full."""
    document = XmlDocument.parse(xml)
    if document.find("devices") is None:
        document.insert("/domain", "<devices/>")
    bus, target = _place(document, bus)
    device = "disk" if bus == "virtio" else "cdrom"
    document.insert(
        "devices",
        f"<disk type='file' device='{device}'><driver name='qemu' type='raw'/><source file={quoteattr(path)}/>"
        f"<target dev='{target}' bus='{bus}'/><readonly/></disk>",
    )
    return document.to_string()


def macs_of(xml: str) -> tuple[str, ...]:
    """Of its interfaces, in their order; "" for one that has none yet."""
    document = _parsed(xml)
    if document is None:
        return ()
    found = (interface.find("mac") for interface in document.all("devices/interface"))
    return tuple(mac.get("address", "").lower() if mac is not None else "" for mac in found)


# -- reading


def _parsed(xml: str) -> XmlDocument | None:
    try:
        return XmlDocument.parse(xml)
    except XmlError:
        return None


def _read(element: Element) -> Wish:
    said = _attributes(element, "seed", _ATTRIBUTES)
    keys: list[str] = []
    user_data: list[Element] = []
    for child in _children(element):
        if child.tag == _KEY:
            keys += _keys(child)
        elif child.tag == _USER_DATA:
            user_data.append(child)
        else:
            raise XmlInvalid(f"unexpected element <{_local(child)}> in <seed>, allowed are key and user-data")
    if len(user_data) > 1:
        raise XmlInvalid("a <seed> has one element <user-data>")
    pool = said.get("pool", POOL)
    data, volume = _user_data(user_data[0], pool) if user_data else (b"", None)
    return Wish(
        said.get("name", ""),
        pool,
        _one_of(said, "network", (AUTO, DHCP, NONE), AUTO),
        said.get("instance-id", ""),
        _one_of(said, "bus", BUSES, ""),
        tuple(keys),
        data,
        volume,
    )


def _children(element: Element) -> Iterator[Element]:
    """Without comments."""
    return (child for child in element if isinstance(child.tag, str))


def _attributes(element: Element, name: str, allowed: Collection[str]) -> dict[str, str]:
    found = {str(key): str(value) for key, value in element.attrib.items() if not str(key).startswith("{")}
    for key, value in found.items():
        if key not in allowed:
            raise XmlInvalid(f"unexpected attribute '{key}' of <{name}>, allowed are {', '.join(allowed)}")
        if not value:
            raise XmlInvalid(f"attribute '{key}' of <{name}> is empty")
    return found


def _one_of(said: dict[str, str], key: str, allowed: Collection[str], default: str) -> str:
    value = said.get(key, default)
    if value != default and value not in allowed:
        raise ConfigUnsupported(f"{key}='{value}' of <seed> is not one of {', '.join(allowed)}")
    return value


def _keys(element: Element) -> tuple[str, ...]:
    _attributes(element, "key", ())
    try:
        return seeds.keys_in(element.text or "")
    except ImageError as error:
        raise XmlInvalid(f"<key> of <seed>: {error}") from error


def _user_data(element: Element, pool: str) -> tuple[bytes, tuple[str, str] | None]:
    said = _attributes(element, "user-data", _OF_USER_DATA)
    text = element.text or ""
    if len(element):
        raise XmlInvalid(
            "<user-data> of <seed> has elements in it; what is no text goes into <![CDATA[...]]>"
        )
    if "volume" in said:
        if text.strip() or "encoding" in said:
            raise XmlInvalid("<user-data> of <seed> is either a volume or text")
        return b"", (said.get("pool", pool), said["volume"])
    if "pool" in said:
        raise XmlInvalid("<user-data> of <seed> has a pool and no volume")
    if "encoding" in said:
        return _decoded(said["encoding"], text), None
    # Lines that are indented as the document is mean the same without that.
    plain = textwrap.dedent(text).strip("\n\r\t ")
    return (plain + "\n").encode() if plain else b"", None


def _decoded(encoding: str, text: str) -> bytes:
    if encoding != "base64":
        raise ConfigUnsupported(f"encoding='{encoding}' of <user-data> is not one of base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise XmlInvalid("<user-data> of <seed> is no base64") from error


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


# -- the disk


def _place(document: XmlDocument, bus: str) -> tuple[str, str]:
    """Bus and target."""
    target = _target(document, bus or _usual(document))
    if target:
        return bus or _usual(document), target
    if bus:
        raise ConfigUnsupported(f"there is no place left for the seed on bus {bus}")
    target = _target(document, "virtio")
    if not target:
        raise ConfigUnsupported("there is no place left for the seed")
    return "virtio", target


def _usual(document: XmlDocument) -> str:
    """Of machines that have no bus for CDs built in, what all guests for clouds know."""
    machine = document.attribute("os/type", "machine") or "pc"
    if (document.attribute("os/type", "arch") or "") not in _PC:
        return "virtio"
    if "q35" in machine:
        return "sata"
    return "ide" if machine == "pc" or "i440fx" in machine else "virtio"


def _target(document: XmlDocument, bus: str) -> str:
    """A free one, "" when there is none."""
    disks = list(document.all("devices/disk"))
    targets = {target.get("dev") for disk in disks if (target := disk.find("target")) is not None}
    if bus in _FREE:
        return next((name for name in _FREE[bus] if name not in targets), "")
    taken = {place for disk in disks if (place := _drive(disk, bus))}
    return next((name for name, at in _PLACES[bus].items() if name not in targets and at not in taken), "")


def _drive(disk: Element, bus: str) -> str:
    """Its place on that bus, "" where it is on another or not said."""
    target, address = disk.find("target"), disk.find("address")
    if target is None or address is None or target.get("bus") != bus:
        return ""
    return " ".join(address.get(key, "0") for key in ("controller", "bus", "unit"))
