"""What can be wrong with a network, in our words.  No wire numbers: the edge has libvirt's codes.  Pure.

Each class stands for one code of libvirt, so that a client sees what libvirt would have said.
"""

from __future__ import annotations


class NetworkError(Exception):
    """Base: one sentence that says what was found and what was allowed."""


class XmlMalformed(NetworkError):
    """It is not XML, or a detail of it (names, DNS records, ports, rates) is missing or none."""


class XmlInvalid(NetworkError):
    """Well-formed, but an element or a value is missing or not allowed there."""


class XmlRefused(NetworkError):
    """Harmless to libvirt, not to us: a document type, an entity, or larger than we take."""


class SchemaInvalid(NetworkError):
    """Validation was asked for, and the document does not fit the format."""


class NameMissing(NetworkError):
    """A network without a name."""


class ConfigUnsupported(NetworkError):
    """Well-formed, but the parts do not go together, or the cluster cannot honour it."""


class BadAddress(NetworkError):
    """A text where an address must stand; libvirt's resolver says so."""


class BadValue(NetworkError):
    """A value that no network can have: a uuid that is none, a range outside its subnet."""


class BadArgument(NetworkError):
    """An argument of a call is none that it takes."""


class MetadataNotFound(NetworkError):
    """The network has no such title, description or element."""


class Clash(NetworkError):
    """Another network has this name or uuid, another interface this MAC."""


class InUse(NetworkError):
    """Another network, or something of a node, has this bridge, subnet or number."""


class OperationInvalid(NetworkError):
    """Not possible as the network is now: no such entry, or there is one already."""


class OperationUnsupported(NetworkError):
    """No update changes that."""


class Exhausted(ConfigUnsupported):
    """No address is left; the text says what is free and where."""
