"""Find out which nodes have one place at a pool's path.  Asks agents; changes nothing, and knows no definitions.

What agents say is no proof, as files of two servers may have one number: a mark is (pool_marks.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from clusterhost.control.operations import IdentifyArgs
from clusterhost.model.errors import ClusterError
from clusterhost.service.context import Context
from clusterhost.store.rows import SetMeta
from imagemgr.model import PoolType

PROBED = frozenset({PoolType.DIR, PoolType.FS})
"""Pools that are a directory of each node, unless that is one place."""
SECONDS = 5.0
"""For a look at a directory; NFS may hang."""
PLACE = "pool place "
"""Before a pool's uuid in the store: how it is known whether it is one place, "" where its type says so."""
FOUND, SAID, SAID_LOCAL = "found to be one place", "said to be one place", "said to be one on each node"


def largest(told: Mapping[str, str]) -> tuple[str, ...]:
    """The most nodes, two at least, that say the same of a path ("": it is not there); of equally many the first.

    () when each has its own."""
    groups: dict[str, list[str]] = {}
    for node, text in told.items():
        if text:
            groups.setdefault(text, []).append(node)
    most = max(groups.values(), key=len, default=[])
    return tuple(most) if len(most) > 1 else ()


class PoolProbe:
    """Holds nothing but what the store does."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def one_place(self, path: str, nodes: Sequence[str]) -> tuple[str, ...]:
        """Nodes that have one directory there; () when each has its own, or when one of them does not say."""
        try:
            async with asyncio.timeout(SECONDS):
                told = await asyncio.gather(*(self._identify(node, path) for node in nodes))
        except (ClusterError, TimeoutError):
            return ()
        return largest(dict(zip(nodes, told, strict=True))) if all(told) else ()

    async def _identify(self, node: str, path: str) -> str:
        args = msgspec.msgpack.encode(IdentifyArgs([path]))
        packed = await self._context.nodes.operate(node, "identify", args)
        return msgspec.msgpack.decode(packed, type=list[str])[0]

    # -- how it is known

    def place(self, uuid: bytes) -> str:
        """FOUND, SAID, SAID_LOCAL, or "" where nobody said or found anything."""
        return self._context.ledger.meta.get(PLACE + uuid.hex(), "")

    @staticmethod
    def known(uuid: bytes, how: str) -> SetMeta:
        """From now on."""
        return SetMeta(PLACE + uuid.hex(), how)
