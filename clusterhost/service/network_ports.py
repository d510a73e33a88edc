"""Ports of networks: libvirtd makes one at its node for each interface that it plugs in; here they are those of all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from clusterhost.model.errors import (
    ClusterError,
    InvalidOperation,
    NetworkPortNotFound,
    NodeError,
    NodeUnreachable,
)
from clusterhost.service.context import Context
from clusterhost.service.networks import Networks
from clusterhost.service.ports import Answer
from clusterhost.service.virt import error_text
from clusterhost.service.xml import parse_uuid
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME, Procedure
from compat.xmldoc import XmlDocument, XmlError

LIST = BY_NAME["remote:NETWORK_LIST_ALL_PORTS"]
LOOK_UP = BY_NAME["remote:NETWORK_PORT_LOOKUP_BY_UUID"]
Port = messages.RemoteNonnullNetworkPort


class NetworkPorts:
    """Asks the nodes; holds no state."""

    def __init__(self, context: Context, networks: Networks, has: Callable[[bytes, str], bool]) -> None:
        """has: whether a node has a network."""
        self._context = context
        self._networks = networks
        self._has = has

    async def all(self, uuid: bytes, deadline: float) -> list[Port]:
        """Of an active network, by the nodes' order; nodes that do not answer have none.  InvalidOperation."""
        net = self._networks.by_uuid(uuid)
        if not net.active:
            raise InvalidOperation(f"network '{net.name}' is not active")
        handle = messages.RemoteNonnullNetwork(name=net.name, uuid=uuid)
        args = messages.RemoteNetworkListAllPortsArgs(handle, need_results=1, flags=0)
        found: list[Port] = []
        for answer in (await self._ask(LIST, args.to_bytes(), deadline)).values():
            if isinstance(answer, Answer) and answer.ok:
                found += messages.RemoteNetworkListAllPortsRet.from_bytes(answer.payload).ports
        return found

    async def node_of(self, uuid: bytes, port: bytes, text: str, deadline: float) -> str:
        """The node that has a port of a network.  NetworkPortNotFound says `text`."""
        net = self._networks.by_uuid(uuid)
        handle = messages.RemoteNonnullNetwork(name=net.name, uuid=uuid)
        args = messages.RemoteNetworkPortLookupByUuidArgs(handle, port)
        for node, answer in (await self._ask(LOOK_UP, args.to_bytes(), deadline)).items():
            if isinstance(answer, Answer) and answer.ok:
                return node
        raise NetworkPortNotFound(f"network port with UUID {text} does not exist")

    async def place_for(self, uuid: bytes, xml: str, deadline: float) -> str:
        """The node to make a port: that of its owner, else the first that has the network.  One whose uuid is in use
        is refused by the node that uses it.  InvalidOperation, NodeUnreachable."""
        net = self._networks.by_uuid(uuid)
        if not net.active:
            raise InvalidOperation(f"network '{net.name}' is not active")
        port, owner = _uuid_in(xml, "/networkport/uuid"), _uuid_in(xml, "/networkport/owner/uuid")
        if port is not None:
            with contextlib.suppress(NetworkPortNotFound):
                return await self.node_of(uuid, port, "", deadline)
        domain = self._context.cluster.get(owner) if owner is not None else None
        if domain is not None:
            return domain.node
        for node in self._context.cluster.cells():
            if node.usable and self._has(uuid, node.name):
                return node.name
        raise NodeUnreachable(f"no node that has network '{net.name}' can be reached")

    async def pass_on(self, node: str, procedure: Procedure, payload: bytes, deadline: float) -> bytes:
        """The node's answer to a call about one of its ports.  NodeError."""
        answer = await self._context.nodes.call(
            node, procedure.program_id, procedure.number, payload, deadline=deadline
        )
        if not answer.ok:
            raise NodeError(answer.payload, error_text(answer.payload))
        return answer.payload

    async def _ask(
        self, procedure: Procedure, payload: bytes, deadline: float
    ) -> dict[str, Answer | ClusterError]:
        nodes = [node.name for node in self._context.cluster.cells() if node.usable]
        return await self._context.nodes.fan_out(
            nodes, procedure.program_id, procedure.number, payload, deadline=deadline
        )


def _uuid_in(xml: str, path: str) -> bytes | None:
    """None where there is none that can be read: the node says what is wrong."""
    try:
        text = XmlDocument.parse(xml).text(path)
        return parse_uuid(text) if text else None
    except (XmlError, ClusterError):
        return None
