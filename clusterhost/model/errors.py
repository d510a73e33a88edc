"""What can go wrong, in our words.  No wire numbers: frontend/libvirt/errors.py has libvirt's codes."""

from __future__ import annotations


class ClusterError(Exception):
    """Base: one sentence that says what was found and what was allowed."""


class DomainNotFound(ClusterError):
    """No domain of that name, uuid or id (within the view)."""


class DomainExists(ClusterError):
    """Name or uuid is taken by another domain."""


class NetworkNotFound(ClusterError):
    """No network of that name or uuid."""


class NetworkPortNotFound(ClusterError):
    """No node has such a port of the network."""


class NetworkExists(ClusterError):
    """Name, uuid, bridge or number is taken by another network."""


class NetworkRefused(ClusterError):
    """A network cannot be as asked.  kind: name of netmgr's error class."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class VolumeNotFound(ClusterError):
    """No volume of that name, key or path."""


class VolumeExists(ClusterError):
    """The pool has a volume of that name, on some node."""


class CloneExists(ClusterError):
    """A clone would have the name of a volume that the pool has."""


class PoolNotFound(ClusterError):
    """No storage pool of that name, uuid or target."""


class StorageRefused(ClusterError):
    """A pool or a volume cannot be as asked.  kind: name of imagemgr's error class."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class NoMetadata(ClusterError):
    """The object has no such metadata."""


class NodeNotFound(ClusterError):
    """No node of that name."""


class JobNotFound(ClusterError):
    """No job of that number."""


class NodeUnreachable(ClusterError):
    """The node's agent, or its libvirtd, does not answer; the text names the node and since when."""


class DeadlinePassed(ClusterError):
    """The node took the call but did not answer in time; what became of it is not known."""


class NodeBusy(ClusterError):
    """Too many calls are queued for the node."""


class NoPlacement(ClusterError):
    """No node satisfies the requirements; the text holds the reason of each node."""


class InvalidOperation(ClusterError):
    """Not possible in the present state."""


class InvalidArgument(ClusterError):
    """A value outside what is allowed."""


class InvalidXml(ClusterError):
    """The document is malformed, too large, or uses what is refused (DTD, entities)."""


class UnreadableXml(InvalidXml):
    """The document is harmless, but no libvirt would take it: not well-formed, no domain, a uuid that is none."""


class ConfigUnsupported(ClusterError):
    """Well-formed, but not something this cluster can honour."""


class ReadOnly(ClusterError):
    """A read-only connection asked for a change."""


class AccessDenied(ClusterError):
    """The caller may not do this."""


class Unsupported(ClusterError):
    """The call is not built."""


class StoreUnavailable(ClusterError):
    """The database cannot take a change now; reads go on."""


class StaleGeneration(ClusterError):
    """An order older than what the node already carried out."""


class NodeError(ClusterError):
    """A libvirtd's own error, passed on unchanged.  `payload` is its error struct as it came."""

    def __init__(self, payload: bytes, text: str = "") -> None:
        super().__init__(text or "the node refused the call")
        self.payload = payload
