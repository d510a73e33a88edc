"""Start a defined domain, or one from a save file: choose the node, bring the definition there, start
once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DomainExists, InvalidXml, NoPlacement
from clusterhost.service.acting import Deed, carry_out
from clusterhost.service.context import Context
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.named_files import NamedFiles
from clusterhost.service.placing import Choice
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.saves import Saves
from clusterhost.service.seeded import answered, as_run
from clusterhost.service.virt import handle
from clusterhost.service.xml import Identity, read_identity
from clusterhost.store.rows import Change, PutDomain
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME, Procedure

CREATE = BY_NAME["remote:DOMAIN_CREATE"]
READ_IMAGE = BY_NAME["remote:DOMAIN_SAVE_IMAGE_GET_XML_DESC"]


class Starter:
    """Domains.start and Domains.restore."""

    def __init__(self, context: Context, mover: DefinitionMover) -> None:
        self._context = context
        self._mover = mover

    async def start_ours(self, uuid: bytes, who: str) -> Answer:
        """Start it on our own account."""
        domain = self._context.cluster.by_uuid(uuid)
        payload = messages.RemoteDomainCreateArgs(dom=handle(domain)).to_bytes()
        return await self.start(Caller(who=who), CREATE, payload, uuid, 0)

    async def start(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, session: int
    ) -> Answer:
        """Start where it fits; session: the client whose end it shall not survive, or 0."""
        context = self._context
        async with context.locks.hold(uuid):
            domain = context.cluster.by_uuid(uuid, caller.view)
            context.reachable(domain.node)
            if domain.active or not domain.persistent:
                return await context.nodes.call(
                    domain.node, procedure.program_id, procedure.number, payload, report=uuid
                )
            xml, home = await context.definition(domain), domain.node
            await context.images.refuse_bases(xml, home)
            await context.images.refuse_doubles(xml, uuid)
            choice = await self._choose(domain, caller, xml)
            with context.placing.expecting(uuid, choice):
                # Before the definition, so that a failure leaves it where it was.
                await context.images.bring(domain.name, xml, choice.node, home)
                if choice.node != home:
                    await self._mover.move(domain, choice.node, caller.who, choice.why)
                    domain = context.cluster.by_uuid(uuid)
                await context.images.about_to_write(xml, choice.node, home)
                call, args = await as_run(context, domain, procedure, payload)
                return answered(procedure, await self._start_at(caller, call, args, domain, choice, session))

    async def _start_at(
        self,
        caller: Caller,
        procedure: Procedure,
        payload: bytes,
        domain: Domain,
        choice: Choice,
        session: int,
    ) -> Answer:
        context = self._context
        generation = context.ledger.generations.take()
        deed = Deed(
            "start",
            domain.uuid,
            domain.name,
            choice.node,
            procedure,
            payload,
            generation,
            choice.why,
            True,
            session,
        )
        return await carry_out(context, deed, caller, lambda _: self._started(domain.uuid, generation))

    def _started(self, uuid: bytes, generation: int) -> Sequence[Change]:
        context = self._context
        if context.cluster.get(uuid) is None:
            return ()
        context.inventory.amend(uuid, generation=generation)
        return (PutDomain(context.ledger.domains[uuid]),)

    async def _choose(self, domain: Domain, caller: Caller, xml: str) -> Choice:
        context, home = self._context, domain.node
        if caller.view is not None:
            return Choice(caller.view, "the client asked for this node")
        named, closed = NamedFiles(context), context.seeds.closed(xml)
        if home not in closed and await context.images.are_at(xml, home) and await named.are_at(xml, home):
            choice = context.placing.start_for(domain.uuid, xml, home=home)
            if choice.node == home:
                return choice

        def decide(closed: Mapping[str, str], coming: Mapping[str, int]) -> Choice:
            return context.placing.start_for(
                domain.uuid, xml, home=home, closed=closed, coming=coming, freeing=stock.freeing
            )

        stock = await context.images.stock(xml, home)
        stock = replace(stock, closed={**closed, **stock.closed})
        return await named.choose(domain.uuid, xml, home, stock, decide)

    # -- save files

    async def restore(self, caller: Caller, procedure: Procedure, payload: bytes, path: str) -> Answer:
        """Start from a save file on a node that has it; a definition elsewhere is brought there first."""
        context = self._context
        having, refusal = await self._holders(caller, path)
        if not having:
            return refusal
        node, identity, xml = having[0]
        if identity.uuid is None or identity.name is None:
            raise InvalidXml(f"the save file {path} on node {node} does not say whose it is")
        async with context.locks.hold(identity.uuid, identity.name):
            return await self._restore(caller, procedure, payload, having, xml)

    async def _restore(
        self,
        caller: Caller,
        procedure: Procedure,
        payload: bytes,
        having: list[tuple[str, Identity, str]],
        xml: str,
    ) -> Answer:
        context = self._context
        identity = having[0][1]
        uuid, name = identity.uuid or b"", identity.name or ""
        names = [node for node, found, _ in having if found.uuid == uuid]
        domain = context.cluster.get(uuid)
        if domain is not None and (domain.active or domain.node in names):
            choice = Choice(domain.node, "its home has the save file")
        elif domain is not None and caller.view is not None:
            raise DomainExists(f"domain '{domain.name}' is on node {domain.node}, not on node {caller.view}")
        else:
            choice = context.placing.start_for(uuid, xml, only=names)
            if domain is not None:
                await self._mover.move(domain, choice.node, caller.who, "the save file is there")
        generation = context.ledger.generations.take()
        deed = Deed("restore", uuid, name, choice.node, procedure, payload, generation, choice.why, True)
        try:
            with context.placing.expecting(uuid, choice):
                await context.images.refuse_doubles(xml, uuid)
                await context.seeds.again(uuid, name, xml, choice.node)
                await context.images.bring(name, xml, choice.node, choice.node)
                await context.images.about_to_write(xml, choice.node, choice.node)
                return await carry_out(context, deed, caller, lambda _: self._started(uuid, generation))
        finally:
            context.seeds.look(uuid)

    async def save_image(self, caller: Caller, procedure: Procedure, payload: bytes, path: str) -> Answer:
        """Relay a call about a save file to the first node that has it."""
        having, refusal = await self._holders(caller, path)
        if not having:
            return refusal
        return await self._context.nodes.call(
            having[0][0], procedure.program_id, procedure.number, payload, readonly=caller.readonly
        )

    async def _holders(self, caller: Caller, path: str) -> tuple[list[tuple[str, Identity, str]], Answer]:
        """Nodes that can read the file, with whose it is, that of the last save first; and the refusal of one that
        cannot."""
        context, saves = self._context, Saves(self._context)
        last = saves.node_of(path)
        cells = sorted(context.cluster.cells(), key=lambda node: (node.name != last, node.cell))
        nodes = [node.name for node in cells if node.usable and caller.view in (None, node.name)]
        if not nodes:
            raise NoPlacement(f"no node can be asked for the file {path}")
        payload = messages.RemoteDomainSaveImageGetXmlDescArgs(file=path, flags=0).to_bytes()
        answers = await context.nodes.fan_out(
            nodes,
            READ_IMAGE.program_id,
            READ_IMAGE.number,
            payload,
            deadline=context.settings.calls.deadline or 30.0,
        )
        having: list[tuple[str, Identity, str]] = []
        refusal: Answer | ClusterError = NoPlacement(f"no node answered about the file {path}")
        for node in nodes:
            answer = answers[node]
            if isinstance(answer, Answer) and answer.ok:
                xml = messages.RemoteDomainSaveImageGetXmlDescRet.from_bytes(answer.payload).xml
                having.append((node, read_identity(xml), xml))
            elif isinstance(answer, Answer) or not isinstance(refusal, Answer):
                refusal = answer
        if not having and caller.view is None:
            saves.refuse_lost(path)
        if isinstance(refusal, Answer):
            return having, refusal
        if not having:
            raise refusal
        return having, Answer(False, b"")
