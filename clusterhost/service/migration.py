"""libvirt's migration protocol, each step relayed to the node that holds that side; the model follows the
domain.

The client drives (or, peer-to-peer, the source's libvirtd).  We choose the target when the client does not,
give the address that guest memory is sent to, and see to it that one copy is left whatever happens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from clusterhost.control.operations import PeerSocketArgs
from clusterhost.model.domain import Domain
from clusterhost.model.errors import (
    ClusterError,
    DeadlinePassed,
    DomainExists,
    DomainNotFound,
    InvalidArgument,
    InvalidOperation,
    InvalidXml,
    NodeUnreachable,
)
from clusterhost.service.context import Context, new_op
from clusterhost.service.describe import describe_silence
from clusterhost.service.fitting import alike, fitted, own_numbers
from clusterhost.service.image_stock import Copying, Stock
from clusterhost.service.moving import Move, Phase
from clusterhost.service.named_files import NamedFiles
from clusterhost.service.peers import memory_uri, socket_uri, way_of
from clusterhost.service.placing import Choice
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.settling import Settler
from clusterhost.service.steps import COPIES_DISKS, COPIES_TOPS, OFFLINE, PEER2PEER, TUNNELLED, Kind, Step
from clusterhost.service.watcher import Watcher
from clusterhost.service.xml import Identity, read_identity
from clusterhost.store.crash import crash_point
from clusterhost.store.rows import DropIntent, Intent
from compat.libvirt.schema import Procedure


class Migrations(Watcher):
    """Domain migrations under way."""

    def __init__(self, context: Context, settler: Settler) -> None:
        self._context = context
        self._settler = settler
        self._steps = {
            Kind.BEGIN: self._begin,
            Kind.PREPARE: self._prepare,
            Kind.PERFORM: self._perform,
            Kind.FINISH: self._finish,
            Kind.CONFIRM: self._confirm,
        }

    async def step(self, caller: Caller, procedure: Procedure, payload: bytes) -> Answer:
        """One step; the answer is the node's."""
        step = Step(procedure, payload)
        return await self._context.tasks.finish(self._steps[step.kind](caller, step), procedure.name)

    async def prepare_target(self, caller: Caller, procedure: Procedure, payload: bytes) -> str:
        """The node that a tunnelled PREPARE (a stream) goes to; the front end opens the stream there."""
        step = Step(procedure, payload)
        identity = read_identity(step.get("xml"))
        move = await self._arriving(caller, step, identity)
        await self._intend(move)
        move.phase = Phase.PREPARED
        assert move.target is not None
        return move.target

    def closed(self, session: int) -> None:
        """A client is gone: what it was moving is settled soon, after the nodes have noticed."""
        for move in self._context.moves:
            if move.session == session:
                move.touched = 0.0

    # -- the steps

    async def _begin(self, caller: Caller, step: Step) -> Answer:
        context = self._context
        domain = context.cluster.by_uuid(step.uuid, caller.view)
        context.reachable(domain.node)
        await self._refuse_while_unsettled(step.uuid)
        op = ""
        if not domain.generation:
            # From now on the source's copy can be told from a newer one.
            context.inventory.amend(step.uuid, generation=context.ledger.generations.take())
            domain, op = context.cluster.by_uuid(step.uuid), new_op()
        await self._renumber(caller, step, domain)
        answer = await self._relay(domain.node, step, caller, domain.uuid, op, domain.generation)
        if answer.ok:
            await self._note_source(domain, caller, step)
        return answer

    async def _note_source(self, domain: Domain, caller: Caller, step: Step) -> Move:
        context = self._context
        xml = await context.virt.inactive_xml(domain.node, domain.uuid) if domain.persistent else ""
        move = Move(
            uuid=domain.uuid,
            name=domain.name,
            source=domain.node,
            flags=step.flags,
            disks=step.disks,
            persistent=domain.persistent,
            xml=xml,
            session=caller.session,
            touched=context.clock(),
            why=caller.who,
        )
        context.moves.put(move)
        return move

    async def _prepare(self, caller: Caller, step: Step) -> Answer:
        context = self._context
        if not step.get("xml"):
            # Protocol 1 does not say whose memory will come: only a client that names the node can be served.
            if caller.view is None:
                raise InvalidArgument("this form of migration needs a destination with ?node=NAME")
            return await self._relay(caller.view, step, caller, None)
        identity = read_identity(step.get("xml"))
        move = await self._arriving(caller, step, identity)
        target = move.target
        assert target is not None
        if not step.get("uri"):
            address = memory_uri(context.cluster.node(target).host.migration_address)
            if address:
                step.set("uri", address)
        self._fit(step, move, step.get("xml"))
        await self._intend(move)
        try:
            answer = await self._relay(target, step, caller, move.uuid, f"{move.op}.prepare", move.generation)
        except (NodeUnreachable, DeadlinePassed):
            move.phase = Phase.FAILED
            raise
        crash_point("migrate.prepare")
        if answer.ok:
            move.phase = Phase.PREPARED
        else:
            await self._not_prepared(move)
        return answer

    async def _arriving(self, caller: Caller, step: Step, identity: Identity) -> Move:
        """The move with its target chosen; a new one for a domain that comes from outside."""
        context = self._context
        if identity.uuid is None or identity.name is None:
            raise InvalidXml("the domain to be received has no uuid or no name")
        await self._refuse_while_unsettled(identity.uuid)
        arrives_as = step.get("dname") or identity.name
        domain = context.cluster.get(identity.uuid)
        for other in context.cluster.domains():
            if other.name == arrives_as and other.uuid != identity.uuid:
                raise DomainExists(f"domain '{arrives_as}' already exists on node {other.node}")
        move = context.moves.get(identity.uuid)
        if move is None:
            source = domain.node if domain is not None and domain.active else None
            move = Move(identity.uuid, identity.name, source, flags=step.flags, why=caller.who)
            if domain is not None:
                move.persistent = domain.persistent
        target = await self._target(caller, step, move, domain)
        context.reachable(target)
        move.arrives_as, move.target = arrives_as, target
        move.session, move.touched = caller.session, context.clock()
        move.flags |= step.flags
        move.disks = step.disks or move.disks
        context.moves.put(move)
        return move

    async def _target(self, caller: Caller, step: Step, move: Move, domain: Domain | None) -> str:
        if move.source is None and domain is not None:
            if caller.view not in (None, domain.node):
                raise DomainExists(
                    f"domain '{domain.name}' is on node {domain.node}, not on node {caller.view}"
                )
            return domain.node
        if caller.view is not None:
            if move.source is not None:
                self._context.placing.refuse_elsewhere(step.get("xml"), caller.view)
            return caller.view
        return await self._placed(move, step.get("xml"))

    async def _placed(self, move: Move, xml: str) -> str:
        """Where placement says, of the nodes that have the files which it names."""
        avoid = [move.source] if move.source else []

        def decide(closed: Mapping[str, str], coming: Mapping[str, int]) -> Choice:
            return self._context.placing.start_for(move.uuid, xml, avoid=avoid, closed=closed, coming=coming)

        named = NamedFiles(self._context)
        return (await named.choose(move.uuid, xml, move.source, Stock(), decide, live=True)).node

    async def _intend(self, move: Move) -> None:
        context = self._context
        await self._with_images(move)
        move.op, move.generation = new_op(), context.ledger.generations.take()
        data = {
            "name": move.name,
            "arrives_as": move.arrives_as,
            "flags": move.flags,
            "persistent": move.persistent,
            "xml": move.xml,
            "who": move.why,
            "volumes": move.volumes,
        }
        intent = Intent(
            op=move.op,
            kind="migrate",
            uuid=move.uuid,
            node=move.source or "",
            target=move.target or "",
            generation=move.generation,
            data=json.dumps(data),
            created=context.clock(),
        )
        await context.ledger.intend(intent)

    async def _with_images(self, move: Move) -> None:
        """What it needs at the target is there, or libvirt can copy it to there."""
        if move.source is None or move.target is None or move.flags & OFFLINE:
            return
        images = self._context.images
        xml = await self._context.virt.live_xml(move.source, move.uuid)
        copying = None
        if move.flags & (COPIES_DISKS | COPIES_TOPS):
            copying = Copying(bool(move.flags & COPIES_TOPS), move.disks)
        if copying is None and (why := (await images.bound(xml, move.source)).get(move.target)):
            # libvirt takes any device for one that both ends see, and runs on what it finds at its path there.
            raise InvalidOperation(f"domain '{move.name}' cannot be on node {move.target}, it {why}")
        await images.bring_read(move.name, xml, move.target, move.source, copying)
        if copying is not None:
            move.volumes = await images.moving.leaving(xml, move.source, move.target, copying)

    async def _not_prepared(self, move: Move) -> None:
        """The target refused: nothing of it is there, the source goes on."""
        self._context.ledger.note(DropIntent(move.op))
        await self._context.images.moving.left(move.volumes, move.target or "")
        move.op, move.phase, move.volumes = "", Phase.BEGUN, ()
        if move.source is None:
            self._context.moves.end(move.uuid)
        move.target = None

    async def _perform(self, caller: Caller, step: Step) -> Answer:
        context = self._context
        move = context.moves.get(step.uuid)
        domain = context.cluster.by_uuid(step.uuid, caller.view)
        if step.flags & PEER2PEER:
            return await self._perform_peer2peer(caller, step, domain)
        answer = await self._relay(domain.node, step, caller, domain.uuid)
        crash_point("migrate.perform")
        if move is not None and move.phase is not Phase.FINISHED:
            move.phase = Phase.PERFORMED if answer.ok else Phase.FAILED
        return answer

    async def _perform_peer2peer(self, caller: Caller, step: Step, domain: Domain) -> Answer:
        """The source's libvirtd drives it all; it reaches the target through a socket that its agent
        offers."""
        context = self._context
        context.reachable(domain.node)
        await self._refuse_while_unsettled(step.uuid)
        await self._renumber(caller, step, domain)
        move = await self._note_source(domain, caller, step)
        try:
            if not await self._route(caller, step, move):
                return await self._relay(domain.node, step, caller, domain.uuid)
            await self._intend(move)
        finally:
            if not move.op:
                context.moves.end(move.uuid)
                # Reports that came meanwhile changed nothing: it may have left the cluster.
                context.inventory.refresh(move.uuid)
        move.phase = Phase.FINISHING
        try:
            answer = await self._relay(
                domain.node, step, caller, domain.uuid, f"{move.op}.perform", move.generation
            )
            crash_point("migrate.perform")
        except (NodeUnreachable, DeadlinePassed):
            self._settler.freeze(move)
            raise
        if not await self._settler.settle(move):
            move.touched = 0.0  # recovery goes on
        return answer

    async def _route(self, caller: Caller, step: Step, move: Move) -> bool:
        """Choose the target and send the source's libvirtd there; False: it leaves the cluster."""
        context = self._context
        assert move.source is not None
        way = way_of(step.dconnuri, context.settings, context.cluster)
        if not way.inside:
            return False
        target = way.node
        if target is None:
            row = context.ledger.domains.get(move.uuid)
            xml = move.xml or (row.xml if row is not None else "")
            target = await self._placed(move, xml)
        if target == move.source:
            raise InvalidArgument(f"domain '{move.name}' is on node {target} already")
        context.reachable(target)
        packed = await context.nodes.operate(
            move.source, "peer-socket", msgspec.msgpack.encode(PeerSocketArgs(target))
        )
        step.set_dconnuri(socket_uri(msgspec.msgpack.decode(packed, type=str)))
        address = memory_uri(context.cluster.node(target).host.migration_address)
        # Tunnelled memory goes through the connection itself; libvirt refuses an address then.
        if address and not step.get("uri") and not step.flags & TUNNELLED:
            step.set("uri", address)
        move.target = target
        move.arrives_as = step.get("dname") or move.name
        xml = step.get("xml") or await context.virt.migratable_xml(move.source, move.uuid)
        context.placing.refuse_elsewhere(xml, target)
        self._fit(step, move, xml)
        return True

    async def _renumber(self, caller: Caller, step: Step, domain: Domain) -> None:
        """An XML that the client gives has the numbers that it sees."""
        xml = step.get("xml")
        if xml and caller.view is None:
            step.set("xml", await own_numbers(self._context, domain, xml))

    def _fit(self, step: Step, move: Move, xml: str) -> None:
        """Its pinning, by the target's numbers."""
        if not alike(self._context, move.source, move.target):
            new = fitted(self._context, xml, move.source or "", move.target or "", move.name)
            if new != xml:
                step.set("xml", new)

    async def _finish(self, caller: Caller, step: Step) -> Answer:
        context = self._context
        name = step.get("dname")
        move = context.moves.arriving(name, caller.view)
        if move is None or move.target is None:
            if caller.view is None:
                raise DomainNotFound(f"no migration of a domain '{name}' is under way")
            return await self._relay(caller.view, step, caller, None)
        if not context.cluster.node(move.target).usable:
            move.phase = Phase.FAILED  # it cannot have been told to run it
            context.reachable(move.target)
        move.phase = Phase.FAILED if step.cancelled else Phase.FINISHING
        try:
            answer = await self._relay(move.target, step, caller, move.uuid)
        except (NodeUnreachable, DeadlinePassed):
            if not step.cancelled:
                self._settler.freeze(move)
            raise
        crash_point("migrate.finish")
        if answer.ok and not step.cancelled:
            await self._settler.finished(move)
        else:
            move.phase = Phase.FAILED
        if move.source is None:
            await self._settler.conclude(move)
        return answer

    async def _confirm(self, caller: Caller, step: Step) -> Answer:
        context = self._context
        move = context.moves.get(step.uuid)
        if move is None or move.source is None:
            domain = context.cluster.by_uuid(step.uuid, caller.view)
            return await self._relay(domain.node, step, caller, domain.uuid)
        if move.phase is Phase.UNKNOWN and move.target is not None:
            silence = describe_silence(context.cluster.node(move.target))
            raise NodeUnreachable(f"whether domain '{move.name}' runs on its target is not known: {silence}")
        try:
            answer = await self._relay(move.source, step, caller, move.uuid)
            crash_point("migrate.confirm")
        finally:
            await self._settler.conclude(move)
        return answer

    # -- shared

    async def _relay(
        self, node: str, step: Step, caller: Caller, uuid: bytes | None, op: str = "", generation: int = 0
    ) -> Answer:
        """To the node, on the connection kept for this client, so that its libvirtd notices when the client
        goes."""
        context = self._context
        context.reachable(node)
        move = context.moves.get(uuid) if uuid is not None else None
        if uuid is not None:
            context.cluster.begin(uuid)
        if move is not None:
            move.steps_running += 1
        try:
            return await context.nodes.call(
                node,
                step.procedure.program_id,
                step.procedure.number,
                step.payload,
                long=True,
                session=caller.session,
                report=uuid,
                op=op,
                domain=uuid if op else None,
                generation=generation if op else 0,
            )
        finally:
            if move is not None:
                move.steps_running -= 1
                move.touched = context.clock()
            if uuid is not None:
                context.cluster.end(uuid)

    async def _refuse_while_unsettled(self, uuid: bytes) -> None:
        """An earlier move of the same domain is settled first, or stands in the way."""
        move = self._context.moves.get(uuid)
        if move is None or not move.op or move.steps_running:
            return
        if not await self._settler.settle(move):
            raise NodeUnreachable(f"an earlier migration of domain '{move.name}' cannot be settled yet")

    # -- Watcher

    def node_down(self, node: str, reason: str) -> None:
        """Memory is being sent to a node that is gone: do not wait for TCP to give up."""
        for move in self._context.moves:
            if (
                move.target == node
                and move.source
                and move.steps_running
                and move.phase is not Phase.FINISHED
            ):
                self._context.tasks.spawn(self._abort(move.source, move.uuid), "abort migration")

    async def _abort(self, node: str, uuid: bytes) -> None:
        try:
            await self._context.virt.abort_job(node, uuid)
        except ClusterError:
            return  # it has ended by itself
