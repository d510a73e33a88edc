"""Helpers on XML trees for merging: parse, copy, intersect, write as libvirt does.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

from lxml import etree

from clusterhost.model.errors import InvalidXml
from compat import xmldoc

Element = etree._Element


def parse(text: str | bytes) -> Element:
    """The root of a document, without comments and blank text; InvalidXml: malformed, or has a DTD."""
    try:
        root = xmldoc.parse(text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text).root
    except xmldoc.XmlError as error:
        raise InvalidXml(str(error)) from None
    return clone(root)


def make(tag: str, text: str | None = None, **attributes: str | int) -> Element:
    """A new element; attribute values may be numbers."""
    element = etree.Element(tag, {name: str(value) for name, value in attributes.items()})
    element.text = text
    return element


def bare(element: Element, *children: Element) -> Element:
    """A copy of tag, attributes and text, with these children in place of its own."""
    copy = etree.Element(element.tag, dict(element.attrib))
    copy.text = (element.text or "").strip() or None
    copy.extend(children)
    return copy


def clone(element: Element) -> Element:
    """A deep copy of the elements, with no parent, no tail and no comments."""
    return bare(element, *(clone(child) for child in element.iterchildren("*")))


def tag_of(element: Element) -> str:
    """The tag as text."""
    return str(element.tag)


def text_of(element: Element | None, path: str = ".") -> str:
    """Stripped text at path, "" when absent."""
    found = None if element is None else element.find(path)
    return "" if found is None else (found.text or "").strip()


def number_of(text: str | None, otherwise: int = 0) -> int:
    """A whole number >= 0, or `otherwise` for anything else."""
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() else otherwise


def same(elements: Sequence[Element]) -> bool:
    """All of them say the same (attributes in any order)."""
    first = canonical(elements[0])
    return all(canonical(other) == first for other in elements[1:])


def canonical(element: Element) -> bytes:
    """A form that is equal for equal content."""
    text: bytes = etree.tostring(clone(element), method="c14n")
    return text


def common(
    groups: Iterable[Iterable[Element]], key: Callable[[Element], Hashable]
) -> Iterator[list[Element]]:
    """For every key of the first group, in its order, that all groups have: the elements that bear it."""
    tables: list[dict[Hashable, Element]] = []
    for group in groups:
        table: dict[Hashable, Element] = {}
        for element in group:
            table.setdefault(key(element), element)
        tables.append(table)
    for found in tables[0]:
        if all(found in table for table in tables[1:]):
            yield [table[found] for table in tables]


def kept(elements: Sequence[Element]) -> Element | None:
    """A copy of the first if all say the same, else None."""
    return clone(elements[0]) if same(elements) else None


def write(root: Element) -> str:
    """The document as libvirt writes it: two blanks a level, single quotes, a newline at the end."""
    out: list[str] = []
    _write(root, "", out)
    return "".join(out)


_QUOTED = {"'": "&apos;", '"': "&quot;"}


def _write(element: Element, indent: str, out: list[str]) -> None:
    attributes = "".join(
        f" {name!s}='{escape(str(value), _QUOTED)}'" for name, value in element.attrib.items()
    )
    start = f"{indent}<{tag_of(element)}{attributes}"
    text = escape((element.text or "").strip(), _QUOTED)
    if len(element):
        out.append(f"{start}>\n")
        for child in element:
            _write(child, indent + "  ", out)
        out.append(f"{indent}</{tag_of(element)}>\n")
    elif text:
        out.append(f"{start}>{text}</{tag_of(element)}>\n")
    else:
        out.append(f"{start}/>\n")
