"""Texts, numbers, units and uuids of storage XML, as libvirt's readers take them.  Knows no element.  Pure.

As in libvirt an element or attribute that is empty counts as missing where a path asks for it (`said`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import cache

from lxml import etree

from compat import xmldoc
from compat.xmldoc import Element
from imagemgr.errors import BadUnit, ImageError, TooLarge, XmlInvalid, XmlMalformed, XmlRefused

INT = 2**31 - 1
UINT = 2**32 - 1
LONG = 2**63 - 1
ULONG = 2**64 - 1

_BLANK = r"[ \t\n\v\f\r]*"
_INTEGER = {8: re.compile(_BLANK + r"([+-]?[0-7]+)"), 10: re.compile(_BLANK + r"([+-]?[0-9]+)")}
_ANY_BASE = re.compile(_BLANK + r"\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*))")
_UUID = re.compile(rf"{_BLANK}(?:-*[0-9a-fA-F]{{2}}){{16}}{_BLANK}")
_UNIT = re.compile(r"([kmgtpe])(i?b)?", re.IGNORECASE)
_POWERS = "kmgtpe"


def parse_root(xml: str, tag: str) -> Element:
    """The root of a document, which must be `tag`; XmlMalformed, XmlRefused, XmlInvalid."""
    try:
        root = xmldoc.parse(xml).root
    except xmldoc.XmlMalformed as error:
        raise XmlMalformed(str(error)) from error
    except xmldoc.XmlError as error:
        raise XmlRefused(str(error)) from error
    if root.tag != tag:
        raise XmlInvalid(f"the root element is <{root.tag!s}>, it must be <{tag}>")
    return root


@cache
def _string(path: str) -> etree.XPath:
    return etree.XPath(f"string({path})")


def said(element: Element, path: str) -> str:
    """The text of the first that a path leads to; "" where nothing is, or nothing is in it."""
    return str(_string(path)(element))


def integer(text: str, least: int, most: int, *, base: int = 10) -> int | None:
    """A whole number with or without a sign, None where it is none or out of bounds."""
    found = _INTEGER[base].fullmatch(text)
    if found is None:
        return None
    value = int(found[1], base)
    return value if least <= value <= most else None


def number(element: Element, name: str, least: int, most: int) -> int | None:
    """A whole number; None where the attribute is missing.  XmlInvalid."""
    text = element.get(name)
    if text is None:
        return None
    value = integer(text, least, most)
    if value is None or (least >= 0 and "-" in text):
        raise XmlInvalid(f"{name} of <{element.tag!s}> is '{text}', allowed are {least} to {most}")
    return value


def any_base(element: Element, name: str) -> int:
    """A number of 32 bits, 0x and a leading 0 (octal) are understood; 0 where it is missing.  XmlInvalid."""
    text = element.get(name)
    if text is None:
        return 0
    if (found := _ANY_BASE.fullmatch(text)) is not None:
        base = {"hex": 16, "oct": 8, "dec": 10}[str(found.lastgroup)]
        if (value := int(found[str(found.lastgroup)], base)) <= UINT:
            return value
    raise XmlInvalid(f"{name} of <{element.tag!s}> is '{text}', allowed are 0 to {UINT}")


def choice(
    element: Element, name: str, allowed: Container[str], error: type[ImageError] = XmlInvalid
) -> str | None:
    """One of some words; None where the attribute is missing.  XmlInvalid."""
    text = element.get(name)
    if text is not None and text not in allowed:
        words = ", ".join(allowed) if isinstance(allowed, tuple | frozenset) else "others"
        raise error(f"{name} of <{element.tag!s}> is '{text}', allowed are {words}")
    return text


def flag(element: Element, name: str) -> bool | None:
    """yes or no; None where the attribute is missing.  XmlInvalid."""
    text = choice(element, name, ("yes", "no"))
    return None if text is None else text == "yes"


def one_of(text: str, allowed: Iterable[str], what: str, error: type[ImageError]) -> str:
    """The text, which must be one of some words; `error`."""
    words = tuple(allowed)
    if text not in words:
        raise error(f"{what} '{text}' is not known, allowed are {', '.join(words)}")
    return text


def size(text: str, unit: str, what: str, most: int = LONG) -> int:
    """Bytes of a number with a unit ("" for bytes); XmlInvalid, BadUnit, TooLarge."""
    count = integer(text, 0, ULONG)
    if count is None or "-" in text:
        raise XmlInvalid(f"{what} is '{text}', it must be a number from 0")
    value = count * scale(unit)
    if value > most:
        raise TooLarge(f"{what} is {value} bytes, {most} is the most")
    return value


def scale(unit: str) -> int:
    """Bytes of a unit: `k` and `KiB` are 1024, `kB` is 1000, case is all the same.  BadUnit."""
    if unit.lower() in ("", "b", "byte", "bytes"):
        return 1
    found = _UNIT.fullmatch(unit)
    if found is None:
        raise BadUnit(f"the unit '{unit}' is not known, allowed are bytes, KiB, MiB, GiB, TiB, PiB, EiB")
    base = 1000 if (found[2] or "").lower() == "b" else 1024
    return int(base ** (_POWERS.index(found[1].lower()) + 1))


def parse_uuid(text: str) -> bytes:
    """16 bytes; dashes between them and blanks around do not matter.  XmlInvalid."""
    if _UUID.fullmatch(text) is None:
        raise XmlInvalid(f"'{text}' is no uuid")
    return bytes.fromhex(text.strip().replace("-", ""))


def format_uuid(uuid: bytes) -> str:
    """With dashes."""
    text = uuid.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
