"""Network filters of the cluster (nwfilter): those of its nodes, seen as one host's.  Knows no packets.

What is defined at the endpoint is kept, so nodes that come later have it.
Nodes that never heard of each other have filters of the same names under other uuids: the name says which are one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import ClusterError, InvalidXml, NodeError, NodeUnreachable, UnreadableXml
from clusterhost.service.context import Context
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.virt import error_text
from clusterhost.service.watcher import Watcher
from clusterhost.service.xml import new_uuid, parse_uuid
from clusterhost.store.rows import SetMeta
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message
from compat.xmldoc import XmlDocument, XmlError, XmlMalformed

KEPT, OWED = "nwfilter ", "nwfilters to drop at "
"""What the store calls a filter's document, and the names that a node is to forget."""
DEADLINE = 30.0
"""Seconds for a node's answer."""

Handle = messages.RemoteNonnullNwfilter
log = structlog.get_logger("clusterhost.filters")


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as clients see it.  places: node -> the uuid that it has there."""

    name: str
    uuid: bytes
    places: dict[str, bytes]


class Filters(Watcher):
    """a node that comes gets what it missed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    # -- asking

    async def all(self, flags: int = 0) -> list[Filter]:
        """By name.  NodeError when the nodes refuse the question."""
        args = messages.RemoteConnectListAllNwfiltersArgs(need_results=1, flags=flags)
        found: dict[str, Filter] = {}
        for name, xml in self._kept().items():
            found[name] = Filter(name, _identity(xml)[1] or bytes(16), {})
        for node, payload in (await self.ask_all("CONNECT_LIST_ALL_NWFILTERS", args)).items():
            for each in messages.RemoteConnectListAllNwfiltersRet.from_bytes(payload).filters:
                known = found.setdefault(each.name, Filter(each.name, each.uuid, {}))
                known.places[node] = each.uuid
        return sorted(found.values(), key=lambda each: each.name)

    async def by_name(self, name: str) -> Filter | None:
        """None when there is none."""
        return next((each for each in await self.all() if each.name == name), None)

    async def by_uuid(self, uuid: bytes) -> Filter | None:
        """Also by the uuid that it has at some node."""
        every = await self.all()
        for each in every:
            if each.uuid == uuid:
                return each
        return next((each for each in every if uuid in each.places.values()), None)

    async def xml(self, found: Filter, flags: int) -> str:
        """As the first node that has it writes it; the kept document while none is there."""
        for node, uuid in found.places.items():
            text = await self._xml_at(node, Handle(found.name, uuid), flags)
            return text.replace(format_uuid(uuid), format_uuid(found.uuid), 1)
        return self._kept()[found.name]

    # -- changing

    async def define(self, caller: Caller, xml: str, flags: int | None) -> Handle:
        """At all nodes that are there, or at none: NodeError of the one that refused.  flags None: the older call."""
        return await self._context.tasks.finish(self._define(caller, xml, flags), "define filter")

    async def undefine(self, caller: Caller, found: Filter) -> None:
        """The same; a filter in use is refused by the node that uses it."""
        await self._context.tasks.finish(self._undefine(caller, found), "undefine filter")

    async def _define(self, caller: Caller, xml: str, flags: int | None) -> Handle:
        async with self._lock:
            nodes = self._nodes()
            name, uuid = _identity(xml)
            if not name:
                await self._define_at(nodes[0], xml, flags)
                raise InvalidXml(f"node {nodes[0]} took a filter that the cluster cannot read")
            known = await self.by_name(name)
            if known is not None and uuid in known.places.values():
                uuid = known.uuid
            uuid = uuid or new_uuid()
            xml = _with_uuid(xml, uuid)
            done = await self._each(nodes, name, lambda node: self._at(node, known, uuid, xml, flags))
            shown = known.uuid if known is not None else uuid
            kept = await self._document(next(iter(done)), name, shown)
            await self._keep(caller, "define", name, kept, [])
            return Handle(name, shown)

    async def _each(
        self, nodes: list[str], name: str, act: Callable[[str], Awaitable[str | None]]
    ) -> dict[str, str | None]:
        """One node after the other: the first says what is wrong, in libvirt's words, before anything has changed; what
        a later one refuses is undone.  Those that went away hear of it when they are back.

        act: does it, and tells what was there before; so does the result."""
        done: dict[str, str | None] = {}
        gone: ClusterError | None = None
        for node in nodes:
            try:
                done[node] = await act(node)
            except NodeError:
                await self._undo(name, done)
                raise
            except ClusterError as error:
                gone = error
        if not done and gone is not None:
            raise gone
        return done

    async def _at(
        self, node: str, known: Filter | None, uuid: bytes, xml: str, flags: int | None
    ) -> str | None:
        """Define it at one node under the uuid that it has there; what was there before, None for nothing."""
        here = known.places.get(node) if known is not None else None
        before = await self._xml_at(node, Handle(known.name, here), 0) if known is not None and here else None
        if here is not None and known is not None and uuid == known.uuid:
            xml = _with_uuid(xml, here)
        await self._define_at(node, xml, flags)
        return before

    async def _define_at(self, node: str, xml: str, flags: int | None = None) -> None:
        if flags is None:
            await self.ask(node, "NWFILTER_DEFINE_XML", messages.RemoteNwfilterDefineXmlArgs(xml))
        else:
            args = messages.RemoteNwfilterDefineXmlFlagsArgs(xml, flags)
            await self.ask(node, "NWFILTER_DEFINE_XML_FLAGS", args)

    async def _undefine(self, caller: Caller, found: Filter) -> None:
        async with self._lock:
            here = {node: found.places[node] for node in self._usable() if node in found.places}

            async def drop(node: str) -> str:
                before = await self._xml_at(node, Handle(found.name, here[node]), 0)
                await self._drop_at(node, Handle(found.name, here[node]))
                return before

            done = await self._each(list(here), found.name, drop)
            lacking = set(self._usable()) - here.keys()
            away = [node.name for node in self._context.cluster.cells() if node.name not in {*done, *lacking}]
            await self._keep(caller, "undefine", found.name, "", away)

    async def _drop_at(self, node: str, handle: Handle) -> None:
        await self.ask(node, "NWFILTER_UNDEFINE", messages.RemoteNwfilterUndefineArgs(handle))

    async def _undo(self, name: str, done: dict[str, str | None]) -> None:
        for node, before in done.items():
            try:
                if before is not None:
                    await self._define_at(node, before)
                else:
                    handle = await self._handle_at(node, name)
                    await self._drop_at(node, handle)
            except ClusterError as error:
                log.warning("a filter could not be put back", node=node, filter=name, reason=str(error))

    async def _keep(self, caller: Caller, what: str, name: str, xml: str, away: list[str]) -> None:
        ledger = self._context.ledger
        changes = [SetMeta(KEPT + name, xml)]
        for node in self._context.cluster.cells():
            owed = self._owed(node.name) - {name} if xml else self._owed(node.name) | {name}
            if owed != self._owed(node.name) and (xml or node.name in away):
                changes.append(SetMeta(OWED + node.name, json.dumps(sorted(owed))))
        await ledger.commit(*changes, ledger.journal(f"{what} filter", name, caller.who, ""))

    # -- nodes that come (Watcher)

    def node_up(self, node: str, rebooted: bool) -> None:
        """It gets what it missed."""
        if self._kept() or self._owed(node):
            self._context.tasks.spawn(self._catch_up(node), f"filters of {node}")

    async def _catch_up(self, node: str) -> None:
        async with self._lock:
            try:
                await self._forget_at(node)
                for name, xml in self._kept().items():
                    await self._bring(node, name, xml)
            except ClusterError as error:
                log.warning("filters are not as they shall be", node=node, reason=str(error))

    async def _forget_at(self, node: str) -> None:
        for name in sorted(self._owed(node)):
            try:
                await self._drop_at(node, await self._handle_at(node, name))
            except NodeError as error:
                log.warning("a filter stays on a node", node=node, filter=name, reason=str(error))
        if self._owed(node):
            self._context.ledger.note(SetMeta(OWED + node, ""))

    async def _bring(self, node: str, name: str, xml: str) -> None:
        """Unless the node has it, as it is.  One that it refuses is told and left."""
        uuid = _identity(xml)[1]
        assert uuid is not None
        wanted = xml
        with contextlib.suppress(NodeError):  # it has none of that name
            handle = await self._handle_at(node, name)
            wanted = xml.replace(format_uuid(uuid), format_uuid(handle.uuid), 1)
            if await self._xml_at(node, handle, 0) == wanted:
                return
        try:
            await self._define_at(node, wanted)
        except NodeError as error:
            log.warning("a node refuses a filter", node=node, filter=name, reason=str(error))

    # -- within

    def _kept(self) -> dict[str, str]:
        """Name -> document."""
        meta = self._context.ledger.meta
        return {key.removeprefix(KEPT): xml for key, xml in meta.items() if key.startswith(KEPT) and xml}

    def _owed(self, node: str) -> set[str]:
        text = self._context.ledger.meta.get(OWED + node, "")
        return set(json.loads(text)) if text else set()

    async def _document(self, node: str, name: str, uuid: bytes) -> str:
        handle = await self._handle_at(node, name)
        text = await self._xml_at(node, handle, 0)
        return text.replace(format_uuid(handle.uuid), format_uuid(uuid), 1)

    async def _handle_at(self, node: str, name: str) -> Handle:
        payload = await self.ask(
            node, "NWFILTER_LOOKUP_BY_NAME", messages.RemoteNwfilterLookupByNameArgs(name)
        )
        return messages.RemoteNwfilterLookupByNameRet.from_bytes(payload).nwfilter

    async def _xml_at(self, node: str, handle: Handle, flags: int) -> str:
        args = messages.RemoteNwfilterGetXmlDescArgs(handle, flags)
        payload = await self.ask(node, "NWFILTER_GET_XML_DESC", args)
        return messages.RemoteNwfilterGetXmlDescRet.from_bytes(payload).xml

    async def ask(self, node: str, name: str, args: Message) -> bytes:
        """A node's answer.  NodeError."""
        procedure = BY_NAME[f"remote:{name}"]
        answer = await self._context.nodes.call(
            node, procedure.program_id, procedure.number, args.to_bytes(), deadline=DEADLINE
        )
        if not answer.ok:
            raise NodeError(answer.payload, error_text(answer.payload))
        return answer.payload

    async def ask_first(self, name: str, args: Message) -> bytes:
        """Any node's answer: in libvirt's words, what is not there.  NodeError, NodeUnreachable."""
        return await self.ask(self._nodes()[0], name, args)

    async def ask_all(self, name: str, args: Message) -> dict[str, bytes]:
        """The answers of those that do, in their order.  NodeError when they refuse."""
        procedure, nodes = BY_NAME[f"remote:{name}"], self._usable()
        found = await self._context.nodes.fan_out(
            nodes, procedure.program_id, procedure.number, args.to_bytes(), deadline=DEADLINE
        )
        answers = {node: answer for node, answer in found.items() if isinstance(answer, Answer)}
        # In the nodes' order: which is the first must not change from call to call.
        done = {node: answers[node].payload for node in nodes if node in answers and answers[node].ok}
        if answers and not done:
            refusal = next(iter(answers.values())).payload
            raise NodeError(refusal, error_text(refusal))
        return done

    def _usable(self) -> list[str]:
        return [node.name for node in self._context.cluster.cells() if node.usable]

    def _nodes(self) -> list[str]:
        """NodeUnreachable when there is none."""
        if not (found := self._usable()):
            raise NodeUnreachable("no node of the cluster can be reached")
        return found


def _identity(xml: str) -> tuple[str, bytes | None]:
    """Name and uuid of a document; "" where it has none, or is no filter: a node says what is wrong."""
    try:
        document = XmlDocument.parse(xml)
    except XmlMalformed:
        return "", None
    except XmlError as error:
        raise InvalidXml(str(error)) from error
    if document.tag != "filter":
        return "", None
    name: Any = document.root.get("name")
    text = document.text("/filter/uuid")
    try:
        return name or "", parse_uuid(text) if text else None
    except UnreadableXml:
        return "", None


def _with_uuid(xml: str, uuid: bytes) -> str:
    document = XmlDocument.parse(xml)
    if document.find("/filter/uuid") is None:
        document.insert("/filter", "<uuid/>", 0)
    document.set_text("/filter/uuid", format_uuid(uuid))
    return document.to_string()
