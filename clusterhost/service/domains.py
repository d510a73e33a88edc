"""Use cases about one domain: define, create, undefine, rename, autostart; start and restore are in
starting.py.

Each is done to its end even if its client leaves.  Texts of refusals that a libvirtd gives too are libvirt's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from clusterhost.model.cluster import format_uuid
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DomainExists, InvalidOperation, UnreadableXml
from clusterhost.service.acting import Deed, carry_out
from clusterhost.service.context import Context
from clusterhost.service.moves import DefinitionMover
from clusterhost.service.named_files import NamedFiles
from clusterhost.service.numbering import with_xml
from clusterhost.service.placing import Choice
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.seeds import check as check_seed
from clusterhost.service.starting import Starter
from clusterhost.service.xml import new_uuid, read_identity, with_uuid
from clusterhost.store.rows import Change, DropDomain, PutDomain
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME, Procedure
from imagemgr.seedxml import mentions as mentions_seed

T = TypeVar("T")

TO_NATIVE = BY_NAME["remote:CONNECT_DOMAIN_XML_TO_NATIVE"]

LOOK_AGAIN = 3.0
"""Seconds that a node has to say whether a domain that stands in the way is still there."""
CREATE_AUTODESTROY = 1 << 1
"""VIR_DOMAIN_START_AUTODESTROY: it dies with its client's connection."""


class Domains:
    """What clients ask of domains, beyond what is relayed as it comes."""

    def __init__(self, context: Context, mover: DefinitionMover) -> None:
        self._context = context
        self._starter = Starter(context, mover)

    # -- for the front end

    async def define(self, caller: Caller, procedure: Procedure, payload: bytes, xml: str) -> Answer:
        """Make or change a definition.  DomainExists, InvalidXml, NoPlacement, NodeUnreachable."""
        return await self._finish(self._define(caller, procedure, payload, xml), "define")

    async def create_xml(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, flags: int
    ) -> Answer:
        """Start a domain from XML (transient unless it is defined already)."""
        return await self._finish(self._create(caller, procedure, payload, xml, flags), "create")

    async def start(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, flags: int
    ) -> Answer:
        """Start a defined domain where it fits: at home if it can be."""
        session = caller.session if flags & CREATE_AUTODESTROY else 0
        return await self._finish(self._starter.start(caller, procedure, payload, uuid, session), "start")

    async def undefine(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        """Remove a definition (flags are in the payload)."""
        return await self._finish(self._undefine(caller, procedure, payload, uuid), "undefine")

    async def rename(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, new_name: str
    ) -> Answer:
        """Give it another name, which nobody else in the cluster has."""
        return await self._finish(self._rename(caller, procedure, payload, uuid, new_name), "rename")

    async def restore(self, caller: Caller, procedure: Procedure, payload: bytes, path: str) -> Answer:
        """Start from a save file, on a node that has the file."""
        return await self._finish(self._starter.restore(caller, procedure, payload, path), "restore")

    async def save_image(self, caller: Caller, procedure: Procedure, payload: bytes, path: str) -> Answer:
        """Read or edit a save file: relayed to a node that has it."""
        return await self._finish(self._starter.save_image(caller, procedure, payload, path), "save image")

    async def set_autostart(self, caller: Caller, uuid: bytes, on: bool) -> None:
        """The cluster's own flag: nodes never start anything by themselves."""
        await self._finish(self._set_autostart(caller, uuid, on), "autostart")

    async def start_ours(self, uuid: bytes, who: str) -> Answer:
        """Start it on our own account (autostart)."""
        return await self._finish(self._starter.start_ours(uuid, who), "start")

    async def _finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        return await self._context.tasks.finish(work, what)

    # -- define and create

    async def _define(self, caller: Caller, procedure: Procedure, payload: bytes, xml: str) -> Answer:
        try:
            identity = read_identity(xml)
        except UnreadableXml as error:
            return await self._libvirts_words(caller, xml, error)
        if identity.name is None:
            return await self._libvirts_refusal(caller, procedure, payload)
        check_seed(xml)
        uuid, payload, xml = self._with_identity(procedure, payload, xml, identity.name, identity.uuid)
        async with self._context.locks.hold(uuid, identity.name):
            existing = await self._meant(uuid, identity.name, caller)
            if existing is not None:
                return await self._redefine(caller, procedure, payload, existing, xml)
            return await self._define_new(caller, procedure, payload, uuid, identity.name, xml)

    async def _redefine(
        self, caller: Caller, procedure: Procedure, payload: bytes, domain: Domain, xml: str
    ) -> Answer:
        """The node that has it holds the truth; the store's copy follows with the node's Definition."""
        context = self._context
        answer = await self._relay(domain.node, procedure, payload, domain.uuid)
        if answer.ok:
            line = context.ledger.journal(
                "define", domain.name, caller.who, f"redefined on node {domain.node}"
            )
            context.ledger.note(context.ledger.change_domain(domain.uuid, xml=xml), line)
            # What was saved runs on with the CD that it had.
            if not (domain.active or domain.managed_save or mentions_seed(xml)):
                await context.seeds.drop(domain.uuid)
        return answer

    async def _define_new(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, name: str, xml: str
    ) -> Answer:
        context = self._context
        stock = await context.images.stock(xml, None)
        choice = context.placing.home_for(uuid, xml, caller.view, closed=stock.closed, coming=stock.coming)
        generation = context.ledger.generations.take()
        deed = Deed(
            "define",
            uuid,
            name,
            choice.node,
            procedure,
            payload,
            generation,
            why=choice.why,
            data={"xml": xml},
        )
        with context.placing.expecting(uuid, choice):
            return await carry_out(context, deed, caller, lambda _: self._kept(uuid, generation, xml))

    async def _create(
        self, caller: Caller, procedure: Procedure, payload: bytes, xml: str, flags: int
    ) -> Answer:
        try:
            identity = read_identity(xml)
        except UnreadableXml as error:
            return await self._libvirts_words(caller, xml, error)
        if identity.name is None:
            return await self._libvirts_refusal(caller, procedure, payload)
        check_seed(xml)
        uuid, payload, xml = self._with_identity(procedure, payload, xml, identity.name, identity.uuid)
        context = self._context
        async with context.locks.hold(uuid, identity.name):
            existing = await self._meant(uuid, identity.name, caller)
            session = caller.session if flags & CREATE_AUTODESTROY else 0
            if existing is not None:
                return await self._create_defined(caller, procedure, payload, existing, xml, session)
            stock = await context.images.stock(xml, caller.view)
            stock = replace(stock, closed={**context.seeds.closed(xml), **stock.closed})
            start_for = partial(context.placing.start_for, uuid, xml, only=caller.view, freeing=stock.freeing)

            def decide(closed: Mapping[str, str], coming: Mapping[str, int]) -> Choice:
                return start_for(closed=closed, coming=coming)

            if caller.view is not None:
                choice = decide(stock.closed, stock.coming)
            else:
                choice = await NamedFiles(context).choose(uuid, xml, None, stock, decide)
            generation = context.ledger.generations.take()
            deed = Deed(
                "create",
                uuid,
                identity.name,
                choice.node,
                procedure,
                payload,
                generation,
                choice.why,
                True,
                session,
            )
            try:
                with context.placing.expecting(uuid, choice):
                    xml = await self._ready(uuid, identity.name, xml, choice.node, caller.view)
                    deed = replace(deed, payload=with_xml(procedure, payload, xml))
                    return await carry_out(
                        context, deed, caller, lambda _: self._kept(uuid, generation, None)
                    )
            finally:
                context.seeds.look(uuid)

    async def _ready(self, uuid: bytes, name: str, xml: str, node: str, home: str | None) -> str:
        """Its images are at the node, and it may write to them; returns what the node is told."""
        images = self._context.images
        await images.refuse_bases(xml, home)
        await images.refuse_doubles(xml, uuid)
        await images.bring(name, xml, node, home)
        await images.about_to_write(xml, node, home)
        return await self._context.seeds.ready(uuid, name, xml, node)

    async def _create_defined(
        self, caller: Caller, procedure: Procedure, payload: bytes, domain: Domain, xml: str, session: int
    ) -> Answer:
        """A definition exists, or it runs: its own node starts it, or says what libvirt says."""
        context = self._context
        if domain.active:
            return await self._relay(domain.node, procedure, payload, domain.uuid)
        xml = await self._ready(domain.uuid, domain.name, xml, domain.node, domain.node)
        payload = with_xml(procedure, payload, xml)
        generation = context.ledger.generations.take()
        deed = Deed(
            "create",
            domain.uuid,
            domain.name,
            domain.node,
            procedure,
            payload,
            generation,
            "home",
            True,
            session,
        )
        return await carry_out(context, deed, caller, lambda _: self._kept(domain.uuid, generation, None))

    def _kept(self, uuid: bytes, generation: int, xml: str | None) -> Sequence[Change]:
        """What the store keeps of a domain after a success."""
        context = self._context
        if context.cluster.get(uuid) is None:
            return ()  # it came and went already, as the node says
        context.inventory.amend(uuid, generation=generation)
        row = context.ledger.domains[uuid]
        return (context.ledger.change_domain(uuid, xml=row.xml if xml is None else xml),)

    async def _meant(self, uuid: bytes, name: str, caller: Caller) -> Domain | None:
        """As `_refuse_clash`; what stands in the way is looked for at its node before that is said."""
        try:
            return self._refuse_clash(uuid, name, caller)
        except DomainExists:
            await self._look_again(self._context.cluster.get(uuid), *self._context.inventory.called(name))
            return self._refuse_clash(uuid, name, caller)

    async def _look_again(self, *domains: Domain | None) -> None:
        """Somebody may have removed or renamed them behind our back just now: the reports are on their way."""
        for domain in domains:
            if domain is not None:
                with contextlib.suppress(ClusterError):  # then the last word stands
                    await self._context.virt.look(domain.node, domain.uuid, deadline=LOOK_AGAIN)

    def _refuse_clash(self, uuid: bytes, name: str, caller: Caller) -> Domain | None:
        """The domain that is meant, None for a new one; DomainExists for half a match."""
        cluster = self._context.cluster
        existing = cluster.get(uuid)
        if existing is not None:
            if existing.name != name:
                raise DomainExists(
                    f"domain '{existing.name}' is already defined with uuid {format_uuid(uuid)}"
                )
            if caller.view not in (None, existing.node):
                raise DomainExists(f"domain '{name}' is on node {existing.node}, not on node {caller.view}")
            return existing
        for other in self._context.inventory.called(name):
            raise DomainExists(f"domain '{name}' already exists with uuid {format_uuid(other.uuid)}")
        return None

    def _with_identity(
        self, procedure: Procedure, payload: bytes, xml: str, name: str, uuid: bytes | None
    ) -> tuple[bytes, bytes, str]:
        """uuid, payload, XML: a document without uuid gets one now, so that doing it again is the same
        thing."""
        if uuid is not None:
            return uuid, payload, xml
        uuid = new_uuid()
        xml = with_uuid(xml, uuid)
        return uuid, with_xml(procedure, payload, xml), xml

    async def _libvirts_refusal(self, caller: Caller, procedure: Procedure, payload: bytes) -> Answer:
        """A document without a name: let a libvirtd say so."""
        node = caller.view or self._context.placing.any_node()
        return await self._context.nodes.call(node, procedure.program_id, procedure.number, payload)

    async def _libvirts_words(self, caller: Caller, xml: str, error: UnreadableXml) -> Answer:
        """What a libvirtd says of it, asked by a call that reads the document and makes nothing."""
        args = messages.RemoteConnectDomainXmlToNativeArgs("qemu-argv", xml, 0)
        try:
            node = caller.view or self._context.placing.any_node()
            answer = await self._context.nodes.call(
                node, TO_NATIVE.program_id, TO_NATIVE.number, args.to_bytes()
            )
        except ClusterError:
            raise error from None
        if answer.ok:
            raise error
        return answer

    async def _relay(self, node: str, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        context = self._context
        context.reachable(node)
        context.cluster.begin(uuid)
        try:
            return await context.nodes.call(
                node, procedure.program_id, procedure.number, payload, report=uuid
            )
        finally:
            context.cluster.end(uuid)

    # -- undefine, rename, autostart

    async def _undefine(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        context = self._context
        async with context.locks.hold(uuid):
            domain = context.cluster.by_uuid(uuid, caller.view)
            generation = domain.generation or context.ledger.generations.take()
            deed = Deed("undefine", uuid, domain.name, domain.node, procedure, payload, generation)
            answer = await carry_out(
                context, deed, caller, lambda answer: self._undefined(uuid, domain.node, answer)
            )
            if context.cluster.get(uuid) is None:
                await context.seeds.drop(uuid)
            return answer

    def _undefined(self, uuid: bytes, node: str, answer: Answer) -> Sequence[Change]:
        context = self._context
        domain = context.cluster.get(uuid)
        if domain is not None and not domain.active and answer.report is None:
            context.inventory.on_gone(node, uuid)
            domain = context.cluster.get(uuid)
        if domain is None:
            return (DropDomain(uuid),)
        context.inventory.amend(uuid, autostart=False)
        return (PutDomain(context.ledger.domains[uuid]),)

    async def _rename(
        self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes, new_name: str
    ) -> Answer:
        context = self._context
        domain = context.cluster.by_uuid(uuid, caller.view)
        async with context.locks.hold(uuid, domain.name, new_name):
            domain = context.cluster.by_uuid(uuid, caller.view)
            # Its own name is left to libvirt to refuse.
            if domain.name != new_name and (others := self._context.inventory.called(new_name)):
                await self._look_again(*others)
            if domain.name != new_name and self._context.inventory.called(new_name):
                raise InvalidOperation(f"domain with name '{new_name}' already exists")
            answer = await self._relay(domain.node, procedure, payload, uuid)
            if answer.ok:
                line = context.ledger.journal("rename", new_name, caller.who, f"renamed from {domain.name}")
                await context.ledger.commit(PutDomain(context.ledger.domains[uuid]), line)
                await context.seeds.drop(uuid)
            return answer

    async def _set_autostart(self, caller: Caller, uuid: bytes, on: bool) -> None:
        context = self._context
        async with context.locks.hold(uuid):
            domain = context.cluster.by_uuid(uuid, caller.view)
            if not domain.persistent:
                raise InvalidOperation("cannot set autostart for transient domain")
            line = context.ledger.journal("autostart", domain.name, caller.who, "on" if on else "off")
            await context.ledger.commit(context.ledger.change_domain(uuid, autostart=on), line)
            context.inventory.amend(uuid, autostart=on)
