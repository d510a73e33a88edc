"""What starts and moves of domains ask about images, and the answer of a cluster without pools.  Knows no pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clusterhost.service.image_files import DomainFile, files_of
from clusterhost.service.ports import Progress

Volume = tuple[str, str]
"""A pool's uuid in hex and the name that is shown: as intents have it."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What nodes have of a domain's volumes.

    ours: paths that are volumes of local pools; closed: nodes where it cannot be started, and why; coming: bytes that
    must come to a node before; freeing: bytes of other copies that would go there first, for their room."""

    ours: frozenset[str] = frozenset()
    closed: Mapping[str, str] = field(default_factory=dict)
    coming: Mapping[str, int] = field(default_factory=dict)
    freeing: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copying:
    """What libvirt copies while it moves a domain.  tops: of overlays only what is in them, their bases being there;
    disks: only these, by their names in the guest, None for all that it writes to alone."""

    tops: bool = False
    disks: frozenset[str] | None = None

    def takes(self, file: DomainFile) -> bool:
        """Whether it copies what is at that path."""
        return file.written and (not file.shareable if self.disks is None else file.disk in self.disks)


class MovedImages(Protocol):
    """The disks of a domain that libvirt copies while it moves."""

    async def leaving(self, xml: str, source: str, target: str, copying: Copying) -> tuple[Volume, ...]:
        """The copying begins soon; returns what will have moved.  InvalidOperation: something is in the way."""

    async def arrived(self, volumes: Sequence[Volume], target: str) -> None:
        """The target runs the domain: its copies are the newest.  Raises nothing."""

    async def left(self, volumes: Sequence[Volume], node: str) -> None:
        """The other end is out of it for good: what it has is deleted, unless that is whole.  Raises nothing."""


class DomainImages(Protocol):
    """The images of domains.  home: the node whose files a definition's paths are, None for nobody's yet."""

    @property
    def moving(self) -> MovedImages:
        """Those that libvirt copies."""

    async def are_at(self, xml: str, home: str) -> bool:
        """Whether the node has all that it needs, none of it bound to where it is; asks only what is known."""

    async def outside(self, xml: str, *, shared: bool = False) -> Sequence[DomainFile]:
        """Files that it names and that are volumes of no local pool.  shared: nor of one that is one place."""

    async def stock(self, xml: str, home: str | None) -> Stock:
        """What each node lacks; empty where that cannot be told."""

    async def bound(self, xml: str, home: str) -> Mapping[str, str]:
        """Nodes that lack a device of a local pool that it has at home, and why nothing brings it there."""

    async def bring(
        self, name: str, xml: str, node: str, home: str | None, progress: Progress | None = None
    ) -> None:
        """Copy what the node lacks: a job, or a part of the caller's where that gives `progress`.

        NodeUnreachable, InvalidOperation: the domain cannot be started there, nothing has changed for it."""

    async def bring_read(self, name: str, xml: str, node: str, home: str, copying: Copying | None) -> None:
        """The same for one that runs and moves: what it only reads, and the bases of what libvirt copies in part."""

    async def refuse_bases(self, xml: str, home: str | None) -> None:
        """InvalidOperation: it would write to a volume that is the base of others."""

    async def refuse_doubles(self, xml: str, own: bytes | None) -> None:
        """InvalidOperation: a running domain, other than `own`, writes to a volume of a shared pool that it names."""

    async def about_to_write(self, xml: str, node: str, home: str | None) -> None:
        """The domain is started at the node next: copies elsewhere are older from now on.  As refuse_bases."""


class NoImages:
    """No pools, so no volumes."""

    @property
    def moving(self) -> MovedImages:
        """It has nothing to do either."""
        return self

    async def leaving(self, xml: str, source: str, target: str, copying: Copying) -> tuple[Volume, ...]:
        """Nothing will."""
        return ()

    async def arrived(self, volumes: Sequence[Volume], target: str) -> None:
        """Nothing has."""

    async def left(self, volumes: Sequence[Volume], node: str) -> None:
        """Nothing has."""

    async def are_at(self, xml: str, home: str) -> bool:
        """Nothing is needed."""
        return True

    async def outside(self, xml: str, *, shared: bool = False) -> Sequence[DomainFile]:
        """All that are paths."""
        return [file for file in files_of(xml) if file.path.startswith("/") and not file.optional]

    async def stock(self, xml: str, home: str | None) -> Stock:
        """Nobody lacks anything."""
        return Stock()

    async def bound(self, xml: str, home: str) -> Mapping[str, str]:
        """There are none."""
        return {}

    async def bring(
        self, name: str, xml: str, node: str, home: str | None, progress: Progress | None = None
    ) -> None:
        """Nothing."""

    async def bring_read(self, name: str, xml: str, node: str, home: str, copying: Copying | None) -> None:
        """Nothing."""

    async def refuse_bases(self, xml: str, home: str | None) -> None:
        """There are none."""

    async def refuse_doubles(self, xml: str, own: bytes | None) -> None:
        """There are none."""

    async def about_to_write(self, xml: str, node: str, home: str | None) -> None:
        """Nothing."""
