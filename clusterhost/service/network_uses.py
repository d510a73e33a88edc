"""How many guests are plugged into each link of a network that is passed to the nodes: their libvirtds count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from clusterhost.service.context import Context
from clusterhost.service.interface_map import names_of
from clusterhost.service.networks import Networks
from clusterhost.service.ports import Answer
from compat import xmldoc
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from netmgr import tags

GET_XML = BY_NAME["remote:NETWORK_GET_XML_DESC"]
DEADLINE = 2.0
"""Seconds; what a node does not say until then is not counted."""


class NetworkUses:
    """Asks the nodes; holds no state."""

    def __init__(self, context: Context, networks: Networks) -> None:
        self._context = context
        self._networks = networks

    async def of(self, uuid: bytes) -> Mapping[str, int]:
        """Of an active network: its name of a link -> how many, on all nodes together."""
        live = self._networks.by_uuid(uuid).live
        if live is None or tags.is_made(live) or not live.forward.interfaces:
            return {}
        handle = messages.RemoteNonnullNetwork(name=live.name, uuid=uuid)
        args = messages.RemoteNetworkGetXmlDescArgs(handle, 0).to_bytes()
        nodes = [node.name for node in self._context.cluster.cells() if node.usable]
        answers = await self._context.nodes.fan_out(
            nodes, GET_XML.program_id, GET_XML.number, args, deadline=DEADLINE
        )
        found: Counter[str] = Counter()
        for node, answer in answers.items():
            if isinstance(answer, Answer) and answer.ok:
                found += self._in(messages.RemoteNetworkGetXmlDescRet.from_bytes(answer.payload).xml, node)
        return found

    def _in(self, xml: str, node: str) -> Counter[str]:
        ours = {link: name for name, link in names_of(self._context.ledger, node).items()}
        used: Counter[str] = Counter()
        for element in xmldoc.parse(xml).all("forward/interface"):
            link = element.get("dev") or ""
            used[ours.get(link, link)] += int(element.get("connections") or 0)
        return used
