"""Plug a disk into a domain that runs: its image gets to the domain's node first.  Knows no pools."""

from __future__ import annotations

from typing import Any

from clusterhost.service.context import Context
from clusterhost.service.ports import Answer, Caller
from compat.libvirt.schema import Procedure

CONFIG = 2
"""VIR_DOMAIN_AFFECT_CONFIG: for its next start only."""


class DiskPlugs:
    """Holds no state."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def plug(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        """DOMAIN_ATTACH_DEVICE and its like with a disk; done to its end even if the client leaves."""
        work = self._plug(caller, procedure, payload, uuid)
        return await self._context.tasks.finish(work, "plug disk")

    async def _plug(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        context = self._context
        assert procedure.args is not None
        args: Any = procedure.args.from_bytes(payload)
        async with context.locks.hold(uuid):
            domain = context.cluster.by_uuid(uuid, caller.view)
            context.reachable(domain.node)
            if domain.active and getattr(args, "flags", 0) != CONFIG:
                xml = f"<domain><devices>{args.xml}</devices></domain>"
                await context.images.refuse_doubles(xml, uuid)
                await context.images.bring(domain.name, xml, domain.node, domain.node)
                await context.images.about_to_write(xml, domain.node, domain.node)
            context.cluster.begin(uuid)
            try:
                deadline = context.settings.calls.long_deadline or None
                return await context.virt.pass_on(domain.node, procedure, payload, uuid, deadline)
            finally:
                context.cluster.end(uuid)
