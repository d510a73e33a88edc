"""What is done to volumes of a fake cluster and broken off: deeds, who goes in the middle, what must be true then."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, NodeUnreachable
from clusterhost.service.volume_work import VolumeWork
from compat.libvirt import messages as lv
from compat.libvirt.schema import PROCEDURES
from imagemgr.model import CopyState
from tests.support.clusters import ANYONE, Front
from tests.support.fakelibvirt import Refused
from tests.support.image_calls import ask, stocked_in
from tests.support.shelves import DIRECTORY, POOL, File, Shelf, Stocked

XML = "<volume><name>{}</name><capacity>1048576</capacity>{}</volume>"
OVERLAY = XML.format("{}", "<target><format type='qcow2'/></target>")
WIPED = "zeros"


def stocked_making(front: Front) -> Stocked:
    """A cluster whose nodes can also make, clone and wipe volumes."""
    stocked = stocked_in(front)
    for shelf in stocked.shelves.values():
        _making(shelf)
    return stocked


def _making(shelf: Shelf) -> None:
    def make(xml: str, content: str) -> lv.RemoteNonnullStorageVol:
        found, backing = re.search("<name>(.*)</name>", xml), re.search("<path>(.*)</path>", xml)
        assert found is not None
        if found[1] in shelf.files:
            raise Refused(f"storage volume '{found[1]}' exists already")
        shelf.files[found[1]] = File(content, backing=backing[1] if backing else "")
        return lv.RemoteNonnullStorageVol("default", found[1], f"{DIRECTORY}/{found[1]}")

    def create(args: Any) -> Any:
        return lv.RemoteStorageVolCreateXmlRet(make(args.xml, "empty"))

    def create_from(args: Any) -> Any:
        content = shelf.files[args.clonevol.name].content
        return lv.RemoteStorageVolCreateXmlFromRet(make(args.xml, content))

    def wipe(args: Any) -> None:
        if args.vol.name not in shelf.files:
            raise Refused(f"no storage vol with matching name '{args.vol.name}'")
        shelf.files[args.vol.name].content = WIPED

    def resize(args: Any) -> None:
        shelf.files[args.vol.name].content += " and more"

    for name, call in {
        "create_xml": create,
        "create_xml_from": create_from,
        "wipe": wipe,
        "resize": resize,
    }.items():
        setattr(shelf.machine, f"do_storage_vol_{name}", call)


# -- deeds


def _work(stocked: Stocked) -> VolumeWork:
    work = stocked.front.world.storage.volume_work
    assert isinstance(work, VolumeWork)
    return work


async def create(stocked: Stocked) -> None:
    await _work(stocked).create(ANYONE, POOL, XML.format("new", ""), 0)


async def clone(stocked: Stocked) -> None:
    await _work(stocked).clone(ANYONE, POOL, XML.format("new", ""), (POOL, "base"), 0)


async def link(stocked: Stocked) -> None:
    work = _work(stocked)
    entry = stocked.pools.entry
    await work.clones.set_linked(ANYONE, entry, True)
    await work.clone(ANYONE, POOL, OVERLAY.format("new"), (POOL, "base"), 0)


async def delete(stocked: Stocked) -> None:
    await _work(stocked).delete(ANYONE, POOL, "base", 0)


async def wipe(stocked: Stocked) -> None:
    def call(vol: lv.RemoteNonnullStorageVol) -> tuple[str, lv.RemoteStorageVolWipeArgs]:
        return "STORAGE_VOL_WIPE", lv.RemoteStorageVolWipeArgs(vol, 0)

    await _work(stocked).wipe(ANYONE, POOL, "base", call)


async def resize(stocked: Stocked) -> None:
    await _work(stocked).resize(ANYONE, POOL, "base", 1 << 21, 0)


async def distribute(stocked: Stocked) -> None:
    rows = await ask(stocked.front, "distribute", image="base")
    assert all(row["ok"] for row in rows), rows


async def evict(stocked: Stocked) -> None:
    rows = await ask(stocked.front, "evict", image="base", nodes=["n2"])
    assert not any(row["reason"] for row in rows), rows


@dataclass(frozen=True)
class Deed:
    """base: what the volume of that name may hold afterwards; there: it must be; done: why a second one is refused;
    cut: it may be left incomplete."""

    work: Callable[[Stocked], Awaitable[None]]
    base: frozenset[str] = frozenset({"one"})
    new: frozenset[str] = frozenset()
    there: bool = True
    done: str = "never"
    cut: bool = False


DEEDS: Mapping[str, Deed] = {
    "create": Deed(create, new=frozenset({"empty"}), done="exists already"),
    "clone": Deed(clone, new=frozenset({"one"}), done="already in use"),
    "linked clone": Deed(link, new=frozenset({"empty"}), done="already in use"),
    "delete": Deed(delete, there=False, done="no storage vol with matching name"),
    "wipe": Deed(wipe, base=frozenset({"one", WIPED}), cut=True),
    "resize": Deed(resize, base=frozenset({"one", "one and more", "one and more and more"})),
    "distribute": Deed(distribute),
    "evict": Deed(evict, done="has no copy"),
}


# -- who goes in the middle

CHANGING = frozenset(
    {f"STORAGE_VOL_{name}" for name in ("CREATE_XML", "CREATE_XML_FROM", "DELETE", "WIPE", "RESIZE")}
    | {imageops.FETCH}
)
"""Words to a node after which it is not as it was."""


@dataclass
class Break:
    """The front end, or the node, goes at the turn-th word that changes a node: before that is heard, or once it is
    carried out and nobody has been told.  reached: the node, once it has."""

    front: Front
    turn: int
    heard: bool
    victim: str
    reached: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        nodes = self.front.nodes
        call, operate = nodes.call, nodes.operate

        async def calling(node: str, program: int, procedure: int, payload: bytes, **more: Any) -> Any:
            word = PROCEDURES[program, procedure].name
            return await self._at(node, word, lambda: call(node, program, procedure, payload, **more))

        async def operating(node: str, kind: str, args: bytes, **more: Any) -> Any:
            return await self._at(node, kind, lambda: operate(node, kind, args, **more))

        nodes.call, nodes.operate = calling, operating  # type: ignore[method-assign]

    async def _at(self, node: str, word: str, act: Callable[[], Awaitable[Any]]) -> Any:
        if word not in CHANGING or self.reached.done():
            return await act()
        self.turn -= 1
        if self.turn >= 0:
            return await act()
        if self.heard:
            await act()
        self.reached.set_result(node)
        if self.victim == "front":
            self.front.nodes.kill()
            await asyncio.Event().wait()
        self.front.cut(node)
        raise NodeUnreachable(f"node {node} went away")


# -- what must be true


async def check(stocked: Stocked, deed: Deed) -> None:
    """What is listed is whole, and every copy that counts as the newest holds the same."""
    stocked.volumes.listings.forget(POOL)
    allowed = {"base": deed.base, "new": deed.new}
    for held in await stocked.volumes.listed(POOL):
        current = [
            stocked.content(copy.node, held.name)
            for copy in held.copies
            if copy.state is CopyState.WHOLE and copy.generation == held.generation
        ]
        assert current, held
        assert set(current) <= allowed[held.shown], held
        assert len(set(current)) == 1, f"two newest ones that differ: {held}"
        assert stocked.content(await stocked.volumes.node_for(POOL, held), held.name) == current[0]
    if deed.there:
        await stocked.volumes.by_name(POOL, "base")


async def mended(stocked: Stocked, deed: Deed) -> None:
    """`image verify --repair` leaves nothing but what only a client can make whole; the next one finds nothing else."""
    for repair in (True, False):
        told = await ask(stocked.front, "verify", pool="default", repair=repair, again=not repair)
        left = [(found["image"], found["problem"]) for found in told["findings"] if not found["mended"]]
        assert left in ([], [("base", "incomplete")] if deed.cut else [])
    if not left:
        await no_orphans(stocked)


async def no_orphans(stocked: Stocked) -> None:
    """Every file is a copy of a volume that is listed."""
    stocked.volumes.listings.forget(POOL)
    known = {
        (copy.node, held.name)
        for held in await stocked.volumes.listed(POOL)
        for copy in held.copies
        if copy.state in (CopyState.WHOLE, CopyState.STALE)
    }
    files = {(node, name) for node, shelf in stocked.shelves.items() for name in shelf.files}
    assert files == known
    assert not any(shelf.parts for shelf in stocked.shelves.values())


async def again(stocked: Stocked, deed: Deed) -> None:
    """The same once more: it is done, or was."""
    try:
        await deed.work(stocked)
    except ClusterError as error:
        if deed.done not in str(error):
            raise
    await no_orphans(stocked)
