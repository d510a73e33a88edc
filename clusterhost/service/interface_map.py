"""What a node calls the links that networks name (`node set --map-interface`), and who hears of a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from clusterhost.model.errors import InvalidArgument
from clusterhost.service.context import Context
from clusterhost.service.ledger import Ledger
from clusterhost.store.rows import PutNode
from netmgr import check

KEY = "interfaces"
"""In the map of a node's row: a network's name of a link -> the node's."""


def names_of(ledger: Ledger, node: str) -> Mapping[str, str]:
    """A network's name of a link -> the node's, where that differs."""
    row = ledger.nodes.get(node)
    return row.map.get(KEY, {}) if row is not None else {}


def shown(ledger: Ledger, node: str) -> list[str]:
    """The same as people write it: NAME=LINK."""
    return [f"{name}={link}" for name, link in sorted(names_of(ledger, node).items())]


def read(texts: object) -> dict[str, str]:
    """Of a list of NAME=LINK; LINK "" is to be forgotten.  InvalidArgument."""
    found: dict[str, str] = {}
    if not isinstance(texts, list) or not texts:
        raise InvalidArgument(f"'map_interface' must be a list of NAME=LINK, found {texts!r}")
    for text in texts:
        name, equals, link = str(text).partition("=")
        if not equals:
            raise InvalidArgument(f"'{text}' must be NAME=LINK, or NAME= for the same name again")
        for part in (name, *filter(None, (link,))):
            for problem in check.link_name(part, "interface"):
                raise InvalidArgument(problem)
        if name in found:
            raise InvalidArgument(f"{name} is mapped twice")
        found[name] = link
    return found


class InterfaceMap:
    """retell: tells a node of all networks that name one of these links, and waits for its answers."""

    def __init__(self, context: Context, retell: Callable[[str, set[str]], Awaitable[None]]) -> None:
        self._context = context
        self._retell = retell

    async def change(self, node: str, changes: Mapping[str, str], who: str) -> None:
        """Kept, in the journal, and told.  NodeNotFound."""
        ledger = self._context.ledger
        row = ledger.nodes[self._context.cluster.node(node).name]
        names = {**names_of(ledger, node), **changes}
        kept = {name: link for name, link in names.items() if link and link != name}
        if kept == names_of(ledger, node):
            return
        said = ", ".join(f"{name} is {link or name}" for name, link in changes.items())
        line = ledger.journal("node", node, who, f"its interfaces: {said}")
        rest = {key: value for key, value in row.map.items() if key != KEY}
        await ledger.commit(PutNode(replace(row, map={**rest, KEY: kept} if kept else rest)), line)
        await self._retell(node, set(changes))
