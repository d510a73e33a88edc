"""Storage of nodes in memory, as much of libvirtd and of an agent as volumes need; and pools that are on all nodes."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, DeadlinePassed, NodeUnreachable
from clusterhost.service.ports import Answer
from compat.libvirt import messages as lv
from compat.libvirt.constants import VIR_ERR_NO_STORAGE_VOL, VIR_ERR_OPERATION_FAILED
from compat.libvirt.schema import PROCEDURES
from imagemgr.model import Kind, Pool, PoolTarget, PoolType

POOL = bytes(range(16))
DIRECTORY = "/pool"


@dataclass(frozen=True)
class Entry:
    """service.volume_calls.Entry"""

    name: str = "p"
    uuid: bytes = POOL
    active: bool = True
    kind: Kind = Kind.LOCAL
    type: PoolType = PoolType.DIR

    @property
    def pool(self) -> Pool:
        return Pool(self.type, self.name, self.uuid, target=PoolTarget(DIRECTORY))


@dataclass
class Pools:
    """One pool.  on: nodes that have it."""

    on: list[str]
    entry: Entry = Entry()

    def all(self) -> list[Entry]:
        return [self.entry]

    def by_name(self, name: str) -> Entry:
        return self.entry

    def by_uuid(self, uuid: bytes) -> Entry:
        return self.entry

    def nodes(self, uuid: bytes) -> list[str]:
        return self.on

    def problem(self, uuid: bytes, node: str) -> str:
        return "" if node in self.on else "it was stopped there"

    def handle_at(self, uuid: bytes, node: str) -> lv.RemoteNonnullStoragePool:
        return lv.RemoteNonnullStoragePool("p", uuid)


class Refused(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.error = lv.VirNetMessageError(code, 18, text, 2, None, "%s", text, None, -1, -1, None)


@dataclass
class Storage:
    """files: what is on each node; known: what its libvirtd lists, when that is something else.  done: calls that were
    carried out, as node and procedure.  broken: (node, procedure) that the node does not live through.  hidden: nodes
    whose agent does not read files; late: whose libvirtd answers too late.  keys: of a volume at a node, and what paths
    are there, where they do not say its name; expects: the only name that a new one may have there."""

    files: dict[str, dict[str, bytes]]
    room: dict[str, int] = field(default_factory=dict)
    known: dict[str, set[str]] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    broken: set[tuple[str, str]] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    documents: dict[tuple[str, str], str] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    paths: dict[tuple[str, str], str] = field(default_factory=dict)
    expects: dict[str, str] = field(default_factory=dict)
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reading.set()

    def count(self, procedure: str) -> int:
        return sum(name == procedure for _, name in self.done)

    async def call(self, node: str, program: int, number: int, payload: bytes, **_: Any) -> Answer:
        procedure = PROCEDURES[program, number]
        await asyncio.sleep(0)
        if node in self.silent:
            await asyncio.Event().wait()
        if node in self.away:
            raise NodeUnreachable(f"node {node} is out of reach")
        self.done.append((node, procedure.name))
        if node in self.late:
            raise DeadlinePassed(f"node {node} did not answer")
        assert procedure.args is not None
        try:
            answer = getattr(self, procedure.name.lower())(node, procedure.args.from_bytes(payload))
        except Refused as error:
            return Answer(False, error.error.to_bytes())
        if (node, procedure.name) in self.broken:
            raise NodeUnreachable(f"node {node} went away")
        return Answer(True, answer.to_bytes() if answer is not None else b"")

    async def operate(self, node: str, kind: str, args: bytes, **_: Any) -> bytes:
        assert kind == imageops.DIGEST
        self.done.append((node, kind))
        await self.reading.wait()
        if node in self.hidden:
            raise ClusterError("not known")
        asked = msgspec.msgpack.decode(args, type=imageops.DigestArgs)
        names = [path.removeprefix(f"{DIRECTORY}/") for path in asked.paths]
        if any(name.startswith("directory") for name in names):
            raise ClusterError("it is a directory")
        return msgspec.msgpack.encode([self.files[node].get(name, b"") for name in names])

    def _find(self, node: str, vol: lv.RemoteNonnullStorageVol) -> bytes:
        if vol.name not in self.files[node]:
            raise Refused(VIR_ERR_NO_STORAGE_VOL, f"no storage vol with matching name '{vol.name}'")
        return self.files[node][vol.name]

    def storage_pool_list_all_volumes(self, node: str, args: Any) -> Any:
        names = self.known.get(node, set(self.files[node]))
        vols = [
            lv.RemoteNonnullStorageVol("p", name, self.keys.get((node, name), f"{DIRECTORY}/{name}"))
            for name in names
        ]
        return lv.RemoteStoragePoolListAllVolumesRet(vols, len(vols))

    def storage_vol_lookup_by_path(self, node: str, args: Any) -> Any:
        if (name := self.paths.get((node, args.path))) is None:
            raise Refused(VIR_ERR_NO_STORAGE_VOL, f"no storage vol with matching path '{args.path}'")
        return lv.RemoteStorageVolLookupByPathRet(lv.RemoteNonnullStorageVol("p", name, "key"))

    def storage_pool_refresh(self, node: str, args: Any) -> None:
        self.known.pop(node, None)

    def storage_pool_get_info(self, node: str, args: Any) -> Any:
        return lv.RemoteStoragePoolGetInfoRet(2, 100, 0, self.room.get(node, 0))

    def storage_vol_get_info(self, node: str, args: Any) -> Any:
        size = len(self._find(node, args.vol))
        return lv.RemoteStorageVolGetInfoRet(0, size, size)

    def storage_vol_get_xml_desc(self, node: str, args: Any) -> Any:
        """As it was made: of an overlay, its backing file."""
        self._find(node, args.vol)
        usual = f"<volume><name>{args.vol.name}</name><target><format type='raw'/></target></volume>"
        return lv.RemoteStorageVolGetXmlDescRet(self.documents.get((node, args.vol.name), usual))

    def storage_vol_create_xml(self, node: str, args: Any) -> Any:
        found = re.search("<name>(.*)</name>", args.xml)
        if found is None or "bad" in args.xml:
            raise Refused(VIR_ERR_OPERATION_FAILED, "what libvirtd says")
        if self.expects.get(node, found[1]) != found[1]:
            raise Refused(
                VIR_ERR_OPERATION_FAILED, f"invalid partition name, expected '{self.expects[node]}'"
            )
        self.files[node][found[1]] = b"new"
        self.documents[node, found[1]] = args.xml
        vol = lv.RemoteNonnullStorageVol("p", found[1], f"{DIRECTORY}/{found[1]}")
        return lv.RemoteStorageVolCreateXmlRet(vol)

    def storage_vol_create_xml_from(self, node: str, args: Any) -> Any:
        content = self._find(node, args.clonevol)
        made = self.storage_vol_create_xml(node, args)
        self.files[node][made.vol.name] = content
        return made

    def storage_vol_delete(self, node: str, args: Any) -> None:
        self._find(node, args.vol)
        del self.files[node][args.vol.name]
        self.documents.pop((node, args.vol.name), None)

    def storage_vol_wipe(self, node: str, args: Any) -> None:
        self.files[node][args.vol.name] = bytes(len(self._find(node, args.vol)))

    def storage_vol_resize(self, node: str, args: Any) -> None:
        self.files[node][args.vol.name] = self._find(node, args.vol).ljust(args.capacity, b"\0")
