"""An overlay takes in what it is an overlay of, while a domain runs with it: libvirt's block pull, waited for."""

from __future__ import annotations

import asyncio

from clusterhost.model.domain import Domain
from clusterhost.model.errors import InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_facts import Facts, every_path, file_path
from clusterhost.service.image_files import files_of
from clusterhost.service.ports import Progress
from clusterhost.service.virt import handle
from clusterhost.service.volume_calls import Entry
from clusterhost.service.volumes import Pools, Volumes
from compat.libvirt import messages
from imagemgr.model import Held

PAUSE = 0.5
"""Seconds between two questions how far it is."""


class Flatten:
    """Holds nothing."""

    def __init__(self, context: Context, pools: Pools, volumes: Volumes, facts: Facts) -> None:
        self._context = context
        self._pools = pools
        self._volumes = volumes
        self._facts = facts

    async def one(self, entry: Entry, held: Held, tell: Progress) -> None:
        """Afterwards it needs no other image.  InvalidOperation, NodeError, NodeUnreachable."""
        chain = await self._volumes.chains.chain(entry.uuid, held)
        if len(chain) == 1:
            raise InvalidOperation(f"volume '{held.shown}' is no overlay")
        domain, disk = await self._writer(entry, held)
        below = {link.path for link in chain[1:]}
        args = messages.RemoteDomainBlockPullArgs(dom=handle(domain), path=disk, bandwidth=0, flags=0)
        self._volumes.chains.changing(domain.uuid)
        await self._context.virt.ask(domain.node, "DOMAIN_BLOCK_PULL", args)
        while await self._goes_on(domain, disk, held.shown, tell):
            await asyncio.sleep(PAUSE)
        xml = await self._context.virt.live_xml(domain.node, domain.uuid)
        if below & every_path(xml, disk):
            raise InvalidOperation(
                f"the block pull of disk {disk} of domain '{domain.name}' ended before it was done"
            )
        await self._volumes.calls.refresh(domain.node, self._pools.handle_at(entry.uuid, domain.node))
        await self._volumes.refreshed(entry.uuid)
        self._volumes.chains.forget(entry.uuid, held.shown)

    async def _writer(self, entry: Entry, held: Held) -> tuple[Domain, str]:
        """The running domain whose disk it is, and the disk's name."""
        path = file_path(entry, held)
        for use in await self._facts.users(entry, held):
            if not (use.active and use.written):
                continue
            domain = self._context.cluster.by_name(use.domain)
            for file in files_of(await self._context.virt.live_xml(domain.node, domain.uuid)):
                if file.disk and (file.path == path or (file.pool, file.volume) == (entry.name, held.name)):
                    return domain, file.disk
        raise InvalidOperation(
            f"no running domain writes to volume '{held.shown}': start it first, as libvirt flattens disks in use"
        )

    async def _goes_on(self, domain: Domain, disk: str, shown: str, tell: Progress) -> bool:
        args = messages.RemoteDomainGetBlockJobInfoArgs(dom=handle(domain), path=disk, flags=0)
        answer = await self._context.virt.ask(domain.node, "DOMAIN_GET_BLOCK_JOB_INFO", args)
        found = messages.RemoteDomainGetBlockJobInfoRet.from_bytes(answer.payload)
        if found.found:
            tell(found.cur, found.end, f"{shown} takes in what is below it, on {domain.node}")
        return bool(found.found)
