"""Between a node's payloads and the cluster's: domain ids in handles and in XML, packed handles.  No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct

from clusterhost.frontend.libvirt.route import Route
from clusterhost.model.cellmap import CellMap
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from clusterhost.model.pinning import shown as in_cluster
from clusterhost.model.pinxml import libvirt_says_nothing
from compat.libvirt import schema
from compat.libvirt.errors import XdrError
from compat.libvirt.xdr import PAD

UINT = Struct(">I")
UUID_ID = Struct(">16si")
START_TAG = re.compile(rb"<domain(\s[^>]*)>")
ID_ATTRIBUTE = re.compile(rb"\sid=(?:'-?\d+'|\"-?\d+\")")
TAG_WITHIN = 65536
"""Bytes of an XML in which the domain's start tag must be."""


class Translator:
    """Cluster ids for node ids, and the packed handle of each domain."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._handles: dict[bytes, tuple[Domain, bytes]] = {}
        self.shown: Callable[[bytes, bytes], bytes] = lambda _uuid, xml: xml
        """What clients see instead of a running domain's XML (its displays are at the endpoint)."""
        self.cell_map: Callable[[], CellMap] = CellMap

    def handle(self, domain: Domain) -> bytes:
        """The domain's remote_nonnull_domain: name as clients know it, uuid, cluster id."""
        known = self._handles.get(domain.uuid)
        if known is not None and known[0] is domain:
            return known[1]
        name = (domain.known_as or domain.name).encode("utf-8", "surrogateescape")
        packed = b"".join(
            (UINT.pack(len(name)), name, PAD[len(name) & 3], UUID_ID.pack(domain.uuid, domain.id))
        )
        if len(self._handles) > 2 * len(self._cluster) + 64:
            self._handles.clear()
        self._handles[domain.uuid] = (domain, packed)
        return packed

    def new_id(self, uuid: bytes, node_id: int) -> int:
        """The cluster's id of a run that a node calls `node_id`."""
        if node_id == -1:
            return -1
        domain = self._cluster.get(uuid)
        return domain.id if domain is not None else -1

    def ret(self, route: Route, payload: bytes, uuid: bytes | None = None, view: str | None = None) -> bytes:
        """A node's ret struct as clients shall see it."""
        if route.rewrite:
            payload = schema.rewrite_domains(route.procedure, "ret", payload, self.new_id)
            if self._cluster.renamed:
                payload = schema.rename_domains(route.procedure, "ret", payload, self._cluster.renamed)
        if route.xml_id and uuid is not None:
            domain = self._cluster.get(uuid)
            payload = with_domain_id(
                payload, domain.id if domain is not None else -1, lambda xml: self.shown(uuid, xml)
            )
            if view is None and domain is not None:
                payload = self.numbered(payload, domain.node)
        return payload

    def numbered(self, payload: bytes, node: str) -> bytes:
        """A ret struct that is a domain's XML as its node has it, with CPUs and NUMA cells by the cluster's numbers."""
        if libvirt_says_nothing(payload):
            return payload
        xml = in_cluster(payload[4 : 4 + UINT.unpack_from(payload)[0]], self.cell_map(), node)
        return UINT.pack(len(xml)) + xml + PAD[len(xml) & 3]


def with_domain_id(payload: bytes, number: int, live: Callable[[bytes], bytes] = lambda xml: xml) -> bytes:
    """A ret struct that is a domain's XML, with the id in its first tag replaced, and then what `live` makes of it;
    XML without an id (inactive) is untouched."""
    if len(payload) < 4:
        raise XdrError("xml", f"{len(payload)} bytes", "a string")
    length = UINT.unpack_from(payload)[0]
    xml = payload[4 : 4 + length]
    tag = START_TAG.search(xml, 0, TAG_WITHIN)
    found = ID_ATTRIBUTE.search(xml, tag.start(), tag.end()) if tag else None
    if found is None:
        return payload
    new = b" id='%d'" % number if number != -1 else b""
    xml = live(xml[: found.start()] + new + xml[found.end() :])
    return UINT.pack(len(xml)) + xml + PAD[len(xml) & 3]


def handle_uuid(payload: bytes) -> bytes:
    """The uuid of a payload that begins with a domain handle.  XdrError."""
    if len(payload) >= 24:
        pos = 4 + ((UINT.unpack_from(payload)[0] + 3) & -4)
        uuid = payload[pos : pos + 16]
        if len(uuid) == 16:
            return uuid
    raise XdrError("dom", f"only {len(payload)} bytes", "a domain handle")


def after_handle(payload: bytes) -> int:
    """Where the first member after a leading domain handle is."""
    return int(24 + ((UINT.unpack_from(payload)[0] + 3) & -4))


def string_at_start(payload: bytes) -> str:
    """The string that a payload begins with.  XdrError."""
    if len(payload) >= 4:
        length = UINT.unpack_from(payload)[0]
        if 4 + length <= len(payload):
            return payload[4 : 4 + length].decode("utf-8", "surrogateescape")
    raise XdrError("name", f"only {len(payload)} bytes", "a string")
