"""The network at a node's libvirtd that stands for one of ours: in bridge mode on our bridge, or passed to the node.

It has our network's name and uuid and carries our mark in its metadata (its document is fill.shadow's); one without the
mark is never touched.  Takes a connection as libvirt-python makes it, but does not import that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from compat import xmldoc
from netmgr.plan import Refused
from netmgr.wanted import NAMESPACE

_NAMES = {"ch": NAMESPACE}
INACTIVE = 1
"""VIR_NETWORK_XML_INACTIVE"""
_LIVE = 1
"""VIR_NETWORK_UPDATE_AFFECT_LIVE"""


class LibvirtNetwork(Protocol):
    """What we need of libvirt.virNetwork."""

    def name(self) -> str: ...
    def UUIDString(self) -> str: ...  # noqa: N802 -- libvirt's name
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802 -- libvirt's name
    def isActive(self) -> int: ...  # noqa: N802 -- libvirt's name
    def isPersistent(self) -> int: ...  # noqa: N802 -- libvirt's name
    def create(self) -> int: ...
    def destroy(self) -> int: ...
    def undefine(self) -> int: ...
    def update(self, command: int, section: int, parentIndex: int, xml: str, flags: int = 0) -> int: ...  # noqa: N803


class LibvirtConnection(Protocol):
    """What we need of libvirt.virConnect."""

    def listAllNetworks(self, flags: int = 0) -> Sequence[LibvirtNetwork]: ...  # noqa: N802 -- libvirt's name
    def networkDefineXML(self, xml: str) -> LibvirtNetwork: ...  # noqa: N802 -- libvirt's name


@dataclass(frozen=True, slots=True)
class Shadow:
    """uuid: as text.  xml: the whole document."""

    uuid: str
    name: str
    xml: str


def ensure(connection: LibvirtConnection, shadow: Shadow) -> bool:
    """Define and start it; whether anything had to be done.

    Refused: the node has a network of its own by that name or uuid.  What libvirt raises passes."""
    found = _find(connection, shadow.uuid, shadow.name)
    if found is not None:
        _refuse_foreign(found, shadow.uuid, shadow.name)
        if found.isPersistent() and _digest_of(found) == _digest(shadow.xml):
            return _start(found)
        if not _update(found, shadow):
            # Guests stay plugged in: such a network has nothing at the host; but libvirtd forgets its ports.
            _away(found)
    _start(connection.networkDefineXML(shadow.xml))
    return True


def remove(connection: LibvirtConnection, uuid: str, name: str) -> bool:
    """Take it away; whether it was there.  A network that is not ours stays, and is no error here."""
    found = _find(connection, uuid, name)
    if found is None or not is_ours(found) or found.UUIDString() != uuid:
        return False
    _away(found)
    return True


def ours(connection: LibvirtConnection) -> dict[str, str]:
    """uuid -> name of every network at a libvirtd that carries our mark."""
    return {found.UUIDString(): found.name() for found in connection.listAllNetworks() if is_ours(found)}


def is_ours(network: LibvirtNetwork) -> bool:
    """It carries our mark."""
    return _digest_of(network) is not None


def _update(found: LibvirtNetwork, shadow: Shadow) -> bool:
    """Change what is in force without an end of the network; whether that was possible.  The definition comes last: it
    alone says that all is done."""
    if not (found.isActive() and found.isPersistent() and found.name() == shadow.name):
        return False
    # Only here: an agent that never comes here does without the megabyte that reading networks takes.
    from netmgr import inplace, xml
    from netmgr.errors import NetworkError

    try:
        changes = inplace.updates(xml.read(found.XMLDesc()), xml.read(shadow.xml))
    except NetworkError:  # libvirt shows of an active one what no document may say (<pf> with its functions)
        return False
    if changes is None:
        return False
    for change in changes:
        found.update(change.command, change.section, -1, change.xml, _LIVE)
    return True


def _away(network: LibvirtNetwork) -> None:
    if network.isActive():
        network.destroy()
    if network.isPersistent():
        network.undefine()


def _find(connection: LibvirtConnection, uuid: str, name: str) -> LibvirtNetwork | None:
    """By uuid, else by name: listed, because a lookup says by an exception that there is none."""
    networks = connection.listAllNetworks()
    same = [network for network in networks if network.UUIDString() == uuid]
    same += [network for network in networks if network.name() == name]
    return same[0] if same else None


def _refuse_foreign(found: LibvirtNetwork, uuid: str, name: str) -> None:
    if not is_ours(found):
        raise Refused(
            f"the node has a network {found.name()} ({found.UUIDString()}) of its own, {name} needs its place"
        )
    if found.UUIDString() != uuid:
        raise Refused(
            f"the node has network {found.name()} of the cluster with another uuid, {found.UUIDString()}"
        )


def _start(network: LibvirtNetwork) -> bool:
    if network.isActive():
        return False
    network.create()
    return True


def _digest_of(network: LibvirtNetwork) -> str | None:
    return _digest(network.XMLDesc(INACTIVE if network.isPersistent() else 0))


def _digest(text: str) -> str | None:
    return xmldoc.parse(text, namespaces=_NAMES).attribute("metadata/ch:shadow", "digest")
