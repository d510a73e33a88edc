"""Images of nodes in memory: what a fake machine's libvirtd and agent say of one pool, and one that has it on all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clusterhost.control import imageops
from clusterhost.model.errors import InvalidOperation
from clusterhost.service.images import Images
from clusterhost.service.volumes import Volumes
from compat.libvirt import messages as lv
from imagemgr.model import Kind, Pool, PoolTarget, PoolType
from imagemgr.transfer.orders import ARGUMENTS
from imagemgr.xml import Capacity, read_volume
from tests.support.clusters import Front
from tests.support.fakelibvirt import Machine, Refused

POOL = b"P" * 16
DIRECTORY = "/images"
LOCAL = Pool(PoolType.DIR, "default", POOL, target=PoolTarget(DIRECTORY))


@dataclass
class File:
    """size: bytes that it takes; backing: path of what it is an overlay of."""

    content: str
    size: int = 1 << 20
    backing: str = ""

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.content.encode()).digest()


@dataclass
class Shelf:
    """A node's directory.  refuses: what its agent says of every fetch; meanwhile: done in the middle of one;
    parts: what is left of some; used: seconds of the clock when its files were read last."""

    machine: Machine
    files: dict[str, File] = field(default_factory=dict)
    free: int = 1 << 40
    refuses: str = ""
    meanwhile: Callable[[], None] = lambda: None
    fetched: list[str] = field(default_factory=list)
    sources: list[list[str]] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    used: float = 0.0

    def __post_init__(self) -> None:
        for name in ("list_all_volumes", "refresh", "get_info"):
            setattr(self.machine, f"do_storage_pool_{name}", getattr(self, name))
        for name in ("get_info", "get_xml_desc", "delete", "create_xml"):
            setattr(self.machine, f"do_storage_vol_{name}", getattr(self, f"vol_{name}"))
        usual = self.machine.operate
        self.machine.operate = lambda kind, args: (  # type: ignore[method-assign]
            self.operate(kind, args) if kind in imageops.KINDS else usual(kind, args)
        )

    def list_all_volumes(self, args: Any) -> lv.RemoteStoragePoolListAllVolumesRet:
        found = [lv.RemoteNonnullStorageVol("default", name, f"{DIRECTORY}/{name}") for name in self.files]
        return lv.RemoteStoragePoolListAllVolumesRet(found, len(found))

    def refresh(self, args: Any) -> None:
        return None

    def get_info(self, args: Any) -> lv.RemoteStoragePoolGetInfoRet:
        return lv.RemoteStoragePoolGetInfoRet(2, self.free, 0, self.free)

    def vol_get_info(self, args: Any) -> lv.RemoteStorageVolGetInfoRet:
        size = self._file(args.vol.name).size
        return lv.RemoteStorageVolGetInfoRet(0, size, size)

    def vol_get_xml_desc(self, args: Any) -> lv.RemoteStorageVolGetXmlDescRet:
        file = self._file(args.vol.name)
        backing = file.backing
        below = (
            f"<backingStore><path>{backing}</path><format type='qcow2'/></backingStore>" if backing else ""
        )
        return lv.RemoteStorageVolGetXmlDescRet(
            f"<volume type='file'><name>{args.vol.name}</name><capacity>1</capacity>"
            f"<allocation>{file.size}</allocation>"
            f"<target><path>{DIRECTORY}/{args.vol.name}</path><format type='qcow2'/>"
            f"<timestamps><atime>{self.used}</atime></timestamps></target>{below}</volume>"
        )

    def vol_create_xml(self, args: Any) -> lv.RemoteStorageVolCreateXmlRet:
        """Nothing is in it yet."""
        asked = read_volume(args.xml, PoolType.DIR, Capacity.FREE)
        if asked.name in self.files:
            raise Refused(f"storage volume '{asked.name}' exists already")
        backing = asked.backing.path if asked.backing is not None else ""
        if backing and backing.rpartition("/")[2] not in self.files:
            raise Refused(f"there is no backing file {backing}")
        self.files[asked.name] = File("", backing=backing)
        return lv.RemoteStorageVolCreateXmlRet(lv.RemoteNonnullStorageVol("default", asked.name, ""))

    def vol_delete(self, args: Any) -> None:
        self._file(args.vol.name)
        del self.files[args.vol.name]

    def _file(self, name: str) -> File:
        if name not in self.files:
            raise Refused(f"no storage vol with matching name '{name}'")
        return self.files[name]

    def operate(self, kind: str, args: bytes) -> bytes:
        order = msgspec.msgpack.decode(args, type=ARGUMENTS[kind])
        if isinstance(order, imageops.DigestArgs):
            names = [path.rpartition("/")[2] for path in order.paths]
            return _pack([self.files[name].digest if name in self.files else b"" for name in names])
        if isinstance(order, imageops.PartsArgs):
            return _pack([imageops.Part(name, 2 * done, done, b"d") for name, done in self.parts.items()])
        name = order.path.rpartition("/")[2]
        if isinstance(order, imageops.RemoveArgs):
            return _pack(self.parts.pop(name, None))
        if isinstance(order, imageops.OfferArgs):
            if order.digest:
                return _pack(imageops.Offered(order.size, order.digest, self.machine.name, 1, b"f", b"t"))
            file = self._file(name)
            return _pack(imageops.Offered(file.size, file.digest, self.machine.name, 1, b"f", b"t"))
        assert isinstance(order, imageops.FetchArgs)
        return self.fetch(name, order)

    def fetch(self, name: str, order: imageops.FetchArgs) -> bytes:
        if self.refuses:
            raise InvalidOperation(self.refuses)
        source = self.machine.world[order.sources[0].node].shelf  # type: ignore[attr-defined]
        there = self.files.get(name)
        local = [self.files.get(path.rpartition("/")[2]) for path in order.local]
        had = any(file is not None and file.digest == order.digest for file in (there, *local))
        received = 0 if had else order.size
        assert order.replace or there is None
        self.files[name] = File(source.files[name].content, order.size, source.files[name].backing)
        self.fetched.append(name)
        self.sources.append([each.node for each in order.sources])
        self.parts.pop(name, None)
        self.meanwhile()
        return _pack(imageops.Fetched(order.size, order.digest, received, 0.1))


_pack = msgspec.msgpack.encode


@dataclass(frozen=True)
class OnePool:
    """A pool as service.pools has it."""

    name: str = "default"
    uuid: bytes = POOL
    active: bool = True
    pool: Pool = LOCAL
    kind: Kind = Kind.LOCAL


@dataclass
class OnePools:
    """service.volumes.Pools of the one pool that all nodes have.  stopped: nodes where it is not active."""

    front: Front
    entry: OnePool = field(default_factory=OnePool)
    stopped: set[str] = field(default_factory=set)

    def all(self) -> Iterable[OnePool]:
        return [self.entry]

    def by_name(self, name: str) -> OnePool:
        return self.entry

    def by_uuid(self, uuid: bytes) -> OnePool:
        return self.entry

    def nodes(self, uuid: bytes) -> list[str]:
        cells = self.front.world.cluster.cells()
        return [node.name for node in cells if node.usable and node.name not in self.stopped]

    def problem(self, uuid: bytes, node: str) -> str:
        return "is not active there" if node in self.stopped else ""

    def handle_at(self, uuid: bytes, node: str) -> lv.RemoteNonnullStoragePool:
        return lv.RemoteNonnullStoragePool("default", uuid)


@dataclass
class Stocked:
    """A cluster with one pool: shelves by node, and the use cases over them."""

    front: Front
    shelves: dict[str, Shelf]
    pools: OnePools
    volumes: Volumes
    images: Images

    def put(self, node: str, name: str, content: str = "one", **more: Any) -> None:
        """A file appears at a node."""
        self.shelves[node].files[name] = File(content, **more)
        self.volumes.listings.forget(POOL)

    def content(self, node: str, name: str) -> str:
        file = self.shelves[node].files.get(name)
        return file.content if file is not None else ""


def stock(front: Front) -> Stocked:
    """Shelves for the machines of a cluster that has started; again after it has started anew."""
    shelves = {}
    for name, machine in front.machines.items():
        kept = getattr(machine, "shelf", None)
        machine.shelf = shelves[name] = kept or Shelf(machine)  # type: ignore[attr-defined]
    world = front.world
    pools = OnePools(front)
    volumes = Volumes(world.context, pools)
    volumes.load()
    images = Images(world.context, pools, volumes, world.jobs)
    world.context.images = images
    world.inventory.followers.append(images.last_use)
    return Stocked(front, shelves, pools, volumes, images)
