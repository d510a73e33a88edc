"""Save files stay on the node where they were written: which one, is kept.  Knows nothing of what is in them."""

from __future__ import annotations

import json

from clusterhost.model.errors import NodeNotFound, NodeUnreachable
from clusterhost.service.context import Context
from clusterhost.service.describe import describe_silence
from clusterhost.service.ports import Answer, Caller
from clusterhost.store.rows import SetMeta
from compat.libvirt.schema import Procedure

KEY = "save files"
"""What the store calls the paths, each with its node."""
KEPT = 500
"""Paths; older ones are forgotten, and nodes asked for them."""


class Saves:
    """Holds nothing itself."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def save(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, path: str
    ) -> Answer:
        """DOMAIN_SAVE and its later forms; done to its end even if the client leaves."""
        work = self._save(caller, procedure, payload, uuid, path)
        return await self._context.tasks.finish(work, "save")

    async def _save(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, path: str
    ) -> Answer:
        context = self._context
        domain = context.cluster.by_uuid(uuid, caller.view)
        context.reachable(domain.node)
        context.cluster.begin(uuid)
        try:
            deadline = context.settings.calls.long_deadline or None
            answer = await context.virt.pass_on(domain.node, procedure, payload, uuid, deadline)
        finally:
            context.cluster.end(uuid)
        if answer.ok and path:
            known = {**self._known(), path: domain.node}
            newest = dict(list(known.items())[-KEPT:])
            line = context.ledger.journal("save", domain.name, caller.who, f"to {path} on node {domain.node}")
            context.ledger.note(SetMeta(KEY, json.dumps(newest)), line)
        return answer

    def node_of(self, path: str) -> str:
        """Where the last save to that path was; "" when that is not known."""
        return self._known().get(path, "")

    def refuse_lost(self, path: str) -> None:
        """No node in reach has the file.  NodeUnreachable: one that was asked by nobody has it, or may have it."""
        cluster, node = self._context.cluster, self.node_of(path)
        try:
            away = [cluster.node(node)] if node else []
        except NodeNotFound:
            away = []  # it has left since
        if away and not away[0].usable:
            raise NodeUnreachable(f"the save file {path} is on node {node}: {describe_silence(away[0])}")
        silent = [describe_silence(each) for each in cluster.cells() if not each.usable]
        if silent and not away:
            raise NodeUnreachable(f"no node in reach has the save file {path}; {'; '.join(silent)}")

    def _known(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._context.ledger.meta.get(KEY, "{}"))
        return found
