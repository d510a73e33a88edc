"""Calls about pools at one node's libvirtd, on behalf of clients and our own.  Knows messages; decides nothing."""

from __future__ import annotations

from clusterhost.model.errors import NodeError
from clusterhost.service.context import Context
from clusterhost.service.virt import error_text
from compat.libvirt import messages
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message
from imagemgr.model import Room

Handle = messages.RemoteNonnullStoragePool
INACTIVE = 1
"""VIR_STORAGE_XML_INACTIVE"""
SECONDS = 10.0
"""For what a node answers from its memory."""


class PoolCalls:
    """Every method raises NodeError with libvirtd's own error, NodeUnreachable, DeadlinePassed."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ask(self, node: str, name: str, args: Message, *, long: bool = False) -> bytes:
        """One call of the remote program by name.  long: it may mount, format or read a whole directory."""
        procedure = BY_NAME[f"remote:{name}"]
        answer = await self._context.nodes.call(
            node,
            procedure.program_id,
            procedure.number,
            args.to_bytes(),
            long=long,
            deadline=None if long else SECONDS,
        )
        if not answer.ok:
            raise NodeError(answer.payload, error_text(answer.payload))
        return answer.payload

    async def find(self, node: str, name: str) -> Handle | None:
        """The node's pool of that name, None when it has none (another refusal comes again with what is asked next).

        Not a list: that waits for every pool of the node that is just being started, however far its target is."""
        try:
            args = messages.RemoteStoragePoolLookupByNameArgs(name)
            payload = await self.ask(node, "STORAGE_POOL_LOOKUP_BY_NAME", args)
        except NodeError:
            return None
        return messages.RemoteStoragePoolLookupByNameRet.from_bytes(payload).pool

    async def known(self, node: str, uuid: bytes) -> Handle | None:
        """The node's pool of that uuid, None when a list of all does not have it either."""
        try:
            args = messages.RemoteStoragePoolLookupByUuidArgs(uuid)
            payload = await self.ask(node, "STORAGE_POOL_LOOKUP_BY_UUID", args)
        except NodeError:
            return next((pool for pool in await self.all(node) if pool.uuid == uuid), None)
        return messages.RemoteStoragePoolLookupByUuidRet.from_bytes(payload).pool

    async def all(self, node: str) -> list[Handle]:
        """All that the node has.  A list says that one is missing without a number of libvirt's errors."""
        args = messages.RemoteConnectListAllStoragePoolsArgs(need_results=1, flags=0)
        payload = await self.ask(node, "CONNECT_LIST_ALL_STORAGE_POOLS", args)
        return messages.RemoteConnectListAllStoragePoolsRet.from_bytes(payload).pools

    async def xml(self, node: str, pool: Handle, flags: int = INACTIVE) -> str:
        """Its document there."""
        args = messages.RemoteStoragePoolGetXmlDescArgs(pool, flags)
        payload = await self.ask(node, "STORAGE_POOL_GET_XML_DESC", args)
        return messages.RemoteStoragePoolGetXmlDescRet.from_bytes(payload).xml

    async def is_active(self, node: str, pool: Handle) -> bool:
        """Whether it is active there."""
        payload = await self.ask(node, "STORAGE_POOL_IS_ACTIVE", messages.RemoteStoragePoolIsActiveArgs(pool))
        return bool(messages.RemoteStoragePoolIsActiveRet.from_bytes(payload).active)

    async def is_persistent(self, node: str, pool: Handle) -> bool:
        """Whether the node has a definition of it."""
        args = messages.RemoteStoragePoolIsPersistentArgs(pool)
        payload = await self.ask(node, "STORAGE_POOL_IS_PERSISTENT", args)
        return bool(messages.RemoteStoragePoolIsPersistentRet.from_bytes(payload).persistent)

    async def room(self, node: str, pool: Handle) -> Room:
        """What it has there."""
        payload = await self.ask(node, "STORAGE_POOL_GET_INFO", messages.RemoteStoragePoolGetInfoArgs(pool))
        found = messages.RemoteStoragePoolGetInfoRet.from_bytes(payload)
        return Room(found.capacity, found.allocation, found.available)

    async def define(self, node: str, xml: str, flags: int = 0) -> Handle:
        """Make or change a definition."""
        args = messages.RemoteStoragePoolDefineXmlArgs(xml, flags)
        payload = await self.ask(node, "STORAGE_POOL_DEFINE_XML", args)
        return messages.RemoteStoragePoolDefineXmlRet.from_bytes(payload).pool

    async def create_xml(self, node: str, xml: str, flags: int = 0) -> Handle:
        """Start one from a document; a transient one unless it is defined there."""
        args = messages.RemoteStoragePoolCreateXmlArgs(xml, flags)
        payload = await self.ask(node, "STORAGE_POOL_CREATE_XML", args, long=True)
        return messages.RemoteStoragePoolCreateXmlRet.from_bytes(payload).pool

    async def create(self, node: str, pool: Handle, flags: int = 0) -> None:
        """Start a defined one."""
        await self.ask(
            node, "STORAGE_POOL_CREATE", messages.RemoteStoragePoolCreateArgs(pool, flags), long=True
        )

    async def build(self, node: str, pool: Handle, flags: int = 0) -> None:
        """Make its directory, its file system, its volume group."""
        await self.ask(
            node, "STORAGE_POOL_BUILD", messages.RemoteStoragePoolBuildArgs(pool, flags), long=True
        )

    async def delete(self, node: str, pool: Handle, flags: int = 0) -> None:
        """Take away what build made."""
        await self.ask(
            node, "STORAGE_POOL_DELETE", messages.RemoteStoragePoolDeleteArgs(pool, flags), long=True
        )

    async def refresh(self, node: str, pool: Handle) -> None:
        """Look at its volumes anew."""
        await self.ask(
            node, "STORAGE_POOL_REFRESH", messages.RemoteStoragePoolRefreshArgs(pool, 0), long=True
        )

    async def destroy(self, node: str, pool: Handle) -> None:
        """Stop it."""
        await self.ask(node, "STORAGE_POOL_DESTROY", messages.RemoteStoragePoolDestroyArgs(pool), long=True)

    async def undefine(self, node: str, pool: Handle) -> None:
        """Drop its definition."""
        await self.ask(node, "STORAGE_POOL_UNDEFINE", messages.RemoteStoragePoolUndefineArgs(pool))

    async def set_autostart(self, node: str, pool: Handle, on: bool) -> None:
        """Whether the node's libvirtd starts it by itself."""
        args = messages.RemoteStoragePoolSetAutostartArgs(pool, int(on))
        await self.ask(node, "STORAGE_POOL_SET_AUTOSTART", args)
