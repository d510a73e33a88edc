"""Bindings of network filters: which filter is at which interface, made by libvirtd where a guest runs.  Asks nodes.

A binding is known by its link's name alone, which is a node's own: one that several nodes have is called NODE:LINK.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from clusterhost.service.filters import Filters
from clusterhost.service.xml import parse_uuid
from compat.libvirt import messages
from compat.xmldoc import XmlDocument, XmlError

Handle = messages.RemoteNonnullNwfilterBinding


@dataclass(frozen=True, slots=True)
class Binding:
    """shown: its name in the cluster; here: as its node has it."""

    node: str
    shown: str
    here: Handle

    @property
    def handle(self) -> Handle:
        """As clients hold it."""
        return Handle(self.shown, self.here.filtername)


class FilterBindings:
    """Holds no state."""

    def __init__(self, context: Context, filters: Filters) -> None:
        self._context = context
        self._filters = filters

    async def all(self, flags: int = 0) -> list[Binding]:
        """By the nodes' order.  NodeError when the nodes refuse the question."""
        args = messages.RemoteConnectListAllNwfilterBindingsArgs(need_results=1, flags=flags)
        answers = await self._filters.ask_all("CONNECT_LIST_ALL_NWFILTER_BINDINGS", args)
        found = [
            (node, each)
            for node, payload in answers.items()
            for each in messages.RemoteConnectListAllNwfilterBindingsRet.from_bytes(payload).bindings
        ]
        having = Counter(each.portdev for _, each in found)
        return [
            Binding(node, each.portdev if having[each.portdev] == 1 else f"{node}:{each.portdev}", each)
            for node, each in found
        ]

    async def named(self, name: str) -> Binding | None:
        """By the name in the cluster, or, the first of them, at its node."""
        every = await self.all()
        shown = [each for each in every if each.shown == name]
        return next(iter(shown or [each for each in every if each.here.portdev == name]), None)

    async def create(self, xml: str, flags: int) -> Handle:
        """At the node of the owner in the document; one that is nobody's, at the first.  NodeError."""
        args = messages.RemoteNwfilterBindingCreateXmlArgs(xml, flags)
        domain = self._context.cluster.get(_owner(xml) or b"")
        if domain is None:
            payload = await self._filters.ask_first("NWFILTER_BINDING_CREATE_XML", args)
        else:
            payload = await self._filters.ask(domain.node, "NWFILTER_BINDING_CREATE_XML", args)
        return messages.RemoteNwfilterBindingCreateXmlRet.from_bytes(payload).nwfilter

    async def xml(self, binding: Binding, flags: int) -> str:
        """Its document, with the name of its link at its node."""
        args = messages.RemoteNwfilterBindingGetXmlDescArgs(binding.here, flags)
        payload = await self._filters.ask(binding.node, "NWFILTER_BINDING_GET_XML_DESC", args)
        return messages.RemoteNwfilterBindingGetXmlDescRet.from_bytes(payload).xml

    async def delete(self, binding: Binding) -> None:
        """Its interface is free of the filter."""
        args = messages.RemoteNwfilterBindingDeleteArgs(binding.here)
        await self._filters.ask(binding.node, "NWFILTER_BINDING_DELETE", args)


def _owner(xml: str) -> bytes | None:
    """None where it cannot be read: a node says what is wrong."""
    try:
        text = XmlDocument.parse(xml).text("/filterbinding/owner/uuid")
        return parse_uuid(text) if text else None
    except (XmlError, ClusterError):
        return None
