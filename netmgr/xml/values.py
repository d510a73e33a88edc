"""Attributes and short texts of a network's XML: numbers, flags, addresses, MACs, uuids.  Knows no element.  Pure."""

from __future__ import annotations

import re
from collections.abc import Container
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from compat.xmldoc import Element
from netmgr.errors import BadValue, NetworkError, XmlInvalid
from netmgr.model import Address

UINT = 2**32 - 1
ULONG = 2**64 - 1

_DECIMAL = re.compile(r"\s*\+?(\d+)")
_HEXADECIMAL = re.compile(r"\s*\+?0[xX]([0-9a-fA-F]+)")
_OCTAL = re.compile(r"\s*\+?0([0-7]+)")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}")
_UUID = re.compile(r"[0-9a-fA-F]{32}")


def text_of(element: Element | None) -> str:
    """All text below an element; "" for none."""
    return "" if element is None else "".join(str(part) for part in element.itertext())


def number(
    element: Element, name: str, most: int = UINT, error: type[NetworkError] = XmlInvalid
) -> int | None:
    """A whole number of 0 or more in decimal digits; None where the attribute is missing.  XmlInvalid."""
    text = element.get(name)
    if text is None:
        return None
    found = _DECIMAL.fullmatch(text)
    if found is None or int(found[1]) > most:
        raise error(f"{name} of <{element.tag!s}> is '{text}', allowed are 0 to {most}")
    return int(found[1])


def any_base(
    element: Element, name: str, most: int = UINT, error: type[NetworkError] = XmlInvalid
) -> int | None:
    """As `number`, but 0x and a leading 0 (octal) are understood, as libvirt does where it writes hexadecimal."""
    text = element.get(name)
    if text is None:
        return None
    for pattern, base in ((_HEXADECIMAL, 16), (_OCTAL, 8), (_DECIMAL, 10)):
        if (found := pattern.fullmatch(text)) and int(found[1], base) <= most:
            return int(found[1], base)
    raise error(f"{name} of <{element.tag!s}> is '{text}', allowed are 0 to {most}")


def flag(element: Element, name: str) -> bool | None:
    """yes or no; None where the attribute is missing.  XmlInvalid."""
    text = choice(element, name, ("yes", "no"))
    return None if text is None else text == "yes"


def choice(
    element: Element, name: str, allowed: Container[str], error: type[NetworkError] = XmlInvalid
) -> str | None:
    """One of some words; None where the attribute is missing.  XmlInvalid."""
    text = element.get(name)
    if text is not None and text not in allowed:
        words = ", ".join(allowed) if isinstance(allowed, tuple | dict) else "others"
        raise error(f"{name} of <{element.tag!s}> is '{text}', allowed are {words}")
    return text


def parse_address(text: str) -> Address | None:
    """An address in its usual form; None where it is not.

    libvirt's resolver also reads short, octal and hexadecimal forms of IPv4 and zones of IPv6: not taken here."""
    try:
        return IPv4Address(text) if ":" not in text else IPv6Address(text) if "%" not in text else None
    except AddressValueError:
        return None


def address(
    element: Element, name: str, error: type[NetworkError] = XmlInvalid, *, version: int = 0
) -> Address | None:
    """An address (of a version, 0: any); None where the attribute is missing.  XmlInvalid."""
    text = element.get(name)
    if text is None:
        return None
    found = parse_address(text)
    if found is None or version not in (0, found.version):
        kind = f"an IPv{version} address" if version else "an address"
        raise error(f"{name} of <{element.tag!s}> is '{text}', it must be {kind}")
    return found


def format_address(value: Address) -> str:
    """As the C library writes it."""
    if isinstance(value, IPv6Address) and value.ipv4_mapped is not None:
        return f"::ffff:{value.ipv4_mapped}"
    return str(value)


def parse_mac(text: str) -> str:
    """A MAC in lower case with two digits for each byte; BadValue."""
    if _MAC.fullmatch(text) is None:
        raise BadValue(f"'{text}' is no MAC address")
    return ":".join(f"{int(byte, 16):02x}" for byte in text.split(":"))


def is_multicast(mac: str) -> bool:
    """The lowest bit of the first byte: a group, not one interface."""
    return bool(int(mac[:2], 16) & 1)


def parse_uuid(text: str) -> bytes:
    """16 bytes; dashes and blanks around do not matter.  BadValue."""
    digits = text.strip().replace("-", "")
    if _UUID.fullmatch(digits) is None:
        raise BadValue(f"'{text}' is no uuid")
    return bytes.fromhex(digits)


def format_uuid(uuid: bytes) -> str:
    """With dashes."""
    text = uuid.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
