"""Elements that are kept as they came, metadata above all: as text, and moved between namespaces.  Pure."""

from __future__ import annotations

from copy import deepcopy

from lxml import etree

from compat import xmldoc
from compat.xmldoc import Element


def as_text(element: Element, depth: int = 0) -> str:
    """The element alone, without namespaces it does not use, its lines after the first indented for that depth.

    Blanks between elements are layout; where text stands beside elements, all is left as it is."""
    lone = deepcopy(element)
    lone.tail = None
    etree.cleanup_namespaces(lone)
    _lay_out(lone, depth)
    return etree.tostring(lone, encoding="unicode")


def indented(text: str, depth: int) -> str:
    """The text of an element for another depth."""
    return as_text(xmldoc.parse(text).root, depth)


def _lay_out(element: Element, depth: int) -> None:
    if not len(element) or _is_mixed(element):
        return
    inside = "\n" + "  " * (depth + 1)
    element.text = inside
    for child in element:
        child.tail = inside
        _lay_out(child, depth + 1)
    element[-1].tail = inside[:-2]


def _is_mixed(element: Element) -> bool:
    pieces = [element.text, *(child.tail for child in element)]
    return any(str(piece or "").strip() for piece in pieces)


def namespace_of(element: Element) -> str:
    """The uri of its namespace, "" for none."""
    return etree.QName(element).namespace or ""


def into_namespace(element: Element, key: str, uri: str) -> Element:
    """A copy in which all that has no namespace is in `uri`, written as `key:`.  ValueError for a key that is none."""
    made = etree.Element(
        f"{{{uri}}}x" if not namespace_of(element) else str(element.tag), nsmap={**element.nsmap, key: uri}
    )
    _fill(made, element, "", uri)
    return made


def out_of_namespace(element: Element, uri: str) -> Element:
    """A copy in which all of `uri` has no namespace."""
    made = etree.Element("x")
    _fill(made, element, uri, "")
    return made


def _fill(made: Element, element: Element, old: str, new: str) -> None:
    """Make a copy of an element, that one namespace becomes another."""
    if namespace_of(element) == old:
        name = etree.QName(element).localname
        made.tag = f"{{{new}}}{name}" if new else name
    made.text, made.tail = element.text, element.tail
    for name, value in element.attrib.items():
        made.set(name, value)
    for child in element:
        if isinstance(child.tag, str):
            names = {prefix: uri for prefix, uri in child.nsmap.items() if uri != old}
            _fill(etree.SubElement(made, child.tag, nsmap=names), child, old, new)
