"""Files that domains only read, and that are no volumes, get to the node of a start.  Keeps nothing of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, InvalidOperation
from clusterhost.service.context import Context
from clusterhost.service.image_copies import source_at
from clusterhost.service.image_files import DomainFile, may_come
from clusterhost.service.named_files import Survey
from clusterhost.service.ports import Progress

Lack = tuple[str, str]
"""A path, and the node to get it from."""

_pack = msgspec.msgpack.encode


class FileCopies:
    """Of what lies in the directories of `[images] directories`, from a node to the same path on another."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def lacking(self, outside: Sequence[DomainFile], node: str, home: str | None) -> list[Lack]:
        """What must come to the node; no question where none of them may.  What nobody has is not told.

        InvalidOperation: the node has another file at a path than home."""
        directories = self._context.settings.images.directories.split()
        files = [file for file in outside if may_come(file, directories)]
        if not files:
            return []
        survey = Survey(self._context, files, home)
        await survey.ask([node, *([home] if home is not None else [])])
        if not survey.are_at(node) and survey.is_open():
            await survey.ask_all()
        for file in files:
            there, here = survey.of(node, file), survey.of(home, file)
            if here and there and here != there:
                await self._refuse_other(file.path, home or "", node)
        missing = [file for file in files if survey.of(node, file) == ""]
        return [(file.path, holder) for file in missing if (holder := survey.holder(file))]

    async def bring(self, lacks: Sequence[Lack], node: str, tell: Progress) -> None:
        """Copy them.  InvalidOperation with the nodes and the path."""
        brought = 0
        for path, source in lacks:

            def told(done: int, total: int, text: str, path: str = path, source: str = source) -> None:
                tell(done, total, f"{path} from {source} to {node}{text and ': '}{text}")

            try:
                brought += await self._copy(path, source, node, told)
            except ClusterError as error:
                text = f"file {path} did not get from node {source} to node {node}: {error}"
                raise InvalidOperation(text) from error
        if lacks:
            tell(brought, brought, f"{len(lacks)} {'file is' if len(lacks) == 1 else 'files are'} on {node}")

    async def _copy(self, path: str, source: str, node: str, tell: Progress) -> int:
        operate = self._context.nodes.operate
        packed = await operate(source, imageops.OFFER, _pack(imageops.OfferArgs(path)), progress=tell)
        offered = msgspec.msgpack.decode(packed, type=imageops.Offered)
        # What somebody has put there meanwhile stays.
        args = imageops.FetchArgs(path, offered.size, offered.digest, (source_at(source, offered),))
        await operate(node, imageops.FETCH, _pack(args), progress=tell)
        return offered.size

    async def _refuse_other(self, path: str, home: str, node: str) -> None:
        args = _pack(imageops.DigestArgs((path,)))
        packed = await asyncio.gather(
            *(
                self._context.nodes.operate(name, imageops.DIGEST, args, progress=lambda *_: None)
                for name in (home, node)
            )
        )
        one, other = (msgspec.msgpack.decode(answer, type=list[bytes])[0] for answer in packed)
        if one != other:
            raise InvalidOperation(f"has another file at {path} than node {home}")
