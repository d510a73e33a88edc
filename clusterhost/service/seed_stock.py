"""What starts of domains ask about seeds, and the answer of a cluster without pools.  Knows no pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class DomainSeeds(Protocol):
    """The CDs that definitions ask for.  Whoever calls a coroutine holds the domain's lock."""

    def closed(self, xml: str) -> Mapping[str, str]:
        """Nodes where the CD cannot be, and why; none of a definition that asks for none."""

    async def ready(self, uuid: bytes, name: str, xml: str, node: str) -> str:
        """The CD is at the node, as the domain should be told now; returns the definition with a disk for it.

        The very same definition when that asks for none.  StorageRefused, PoolNotFound, InvalidOperation,
        NodeUnreachable: the domain cannot be started there."""

    async def again(self, uuid: bytes, name: str, xml: str, node: str) -> None:
        """What was saved runs on at the node: the CD is there as it was then, or as it is now if that is no more."""

    def has(self, uuid: bytes) -> bool:
        """The domain has a CD."""

    async def drop(self, uuid: bytes) -> None:
        """Nobody needs its CD any more; raises nothing, what cannot be deleted now is deleted later."""

    def look(self, uuid: bytes) -> None:
        """Perhaps there is no such domain: then its CD goes, soon.  The lock need not be held."""


class NoSeeds:
    """No pools, so no CDs."""

    def closed(self, xml: str) -> Mapping[str, str]:
        """None is."""
        return {}

    async def ready(self, uuid: bytes, name: str, xml: str, node: str) -> str:
        """As it is."""
        return xml

    async def again(self, uuid: bytes, name: str, xml: str, node: str) -> None:
        """There is none."""

    def has(self, uuid: bytes) -> bool:
        """None has."""
        return False

    async def drop(self, uuid: bytes) -> None:
        """There is none."""

    def look(self, uuid: bytes) -> None:
        """There is none."""
