"""What is kept of pools' volumes in memory: rows by name, and each pool's namespace while little of it changes.

Knows what has to be looked at anew; whoever asks looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import attrgetter

from clusterhost.service.volume_calls import Entry
from clusterhost.service.volume_listings import Seen
from clusterhost.service.volume_rows import incomplete, with_copy
from clusterhost.store.rows import VolumeRow
from imagemgr.catalog import Listed
from imagemgr.model import Held, Kind


class Rows:
    """Of one pool, by what is shown."""

    def __init__(self) -> None:
        self._rows: dict[str, VolumeRow] = {}
        self._named: dict[str, set[str]] = {}
        self._unfinished: dict[str, str] = {}

    @property
    def shown(self) -> Mapping[str, VolumeRow]:
        """All of them."""
        return self._rows

    def put(self, row: VolumeRow) -> None:
        """In the place of what was there."""
        self.pop(row.shown)
        self._rows[row.shown] = row
        self._named.setdefault(row.name, set()).add(row.shown)
        if incomplete(row):
            self._unfinished[row.shown] = row.name

    def pop(self, shown: str) -> None:
        """There is none any more."""
        row = self._rows.pop(shown, None)
        if row is not None:
            self._unfinished.pop(shown, None)
            self._named[row.name].discard(shown)
            if not self._named[row.name]:
                del self._named[row.name]

    def named(self, names: Iterable[str]) -> dict[str, VolumeRow]:
        """Those whose files have these names."""
        return {shown: self._rows[shown] for name in names for shown in self._named.get(name, ())}

    def unfinished(self) -> set[str]:
        """Names of files of those that are incomplete: whether somebody still works on one is told by no change."""
        return set(self._unfinished.values())


class Namespace:
    """Of one pool, as it was made of what nodes listed and of rows.  seen: what they listed, as of last time."""

    def __init__(self, seen: Seen, held: Iterable[Held]) -> None:
        self.seen = seen
        self._held = {volume.shown: volume for volume in held}
        self._named: dict[str, set[str]] = {}
        for volume in self._held.values():
            self._named.setdefault(volume.name, set()).add(volume.shown)
        self._sorted: tuple[Held, ...] | None = None
        self._changed: set[str] | None = set()

    @property
    def held(self) -> Mapping[str, Held]:
        """By what is shown, in no order."""
        return self._held

    def all(self) -> tuple[Held, ...]:
        """In the order of what is shown."""
        if self._sorted is None:
            self._sorted = tuple(sorted(self._held.values(), key=attrgetter("shown")))
        return self._sorted

    def named(self, name: str) -> list[Held]:
        """Volumes whose files have this name, in the order of what is shown."""
        return [self._held[shown] for shown in sorted(self._named.get(name, ()))]

    def note(self, name: str) -> None:
        """What is known of files of this name has changed."""
        if self._changed is not None:
            self._changed.add(name)

    def note_all(self) -> None:
        """Something has changed that may concern any."""
        self._changed = None

    @property
    def is_current(self) -> bool:
        """Nothing has changed but perhaps what nodes list."""
        return self._changed is not None and not self._changed

    def older(self, seen: Seen) -> set[str] | None:
        """Names of files that are to be looked at anew, now that nodes list this; None: all."""
        listed = _differing(self.seen, seen)
        return None if self._changed is None or listed is None else self._changed | listed

    def put(self, volume: Held) -> None:
        """What one says of itself has changed; its name has not."""
        self._held[volume.shown] = volume
        self._sorted = None

    def take_out(self, names: Iterable[str]) -> None:
        """All volumes whose files have these names."""
        for name in names:
            for shown in self._named.pop(name, ()):
                del self._held[shown]
        self._sorted = None

    def put_back(self, found: Iterable[Held]) -> None:
        """What these names are now: nothing is to be looked at any more."""
        for volume in found:
            self._named.setdefault(volume.name, set()).add(volume.shown)
            self.put(volume)
        self._changed = set()


def _differing(before: Seen, now: Seen) -> set[str] | None:
    """Names that some node lists now and did not list before, or no longer lists; None when other nodes list them."""
    if before.stamp == now.stamp:
        return set()
    if before.files.keys() != now.files.keys() or before.unsure != now.unsure:
        return None
    return {name for node, files in now.files.items() for name in files.keys() ^ before.files[node].keys()}


def alike(entry: Entry, files: Mapping[str, set[str]]) -> Mapping[str, set[str]]:
    """Files that may be copies of each other.  Devices never are, and may be terabytes to read."""
    return {} if entry.kind is Kind.SHARED or not entry.pool.type.holds_files else files


def sized(known: Mapping[str, Held], listings: Mapping[str, Iterable[Listed]]) -> dict[str, list[Listed]]:
    """A list says no sizes: what is known of one stays."""
    copies = {(volume.name, copy.node): copy for volume in known.values() for copy in volume.copies}
    return {
        node: [
            replace(file, capacity=copy.capacity, allocation=copy.allocation)
            if (copy := copies.get((file.name, node))) is not None
            else file
            for file in files
        ]
        for node, files in listings.items()
    }


def with_digests(held: Held, digests: Mapping[tuple[str, str], bytes]) -> Held:
    """With digests of copies that a node has read only now.  digests: by node and a file's name."""
    for copy in held.copies if digests else ():
        if not copy.digest and (digest := digests.get((copy.node, held.name))):
            held = with_copy(held, replace(copy, digest=digest))
    return held
