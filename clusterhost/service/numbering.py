"""Definitions in the cluster's numbers: the CPUs and cells that they name choose a home, whose numbers they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import msgspec

from clusterhost.model import pinning, pinxml
from clusterhost.model.cellmap import CellMap
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ConfigUnsupported, UnreadableXml
from clusterhost.model.pinning import Asked
from clusterhost.service.context import Context
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.xml import new_uuid, parse_uuid, with_uuid
from compat.libvirt.schema import Procedure


class Definitions(Protocol):
    """Domains, or who stands in front of them."""

    async def define(self, caller: Caller, procedure: Procedure, payload: bytes, xml: str) -> Answer:
        """Make or change a definition."""

    async def create_xml(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, flags: int
    ) -> Answer:
        """Start one from XML."""


class Numbering:
    """In front of Domains.define and Domains.create_xml, for XML that names CPUs or cells; holds no state."""

    def __init__(self, context: Context, domains: Definitions) -> None:
        self._context = context
        self._domains = domains

    async def define(self, caller: Caller, procedure: Procedure, payload: bytes, xml: str) -> Answer:
        """As Domains.define; ConfigUnsupported when no single node can honour the XML."""
        caller, payload, xml = await self._own(caller, procedure, payload, xml, starts=False)
        return await self._domains.define(caller, procedure, payload, xml)

    async def create_xml(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, flags: int
    ) -> Answer:
        """As Domains.create_xml."""
        caller, payload, xml = await self._own(caller, procedure, payload, xml, starts=True)
        return await self._domains.create_xml(caller, procedure, payload, xml, flags)

    async def _own(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, *, starts: bool
    ) -> tuple[Caller, bytes, str]:
        """Caller, payload and XML with the numbers of the node that will have it."""
        document = None if pinxml.says_nothing(_bytes(xml)) else pinxml.read(_bytes(xml))
        # In a node's view numbers are the node's; what cannot be read is libvirt's to refuse.
        if caller.view is not None or document is None or not _readable(document.uuid):
            return caller, payload, xml
        if not document.uuid:
            xml = with_uuid(xml, new_uuid())  # now, so that the reasons for its home are kept under it
        cells, data = self._context.cell_map(), _bytes(xml)
        domain = self._context.cluster.get(parse_uuid(document.uuid)) if document.uuid else None
        before = await self._before(domain) if domain is not None else None
        asked = pinning.asked(data, cells, before, domain.node if domain is not None else "")
        if asked is None:
            return caller, with_xml(procedure, payload, xml), xml
        if domain is None:
            node = self._home(asked, cells, starts=starts)
            caller = replace(caller, view=node)
        else:
            node = domain.node
            if starts:
                _refuse_elsewhere(asked, cells, domain)
        xml = _text(pinning.placed(asked, cells, node))
        return caller, with_xml(procedure, payload, xml), xml

    async def _before(self, domain: Domain) -> bytes | None:
        if not domain.persistent:
            return None
        return _bytes(await self._context.virt.inactive_xml(domain.node, domain.uuid))

    def _home(self, asked: Asked, cells: CellMap, *, starts: bool) -> str:
        """The node whose CPUs it names, else where placement says."""
        named = cells.cell(asked.within)
        if named is not None and not starts:
            return named.node
        uuid = parse_uuid(asked.document.uuid)
        xml = _text(pinning.placed(asked, cells, ""))
        placing = self._context.placing
        if not starts:
            return placing.home_for(uuid, xml, None).node
        return placing.start_for(uuid, xml, only=named.node if named is not None else None).node


def _readable(uuid: str) -> bool:
    try:
        return not uuid or bool(parse_uuid(uuid))
    except UnreadableXml:
        return False


def _refuse_elsewhere(asked: Asked, cells: CellMap, domain: Domain) -> None:
    """A domain that is defined is created where its definition is."""
    wanted = asked.allowed if asked.within is None else frozenset({asked.within})
    place = cells.node(domain.node)
    if wanted is not None and place is not None and place.cell not in wanted:
        raise ConfigUnsupported(
            f"domain '{domain.name}' is defined on node {domain.node}, its XML names CPUs or cells of "
            f"{cells.names(wanted)}: define it, then start it"
        )


def with_xml(procedure: Procedure, payload: bytes, xml: str) -> bytes:
    """The arguments with another XML."""
    assert procedure.args is not None
    args = procedure.args.from_bytes(payload)
    field = "xml" if hasattr(args, "xml") else "xml_desc"
    return msgspec.structs.replace(args, **{field: xml}).to_bytes()


def _bytes(xml: str) -> bytes:
    return xml.encode("utf-8", "surrogateescape")


def _text(xml: bytes) -> str:
    return xml.decode("utf-8", "surrogateescape")
