"""Find and replace the places of a domain's XML that name CPUs and NUMA cells of its host.  Pure: knows no cluster.

Texts are changed where they stand, so everything else stays as its writer wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from lxml import etree

from clusterhost.model.cellmap import Numbers, format_set, parse_set

NAMESPACE = "urn:clusterhost:placement:1"
NEEDLES = (b"cpuset", b"nodeset", NAMESPACE.encode())
"""One of these is in every document that says something here."""
PREFERRED = "preferred"
SIZE = 4 * 1024 * 1024

ATTRIBUTES = {
    "domain/vcpu": ("cpuset", "vcpu", ""),
    "domain/cputune/vcpupin": ("cpuset", "vcpupin", "vcpu"),
    "domain/cputune/emulatorpin": ("cpuset", "emulatorpin", ""),
    "domain/cputune/iothreadpin": ("cpuset", "iothreadpin", "iothread"),
    "domain/numatune/memory": ("nodeset", "numatune", ""),
    "domain/numatune/memnode": ("nodeset", "memnode", "cellid"),
}
"""Path -> attribute with the numbers, our word for it, attribute that tells several apart."""
PLACEMENT = f"domain/metadata/{NAMESPACE} placement"
OURS = frozenset(word for _, word, _ in ATTRIBUTES.values())

_TOKEN = re.compile(rb"""\s+([^\s=/>]+)\s*=\s*("[^"]*"|'[^']*')""")
_NAME = re.compile(rb"<[^\s/>]+")
_BLANK_BEFORE = re.compile(rb"\s*\Z")


@dataclass(frozen=True, slots=True)
class Pin:
    """One attribute.  key: `vcpupin:0`, `numatune` ...; span: its value in the text, without the quotes;
    numbers: None when libvirt would refuse them; mode: of memory."""

    key: str
    cpus: bool
    numbers: Numbers | None
    span: tuple[int, int]
    mode: str = ""

    @property
    def soft(self) -> bool:
        """It binds nothing."""
        return self.mode == PREFERRED


@dataclass(slots=True)
class Document:
    """What was found.  bound: for each key the nodes (cells) that clients named there; numbers_of: cell whose
    numbers the definition has, None: those of the node that has it; alone: there is a metadata element for our sake
    only.  Spans are bytes of the text."""

    text: bytes
    uuid: str = ""
    live: bool = False
    pins: dict[str, Pin] = field(default_factory=dict)
    bound: dict[str, Numbers] = field(default_factory=dict)
    numbers_of: int | None = None
    alone: bool = False
    others: list[bytes] = field(default_factory=list)
    ours: tuple[int, int] | None = None
    metadata: tuple[int, int] | None = None
    first_child: int = -1

    def allowed(self) -> Numbers | None:
        """Cells that it may be on by all that binds it, None: any.  `preferred` binds nothing."""
        found: Numbers | None = None
        for key, cells in self.bound.items():
            if key in self.pins and not self.pins[key].soft:
                found = cells if found is None else found & cells
        return found

    def wanted(self) -> Numbers | None:
        """Cells that it should be on, where one of them can take it."""
        if self.numbers_of is not None and not self.live:
            return frozenset({self.numbers_of})
        return next(
            (cells for key, cells in self.bound.items() if key in self.pins and self.pins[key].soft), None
        )


def says_nothing(xml: bytes) -> bool:
    """A quick look: there is nothing for us in it."""
    return not any(needle in xml for needle in NEEDLES)


def libvirt_says_nothing(xml: bytes) -> bool:
    """The same of what libvirt wrote, which has all of it before the devices."""
    end = xml.find(b"<devices>")
    return end >= 0 and all(xml.find(needle, 0, end) < 0 for needle in NEEDLES)


class _Reader:
    """expat's handlers; a document type ends it (the front end refuses those)."""

    def __init__(self, text: bytes) -> None:
        self.found = Document(text)
        self._path: list[str] = []
        self._start = 0
        self._other = -1
        self._words: list[str] = []
        self.parser = expat.ParserCreate("utf-8", " ")
        self.parser.StartElementHandler = self._started
        self.parser.EndElementHandler = self._ended
        self.parser.CharacterDataHandler = self._words.append
        self.parser.StartDoctypeDeclHandler = self._refused

    def _refused(self, *_: object) -> None:
        raise expat.ExpatError("a document type")

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._words.clear()
        path = "/".join(self._path) if len(self._path) <= 4 else ""
        here = self.parser.CurrentByteIndex
        found = self.found
        if len(self._path) == 1:
            found.live = "id" in attributes
        elif len(self._path) == 2 and found.first_child < 0:
            found.first_child = here
        if path in ATTRIBUTES:
            self._pin(path, attributes, here)
        elif path == "domain/metadata":
            self._start = here
        elif path == PLACEMENT:
            found.ours = (here, here)
        elif path.startswith(f"{PLACEMENT}/"):
            self._ours(name.rpartition(" ")[2], attributes, here)

    def _pin(self, path: str, attributes: dict[str, str], here: int) -> None:
        attribute, word, by = ATTRIBUTES[path]
        if attribute in attributes:
            key = f"{word}:{attributes.get(by, '')}" if by else word
            span = _span(self.found.text, here, attribute.encode())
            mode = attributes.get("mode", "")
            self.found.pins[key] = Pin(
                key, attribute == "cpuset", parse_set(attributes[attribute]), span, mode
            )

    def _ours(self, name: str, attributes: dict[str, str], here: int) -> None:
        key, cells = attributes.get("of", ""), parse_set(attributes.get("cells", ""))
        if name == "bind" and cells is not None and key.partition(":")[0] in OURS:
            self.found.bound[key] = cells
        elif name == "numbers" and attributes.get("cell", "").isdigit():
            self.found.numbers_of = int(attributes["cell"])
        elif name == "alone":
            self.found.alone = True
        else:
            self._other = here

    def _ended(self, name: str) -> None:
        path = "/".join(self._path) if len(self._path) <= 4 else ""
        self._path.pop()
        if path == "domain/uuid":
            self.found.uuid = "".join(self._words).strip()
        elif path == "domain/metadata":
            self.found.metadata = (self._start, self._end(self._start))
        elif path == PLACEMENT and self.found.ours is not None:
            self.found.ours = (self.found.ours[0], self._end(self.found.ours[0]))
        elif path.startswith(f"{PLACEMENT}/") and self._other >= 0:
            self.found.others.append(self.found.text[self._other : self._end(self._other)])
            self._other = -1

    def _end(self, start: int) -> int:
        """Behind the element that ends here (for `<a/>` expat says another place than for `</a>`)."""
        text = self.found.text
        opened = _tag_end(text, start)
        if text[opened - 2 : opened] == b"/>":
            return opened
        return text.index(b">", self.parser.CurrentByteIndex) + 1


def read(xml: bytes) -> Document | None:
    """What it says; None when it is not for us to judge: not well-formed, no domain, too large, a document type."""
    if len(xml) > SIZE:
        return None
    reader = _Reader(xml)
    try:
        reader.parser.Parse(xml, True)
    except (expat.ExpatError, ValueError):
        return None
    return reader.found


def _tag_end(text: bytes, start: int) -> int:
    name = _NAME.match(text, start)
    at = name.end() if name else start
    while found := _TOKEN.match(text, at):
        at = found.end()
    return text.index(b">", at) + 1


def _span(text: bytes, start: int, attribute: bytes) -> tuple[int, int]:
    name = _NAME.match(text, start)
    at = name.end() if name else start
    while found := _TOKEN.match(text, at):
        if found.group(1) == attribute:
            return found.start(2) + 1, found.end(2) - 1
        at = found.end()
    return at, at


def metadata_element(document: Document, bound: Mapping[str, Numbers], numbers_of: int | None) -> bytes:
    """Our element with this in it, and what else the document has in there; empty when there is nothing to say."""
    rows = [f'<bind of="{key}" cells="{format_set(cells)}"/>' for key, cells in sorted(bound.items())]
    if numbers_of is not None:
        rows.append(f'<numbers cell="{numbers_of}"/>')
    if rows and (document.alone or document.metadata is None):
        rows.append("<alone/>")
    inside = "".join(rows).encode() + b"".join(document.others)
    if not inside:
        return b""
    if document.ours is None:
        return b'<clusterhost:placement xmlns:clusterhost="%s">%s</clusterhost:placement>' % (
            NAMESPACE.encode(),
            inside,
        )
    text, start = document.text, document.ours[0]
    opened = text[start : _tag_end(text, start)]
    name = _NAME.match(opened)
    assert name is not None
    return opened.removesuffix(b">").removesuffix(b"/") + b">" + inside + b"</" + name.group()[1:] + b">"


def bare_element(document: Document, bound: Mapping[str, Numbers], numbers_of: int | None) -> str:
    """The same without prefixes, as libvirt's call that sets metadata wants it."""
    element = metadata_element(document, bound, numbers_of)
    if not element:
        return ""
    root = etree.fromstring(element, etree.XMLParser(resolve_entities=False, no_network=True))
    for each in root.iter("*"):
        each.tag = etree.QName(each).localname
    etree.cleanup_namespaces(root)
    return etree.tostring(root, encoding="unicode")


def rewritten(document: Document, values: Mapping[str, Numbers], ours: bytes) -> bytes:
    """The text with the numbers of these pins, and `ours` in place of our element (empty: taken out)."""
    edits = [
        (*pin.span, format_set(values[pin.key]).encode())
        for pin in document.pins.values()
        if pin.key in values and values[pin.key] != pin.numbers
    ]
    edits += _metadata_edit(document, ours)
    text = document.text
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _metadata_edit(document: Document, ours: bytes) -> list[tuple[int, int, bytes]]:
    if document.ours is not None:
        start, end = document.ours
        if ours:
            return [(start, end, ours)]
        return [_taken_out(document, start, end)]
    if not ours:
        return []
    if document.metadata is None:
        at = document.first_child
        return [(at, at, b"<metadata>" + ours + b"</metadata>\n  ")] if at >= 0 else []
    start, end = document.metadata
    opened = _tag_end(document.text, start)
    if opened == end:  # <metadata/>
        return [(start, end, b"<metadata>" + ours + b"</metadata>")]
    return [(opened, opened, ours)]


def _taken_out(document: Document, start: int, end: int) -> tuple[int, int, bytes]:
    """With the blanks before it; nothing else in there leaves `<metadata/>`, or nothing if it was made for us."""
    text = document.text
    if document.metadata is not None:
        outer, behind = document.metadata
        opened, closing = _tag_end(text, outer), text.rindex(b"</", outer, behind)
        if not (text[opened:start] + text[end:closing]).strip():
            start, end = outer, behind
            if not document.alone:
                return (start, end, b"<metadata/>")
    blank = _BLANK_BEFORE.search(text, 0, start)
    return (blank.start() if blank else start, end, b"")
