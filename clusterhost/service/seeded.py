"""A start of a domain with a seed: as what a node is told to run a definition with one disk more, its own unchanged.

libvirt runs the definition that a "create" brings, and keeps the domain's own beside it for the next time.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from clusterhost.model.domain import Domain
from clusterhost.service.context import Context
from clusterhost.service.ports import Answer
from clusterhost.service.virt import bare_handle
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME, Procedure
from imagemgr import seedxml

CREATE_XML = BY_NAME["remote:DOMAIN_CREATE_XML"]
FORCE_BOOT = 8
"""VIR_DOMAIN_START_FORCE_BOOT: a managed save is thrown away."""
PATIENCE = 1.0
"""Seconds for a node to say how it defines a domain."""
TAKEN = 1 | 2 | 16 | 32
"""Of VIR_DOMAIN_START_*, what a "create" takes, too: paused, autodestroy, validate, reset NVRAM."""


async def as_run(
    context: Context, domain: Domain, procedure: Procedure, payload: bytes
) -> tuple[Procedure, bytes]:
    """The call that starts it at its node: the client's own, or one with a seed, which is there when this returns."""
    xml = await _current(context, domain)
    if not seedxml.mentions(xml) and not context.seeds.has(domain.uuid):
        return procedure, payload
    assert procedure.args is not None
    flags = getattr(procedure.args.from_bytes(payload), "flags", 0)
    saved = await _is_saved(context, domain)
    if saved and not flags & FORCE_BOOT:
        await context.seeds.again(domain.uuid, domain.name, xml, domain.node)
        return procedure, payload
    seeded = await context.seeds.ready(domain.uuid, domain.name, xml, domain.node)
    if seeded == xml:
        return procedure, payload
    if saved:
        args = messages.RemoteDomainManagedSaveRemoveArgs(dom=bare_handle(domain.uuid), flags=0)
        await context.virt.ask(domain.node, "DOMAIN_MANAGED_SAVE_REMOVE", args, report=domain.uuid)
    return CREATE_XML, messages.RemoteDomainCreateXmlArgs(xml_desc=seeded, flags=flags & TAKEN).to_bytes()


def answered(asked: Procedure, answer: Answer) -> Answer:
    """In the form of the call that the client made: the domain, or nothing."""
    return replace(answer, payload=b"") if answer.ok and asked.ret is None else answer


async def _current(context: Context, domain: Domain) -> str:
    """What is on record may be some milliseconds older than the client's last change of it, or than somebody's at the
    node; an agent tells what has changed, never that nothing has, so only the node can say that there is no seed.
    One that does not answer at once has that record: it is told to start it all the same, and does when it can."""
    known = await context.definition(domain)
    try:
        async with asyncio.timeout(PATIENCE):
            return await context.virt.inactive_xml(domain.node, domain.uuid)
    except TimeoutError:
        return known


async def _is_saved(context: Context, domain: Domain) -> bool:
    args = messages.RemoteDomainHasManagedSaveImageArgs(dom=bare_handle(domain.uuid), flags=0)
    answer = await context.virt.ask(domain.node, "DOMAIN_HAS_MANAGED_SAVE_IMAGE", args)
    return bool(messages.RemoteDomainHasManagedSaveImageRet.from_bytes(answer.payload).result)
