"""Which running domains write to a volume: the nodes that run them are asked.  Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from clusterhost.model.errors import ClusterError, InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_files import files_of

AT_ONCE = 16
"""Domains that are asked about at the same time."""


async def refuse_written(context: Context, shown: str, pool: str, path: str, nodes: Collection[str]) -> None:
    """InvalidOperation when a domain writes to the volume, or begins to, on one of these nodes: whatever rests on it
    would be half older and half newer."""
    name = path.rpartition("/")[2]

    def check(domain: str, xml: str, node: str) -> None:
        for file in files_of(xml):
            if file.written and (file.path == path or (file.pool, file.volume) == (pool, name)):
                raise InvalidOperation(
                    f"volume {shown} is in use: domain '{domain}' writes to it on node {node}"
                )

    for domain, xml, node in _starting(context, nodes):
        check(domain, xml, node)
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(node: str, uuid: bytes, domain: str) -> None:
        async with turns:
            try:
                xml = await context.virt.live_xml(node, uuid)
            except ClusterError:
                return  # it has ended, or its node is lost, and whoever needs that fails by itself
        check(domain, xml, node)

    running = [
        (node, domain) for node in nodes for domain in list(context.cluster.domains(node)) if domain.active
    ]
    answers = await asyncio.gather(
        *(ask(node, domain.uuid, domain.name) for node, domain in running), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


def _starting(context: Context, nodes: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Name, definition and node of defined domains that are being started."""
    for uuid, choice in context.placing.expected().items():
        row = context.ledger.domains.get(uuid)
        if row is not None and choice.node in nodes:
            yield row.name, row.xml, choice.node
