"""Storage volumes: wire to use case and back.  The work is in clusterhost.service.volumes and its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import msgspec

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.route import Handler, Route
from clusterhost.frontend.libvirt.streams import open_at
from clusterhost.model.errors import NodeError
from clusterhost.service.volume_calls import Entry, VolumeHandle
from clusterhost.service.volume_uploads import Transfer
from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_STORAGE_VOL_LIST_MAX, VirErrorDomain
from compat.libvirt.events import Call
from compat.libvirt.xdr import Message
from imagemgr.model import Held

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session


async def handle(session: Session, entry: Entry, held: Held) -> VolumeHandle:
    """As clients hold it."""
    return VolumeHandle(entry.name, held.shown, await session.world.storage.volumes.key(entry.uuid, held))


def no_flags(function: str, flags: int) -> None:
    """What libvirt's storage driver says of flags that a call does not have."""
    if flags:
        text = f"unsupported flags (0x{flags:x}) in function {function}"
        error = errors.argument(function, "flags", text)
        error.domain = VirErrorDomain.STORAGE
        raise error


async def list_all(session: Session, args: Any) -> Any:
    """STORAGE_POOL_LIST_ALL_VOLUMES."""
    no_flags("storagePoolListAllVolumes", args.flags)
    storage = session.world.storage
    entry = storage.pools.by_uuid(args.pool.uuid, args.pool.name)
    held = await storage.volumes.listed(entry.uuid)
    if len(held) > REMOTE_STORAGE_VOL_LIST_MAX:
        raise errors.bad_count(f"Too many volumes '{len(held)}' for limit '{REMOTE_STORAGE_VOL_LIST_MAX}'")
    vols = []
    if args.need_results:
        keys = await storage.volumes.keys(entry.uuid, held)
        vols = [VolumeHandle(entry.name, each.shown, key) for each, key in zip(held, keys, strict=True)]
    return messages.RemoteStoragePoolListAllVolumesRet(vols=vols, ret=len(held))


async def list_names(session: Session, args: Any) -> Any:
    """STORAGE_POOL_LIST_VOLUMES."""
    if args.maxnames > REMOTE_STORAGE_VOL_LIST_MAX:
        raise errors.bad_count("maxnames > REMOTE_STORAGE_VOL_LIST_MAX")
    held = await _listed(session, args.pool)
    names = [each.shown for each in held[: max(args.maxnames, 0)]]
    return messages.RemoteStoragePoolListVolumesRet(names=names)


async def count(session: Session, args: Any) -> Any:
    """STORAGE_POOL_NUM_OF_VOLUMES."""
    return messages.RemoteStoragePoolNumOfVolumesRet(num=len(await _listed(session, args.pool)))


async def _listed(session: Session, pool: messages.RemoteNonnullStoragePool) -> tuple[Held, ...]:
    storage = session.world.storage
    found: tuple[Held, ...] = await storage.volumes.listed(storage.pools.by_uuid(pool.uuid, pool.name).uuid)
    return found


async def lookup_by_name(session: Session, args: Any) -> Any:
    """STORAGE_VOL_LOOKUP_BY_NAME."""
    storage = session.world.storage
    entry = storage.pools.by_uuid(args.pool.uuid, args.pool.name)
    held = await storage.volumes.by_name(entry.uuid, args.name)
    return messages.RemoteStorageVolLookupByNameRet(vol=await handle(session, entry, held))


async def lookup_by_key(session: Session, args: Any) -> Any:
    """STORAGE_VOL_LOOKUP_BY_KEY."""
    storage = session.world.storage
    pool, held = await storage.volumes.by_key(args.key)
    return messages.RemoteStorageVolLookupByKeyRet(
        vol=await handle(session, storage.pools.by_uuid(pool), held)
    )


async def lookup_by_path(session: Session, args: Any) -> Any:
    """STORAGE_VOL_LOOKUP_BY_PATH."""
    storage = session.world.storage
    pool, held = await storage.volumes.by_path(args.path)
    return messages.RemoteStorageVolLookupByPathRet(
        vol=await handle(session, storage.pools.by_uuid(pool), held)
    )


def pool_of(session: Session, args: Any) -> Any:
    """STORAGE_POOL_LOOKUP_BY_VOLUME: libvirt looks at the pool's name only."""
    entry = session.world.storage.pools.by_name(args.vol.pool)
    pool = messages.RemoteNonnullStoragePool(name=entry.name, uuid=entry.uuid)
    return messages.RemoteStoragePoolLookupByVolumeRet(pool=pool)


async def create(session: Session, args: Any) -> Any:
    """STORAGE_VOL_CREATE_XML."""
    storage = session.world.storage
    uuid = storage.pools.by_uuid(args.pool.uuid, args.pool.name).uuid
    made = await storage.volume_work.create(session.caller, uuid, args.xml, args.flags)
    return messages.RemoteStorageVolCreateXmlRet(vol=made)


async def create_from(session: Session, args: Any) -> Any:
    """STORAGE_VOL_CREATE_XML_FROM."""
    storage = session.world.storage
    uuid = storage.pools.by_uuid(args.pool.uuid, args.pool.name).uuid
    source = storage.pools.by_name(args.clonevol.pool).uuid, args.clonevol.name
    made = await storage.volume_work.clone(session.caller, uuid, args.xml, source, args.flags)
    return messages.RemoteStorageVolCreateXmlFromRet(vol=made)


async def delete(session: Session, args: Any) -> None:
    """STORAGE_VOL_DELETE."""
    storage = session.world.storage
    uuid = storage.pools.by_name(args.vol.pool).uuid
    await storage.volume_work.delete(session.caller, uuid, args.vol.name, args.flags)


async def resize(session: Session, args: Any) -> None:
    """STORAGE_VOL_RESIZE."""
    storage = session.world.storage
    uuid = storage.pools.by_name(args.vol.pool).uuid
    await storage.volume_work.resize(session.caller, uuid, args.vol.name, args.capacity, args.flags)


def wiping(name: str) -> Callable[[Session, Any], Awaitable[None]]:
    """STORAGE_VOL_WIPE, STORAGE_VOL_WIPE_PATTERN."""

    async def handler(session: Session, args: Any) -> None:
        storage = session.world.storage
        uuid = storage.pools.by_name(args.vol.pool).uuid

        def call(volume: VolumeHandle) -> tuple[str, Message]:
            return name, msgspec.structs.replace(args, vol=volume)

        await storage.volume_work.wipe(session.caller, uuid, args.vol.name, call)

    return handler


def relayed(name: str) -> Callable[[Session, Any], Awaitable[bytes]]:
    """A question about one volume, answered by a node that has it."""

    async def handler(session: Session, args: Any) -> bytes:
        storage = session.world.storage
        entry = storage.pools.by_name(args.vol.pool)
        held = await storage.volumes.by_name(entry.uuid, args.vol.name)
        node = await storage.volumes.place_of(entry.uuid, held)
        own = msgspec.structs.replace(args, vol=VolumeHandle(entry.name, held.name, args.vol.key))
        try:
            payload: bytes = await storage.volumes.calls.ask(
                node, name, own.to_bytes(), readonly=session.readonly
            )
        except NodeError:
            storage.volumes.listings.forget(entry.uuid, node)  # it may be gone
            raise
        if name == GET_XML and held.shown != held.name:
            return as_shown(payload, held, await storage.volumes.key(entry.uuid, held))
        return payload

    return handler


_PATH = relayed("STORAGE_VOL_GET_PATH")


def path(session: Session, args: Any) -> Any:
    """STORAGE_VOL_GET_PATH.  virsh asks it for each volume of a list: where the pool tells, no node is asked."""
    storage = session.world.storage
    entry = storage.pools.by_name(args.vol.pool)
    held = storage.volumes.known(entry.uuid, args.vol.name) if entry.active else None
    file = entry.pool.file(held.name) if held is not None else ""
    return messages.RemoteStorageVolGetPathRet(name=file) if file else _PATH(session, args)


GET_XML = "STORAGE_VOL_GET_XML_DESC"


def as_shown(payload: bytes, held: Held, key: str) -> bytes:
    """A document with the name and the key under which clients know the volume."""
    xml = messages.RemoteStorageVolGetXmlDescRet.from_bytes(payload).xml
    for tag, text in (("name", held.shown), ("key", key)):
        before, opening, rest = xml.partition(f"<{tag}>")
        _, closing, after = rest.partition(f"</{tag}>")
        xml = f"{before}{opening}{escape(text)}{closing}{after}" if closing else xml
    return messages.RemoteStorageVolGetXmlDescRet(xml=xml).to_bytes()


def upload(session: Session, args: Any) -> Awaitable[Transfer]:
    """STORAGE_VOL_UPLOAD."""
    found: Awaitable[Transfer] = session.world.storage.uploads.upload(args)
    return found


def download(session: Session, args: Any) -> Awaitable[Transfer]:
    """STORAGE_VOL_DOWNLOAD."""
    found: Awaitable[Transfer] = session.world.storage.uploads.download(args)
    return found


VOLUMES: dict[str, Handler] = {
    "remote:STORAGE_POOL_LIST_ALL_VOLUMES": list_all,
    "remote:STORAGE_POOL_LIST_VOLUMES": list_names,
    "remote:STORAGE_POOL_NUM_OF_VOLUMES": count,
    "remote:STORAGE_POOL_LOOKUP_BY_VOLUME": pool_of,
    "remote:STORAGE_VOL_LOOKUP_BY_NAME": lookup_by_name,
    "remote:STORAGE_VOL_LOOKUP_BY_KEY": lookup_by_key,
    "remote:STORAGE_VOL_LOOKUP_BY_PATH": lookup_by_path,
    "remote:STORAGE_VOL_CREATE_XML": create,
    "remote:STORAGE_VOL_CREATE_XML_FROM": create_from,
    "remote:STORAGE_VOL_DELETE": delete,
    "remote:STORAGE_VOL_RESIZE": resize,
    "remote:STORAGE_VOL_WIPE": wiping("STORAGE_VOL_WIPE"),
    "remote:STORAGE_VOL_WIPE_PATTERN": wiping("STORAGE_VOL_WIPE_PATTERN"),
    **{
        f"remote:{name}": relayed(name)
        for name in (GET_XML, "STORAGE_VOL_GET_INFO", "STORAGE_VOL_GET_INFO_FLAGS")
    },
    "remote:STORAGE_VOL_GET_PATH": path,
}

VOLUME_STREAMS: dict[str, Handler] = {
    "remote:STORAGE_VOL_UPLOAD": upload,
    "remote:STORAGE_VOL_DOWNLOAD": download,
}


def run_volume_stream(session: Session, call: Call, route: Route) -> None:
    """Up- and download of a volume: at the node that has it."""
    assert route.procedure.args is not None
    args = route.procedure.args.from_bytes(call.payload)
    open_at(session, call, route, VOLUME_STREAMS[route.procedure.full_name](session, args))
