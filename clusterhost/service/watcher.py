"""Who wants to know what happens to nodes and copies of domains.  Knows nobody who does."""

from __future__ import annotations


class Watcher:
    """Told by the inventory, on the loop; must not block.  Nothing is done about what is not overridden: a node that
    is out of reach is not gone, and what it has stays."""

    def node_up(self, node: str, rebooted: bool) -> None:
        """A snapshot of it has been taken in.  rebooted: for the first time since its kernel started anew."""

    def node_down(self, node: str, reason: str) -> None:
        """It is out of reach."""

    def stray(self, node: str, uuid: bytes) -> None:
        """`node` has a copy of a domain that another node speaks for, and no move explains it."""

    def flagged(self, node: str, uuid: bytes) -> None:
        """The node's own libvirtd has it marked to be started at boot."""

    def registered(self, node: str, public_key: str) -> None:
        """The one-time key is used up; from now on the agent has this one."""
