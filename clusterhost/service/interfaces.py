"""Interfaces of a domain's XML that are on networks of the cluster; gives those without a MAC theirs.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compat.xmldoc import Element, XmlDocument, XmlError

ON_NETWORK = "interface[@type='network' or source/@network]"
"""Of what runs, libvirt says as what it was plugged in: a bridge, which was a network's."""


@dataclass(frozen=True, slots=True)
class Interface:
    """mac: lower case, "" where the document gives none; device: the node's link, as the XML of what runs says.

    isolated: <port isolated=...>, None where it says nothing.  floor: its <bandwidth> asks for a guaranteed part.
    group: the port group that it names, "" for none."""

    network: str
    mac: str
    device: str = ""
    isolated: bool | None = None
    floor: bool = False
    group: str = ""


class Interfaces:
    """Those of a domain document, or of one device's, that `known` networks have."""

    def __init__(self, document: XmlDocument, elements: Sequence[Element]) -> None:
        self._document = document
        self._elements = elements

    @classmethod
    def of(cls, xml: str, known: Callable[[str], bool]) -> Interfaces | None:
        """None when there are none, or the document cannot be read: then it is libvirt's to refuse."""
        if "network" not in xml:
            return None
        try:
            document = XmlDocument.parse(xml)
        except XmlError:
            return None
        path = f"self::{ON_NETWORK}" if document.tag == "interface" else f"devices/{ON_NETWORK}"
        found = [element for element in document.all(path) if known(_network(element))]
        return cls(document, found) if found else None

    def all(self) -> list[Interface]:
        """In the document's order."""
        return [_interface(element) for element in self._elements]

    def with_macs(self, macs: Sequence[str]) -> str:
        """The document, each interface with its MAC."""
        for element, mac in zip(self._elements, macs, strict=True):
            if not _mac(element):
                child = element.makeelement("mac", {"address": mac})
                child.tail = element.text
                element.insert(0, child)
                self._document.touched()
        return self._document.to_string()


def _interface(element: Element) -> Interface:
    port = element.find("port")
    isolated = port.get("isolated") if port is not None else None
    return Interface(
        _network(element),
        _mac(element),
        _device(element),
        isolated == "yes" if isolated is not None else None,
        element.find("bandwidth/inbound[@floor]") is not None,
        source.get("portgroup") or "" if (source := element.find("source")) is not None else "",
    )


def _network(element: Element) -> str:
    source = element.find("source")
    return (source.get("network") or "") if source is not None else ""


def _mac(element: Element) -> str:
    found = element.find("mac")
    return (found.get("address") or "").lower() if found is not None else ""


def _device(element: Element) -> str:
    found = element.find("target")
    return (found.get("dev") or "") if found is not None else ""
