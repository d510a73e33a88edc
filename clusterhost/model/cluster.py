"""The live model: every node and domain, indexed the ways calls ask for them.  No clock, no I/O, no wire
formats.

A cached answer may never be older than a reply already given: `fresh(domain)` tells whether the model may
speak for a domain; while a call that can change it is under way, or an event said that it changed and the
node's report has not come yet, it may not, and the call is relayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clusterhost.model.domain import Domain
from clusterhost.model.errors import DomainNotFound, InvalidOperation, NodeNotFound
from clusterhost.model.node import Node


class Cluster:
    """Mutable index over frozen values.  Views: `node=None` is the whole cluster, a name is that node
    alone."""

    def __init__(self, uuid: bytes, name: str, hostname: str) -> None:
        self.uuid = uuid
        self.name = name
        self.hostname = hostname
        self.nodes: dict[str, Node] = {}
        self._by_uuid: dict[bytes, Domain] = {}
        self._by_name: dict[str, bytes] = {}
        self._by_id: dict[int, bytes] = {}
        self._waiting: dict[str, list[bytes]] = {}
        self._pending: dict[bytes, int] = {}
        self._stale: set[bytes] = set()
        self._frozen: dict[bytes, str] = {}
        self.renamed: dict[bytes, tuple[str, str]] = {}
        """Domains that clients know by another name than their node does: uuid -> (name, known_as).  Kept when one is
        dropped, for the events that still tell of it."""
        self.version = 0
        """Rises with every change of a node's facts or a domain's membership (for caches built on the
        model)."""
        self.changes = 0
        """Rises with every change of any domain (for cached lists of domains)."""

    # -- nodes

    def node(self, name: str) -> Node:
        """The node of that name; NodeNotFound."""
        try:
            return self.nodes[name]
        except KeyError:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise NodeNotFound(f"no node named '{name}'; known: {known}") from None

    def put_node(self, node: Node) -> None:
        """Add or replace a node."""
        old = self.nodes.get(node.name)
        self.nodes[node.name] = node
        if (
            old is None
            or old.host is not node.host
            or old.link is not node.link
            or old.admin is not node.admin
        ):
            self.version += 1

    def drop_node(self, name: str) -> None:
        """Forget a node (its domains must be gone or moved already)."""
        del self.nodes[name]
        self.version += 1

    def cells(self) -> list[Node]:
        """All nodes by cell number."""
        return sorted(self.nodes.values(), key=lambda node: node.cell)

    # -- domains

    def put(self, domain: Domain) -> None:
        """Add or replace a domain; keeps every index right.  The name index holds `known_as or name`.

        While two domains hold one name, it means the one that had it first, and the other as soon as that
        lets go.
        """
        old = self._by_uuid.get(domain.uuid)
        if old is not None:
            self._unindex(old)
        self._by_uuid[domain.uuid] = domain
        name = domain.known_as or domain.name
        if domain.known_as:
            self.renamed[domain.uuid] = (domain.name, domain.known_as)
        elif self.renamed:
            self.renamed.pop(domain.uuid, None)
        if self._by_name.setdefault(name, domain.uuid) != domain.uuid:
            self._waiting.setdefault(name, []).append(domain.uuid)
        if domain.id != -1:
            self._by_id[domain.id] = domain.uuid
        self.changes += 1
        if old is None or old.node != domain.node:
            self.version += 1

    def drop(self, uuid: bytes) -> Domain:
        """Remove a domain; DomainNotFound."""
        domain = self.by_uuid(uuid)
        self._unindex(domain)
        del self._by_uuid[uuid]
        self._stale.discard(uuid)
        self.changes += 1
        self.version += 1
        return domain

    def _unindex(self, domain: Domain) -> None:
        name = domain.known_as or domain.name
        waiting = self._waiting.get(name, [])
        if self._by_name.get(name) != domain.uuid:
            waiting.remove(domain.uuid)
        elif waiting:
            self._by_name[name] = waiting.pop(0)
        else:
            del self._by_name[name]
        if name in self._waiting and not waiting:
            del self._waiting[name]
        if self._by_id.get(domain.id) == domain.uuid:
            del self._by_id[domain.id]

    def get(self, uuid: bytes) -> Domain | None:
        """The domain of that uuid, or None."""
        return self._by_uuid.get(uuid)

    def by_uuid(self, uuid: bytes, view: str | None = None) -> Domain:
        """Look up by uuid; DomainNotFound says the uuid as libvirt writes it."""
        domain = self._by_uuid.get(uuid)
        if domain is None or (view is not None and domain.node != view):
            raise DomainNotFound(f"no domain with matching uuid '{format_uuid(uuid)}'")
        return domain

    def by_name(self, name: str, view: str | None = None) -> Domain:
        """Look up by name; DomainNotFound."""
        uuid = self._by_name.get(name)
        if uuid is not None:
            domain = self._by_uuid[uuid]
            if view is None or domain.node == view:
                return domain
        raise DomainNotFound(f"no domain with matching name '{name}'")

    def by_id(self, number: int, view: str | None = None) -> Domain:
        """Look up a running domain by its cluster id; DomainNotFound."""
        uuid = self._by_id.get(number)
        if uuid is not None:
            domain = self._by_uuid[uuid]
            if view is None or domain.node == view:
                return domain
        raise DomainNotFound(f"no domain with matching id {number}")

    def domains(self, view: str | None = None) -> Iterator[Domain]:
        """All domains of a view, in the order they became known."""
        if view is None:
            return iter(self._by_uuid.values())
        return (domain for domain in self._by_uuid.values() if domain.node == view)

    def __len__(self) -> int:
        return len(self._by_uuid)

    # -- freshness

    def freeze(self, uuid: bytes, why: str) -> None:
        """Nobody may change the domain until `thaw`: which node runs it is not known."""
        self._frozen[uuid] = why

    def thaw(self, uuid: bytes) -> None:
        """It is known again."""
        self._frozen.pop(uuid, None)

    def begin(self, uuid: bytes) -> None:
        """A call that may change the domain is about to be sent; InvalidOperation while it is frozen."""
        if uuid in self._frozen:
            raise InvalidOperation(self._frozen[uuid])
        self._pending[uuid] = self._pending.get(uuid, 0) + 1

    def end(self, uuid: bytes) -> None:
        """Its reply, with the report, has been taken in (or the call failed)."""
        left = self._pending.get(uuid, 0) - 1
        if left > 0:
            self._pending[uuid] = left
        else:
            self._pending.pop(uuid, None)

    def mark_stale(self, uuid: bytes) -> None:
        """An event said that it changed; a report will follow."""
        self._stale.add(uuid)

    def mark_fresh(self, uuids: Iterable[bytes]) -> None:
        """The node's report has come."""
        self._stale.difference_update(uuids)

    def fresh(self, uuid: bytes) -> bool:
        """The model may answer for this domain."""
        return uuid not in self._pending and uuid not in self._stale


def format_uuid(uuid: bytes) -> str:
    """16 raw bytes in the usual text form."""
    text = uuid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
