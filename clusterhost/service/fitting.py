"""Pinning of a domain that goes to another node: own numbers are kept as far as the other node has them."""

from __future__ import annotations

import structlog

from clusterhost.model import pinning, pinxml
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context

log = structlog.get_logger("clusterhost.pinning")


def fitted(context: Context, xml: str, source: str, target: str, name: str) -> str:
    """The XML for the target; what was dropped goes into the journal.  source: "" when it comes from outside."""
    data = xml.encode("utf-8", "surrogateescape")
    found = pinning.fitted(data, context.cell_map(), source, target)
    if found.dropped:
        text = f"no CPU of {', '.join(found.dropped)} is on node {target}: dropped"
        context.ledger.note(context.ledger.journal("pinning", name, f"node {target}", text))
    return xml if found.xml == data else found.xml.decode("utf-8", "surrogateescape")


async def own_numbers(context: Context, domain: Domain, xml: str) -> str:
    """The XML that a client of the cluster's view gives for a migration, by the numbers of the domain's node.
    ConfigUnsupported."""
    data = xml.encode("utf-8", "surrogateescape")
    if pinxml.says_nothing(data):
        return xml
    runs = await context.virt.migratable_xml(domain.node, domain.uuid)
    asked = pinning.asked(data, context.cell_map(), runs.encode("utf-8", "surrogateescape"), domain.node)
    if asked is None:
        return xml
    return pinning.placed(asked, context.cell_map(), domain.node).decode("utf-8", "surrogateescape")


def alike(context: Context, source: str | None, target: str | None) -> bool:
    """The two have the same CPUs and cells of their own: every pinning fits as it is."""
    cells = context.cell_map()
    one, other = cells.node(source or ""), cells.node(target or "")
    if one is None or other is None:
        return one is other
    return (one.online, one.width, one.numa) == (other.online, other.width, other.numa)


async def fit_definition(context: Context, uuid: bytes, source: str | None, target: str | None) -> None:
    """The definition of a domain that has moved while it ran; not when its numbers are those of a node it waits for."""
    domain = context.cluster.get(uuid)
    if target is None or domain is None or not domain.persistent or alike(context, source, target):
        return
    try:
        xml = await context.virt.inactive_xml(target, uuid)
        document = pinxml.read(xml.encode("utf-8", "surrogateescape"))
        if document is None or document.numbers_of is not None:
            return
        new = fitted(context, xml, source or "", target, domain.name)
        if new != xml:
            await context.virt.define(target, uuid, new)
    except ClusterError as error:
        log.warning("a definition was not fitted", domain=domain.name, node=target, reason=str(error))
