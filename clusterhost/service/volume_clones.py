"""Clones that are overlays: which pools have them, and the document of such a one.  Makes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterhost.model.errors import InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_chains import Chains, Link
from clusterhost.service.image_uses import refuse_written
from clusterhost.service.ports import Caller
from clusterhost.service.volume_calls import Entry, VolumeCalls
from clusterhost.store.rows import SetMeta
from compat.xmldoc import XmlDocument
from imagemgr.chains import DEEPEST
from imagemgr.errors import ImageError
from imagemgr.formats import RAW
from imagemgr.model import Held, PoolType
from imagemgr.names import path_of
from imagemgr.xml import Capacity, read_volume

CLONES = "pool clones "
"""Before a pool's uuid in the store: linked, full, or "" where nobody has said."""
LINKED, FULL = "linked", "full"

COPIES = 1 | 2
"""VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA, _REFLINK: who asks for either wants bytes of their own."""
VALIDATE = 4
"""VIR_STORAGE_VOL_CREATE_VALIDATE"""

TYPES = frozenset({PoolType.DIR, PoolType.FS, PoolType.NETFS})
QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class Overlay:
    """What is made instead of a full copy.  chain: of the base, which is its first."""

    xml: str
    chain: tuple[Link, ...]


class Clones:
    """Asks nodes of the source; keeps what pools were told."""

    def __init__(self, context: Context, chains: Chains, calls: VolumeCalls) -> None:
        self._context = context
        self._chains = chains
        self._calls = calls

    # -- the setting

    def linked(self, entry: Entry) -> bool:
        """Whether clones within it are overlays: as it was told, else as the configuration says."""
        told = self._context.ledger.meta.get(CLONES + entry.uuid.hex(), "")
        wanted = told == LINKED if told else self._context.settings.images.linked_clones
        return wanted and entry.pool.type in TYPES

    async def set_linked(self, caller: Caller, entry: Entry, on: bool) -> None:
        """From now on; clones that there are stay what they are.  InvalidOperation."""
        if on and entry.pool.type not in TYPES:
            types = ", ".join(sorted(TYPES))
            raise InvalidOperation(
                f"pool '{entry.name}' is of type {entry.pool.type}; linked clones are for {types}"
            )
        ledger, word = self._context.ledger, LINKED if on else FULL
        line = ledger.journal("set pool", entry.name, caller.who, f"{word} clones")
        await ledger.commit(SetMeta(CLONES + entry.uuid.hex(), word), line)

    # -- a clone

    async def overlay(
        self, entry: Entry, origin: Entry, held: Held, node: str, xml: str, flags: int
    ) -> Overlay | None:
        """None: a full copy is made.  node: one that has the source.  InvalidOperation: the chain would be too long;
        NodeUnreachable."""
        if entry.uuid != origin.uuid or flags & COPIES or not self.linked(entry):
            return None
        try:
            asked = read_volume(xml, entry.pool.type, Capacity.FREE)
        except ImageError:
            return None  # a node's libvirtd says what is wrong with it
        document = XmlDocument.parse(xml)
        form = document.text("string(/volume/target/format/@type)")
        if form not in ("", QCOW2) or asked.target.encryption is not None:
            return None
        source = await self._chains.described(entry.uuid, held)
        if source.format not in (RAW, QCOW2) or source.encrypted:
            return None
        chain = await self._chains.chain(entry.uuid, held)
        if len(chain) >= DEEPEST:
            raise InvalidOperation(
                f"volume '{held.shown}' has {len(chain)} images in its chain, no more can be"
            )
        capacity, _ = await self._calls.size(node, entry.name, held.name)
        path = path_of(entry.pool.target.path, held.name)
        return Overlay(_written(document, path, chain[0].format, max(capacity, asked.capacity)), chain)

    async def refuse_written(self, entry: Entry, held: Held, nodes: Sequence[str]) -> None:
        """InvalidOperation: the base would change under its overlay."""
        path = path_of(entry.pool.target.path, held.name)
        await refuse_written(self._context, held.shown, entry.name, path, nodes)


def forgotten(uuid: bytes) -> SetMeta:
    """The pool is no more."""
    return SetMeta(CLONES + uuid.hex(), "")


def _written(document: XmlDocument, path: str, form: str, capacity: int) -> str:
    """The client's document, for an overlay: what it says of permissions and features stays."""
    for gone in ("capacity", "allocation", "backingStore", "target/format"):
        document.remove(gone)
    if document.find("target") is None:
        document.insert(".", "<target/>")
    document.insert("target", "<format/>").set("type", QCOW2)
    document.insert(".", "<allocation>0</allocation>")
    document.insert(".", f"<capacity unit='bytes'>{capacity}</capacity>")
    document.insert(".", "<backingStore><path/><format/></backingStore>")
    document.set_text("backingStore/path", path)
    document.set_attribute("backingStore/format", "type", form)
    return document.to_string()
