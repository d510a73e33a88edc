"""A node's own networks that stand in the way of the cluster's: kept in a file while it is a member, then put back.

Takes a connection as libvirt-python makes it, but does not import that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from netmgr.apply import shadow


class Kept(msgspec.Struct, frozen=True):
    """One network as it was: its definition, whether it was active and started by itself."""

    name: str
    xml: str
    active: bool
    autostart: bool


class OwnNetwork(shadow.LibvirtNetwork, Protocol):
    """What we need of libvirt.virNetwork beside what a shadow needs."""

    def autostart(self) -> int: ...
    def setAutostart(self, autostart: int) -> int: ...  # noqa: N802 -- libvirt's name


class Connection(Protocol):
    """What we need of libvirt.virConnect."""

    def listAllNetworks(self, flags: int = 0) -> Sequence[OwnNetwork]: ...  # noqa: N802 -- libvirt's name
    def networkDefineXML(self, xml: str) -> OwnNetwork: ...  # noqa: N802 -- libvirt's name


class Taken:
    """path: of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, connection: Connection, name: str) -> bool:
        """Keep and remove the node's own network of that name; whether there was one."""
        for network in connection.listAllNetworks():
            if network.name() != name or shadow.is_ours(network):
                continue
            persistent = bool(network.isPersistent())
            kept = Kept(
                name,
                network.XMLDesc(shadow.INACTIVE if persistent else 0),
                bool(network.isActive()),
                persistent and bool(network.autostart()),
            )
            # On disk first: what is removed and not on record would be lost.
            self._write([one for one in self._read() if one.name != name] + [kept])
            if network.isActive():
                network.destroy()
            if persistent:
                network.undefine()
            return True
        return False

    def give_back(self, connection: Connection) -> None:
        """Put all of them back as they were; a network of that name that the node has by now stays."""
        there = {network.name() for network in connection.listAllNetworks()}
        for kept in self._read():
            if kept.name not in there:
                network = connection.networkDefineXML(kept.xml)
                if kept.autostart:
                    network.setAutostart(1)
                if kept.active:
                    network.create()
        self._path.unlink(missing_ok=True)

    def _read(self) -> list[Kept]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Kept])
        except FileNotFoundError:
            return []

    def _write(self, kept: list[Kept]) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
