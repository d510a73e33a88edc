"""Networks: wire to use case and back.  The work is in clusterhost.service.networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.handlers.leases import get_dhcp_leases
from clusterhost.frontend.libvirt.handlers.network_ports import PORTS
from clusterhost.frontend.libvirt.route import Handler
from clusterhost.service.networks import Metadata, Net
from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_NETWORK_LIST_MAX, VirNetworkXMLFlags
from compat.libvirt.constants import VirConnectListAllNetworksFlags as Flag
from compat.libvirt.schema import BY_NAME

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

VALIDATE = 1
"""VIR_NETWORK_DEFINE_VALIDATE, VIR_NETWORK_CREATE_VALIDATE"""

LIST_ALL = BY_NAME["remote:CONNECT_LIST_ALL_NETWORKS"]
GET_XML = BY_NAME["remote:NETWORK_GET_XML_DESC"]
DEFINE_FLAGS = BY_NAME["remote:NETWORK_DEFINE_XML_FLAGS"]
CREATE_FLAGS = BY_NAME["remote:NETWORK_CREATE_XML_FLAGS"]

GROUPS: tuple[tuple[tuple[int, Callable[[Net], bool]], ...], ...] = (
    ((Flag.ACTIVE, lambda net: net.active), (Flag.INACTIVE, lambda net: not net.active)),
    ((Flag.PERSISTENT, lambda net: net.persistent), (Flag.TRANSIENT, lambda net: not net.persistent)),
    ((Flag.AUTOSTART, lambda net: net.row.autostart), (Flag.NO_AUTOSTART, lambda net: not net.row.autostart)),
)
"""Filters of one group are alternatives; a group without any in the flags lets all pass."""


def handle(net: Net) -> messages.RemoteNonnullNetwork:
    """As clients hold it."""
    return messages.RemoteNonnullNetwork(name=net.name, uuid=net.uuid)


def passes(net: Net, flags: int) -> bool:
    """It passes the filters."""
    for group in GROUPS:
        wanted = [test for flag, test in group if flags & flag]
        if wanted and not any(test(net) for test in wanted):
            return False
    return True


def list_all(session: Session, args: Any) -> Any:
    """CONNECT_LIST_ALL_NETWORKS."""
    if unknown := args.flags & ~sum(Flag):
        raise errors.unsupported_flags(unknown, LIST_ALL)
    found = [handle(net) for net in session.world.networking.networks.all() if passes(net, args.flags)]
    if len(found) > REMOTE_NETWORK_LIST_MAX:
        raise errors.bad_count(f"Too many networks '{len(found)}' for limit '{REMOTE_NETWORK_LIST_MAX}'")
    nets = found if args.need_results else []
    return messages.RemoteConnectListAllNetworksRet(nets=nets, ret=len(found))


def _names(session: Session, active: bool) -> Iterator[str]:
    return (net.name for net in session.world.networking.networks.all() if net.active is active)


def list_active(session: Session, args: Any) -> Any:
    """CONNECT_LIST_NETWORKS."""
    return messages.RemoteConnectListNetworksRet(names=_first(session, args.maxnames, active=True))


def list_defined(session: Session, args: Any) -> Any:
    """CONNECT_LIST_DEFINED_NETWORKS."""
    return messages.RemoteConnectListDefinedNetworksRet(names=_first(session, args.maxnames, active=False))


def _first(session: Session, most: int, *, active: bool) -> list[str]:
    if most > REMOTE_NETWORK_LIST_MAX:
        raise errors.bad_count("maxnames > REMOTE_NETWORK_LIST_MAX")
    return list(_names(session, active))[: max(most, 0)]


def count_active(session: Session, args: None) -> Any:
    """CONNECT_NUM_OF_NETWORKS."""
    return messages.RemoteConnectNumOfNetworksRet(num=len(list(_names(session, active=True))))


def count_defined(session: Session, args: None) -> Any:
    """CONNECT_NUM_OF_DEFINED_NETWORKS."""
    return messages.RemoteConnectNumOfDefinedNetworksRet(num=len(list(_names(session, active=False))))


def lookup_by_name(session: Session, args: Any) -> Any:
    """NETWORK_LOOKUP_BY_NAME."""
    return messages.RemoteNetworkLookupByNameRet(
        net=handle(session.world.networking.networks.by_name(args.name))
    )


def lookup_by_uuid(session: Session, args: Any) -> Any:
    """NETWORK_LOOKUP_BY_UUID."""
    return messages.RemoteNetworkLookupByUuidRet(
        net=handle(session.world.networking.networks.by_uuid(args.uuid))
    )


async def get_xml(session: Session, args: Any) -> Any:
    """NETWORK_GET_XML_DESC."""
    if unknown := args.flags & ~VirNetworkXMLFlags.NETWORK_XML_INACTIVE:
        raise errors.unsupported_flags(unknown, GET_XML)
    networking = session.world.networking
    used = {} if args.flags else await networking.uses.of(args.net.uuid)
    xml = networking.networks.xml(
        args.net.uuid, inactive=bool(args.flags), connections=networking.addresses.connections, used=used
    )
    return messages.RemoteNetworkGetXmlDescRet(xml=xml)


def is_active(session: Session, args: Any) -> Any:
    """NETWORK_IS_ACTIVE."""
    return messages.RemoteNetworkIsActiveRet(
        active=session.world.networking.networks.by_uuid(args.net.uuid).active
    )


def is_persistent(session: Session, args: Any) -> Any:
    """NETWORK_IS_PERSISTENT."""
    net = session.world.networking.networks.by_uuid(args.net.uuid)
    return messages.RemoteNetworkIsPersistentRet(persistent=net.persistent)


def get_autostart(session: Session, args: Any) -> Any:
    """NETWORK_GET_AUTOSTART."""
    net = session.world.networking.networks.by_uuid(args.net.uuid)
    return messages.RemoteNetworkGetAutostartRet(autostart=net.row.autostart)


def get_bridge_name(session: Session, args: Any) -> Any:
    """NETWORK_GET_BRIDGE_NAME."""
    return messages.RemoteNetworkGetBridgeNameRet(
        name=session.world.networking.networks.bridge_name(args.net.uuid)
    )


async def define(session: Session, args: Any) -> Any:
    """NETWORK_DEFINE_XML(_FLAGS)."""
    flags = getattr(args, "flags", 0)
    if unknown := flags & ~VALIDATE:
        raise errors.unsupported_flags(unknown, DEFINE_FLAGS)
    net = await session.world.networking.networks.define(session.caller, args.xml, validate=bool(flags))
    return messages.RemoteNetworkDefineXmlRet(net=handle(net))


async def create_xml(session: Session, args: Any) -> Any:
    """NETWORK_CREATE_XML(_FLAGS)."""
    flags = getattr(args, "flags", 0)
    if unknown := flags & ~VALIDATE:
        raise errors.unsupported_flags(unknown, CREATE_FLAGS)
    net = await session.world.networking.networks.create(session.caller, args.xml, validate=bool(flags))
    return messages.RemoteNetworkCreateXmlRet(net=handle(net))


async def start(session: Session, args: Any) -> None:
    """NETWORK_CREATE."""
    await session.world.networking.networks.start(session.caller, args.net.uuid)


async def destroy(session: Session, args: Any) -> None:
    """NETWORK_DESTROY."""
    await session.world.networking.networks.destroy(session.caller, args.net.uuid)


async def undefine(session: Session, args: Any) -> None:
    """NETWORK_UNDEFINE."""
    await session.world.networking.networks.undefine(session.caller, args.net.uuid)


async def set_autostart(session: Session, args: Any) -> None:
    """NETWORK_SET_AUTOSTART."""
    await session.world.networking.networks.set_autostart(session.caller, args.net.uuid, bool(args.autostart))


async def update(session: Session, args: Any) -> None:
    """NETWORK_UPDATE."""
    await session.world.networking.networks.update(
        session.caller, args.net.uuid, args.command, args.section, args.parentIndex, args.xml, args.flags
    )


def get_metadata(session: Session, args: Any) -> Any:
    """NETWORK_GET_METADATA."""
    text = session.world.networking.networks.metadata(args.network.uuid, args.type, args.uri, args.flags)
    return messages.RemoteNetworkGetMetadataRet(metadata=text)


async def set_metadata(session: Session, args: Any) -> None:
    """NETWORK_SET_METADATA."""
    metadata = Metadata(args.type, args.metadata, args.key, args.uri)
    await session.world.networking.networks.set_metadata(
        session.caller, args.network.uuid, metadata, args.flags
    )


NETWORKS: dict[str, Handler] = {
    "remote:CONNECT_LIST_ALL_NETWORKS": list_all,
    "remote:CONNECT_LIST_NETWORKS": list_active,
    "remote:CONNECT_LIST_DEFINED_NETWORKS": list_defined,
    "remote:CONNECT_NUM_OF_NETWORKS": count_active,
    "remote:CONNECT_NUM_OF_DEFINED_NETWORKS": count_defined,
    "remote:NETWORK_LOOKUP_BY_NAME": lookup_by_name,
    "remote:NETWORK_LOOKUP_BY_UUID": lookup_by_uuid,
    "remote:NETWORK_GET_XML_DESC": get_xml,
    "remote:NETWORK_IS_ACTIVE": is_active,
    "remote:NETWORK_IS_PERSISTENT": is_persistent,
    "remote:NETWORK_GET_AUTOSTART": get_autostart,
    "remote:NETWORK_GET_BRIDGE_NAME": get_bridge_name,
    "remote:NETWORK_DEFINE_XML": define,
    "remote:NETWORK_DEFINE_XML_FLAGS": define,
    "remote:NETWORK_CREATE_XML": create_xml,
    "remote:NETWORK_CREATE_XML_FLAGS": create_xml,
    "remote:NETWORK_CREATE": start,
    "remote:NETWORK_DESTROY": destroy,
    "remote:NETWORK_UNDEFINE": undefine,
    "remote:NETWORK_SET_AUTOSTART": set_autostart,
    "remote:NETWORK_UPDATE": update,
    "remote:NETWORK_GET_DHCP_LEASES": get_dhcp_leases,
    "remote:NETWORK_GET_METADATA": get_metadata,
    "remote:NETWORK_SET_METADATA": set_metadata,
    **PORTS,
}
"""Relayed in a node's view, where the node's own networks are seen."""
