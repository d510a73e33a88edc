"""Storage pools: wire to use case and back.  The work is in clusterhost.service.pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.route import Handler
from clusterhost.model.errors import NodeUnreachable
from clusterhost.service.pools import PoolEntry, Pools
from compat.libvirt import messages
from compat.libvirt.constants import (
    REMOTE_STORAGE_POOL_LIST_MAX,
    VirStoragePoolCreateFlags,
    VirStoragePoolDefineFlags,
    VirStoragePoolState,
)
from compat.libvirt.constants import VirConnectListAllStoragePoolsFlags as Flag
from compat.libvirt.schema import BY_NAME, Procedure
from imagemgr.model import PoolType

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

XML_INACTIVE = 1
"""VIR_STORAGE_XML_INACTIVE"""
CREATE_FLAGS = sum(VirStoragePoolCreateFlags)

LIST_ALL = BY_NAME["remote:CONNECT_LIST_ALL_STORAGE_POOLS"]
GET_XML = BY_NAME["remote:STORAGE_POOL_GET_XML_DESC"]
DEFINE = BY_NAME["remote:STORAGE_POOL_DEFINE_XML"]
CREATE_XML = BY_NAME["remote:STORAGE_POOL_CREATE_XML"]
CREATE = BY_NAME["remote:STORAGE_POOL_CREATE"]
REFRESH = BY_NAME["remote:STORAGE_POOL_REFRESH"]
SOURCES = BY_NAME["remote:CONNECT_FIND_STORAGE_POOL_SOURCES"]
CAPABILITIES = BY_NAME["remote:CONNECT_GET_STORAGE_POOL_CAPABILITIES"]


def _of_type(kind: PoolType) -> Callable[[PoolEntry], bool]:
    return lambda entry: entry.pool.type is kind


GROUPS: tuple[tuple[tuple[int, Callable[[PoolEntry], bool]], ...], ...] = (
    ((Flag.ACTIVE, lambda entry: entry.active), (Flag.INACTIVE, lambda entry: not entry.active)),
    ((Flag.PERSISTENT, lambda entry: entry.persistent), (Flag.TRANSIENT, lambda entry: not entry.persistent)),
    ((Flag.AUTOSTART, lambda entry: entry.autostart), (Flag.NO_AUTOSTART, lambda entry: not entry.autostart)),
    tuple((Flag[kind.name], _of_type(kind)) for kind in PoolType),
)
"""Filters of one group are alternatives; a group without any in the flags lets all pass."""


def pools_of(session: Session) -> Pools:
    """Those of the cluster."""
    return session.world.storage.pools


def handle(entry: PoolEntry) -> messages.RemoteNonnullStoragePool:
    """As clients hold it."""
    return messages.RemoteNonnullStoragePool(name=entry.name, uuid=entry.uuid)


def found(session: Session, args: Any) -> PoolEntry:
    """The pool that a call is about.  PoolNotFound."""
    return pools_of(session).by_uuid(args.pool.uuid, args.pool.name)


def passes(entry: PoolEntry, flags: int) -> bool:
    """It passes the filters."""
    for group in GROUPS:
        wanted = [test for flag, test in group if flags & flag]
        if wanted and not any(test(entry) for test in wanted):
            return False
    return True


def refuse_flags(args: Any, allowed: int, procedure: Procedure) -> None:
    """WireError for bits that the call does not have; libvirt's driver says it of its own function."""
    if unknown := args.flags & ~allowed:
        function = errors.api_name(procedure).removeprefix("vir")
        name = f"storage{function.removeprefix('Storage')}"
        refusal = errors.argument(name, "flags", f"unsupported flags (0x{unknown:x}) in function {name}")
        refusal.domain = errors.Domain.STORAGE
        raise refusal


def list_all(session: Session, args: Any) -> Any:
    """CONNECT_LIST_ALL_STORAGE_POOLS."""
    refuse_flags(args, sum(Flag), LIST_ALL)
    listed = [handle(entry) for entry in pools_of(session).all() if passes(entry, args.flags)]
    if len(listed) > REMOTE_STORAGE_POOL_LIST_MAX:
        raise errors.bad_count(
            f"Too many storage pools '{len(listed)}' for limit '{REMOTE_STORAGE_POOL_LIST_MAX}'"
        )
    pools = listed if args.need_results else []
    return messages.RemoteConnectListAllStoragePoolsRet(pools=pools, ret=len(listed))


def _names(session: Session, active: bool) -> list[str]:
    return [entry.name for entry in pools_of(session).all() if entry.active is active]


def _first(session: Session, most: int, *, active: bool) -> list[str]:
    if most > REMOTE_STORAGE_POOL_LIST_MAX:
        raise errors.bad_count("maxnames > REMOTE_STORAGE_POOL_LIST_MAX")
    return _names(session, active)[: max(most, 0)]


def list_active(session: Session, args: Any) -> Any:
    """CONNECT_LIST_STORAGE_POOLS."""
    return messages.RemoteConnectListStoragePoolsRet(names=_first(session, args.maxnames, active=True))


def list_defined(session: Session, args: Any) -> Any:
    """CONNECT_LIST_DEFINED_STORAGE_POOLS."""
    names = _first(session, args.maxnames, active=False)
    return messages.RemoteConnectListDefinedStoragePoolsRet(names=names)


def count_active(session: Session, args: None) -> Any:
    """CONNECT_NUM_OF_STORAGE_POOLS."""
    return messages.RemoteConnectNumOfStoragePoolsRet(num=len(_names(session, active=True)))


def count_defined(session: Session, args: None) -> Any:
    """CONNECT_NUM_OF_DEFINED_STORAGE_POOLS."""
    return messages.RemoteConnectNumOfDefinedStoragePoolsRet(num=len(_names(session, active=False)))


def lookup_by_name(session: Session, args: Any) -> Any:
    """STORAGE_POOL_LOOKUP_BY_NAME."""
    return messages.RemoteStoragePoolLookupByNameRet(pool=handle(pools_of(session).by_name(args.name)))


def lookup_by_uuid(session: Session, args: Any) -> Any:
    """STORAGE_POOL_LOOKUP_BY_UUID."""
    return messages.RemoteStoragePoolLookupByUuidRet(pool=handle(pools_of(session).by_uuid(args.uuid)))


def lookup_by_target(session: Session, args: Any) -> Any:
    """STORAGE_POOL_LOOKUP_BY_TARGET_PATH."""
    entry = pools_of(session).by_target(args.path)
    return messages.RemoteStoragePoolLookupByTargetPathRet(pool=handle(entry))


async def get_xml(session: Session, args: Any) -> Any:
    """STORAGE_POOL_GET_XML_DESC."""
    refuse_flags(args, XML_INACTIVE, GET_XML)
    xml = await pools_of(session).xml(args.pool.uuid, args.pool.name)
    return messages.RemoteStoragePoolGetXmlDescRet(xml=xml)


async def get_info(session: Session, args: Any) -> Any:
    """STORAGE_POOL_GET_INFO."""
    entry = found(session, args)
    room = await pools_of(session).info(entry.uuid)
    state = VirStoragePoolState.RUNNING if entry.active else VirStoragePoolState.INACTIVE
    return messages.RemoteStoragePoolGetInfoRet(
        state=state, capacity=room.capacity, allocation=room.allocation, available=room.available
    )


def is_active(session: Session, args: Any) -> Any:
    """STORAGE_POOL_IS_ACTIVE."""
    return messages.RemoteStoragePoolIsActiveRet(active=found(session, args).active)


def is_persistent(session: Session, args: Any) -> Any:
    """STORAGE_POOL_IS_PERSISTENT."""
    return messages.RemoteStoragePoolIsPersistentRet(persistent=found(session, args).persistent)


def get_autostart(session: Session, args: Any) -> Any:
    """STORAGE_POOL_GET_AUTOSTART."""
    return messages.RemoteStoragePoolGetAutostartRet(autostart=found(session, args).autostart)


async def set_autostart(session: Session, args: Any) -> None:
    """STORAGE_POOL_SET_AUTOSTART."""
    await pools_of(session).set_autostart(
        session.caller, args.pool.uuid, bool(args.autostart), args.pool.name
    )


async def define(session: Session, args: Any) -> Any:
    """STORAGE_POOL_DEFINE_XML."""
    refuse_flags(args, sum(VirStoragePoolDefineFlags), DEFINE)
    entry = await pools_of(session).define(session.caller, args.xml, validate=bool(args.flags))
    return messages.RemoteStoragePoolDefineXmlRet(pool=handle(entry))


async def create_xml(session: Session, args: Any) -> Any:
    """STORAGE_POOL_CREATE_XML."""
    refuse_flags(args, CREATE_FLAGS, CREATE_XML)
    entry = await pools_of(session).create(session.caller, args.xml, args.flags)
    return messages.RemoteStoragePoolCreateXmlRet(pool=handle(entry))


async def start(session: Session, args: Any) -> None:
    """STORAGE_POOL_CREATE."""
    refuse_flags(args, CREATE_FLAGS, CREATE)
    await pools_of(session).start(session.caller, args.pool.uuid, args.flags, args.pool.name)


async def build(session: Session, args: Any) -> None:
    """STORAGE_POOL_BUILD.  Which flags there are depends on the type: nodes say."""
    await pools_of(session).build(session.caller, args.pool.uuid, args.flags, args.pool.name)


async def destroy(session: Session, args: Any) -> None:
    """STORAGE_POOL_DESTROY."""
    await pools_of(session).destroy(session.caller, args.pool.uuid, args.pool.name)


async def delete(session: Session, args: Any) -> None:
    """STORAGE_POOL_DELETE.  Its flags are the nodes' to look at too."""
    await pools_of(session).delete(session.caller, args.pool.uuid, args.flags, args.pool.name)


async def undefine(session: Session, args: Any) -> None:
    """STORAGE_POOL_UNDEFINE."""
    await pools_of(session).undefine(session.caller, args.pool.uuid, args.pool.name)


async def refresh(session: Session, args: Any) -> None:
    """STORAGE_POOL_REFRESH."""
    refuse_flags(args, 0, REFRESH)
    await pools_of(session).refresh(session.caller, args.pool.uuid, args.pool.name)


async def find_sources(session: Session, args: Any) -> Any:
    """CONNECT_FIND_STORAGE_POOL_SOURCES."""
    return await _of_a_node(session, SOURCES, args)


async def capabilities(session: Session, args: Any) -> Any:
    """CONNECT_GET_STORAGE_POOL_CAPABILITIES."""
    return await _of_a_node(session, CAPABILITIES, args)


async def _of_a_node(session: Session, procedure: Procedure, args: Any) -> bytes:
    """What the first node says that is there.  NodeError, NodeUnreachable."""
    node = next((node.name for node in session.world.cluster.cells() if node.usable), None)
    if node is None:
        raise NodeUnreachable("no node of the cluster can be reached")
    return await session.world.storage.pool_nodes.calls.ask(node, procedure.name, args, long=True)


POOLS: dict[str, Handler] = {
    "remote:CONNECT_LIST_ALL_STORAGE_POOLS": list_all,
    "remote:CONNECT_LIST_STORAGE_POOLS": list_active,
    "remote:CONNECT_LIST_DEFINED_STORAGE_POOLS": list_defined,
    "remote:CONNECT_NUM_OF_STORAGE_POOLS": count_active,
    "remote:CONNECT_NUM_OF_DEFINED_STORAGE_POOLS": count_defined,
    "remote:STORAGE_POOL_LOOKUP_BY_NAME": lookup_by_name,
    "remote:STORAGE_POOL_LOOKUP_BY_UUID": lookup_by_uuid,
    "remote:STORAGE_POOL_LOOKUP_BY_TARGET_PATH": lookup_by_target,
    "remote:STORAGE_POOL_GET_XML_DESC": get_xml,
    "remote:STORAGE_POOL_GET_INFO": get_info,
    "remote:STORAGE_POOL_IS_ACTIVE": is_active,
    "remote:STORAGE_POOL_IS_PERSISTENT": is_persistent,
    "remote:STORAGE_POOL_GET_AUTOSTART": get_autostart,
    "remote:STORAGE_POOL_SET_AUTOSTART": set_autostart,
    "remote:STORAGE_POOL_DEFINE_XML": define,
    "remote:STORAGE_POOL_CREATE_XML": create_xml,
    "remote:STORAGE_POOL_CREATE": start,
    "remote:STORAGE_POOL_BUILD": build,
    "remote:STORAGE_POOL_DESTROY": destroy,
    "remote:STORAGE_POOL_DELETE": delete,
    "remote:STORAGE_POOL_UNDEFINE": undefine,
    "remote:STORAGE_POOL_REFRESH": refresh,
    "remote:CONNECT_FIND_STORAGE_POOL_SOURCES": find_sources,
    "remote:CONNECT_GET_STORAGE_POOL_CAPABILITIES": capabilities,
}
"""Relayed in a node's view, where the node's own pools are seen."""
