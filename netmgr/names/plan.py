"""From the names a zone has to those it shall have: updates that overwrite nobody, whoever is quicker.  Pure.

Each update names its prerequisites (RFC 2136, 2.4), which the server checks in the same moment: a name is made where
there is none, and changed or removed where it has our mark.  What has no mark is never touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netmgr.names.records import MARK, OURS, Node, Nodes, Rrset, mark_of, mark_with_texts


@dataclass(frozen=True, slots=True)
class Update:
    """What is done with one name, all or nothing.

    marks: the TXT records that it must have, exactly these; None: it must have no record at all.  drop: types that go
    first; unmark: our mark goes too (unless all texts do).  add: type, seconds to live, data."""

    zone: str
    name: str
    mark: str
    marks: frozenset[str] | None
    drop: tuple[str, ...] = ()
    unmark: bool = False
    add: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """taken: names that we want and that somebody else has."""

    updates: tuple[Update, ...] = ()
    taken: tuple[str, ...] = ()


def steps_to(zone: str, wanted: Nodes, actual: Nodes, owner: str) -> Plan:
    """wanted: names of this zone without marks; actual: all of it but the zone's own name."""
    updates, taken = [], []
    for name in sorted({*wanted, *actual}):
        new, old = wanted.get(name, {}), actual.get(name, {})
        if is_ours(old, owner):
            update = _change(zone, name, new, old, owner)
        else:
            update = _new(zone, name, new, owner) if new and not old else None
            if new and old:
                taken.append(name)
        if update is not None:
            updates.append(update)
    return Plan(tuple(updates), tuple(taken))


def _new(zone: str, name: str, new: Node, owner: str) -> Update:
    ttl = next(iter(new.values())).ttl
    plain = {kind: rrset for kind, rrset in new.items() if kind != MARK}
    texts = _marked(new, owner) if MARK in new else ((MARK, ttl, mark_of(owner)),)
    return Update(zone, name, mark_of(owner), None, add=(*_all(plain), *texts))


def _change(zone: str, name: str, new: Node, old: Node, owner: str) -> Update | None:
    """Texts that are, or shall be, ours change as a whole; the mark of a name that has none stands beside others'."""
    differing = [kind for kind in OURS if new.get(kind) != old.get(kind)]
    drop = tuple(kind for kind in differing if kind in old)
    add = _all({kind: new[kind] for kind in differing if kind in new})
    had_texts = mark_with_texts(owner) in old[MARK].data
    if MARK in new:
        texts = _marked(new, owner)
        if Rrset(new[MARK].ttl, frozenset(data for *_, data in texts)) != old[MARK]:
            drop, add = (*drop, MARK), (*add, *texts)
    elif had_texts:
        drop = (*drop, MARK)
        add = (*add, (MARK, next(iter(new.values())).ttl, mark_of(owner))) if new else add
    if new and not (drop or add):
        return None
    unmark = not new and not had_texts
    return Update(zone, name, mark_of(owner), old[MARK].data, drop, unmark, add)


def _marked(new: Node, owner: str) -> tuple[tuple[str, int, str], ...]:
    """The texts of a name with the mark that says that they are ours."""
    texts = new[MARK]
    return tuple((MARK, texts.ttl, data) for data in sorted({*texts.data, mark_with_texts(owner)}))


def is_ours(node: Node, owner: str) -> bool:
    """The name has our mark."""
    return MARK in node and not node[MARK].data.isdisjoint((mark_of(owner), mark_with_texts(owner)))


def holds(actual: Nodes, update: Update) -> bool:
    """The update's prerequisites are met."""
    node = actual.get(update.name, {})
    if update.marks is None:
        return not node
    return MARK in node and node[MARK].data == update.marks


def after(actual: Nodes, updates: Iterable[Update]) -> Nodes:
    """What there is after updates that were carried out."""
    nodes = dict(actual)
    for update in updates:
        node = {kind: rrset for kind, rrset in nodes.pop(update.name, {}).items() if kind not in update.drop}
        if update.unmark:
            texts = node.pop(MARK)
            if left := texts.data - {update.mark}:
                node[MARK] = Rrset(texts.ttl, left)
        for kind, ttl, data in update.add:
            there = node[kind].data if kind in node else frozenset()
            node[kind] = Rrset(ttl, there | {data})
        if node:
            nodes[update.name] = node
    return nodes


def _all(node: Node) -> tuple[tuple[str, int, str], ...]:
    return tuple(
        (kind, rrset.ttl, data) for kind, rrset in sorted(node.items()) for data in sorted(rrset.data)
    )
