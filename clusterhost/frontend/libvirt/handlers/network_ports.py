"""Ports of networks: wire to use case and back.  The work is in clusterhost.service.network_ports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.route import Handler
from clusterhost.model.cluster import format_uuid
from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_NETWORK_PORT_LIST_MAX
from compat.libvirt.schema import BY_NAME
from netmgr import tags

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

LIST = BY_NAME["remote:NETWORK_LIST_ALL_PORTS"]
CREATE = BY_NAME["remote:NETWORK_PORT_CREATE_XML"]
GET_XML = "NETWORK_PORT_GET_XML_DESC"
SECONDS = 30.0
"""For nodes to answer, where the configuration gives calls no end."""


def _deadline(session: Session) -> float:
    return session.front.deadline or SECONDS


async def list_all(session: Session, args: Any) -> Any:
    """NETWORK_LIST_ALL_PORTS."""
    if args.flags:
        raise errors.unsupported_flags(args.flags, LIST)
    found = await session.world.networking.ports.all(args.network.uuid, _deadline(session))
    if len(found) > REMOTE_NETWORK_PORT_LIST_MAX:
        limit = REMOTE_NETWORK_PORT_LIST_MAX
        raise errors.bad_count(f"Too many ports '{len(found)}' for limit '{limit}'")
    return messages.RemoteNetworkListAllPortsRet(ports=found if args.need_results else [], ret=len(found))


async def look_up(session: Session, args: Any) -> Any:
    """NETWORK_PORT_LOOKUP_BY_UUID."""
    ports, net = session.world.networking.ports, session.world.networking.networks.by_uuid(args.network.uuid)
    await ports.node_of(net.uuid, args.uuid, format_uuid(args.uuid), _deadline(session))
    handle = messages.RemoteNonnullNetwork(name=net.name, uuid=net.uuid)
    return messages.RemoteNetworkPortLookupByUuidRet(messages.RemoteNonnullNetworkPort(handle, args.uuid))


async def create(session: Session, args: Any) -> bytes:
    """NETWORK_PORT_CREATE_XML: at the node of the port's owner."""
    ports, uuid, deadline = session.world.networking.ports, args.network.uuid, _deadline(session)
    node = await ports.place_for(uuid, args.xml, deadline)
    return await ports.pass_on(node, CREATE, args.to_bytes(), deadline)


def relayed(name: str) -> Callable[[Session, Any], Awaitable[bytes]]:
    """A call about one port, answered by the node that has it."""
    procedure = BY_NAME[f"remote:{name}"]

    async def handler(session: Session, args: Any) -> bytes:
        ports, port = session.world.networking.ports, args.port
        deadline = _deadline(session)
        node = await ports.node_of(port.net.uuid, port.uuid, format_uuid(port.uuid), deadline)
        payload = await ports.pass_on(node, procedure, args.to_bytes(), deadline)
        return as_network(session, port.net.uuid, payload) if name == GET_XML else payload

    return handler


def as_network(session: Session, uuid: bytes, payload: bytes) -> bytes:
    """A node plugs into a bridge what is plugged into a network with bridges of ours."""
    if not tags.is_made(session.world.networking.networks.by_uuid(uuid).shown):
        return payload
    xml = messages.RemoteNetworkPortGetXmlDescRet.from_bytes(payload).xml
    xml = xml.replace("<plug type='bridge' ", "<plug type='network' ", 1)
    return messages.RemoteNetworkPortGetXmlDescRet(xml=xml).to_bytes()


PORTS: dict[str, Handler] = {
    "remote:NETWORK_LIST_ALL_PORTS": list_all,
    "remote:NETWORK_PORT_LOOKUP_BY_UUID": look_up,
    "remote:NETWORK_PORT_CREATE_XML": create,
    **{
        f"remote:{name}": relayed(name)
        for name in (
            GET_XML,
            "NETWORK_PORT_GET_PARAMETERS",
            "NETWORK_PORT_SET_PARAMETERS",
            "NETWORK_PORT_DELETE",
        )
    },
}
