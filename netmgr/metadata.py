"""Title, description and foreign elements of a network, read and changed one at a time.  Pure.

Kinds have libvirt's numbers (virNetworkMetadataType).
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from netmgr.errors import BadArgument, BadValue, MetadataNotFound
from netmgr.model import Network
from netmgr.xml.document import parse
from netmgr.xml.trees import as_text, into_namespace, namespace_of, out_of_namespace


class Kind(IntEnum):
    """Which of them."""

    DESCRIPTION = 0
    TITLE = 1
    ELEMENT = 2


def get(network: Network, kind: int, uri: str | None) -> str:
    """The text; of an element (the one in namespace `uri`) its XML without the namespace.

    MetadataNotFound, BadArgument."""
    if _kind(kind) is Kind.ELEMENT:
        _must_be(uri, "uri")
        for item in network.metadata or ():
            element = parse(item)
            if namespace_of(element) == uri:
                return as_text(out_of_namespace(element, uri))
        found = ""
    else:
        found = network.title if kind == Kind.TITLE else network.description
    if not found:
        raise MetadataNotFound(f"network '{network.name}' has no such metadata")
    return found


def put(network: Network, kind: int, text: str | None, key: str | None, uri: str | None) -> Network:
    """The network with another title, description or element; text None takes it away.

    key: prefix under which the element's namespace is written.  XmlMalformed, XmlRefused, BadValue, BadArgument."""
    if _kind(kind) is Kind.DESCRIPTION:
        return replace(network, description=text or "")
    if kind == Kind.TITLE:
        if text and "\n" in text:
            raise BadArgument("the title has a line break, none is allowed")
        return replace(network, title=text or "")
    uri = _must_be(uri, "uri")
    rest = tuple(item for item in network.metadata or () if namespace_of(parse(item)) != uri)
    if text is None:
        return replace(network, metadata=rest or None)
    element = parse(text)
    try:
        made = into_namespace(element, _must_be(key, "key"), uri)
    except ValueError:
        raise BadValue(f"the key '{key}' cannot be the prefix of a namespace") from None
    if namespace_of(made) != uri:
        raise BadValue(
            f"the element is in namespace '{namespace_of(made)}', it must be in none or in '{uri}'"
        )
    return replace(network, metadata=(*rest, as_text(made)))


def _kind(number: int) -> Kind:
    if number not in set(Kind):
        raise BadArgument(f"unknown metadata type '{number}'")
    return Kind(number)


def _must_be(value: str | None, name: str) -> str:
    if not value:
        raise BadArgument(f"the {name} is missing, an element needs one")
    return value
