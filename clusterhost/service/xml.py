"""The little that use cases read of a domain's XML: who it is.  Never changes what it does not name."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass
from xml.parsers import expat

from clusterhost.model.errors import InvalidXml, UnreadableXml
from compat.xmldoc import XmlDocument, XmlError, XmlMalformed


@dataclass(frozen=True, slots=True)
class Identity:
    """Name and uuid as the document gives them; None where it does not."""

    name: str | None
    uuid: bytes | None


def read_identity(xml: str) -> Identity:
    """Who a domain document is about; InvalidXml when it is refused, UnreadableXml when libvirt refuses it."""
    try:
        document = XmlDocument.parse(xml)
    except XmlMalformed as error:
        raise UnreadableXml(str(error)) from error
    except XmlError as error:
        raise InvalidXml(str(error)) from error
    root = document.tag
    if root != "domain":
        raise UnreadableXml(f"unexpected root element <{root}>, expecting <domain>")
    name, text = document.text("/domain/name"), document.text("/domain/uuid")
    return Identity(name or None, parse_uuid(text) if text else None)


def parse_uuid(text: str) -> bytes:
    """A uuid as libvirt reads it; UnreadableXml."""
    try:
        return uuids.UUID(text.strip()).bytes
    except ValueError:
        raise UnreadableXml(f"malformed uuid element '{text}'") from None


def new_uuid() -> bytes:
    """A random uuid."""
    return uuids.uuid4().bytes


def with_uuid(xml: str, uuid: bytes) -> str:
    """The document (already read by `read_identity`) with a uuid element put before its first child."""
    data = xml.encode("utf-8", "surrogateescape")
    parser = expat.ParserCreate()
    depth = 0
    place = -1

    def started(_name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth, place
        depth += 1
        if depth == 2 and place < 0:
            place = parser.CurrentByteIndex

    def ended(_name: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InvalidXml(f"not well-formed: {error}") from error
    if place < 0:
        raise InvalidXml("the domain element is empty")
    element = f"<uuid>{uuids.UUID(bytes=uuid)}</uuid>\n  ".encode()
    return (data[:place] + element + data[place:]).decode("utf-8", "surrogateescape")


def nvram_file(xml: str) -> str:
    """The NVRAM file that a definition names; "" when it has none, or cannot be read."""
    try:
        document = XmlDocument.parse(xml)
    except XmlError:
        return ""
    return (document.text("os/nvram") or "").strip() or document.attribute("os/nvram/source", "file") or ""


def has_files(xml: str) -> bool:
    """Files beside its disks belong to the definition: NVRAM or the state of an emulated TPM."""
    try:
        document = XmlDocument.parse(xml)
    except XmlError:
        return False
    return document.find("os/nvram") is not None or (
        document.attribute("devices/tpm/backend", "type") == "emulator"
    )
