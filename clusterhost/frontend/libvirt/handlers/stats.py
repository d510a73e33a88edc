"""Statistics of many domains: asked of every node at once, joined in the cluster's order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from struct import Struct
from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt.translate import Translator
from clusterhost.model.cluster import Cluster
from clusterhost.model.errors import ClusterError, NodeError
from clusterhost.service.ports import Answer
from compat.libvirt import messages, schema
from compat.libvirt.errors import XdrError
from compat.libvirt.walkers import skip_value

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

UINT = Struct(">I")
UUID_ID_COUNT = Struct(">16siI")
PROCEDURE = schema.BY_NAME["remote:CONNECT_GET_ALL_DOMAIN_STATS"]
FAN_OUT_DEADLINE = 10.0
"""Seconds; a node that has not answered by then is left out (one that is out of reach is not asked)."""


def get_all_domain_stats(
    session: Session, args: messages.RemoteConnectGetAllDomainStatsArgs
) -> Awaitable[bytes]:
    """With domains given: those, wherever they are; else all that pass the filters in the flags."""
    cluster = session.cluster
    asked: dict[str, list[messages.RemoteNonnullDomain]] = {}
    if args.doms:
        for handle in args.doms:
            domain = cluster.get(handle.uuid)
            if domain is not None and session.view in (None, domain.node):
                asked.setdefault(domain.node, []).append(handle)
    else:
        asked = {node.name: [] for node in cluster.cells() if session.view in (None, node.name)}
    return _joined(session, args, {name: doms for name, doms in asked.items() if cluster.nodes[name].usable})


async def _joined(
    session: Session,
    args: messages.RemoteConnectGetAllDomainStatsArgs,
    asked: dict[str, list[messages.RemoteNonnullDomain]],
) -> bytes:
    answers = await _ask(session, args, asked)
    records: dict[bytes, bytes] = {}
    for name, answer in answers.items():
        if isinstance(answer, Answer) and not answer.ok:
            raise NodeError(answer.payload)
        if isinstance(answer, Answer):
            records.update(records_of(session.cluster, session.translator, name, answer.payload))
    parts = [records[domain.uuid] for domain in session.cluster.domains() if domain.uuid in records]
    return UINT.pack(len(parts)) + b"".join(parts)


async def _ask(
    session: Session,
    args: messages.RemoteConnectGetAllDomainStatsArgs,
    asked: dict[str, list[messages.RemoteNonnullDomain]],
) -> dict[str, Answer | ClusterError]:
    """One payload for all when no domains are given; else one for each group of nodes that get the same."""
    groups: dict[bytes, list[str]] = {}
    for name, doms in asked.items():
        payload = messages.RemoteConnectGetAllDomainStatsArgs(
            doms=doms, stats=args.stats, flags=args.flags
        ).to_bytes()
        groups.setdefault(payload, []).append(name)
    parts = await asyncio.gather(*(_fan_out(session, names, payload) for payload, names in groups.items()))
    return {name: answer for part in parts for name, answer in part.items()}


async def _fan_out(session: Session, names: list[str], payload: bytes) -> dict[str, Answer | ClusterError]:
    return await session.world.nodes.fan_out(
        names,
        PROCEDURE.program_id,
        PROCEDURE.number,
        payload,
        readonly=session.readonly,
        deadline=min(FAN_OUT_DEADLINE, session.front.deadline or FAN_OUT_DEADLINE),
    )


def records_of(cluster: Cluster, translator: Translator, node: str, payload: bytes) -> dict[bytes, bytes]:
    """A node's records by domain, with the handles that clients know; one that is by now another node's is left out.
    Only what is needed to find the borders is decoded.  XdrError."""
    found: dict[bytes, bytes] = {}
    try:
        (count,) = UINT.unpack_from(payload)
        pos = 4
        for _ in range(count):
            (length,) = UINT.unpack_from(payload, pos)
            at = pos + 4 + ((length + 3) & -4)
            uuid, _, params = UUID_ID_COUNT.unpack_from(payload, at)
            pos = _after_params(payload, at + 24, params)
            domain = cluster.get(uuid)
            if domain is not None and domain.node == node:
                found[uuid] = translator.handle(domain) + payload[at + 20 : pos]
    except IndexError:
        raise XdrError(PROCEDURE.name, f"{len(payload)} bytes", "complete records") from None
    if pos > len(payload):
        raise XdrError(PROCEDURE.name, f"{len(payload)} bytes", f"{pos} bytes")
    return found


def _after_params(payload: bytes, pos: int, count: int) -> int:
    for _ in range(count):
        (length,) = UINT.unpack_from(payload, pos)
        pos = skip_value(payload, pos + 4 + ((length + 3) & -4))
    return pos
