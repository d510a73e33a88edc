"""What of a network at libvirtd can change while guests use it: port groups, and the links that it forwards to.  Pure.

To define it anew would make libvirtd forget which guests are plugged in (its network ports).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from netmgr import xml
from netmgr.model import Network, PortGroup
from netmgr.update import Command, Section

_Named = dict[str, str]


@dataclass(frozen=True, slots=True)
class Update:
    """One call of net-update.  xml: the element."""

    command: Command
    section: Section
    xml: str


def updates(there: Network, wanted: Network) -> tuple[Update, ...] | None:
    """How the one becomes the other; None when that cannot be done in place."""
    if _fixed(there) != _fixed(wanted):
        return None
    return (*_groups(there, wanted), *_interfaces(there, wanted))


def _fixed(network: Network) -> Network:
    """What no update changes."""
    forward = replace(network.forward, interfaces=())
    return replace(network, metadata=None, portgroups=(), forward=forward)


def _groups(there: Network, wanted: Network) -> Iterator[Update]:
    has = {group.name: group for group in there.portgroups}
    shall = {group.name: group for group in wanted.portgroups}
    # Others first: two groups that are the default are refused.
    for name in has.keys() - shall.keys():
        yield Update(Command.DELETE, Section.PORTGROUP, xml.write_port_group(has[name]))
    changed = [group for name, group in shall.items() if has.get(name) != group]
    for group in sorted(changed, key=_is_default):
        command = Command.MODIFY if group.name in has else Command.ADD_LAST
        yield Update(command, Section.PORTGROUP, xml.write_port_group(group))


def _is_default(group: PortGroup) -> bool:
    return group.default


def _interfaces(there: Network, wanted: Network) -> Iterator[Update]:
    has, shall = there.forward.interfaces, wanted.forward.interfaces
    for command, names in (
        (Command.ADD_LAST, [name for name in shall if name not in has]),
        (Command.DELETE, [name for name in has if name not in shall]),
    ):
        for name in names:
            yield Update(command, Section.FORWARD_INTERFACE, xml.write_interface(name))
