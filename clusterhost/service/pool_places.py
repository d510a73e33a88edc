"""Which node has which pool of the cluster, under what uuid, and whether we made it there.  Knows rows alone.

On record before a node is asked to define it: a crash in between leaves what is ours known as ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from clusterhost.service.ledger import Ledger
from clusterhost.store.rows import SetMeta
from imagemgr.model import Pool

PLACES = "pools at "
"""What the store calls a node's: uuid in hex -> the uuid there, whether we made it, the serial that it was told."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pool at a node.  uuid: that node's; made: by us, so that we may take it away; serial: of what it last
    did, -1 for nothing yet."""

    uuid: bytes
    made: bool
    serial: int = -1


class Places:
    """By pool and node."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._read: dict[str, tuple[str, Mapping[bytes, Place]]] = {}

    def at(self, node: str) -> Mapping[bytes, Place]:
        """All of a node.  Asked in each call about a pool or a volume, so a text is read once."""
        text = self._ledger.meta.get(PLACES + node, "")
        known = self._read.get(node)
        if known is None or known[0] != text:
            kept = json.loads(text) if text else {}
            places = {
                bytes.fromhex(key): Place(bytes.fromhex(uuid), bool(made), serial)
                for key, (uuid, made, serial) in kept.items()
            }
            known = self._read[node] = text, MappingProxyType(places)
        return known[1]

    def find(self, uuid: bytes, node: str) -> Place | None:
        """None where the node is not known to have it."""
        return self.at(node).get(uuid)

    async def keep(self, uuid: bytes, node: str, place: Place) -> None:
        """Durable when it returns."""
        if self.find(uuid, node) != place:
            await self._ledger.commit(self._put(node, {**self.at(node), uuid: place}))

    def drop(self, uuid: bytes, node: str) -> None:
        """The node has it no more."""
        kept = {key: place for key, place in self.at(node).items() if key != uuid}
        if len(kept) < len(self.at(node)):
            self._ledger.note(self._put(node, kept))

    def forget(self, node: str) -> None:
        """It is out of the cluster."""
        if self.at(node):
            self._ledger.note(SetMeta(PLACES + node, ""))

    @staticmethod
    def _put(node: str, places: Mapping[bytes, Place]) -> SetMeta:
        kept = {key.hex(): [place.uuid.hex(), place.made, place.serial] for key, place in places.items()}
        return SetMeta(PLACES + node, json.dumps(kept, sort_keys=True))


def differences(ours: Pool, found: Pool) -> Iterator[str]:
    """Why a node's pool of the same name is another: type, target, or where it gets its room from.

    Devices are not asked: a volume group's are shown once it is active."""
    if ours.type is not found.type:
        yield f"type {found.type}, not {ours.type}"
    elif ours.target.path != found.target.path:
        yield f"target {found.target.path}, not {ours.target.path}"
    elif _source(ours) != _source(found):
        yield "another source"


def _source(pool: Pool) -> tuple[object, ...]:
    source = pool.source
    return (source.hosts, source.dir, source.name, source.iqn, source.adapter)
