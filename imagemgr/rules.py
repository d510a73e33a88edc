"""What pool-define refuses beside what a document says by itself: names, uuids and sources of other pools.  Pure.

Adapters that are named by the address of their parent can be compared only with each other: the rest is known to
a node's kernel alone, and its libvirtd refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from imagemgr.errors import Clash
from imagemgr.model import Adapter, FcAdapter, Pool, PoolType, ScsiAdapter
from imagemgr.xml.values import format_uuid

ON_DEVICES = frozenset({PoolType.FS, PoolType.LOGICAL, PoolType.DISK, PoolType.ZFS})
_HOST_NUMBER = re.compile(r"(?:scsi_)?host(\d+)")


def check(pool: Pool, known: Iterable[Pool]) -> None:
    """Whether a pool may be defined beside those that there are (itself included, when redefined); Clash."""
    others = tuple(known)
    for other in others:
        # By name, as in libvirt: whether the uuid is another is asked afterwards.
        if other.name != pool.name and same_source(pool, other):
            raise Clash(f"the source of pool '{pool.name}' is that of pool '{other.name}'")
    for other in others:
        if pool.uuid and other.uuid == pool.uuid and other.name != pool.name:
            raise Clash(f"pool '{other.name}' is already defined with uuid {format_uuid(other.uuid)}")
    for other in others:
        if other.name == pool.name and other.uuid != pool.uuid:
            raise Clash(f"pool '{pool.name}' already exists with uuid {format_uuid(other.uuid)}")


def same_source(new: Pool, old: Pool) -> bool:
    """Whether two pools would be one place."""
    if old.type in ON_DEVICES:
        return new.type in ON_DEVICES and _share_devices(new, old)
    if new.type is not old.type:
        return False
    match old.type:
        case PoolType.DIR:
            return new.target.path == old.target.path
        case PoolType.NETFS | PoolType.GLUSTER | PoolType.SHEEPDOG:
            return _same_place(new, old) and _same_host(new, old)
        case PoolType.SCSI:
            return _same_adapter(new.source.adapter, old.source.adapter)
        case PoolType.ISCSI:
            return _share_devices(new, old) and new.source.iqn == old.source.iqn
        case PoolType.VSTORAGE:
            return new.source.name == old.source.name
        case _:
            # A node has one set of multipath devices; targets of iscsi-direct and rbd may be used twice.
            return old.type is PoolType.MPATH


def _share_devices(new: Pool, old: Pool) -> bool:
    paths = {device.path for device in old.source.devices}
    return any(device.path in paths for device in new.source.devices)


def _same_place(new: Pool, old: Pool) -> bool:
    if new.type is PoolType.SHEEPDOG:
        return True
    named = new.type is PoolType.NETFS or new.source.name == old.source.name
    return named and new.source.dir == old.source.dir


def _same_host(new: Pool, old: Pool) -> bool:
    """The first hosts, unless both have several; a port that is not said by the new one fits any."""
    if len(new.source.hosts) != 1 and len(old.source.hosts) != 1:
        return False
    mine, other = new.source.hosts[0], old.source.hosts[0]
    return mine.name == other.name and (not mine.port or mine.port == other.port)


def _same_adapter(new: Adapter | None, old: Adapter | None) -> bool:
    match new, old:
        case FcAdapter(), FcAdapter():
            return (new.wwnn, new.wwpn) == (old.wwnn, old.wwpn)
        case ScsiAdapter(), ScsiAdapter():
            if new.parent is not None and old.parent is not None:
                return (new.parent, new.unique_id) == (old.parent, old.unique_id)
            return _same_number(new.name, old.name)
        case (FcAdapter() as fibre, ScsiAdapter() as scsi) | (ScsiAdapter() as scsi, FcAdapter() as fibre):
            return _same_number(fibre.parent, scsi.name)
        case _:
            return False


def _same_number(one: str | None, other: str | None) -> bool:
    first, second = _HOST_NUMBER.fullmatch(one or ""), _HOST_NUMBER.fullmatch(other or "")
    return first is not None and second is not None and int(first[1]) == int(second[1])
