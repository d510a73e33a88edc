"""A view on a kept XML tree: read safely, change a little, lose nothing.  Knows no format; does no I/O.

What the code does not know (elements, comments, namespaces, processing instructions) stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree

Element = etree._Element
Namespaces = Mapping[str, str]


class XmlError(ValueError):
    """The text is refused; the message is one sentence that says why."""


class XmlMalformed(XmlError):
    """It is not XML."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may be: bytes of text, nested elements, attributes of one element, elements in all."""

    size: int = 4 * 1024 * 1024
    depth: int = 100
    attributes: int = 256
    elements: int = 200_000


DEFAULT_LIMITS = Limits()
_PROLOG = re.compile(rb"(?:\xef\xbb\xbf)?(?:[ \t\r\n]++|<!--.*?-->|<\?.*?\?>)*+", re.S)


def _parser() -> etree.XMLParser:
    """Return a parser that loads nothing, expands nothing and keeps everything.

    The encoding is given because the text comes as str: what a declaration says about bytes is void.
    """
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_blank_text=False,
        strip_cdata=False,
    )


def _read(text: str, limits: Limits) -> etree._ElementTree[Element]:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > limits.size:
        raise XmlError(f"the XML has {len(data)} bytes, {limits.size} are allowed")
    # Looked at before parsing too: a document type is refused before libxml2 reads its declarations.
    if _has_doctype(data):
        raise XmlError("the XML has a document type declaration, none is allowed")
    try:
        root = etree.fromstring(data, _parser())
    except etree.XMLSyntaxError as error:
        reason = " ".join((error.msg or "no document").split())
        raise XmlMalformed(f"the XML is not well-formed: {reason}") from None
    tree = root.getroottree()
    if tree.docinfo.internalDTD is not None or tree.docinfo.doctype:
        raise XmlError("the XML has a document type declaration, none is allowed")
    _check(root, limits)
    return tree


def _has_doctype(data: bytes) -> bool:
    """Tell whether a document type stands where one may: before the root."""
    found = _PROLOG.match(data)
    return found is not None and data.startswith(b"<!DOCTYPE", found.end())


def _check(root: Element, limits: Limits) -> None:
    """Refuse what is too deep or too wide, and entity references, which the parser keeps unexpanded."""
    depth = elements = 0
    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        if event == "start":
            depth += 1
            elements += 1
            if depth > limits.depth:
                raise XmlError(f"the XML has elements nested {depth} deep, {limits.depth} are allowed")
            if len(element.attrib) > limits.attributes:
                raise XmlError(
                    f"<{element.tag!s}> has {len(element.attrib)} attributes, {limits.attributes} are allowed"
                )
        elif event == "end":
            depth -= 1
    if elements > limits.elements:
        raise XmlError(f"the XML has {elements} elements, {limits.elements} are allowed")
    if next(root.iter(etree.Entity), None) is not None:
        raise XmlError("the XML refers to an entity, none is allowed")


class XmlDocument:
    """A parsed document.  Paths are XPath 1.0, relative to the root element, "$name" filled from keywords.

    Change it through its methods; whoever changes elements by hand calls touched().
    """

    def __init__(self, tree: etree._ElementTree[Element], text: str, namespaces: Namespaces) -> None:
        self._tree = tree
        self._text: str | None = text
        self._namespaces = dict(namespaces)

    @classmethod
    def parse(
        cls, text: str, *, limits: Limits = DEFAULT_LIMITS, namespaces: Namespaces | None = None
    ) -> XmlDocument:
        """Read a document; `namespaces` are the prefixes that paths may use.  XmlError when it is refused."""
        return cls(_read(text, limits), text, namespaces or {})

    @property
    def root(self) -> Element:
        """The root element."""
        return self._tree.getroot()

    @property
    def tag(self) -> str:
        """The root's name."""
        return str(self.root.tag)

    def to_string(self) -> str:
        """Return the text: the very same when nothing was changed."""
        if self._text is None:
            self._text = etree.tostring(self._tree, encoding="unicode")
        return self._text

    def copy(self) -> XmlDocument:
        """Return a document of its own with the same content."""
        return XmlDocument.parse(
            self.to_string(), limits=Limits(2**31, 2**31, 2**31, 2**31), namespaces=self._namespaces
        )

    def touched(self) -> None:
        """Note that elements were changed by hand."""
        self._text = None

    # Reading

    def find(self, path: str, **names: Any) -> Element | None:
        """Return the first element at a path."""
        return next(self.all(path, **names), None)

    def all(self, path: str, **names: Any) -> Iterator[Element]:
        """Return every element at a path, in order."""
        found: Any = self.root.xpath(path, namespaces=self._namespaces or None, **names)
        return (item for item in found if isinstance(item, Element))

    def text(self, path: str, default: str | None = None, **names: Any) -> str | None:
        """Return the text of the first element (or the value of the first attribute) at a path."""
        found: Any = self.root.xpath(path, namespaces=self._namespaces or None, **names)
        if not isinstance(found, list):
            return str(found)
        for item in found:
            return (item.text or "") if isinstance(item, Element) else str(item)
        return default

    def attribute(self, path: str, name: str, default: str | None = None, **names: Any) -> str | None:
        """Return an attribute of the first element at a path."""
        element = self.find(path, **names)
        return default if element is None else element.get(name, default)

    # Changing

    def set_text(self, path: str, text: str, **names: Any) -> None:
        """Set the text of the first element at a path; KeyError when there is none."""
        self._must(path, names).text = text
        self.touched()

    def set_attribute(self, path: str, name: str, value: str | None, **names: Any) -> None:
        """Set (for None: remove) an attribute of the first element at a path; KeyError when there is none."""
        element = self._must(path, names)
        if value is None:
            element.attrib.pop(name, None)
        else:
            element.set(name, value)
        self.touched()

    def insert(self, path: str, xml: str, index: int | None = None, **names: Any) -> Element:
        """Put a new element into the first one at a path, last or at `index`.  XmlError when refused."""
        parent = self._must(path, names)
        child = _read(xml, DEFAULT_LIMITS).getroot()
        parent.insert(len(parent) if index is None else index, child)
        self.touched()
        return child

    def remove(self, path: str, **names: Any) -> int:
        """Take every element at a path out, keeping the text around them; return how many there were."""
        gone = [element for element in self.all(path, **names) if element.getparent() is not None]
        for element in gone:
            _take_out(element)
        if gone:
            self.touched()
        return len(gone)

    def _must(self, path: str, names: Mapping[str, Any]) -> Element:
        element = self.find(path, **names)
        if element is None:
            raise KeyError(f"<{self.tag}> has no {path}")
        return element


def _take_out(element: Element) -> None:
    """Remove an element; lxml would take the text behind it along."""
    parent = element.getparent()
    if parent is None:
        return
    before = element.getprevious()
    tail = element.tail or ""
    if tail.strip() or before is None:
        if before is not None:
            before.tail = (before.tail or "") + tail
        elif tail.strip():
            parent.text = (parent.text or "") + tail
    parent.remove(element)


def parse(text: str, *, limits: Limits = DEFAULT_LIMITS, namespaces: Namespaces | None = None) -> XmlDocument:
    """Read a document.  XmlError when it is refused."""
    return XmlDocument.parse(text, limits=limits, namespaces=namespaces)
