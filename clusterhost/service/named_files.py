"""Nodes that have the files which a definition names and which are volumes of no pool.  Copies nothing.

Agents are asked in the order of placement, the best node first, then more and more of them: mostly one question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from clusterhost.control.operations import IdentifyArgs
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, NoPlacement
from clusterhost.service.context import Context
from clusterhost.service.disks import Unseen, own_files
from clusterhost.service.image_files import DomainFile, may_come
from clusterhost.service.image_stock import Stock
from clusterhost.service.placing import Choice

MORE = 4
"""How many times as many nodes are asked as the time before."""
DEVICES = "/dev/"
"""Each node has its own names there, also of what several reach."""
Decide = Callable[[Mapping[str, str], Mapping[str, int]], Choice]
"""Placement, given the nodes that are closed, with reasons, and bytes that must come to others; NoPlacement."""


@dataclass(slots=True)
class Survey:
    """What nodes have said of some files.  home: the node whose files they are, None for nobody's.

    same: paths where it has to be home's very file; may_come: paths of those that can be brought.  complete: nobody
    else will be asked."""

    context: Context
    files: Sequence[DomainFile]
    home: str | None = None
    same: frozenset[str] = frozenset()
    may_come: frozenset[str] = frozenset()
    complete: bool = False
    told: dict[str, list[str] | None] = field(default_factory=dict)

    async def ask(self, nodes: Iterable[str]) -> None:
        """Those that have not been asked yet, all at once."""
        new = [node for node in dict.fromkeys(nodes) if node not in self.told]
        found = await asyncio.gather(*(self._identify(node) for node in new))
        self.told |= dict(zip(new, found, strict=True))

    async def ask_all(self) -> None:
        """Also nodes that take no domains."""
        await self.ask(node.name for node in self.context.cluster.cells())
        self.complete = True

    def of(self, node: str | None, file: DomainFile) -> str | None:
        """What the file is there, "" where there is none, None where that is not known."""
        told = self.told.get(node) if node is not None else None
        return None if told is None else told[self.files.index(file)]

    def holder(self, file: DomainFile) -> str:
        """A node that has it, home before others; "" when none is known."""
        if self.home is not None and self.of(self.home, file):
            return self.home
        return min((node for node in self.told if self.of(node, file)), default="")

    def are_at(self, node: str) -> bool:
        """None is missing there, as far as it says."""
        return all(self.of(node, file) != "" for file in self.files)

    def closed(self) -> dict[str, str]:
        """Nodes that were asked, and why the domain cannot run there."""
        found = {node: self._why_not(node) for node in self.told}
        return {node: why for node, why in found.items() if why}

    def coming(self) -> dict[str, int]:
        """Nodes to which something must come: a byte stands for files whose sizes nobody knows."""
        return {node: 1 for node in self.told if not self.are_at(node) and not self._why_not(node)}

    def is_open(self) -> bool:
        """Something is missing that nobody who was asked has."""
        return not self.complete and any(
            self.of(node, file) == "" and not self.holder(file) for node in self.told for file in self.files
        )

    def _why_not(self, node: str) -> str:
        return next((why for file in self.files if (why := self._why_not_file(node, file))), "")

    def _why_not_file(self, node: str, file: DomainFile) -> str:
        there, here = self.of(node, file), self.of(self.home, file)
        if there is None or (there and there == here):
            return ""
        if here and file.path in self.same:
            return Unseen(file.path, self.home or "", bool(there)).why_not()
        if there:
            return ""
        if not (holder := self.holder(file)):
            # When nobody has it, a libvirtd shall say so in its own words.
            return "" if self.complete else f"has no file {file.path}"
        return "" if holder != node and file.path in self.may_come else f"has no file {file.path}"

    async def _identify(self, node: str) -> list[str] | None:
        known = self.context.cluster.node(node)
        if not (known.usable and known.host.has_files):
            return None
        args = msgspec.msgpack.encode(IdentifyArgs([file.path for file in self.files]))
        try:
            packed = await self.context.nodes.operate(node, "identify", args)
        except ClusterError:
            return None  # an agent of before, or one that is busy: its libvirtd decides
        return msgspec.msgpack.decode(packed, type=list[str])


class NamedFiles:
    """Holds nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def are_at(self, xml: str, node: str) -> bool:
        """Whether the node has those that are in no pool at all; no question where there are none."""
        survey = Survey(self._context, await self._context.images.outside(xml, shared=True))
        if survey.files:
            await survey.ask([node])
        return survey.are_at(node)

    async def choose(
        self, uuid: bytes, xml: str, home: str | None, stock: Stock, decide: Decide, *, live: bool = False
    ) -> Choice:
        """A node that has them, or that they can be brought to.  live: it runs, and libvirt sees to what it writes
        to.  NoPlacement."""
        survey = await self._survey(xml, home, live)
        try:
            return await self._search(survey, uuid, stock, decide)
        except NoPlacement:
            if not survey.is_open():
                raise
        await survey.ask_all()
        return await self._search(survey, uuid, stock, decide)

    async def stock(
        self, domain: Domain, xml: str, nodes: Sequence[str] = (), *, live: bool = False
    ) -> Stock:
        """What nodes lack of its images and files; of files only these say it, all of them when none is named."""
        stock = Stock() if live else await self._context.images.stock(xml, domain.node)
        survey = await self._survey(xml, domain.node, live)
        if survey.files and nodes:
            await survey.ask(nodes)
            survey.complete = True
        elif survey.files:
            await survey.ask_all()
        return _both(survey, stock)

    async def _survey(self, xml: str, home: str | None, live: bool = False) -> Survey:
        files = await self._context.images.outside(xml)
        same = {path for path in own_files(xml) if not path.startswith(DEVICES)} if files else set()
        if live:
            files = [file for file in files if not file.written and file.path not in same]
        alone = await self._context.images.outside(xml, shared=True) if files else ()
        directories = self._context.settings.images.directories.split()
        come = {file.path for file in alone if may_come(file, directories)} - same
        survey = Survey(self._context, files, home, frozenset(same), frozenset(come))
        if files and home is not None:
            await survey.ask([home])
        return survey

    async def _search(self, survey: Survey, uuid: bytes, stock: Stock, decide: Decide) -> Choice:
        most = 1
        while True:
            both = _both(survey, stock)
            choice = decide(both.closed, both.coming)
            if not survey.files or choice.node in survey.told:
                return choice
            ranked = [node for node in self._context.placing.ranked(uuid) if node not in survey.told]
            await survey.ask([choice.node, *ranked][:most])
            most *= MORE


def _both(survey: Survey, stock: Stock) -> Stock:
    closed, coming = survey.closed() | dict(stock.closed), survey.coming() | dict(stock.coming)
    return replace(stock, closed=closed, coming=coming)
