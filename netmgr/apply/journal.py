"""What this node was told to have, durably: a file for each network, a line for each change.  Knows no kernel.

The first line is a whole network; each later one a guest that came, changed or went, so that a change costs one line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from msgspec import structs

from netmgr.changes import NetworkChange
from netmgr.wanted import GuestGone, WantedGuest, WantedNetwork

log = logging.getLogger(__name__)

_SPARE = 200
"""Lines beyond twice the guests before a file is written anew."""


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    network: WantedNetwork | None = None
    guest: WantedGuest | None = None
    gone: GuestGone | None = None
    change: NetworkChange | None = None
    removed: bool = False


@dataclass(slots=True)
class Kept:
    """A network (its own guests left out), its guests by key, the newest serial; removed: it shall go.

    version: serial of what last changed the network itself."""

    network: WantedNetwork
    guests: dict[str, WantedGuest] = field(default_factory=dict)
    serial: int = 0
    removed: bool = False
    lines: int = 1
    version: int = 0

    @classmethod
    def of(cls, wanted: WantedNetwork) -> Kept:
        """As the front end tells it."""
        serial = max([wanted.serial, *(guest.serial for guest in wanted.guests)])
        return cls(structs.replace(wanted, guests=()), dict(wanted.by_key()), serial, version=wanted.serial)

    def change(self, change: WantedGuest | GuestGone) -> None:
        """Take over one guest's change."""
        self.lines += 1
        self.serial = max(self.serial, change.serial)
        if isinstance(change, GuestGone):
            self.guests.pop(change.key, None)
        else:
            self.guests[change.key] = change

    def after(self, change: NetworkChange) -> Kept:
        """As it is with a change; what is said of a guest that is known to be otherwise since then is left out."""
        network = self.network if change.dns is None else structs.replace(self.network, dns=change.dns)
        found = replace(self, network=network, guests=dict(self.guests), version=change.serial)
        found.serial = max(self.serial, change.serial)
        for guest in change.about:
            old = self.guests.get(guest.key)
            if old is None or old.serial <= guest.serial:
                found.change(guest)
        found.lines = self.lines + 1
        return found

    def take_back(self, key: str, old: WantedGuest | None) -> None:
        """As it was before a guest's change."""
        self.guests.pop(key, None)
        if old is not None:
            self.guests[key] = old

    @property
    def whole(self) -> WantedNetwork:
        """The network with its guests."""
        return structs.replace(self.network, guests=tuple(self.guests.values()), serial=self.serial)


class Journal:
    """The files in a directory.  Every method that changes one returns when it is on the disk; OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(_Line).decode

    def load(self) -> dict[str, Kept]:
        """Every network by uuid; a file that has no readable first line is left alone and reported."""
        found = {}
        for path in sorted(self._directory.glob("*.network")):
            kept = self._read(path)
            if kept is None:
                log.error("%s does not begin with a network; it is left as it is", path)
            else:
                found[path.stem] = kept
        return found

    def write(self, kept: Kept) -> None:
        """Write a network anew as a whole."""
        path = self._path(kept.network.uuid)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(self._encode(_Line(network=kept.whole)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._sync()
        kept.lines = 1 + len(kept.guests)

    def append(self, kept: Kept, change: WantedGuest | GuestGone | NetworkChange) -> None:
        """Add a change, which `kept` has already."""
        if kept.lines > 2 * len(kept.guests) + _SPARE:
            self.write(kept)
        else:
            self._add(kept.network.uuid, _line(change))

    def mark_removed(self, uuid: str) -> None:
        """The network shall go: what is left of it is removed, now or after a crash."""
        self._add(uuid, _Line(removed=True))

    def drop(self, uuid: str) -> None:
        """It is gone."""
        self._path(uuid).unlink(missing_ok=True)
        self._sync()

    def _path(self, uuid: str) -> Path:
        return self._directory / f"{uuid}.network"

    def _add(self, uuid: str, line: _Line) -> None:
        with self._path(uuid).open("r+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() and not self._ends_whole(file.fileno(), file.tell()):
                file.write(b"\n")  # after a line that a crash cut off
            file.write(self._encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _ends_whole(descriptor: int, size: int) -> bool:
        return os.pread(descriptor, 1, size - 1) == b"\n"

    def _read(self, path: Path) -> Kept | None:
        kept: Kept | None = None
        for line in self._lines(path):
            if line.network is not None:
                kept = Kept.of(line.network)
                kept.lines = 1 + len(kept.guests)
            elif kept is None:
                return None
            elif line.change is not None:
                kept = kept.after(line.change)
            elif (change := line.guest or line.gone) is not None:
                kept.change(change)
            elif line.removed:
                kept.removed = True
        return kept

    def _lines(self, path: Path) -> Iterator[_Line]:
        for text in path.read_bytes().splitlines():
            try:
                yield self._decode(text)
            except msgspec.MsgspecError:
                # Cut off by a crash, so nobody was told that it holds.
                log.warning("%s has a line that cannot be read", path)

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(change: WantedGuest | GuestGone | NetworkChange) -> _Line:
    if isinstance(change, NetworkChange):
        return _Line(change=change)
    return _Line(gone=change) if isinstance(change, GuestGone) else _Line(guest=change)
