"""Storage pools of a fake node: what its libvirtd would keep of them.  Directories are names in a set."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass
from typing import Any

from compat.libvirt import messages as lv
from imagemgr.model import Pool, Room
from imagemgr.xml import read_pool, write_pool


class Refused(Exception):
    """libvirtd says no."""


@dataclass
class FakePool:
    """A pool at one machine."""

    uuid: bytes
    pool: Pool
    persistent: bool = True
    active: bool = False
    autostart: bool = False


class FakePools:
    """Part of a Machine.  directories: those that there are; pool_problem: what it answers to whoever starts one."""

    def __init__(self) -> None:
        self.pools: dict[bytes, FakePool] = {}
        self.directories: set[str] = set()
        self.pool_problem = ""

    def pool_handle(self, found: FakePool) -> lv.RemoteNonnullStoragePool:
        return lv.RemoteNonnullStoragePool(found.pool.name, found.uuid)

    def pool_of(self, args: Any) -> FakePool:
        if args.pool.uuid not in self.pools:
            raise Refused("Storage pool not found")
        return self.pools[args.pool.uuid]

    def take_pool(self, xml: str) -> FakePool:
        pool = read_pool(xml)
        for other in self.pools.values():
            if other.pool.name == pool.name and other.uuid != pool.uuid:
                raise Refused(f"operation failed: pool '{pool.name}' already exists")
        uuid = pool.uuid or uuids.uuid4().bytes
        found = self.pools.setdefault(uuid, FakePool(uuid, pool, persistent=False))
        found.pool = pool
        return found

    def do_connect_list_all_storage_pools(self, args: Any) -> Any:
        handles = [self.pool_handle(found) for found in self.pools.values()]
        return lv.RemoteConnectListAllStoragePoolsRet(handles, len(handles))

    def do_storage_pool_lookup_by_name(self, args: Any) -> Any:
        for found in self.pools.values():
            if found.pool.name == args.name:
                return lv.RemoteStoragePoolLookupByNameRet(self.pool_handle(found))
        raise Refused(f"no storage pool with matching name '{args.name}'")

    def do_storage_pool_lookup_by_uuid(self, args: Any) -> Any:
        if args.uuid not in self.pools:
            raise Refused("no storage pool with matching uuid")
        return lv.RemoteStoragePoolLookupByUuidRet(self.pool_handle(self.pools[args.uuid]))

    def do_storage_pool_define_xml(self, args: Any) -> Any:
        found = self.take_pool(args.xml)
        found.persistent = True
        return lv.RemoteStoragePoolDefineXmlRet(self.pool_handle(found))

    def do_storage_pool_create_xml(self, args: Any) -> Any:
        found = self.take_pool(args.xml)
        try:
            self.start_pool(found, args.flags)
        except Refused:
            if not found.persistent:
                del self.pools[found.uuid]
            raise
        return lv.RemoteStoragePoolCreateXmlRet(self.pool_handle(found))

    def do_storage_pool_create(self, args: Any) -> None:
        self.start_pool(self.pool_of(args), args.flags)

    def start_pool(self, found: FakePool, flags: int) -> None:
        if self.pool_problem:
            raise Refused(self.pool_problem)
        if flags:
            self.directories.add(found.pool.target.path)
        if found.pool.target.path not in self.directories:
            raise Refused(f"cannot open directory '{found.pool.target.path}'")
        found.active = True

    def do_storage_pool_build(self, args: Any) -> None:
        if self.pool_problem:
            raise Refused(self.pool_problem)
        self.directories.add(self.pool_of(args).pool.target.path)

    def do_storage_pool_delete(self, args: Any) -> None:
        path = self.pool_of(args).pool.target.path
        if path not in self.directories:
            raise Refused(f"failed to remove pool '{path}'")
        self.directories.discard(path)

    def do_storage_pool_refresh(self, args: Any) -> None:
        found = self.pool_of(args)
        if self.pool_problem:
            found.active = False
            raise Refused(self.pool_problem)

    def do_storage_pool_destroy(self, args: Any) -> None:
        found = self.pool_of(args)
        if not found.active:
            raise Refused("storage pool is not active")
        found.active = False
        if not found.persistent:
            del self.pools[found.uuid]

    def do_storage_pool_undefine(self, args: Any) -> None:
        if self.pool_of(args).active:
            raise Refused("storage pool is still active")
        del self.pools[args.pool.uuid]

    def do_storage_pool_set_autostart(self, args: Any) -> None:
        self.pool_of(args).autostart = bool(args.autostart)

    def do_storage_pool_is_active(self, args: Any) -> Any:
        return lv.RemoteStoragePoolIsActiveRet(self.pool_of(args).active)

    def do_storage_pool_is_persistent(self, args: Any) -> Any:
        return lv.RemoteStoragePoolIsPersistentRet(self.pool_of(args).persistent)

    def do_storage_pool_get_xml_desc(self, args: Any) -> Any:
        return lv.RemoteStoragePoolGetXmlDescRet(write_pool(self.pool_of(args).pool, Room(100, 40, 60)))

    def do_storage_pool_get_info(self, args: Any) -> Any:
        return lv.RemoteStoragePoolGetInfoRet(2 if self.pool_of(args).active else 0, 100, 40, 60)
