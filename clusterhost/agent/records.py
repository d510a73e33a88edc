"""Networks that this node's libvirtd shall have, durably: a file for each.  Knows neither libvirt nor XML."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True):
    """One network.  uuid: as text; serial: of the order; xml: its whole document."""

    uuid: str
    name: str
    serial: int
    xml: str


class Records:
    """The files in a directory, which is made with the first.  A change is on the disk when its method returns;
    OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known = {record.uuid: record for record in self._load()}

    def all(self) -> list[Record]:
        """All of them."""
        return list(self._known.values())

    def get(self, uuid: str) -> Record | None:
        """None for one that is not to be there."""
        return self._known.get(uuid)

    def put(self, record: Record) -> None:
        """Add or replace one."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(record.uuid)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._sync()
        self._known[record.uuid] = record

    def drop(self, uuid: str) -> None:
        """It is not to be there any more."""
        self._known.pop(uuid, None)
        self._path(uuid).unlink(missing_ok=True)
        self._sync()

    def _path(self, uuid: str) -> Path:
        return self._directory / f"{uuid}.json"

    def _load(self) -> list[Record]:
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
            except msgspec.MsgspecError:
                # The front end tells it again when it finds this node.
                log.error("%s is no record of a network; it is left as it is", path)
        return found

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
