"""A domain's XML between the cluster's CPU and cell numbers and its node's.  Pure.

A node has its own numbers.  What whole nodes a client named is kept beside them, in the domain's metadata: for each
place in the XML on its own, so that every client is shown what it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clusterhost.model.cellmap import NONE, CellMap, Numbers, Place, Wish, own_cells, own_cpus
from clusterhost.model.errors import ConfigUnsupported, InvalidArgument
from clusterhost.model.pinxml import Document, Pin, metadata_element, read, rewritten, says_nothing


@dataclass(slots=True)
class Asked:
    """What a client's XML asks for.  within: the cell whose CPUs it names, None: of none in particular."""

    document: Document
    wishes: dict[str, Wish] = field(default_factory=dict)
    within: int | None = None

    @property
    def bound(self) -> dict[str, Numbers]:
        """For each place in the XML the cells that it names as a whole."""
        return {key: wish.cells for key, wish in self.wishes.items() if wish.cells and wish.within is None}

    @property
    def allowed(self) -> Numbers | None:
        """Cells that satisfy all of it, None: any."""
        found: Numbers | None = None
        for key, cells in self.bound.items():
            if not self.document.pins[key].soft:
                found = cells if found is None else found & cells
        return found


def base_of(cells: CellMap, document: Document, node: str) -> Place | None:
    """The place whose numbers the XML of a domain on that node has."""
    other = None if document.live else cells.cell(document.numbers_of)
    return other or cells.node(node)


def shown_values(cells: CellMap, place: Place, document: Document) -> dict[str, Numbers]:
    """For each place in the XML the cluster's numbers."""
    return {
        key: _shown(cells, place, pin.cpus, pin.numbers, document.bound.get(key))
        for key, pin in document.pins.items()
        if pin.numbers is not None
    }


def _shown(cells: CellMap, place: Place, cpus: bool, own: Numbers, bound: Numbers | None) -> Numbers:
    return (cells.shown_cpus if cpus else cells.shown_cells)(place, own, bound)


def shown(xml: bytes, cells: CellMap, node: str) -> bytes:
    """A node's XML as the cluster's clients see it."""
    if says_nothing(xml):
        return xml
    document = read(xml)
    place = base_of(cells, document, node) if document is not None else None
    if document is None or place is None:
        return xml
    return rewritten(document, shown_values(cells, place, document), metadata_element(document, {}, None))


def asked(xml: bytes, cells: CellMap, old: bytes | None = None, node: str = "") -> Asked | None:
    """What a client's XML asks for; `old`: the definition as its node has it.  None: there is nothing to translate.
    ConfigUnsupported when no single node can honour it."""
    document = None if says_nothing(xml) else read(xml)
    if document is None or not cells.places or not (document.pins or document.ours):
        return None
    found = Asked(document)
    before = _Before.of(cells, old, node)
    within: set[int] = set()
    for key, pin in document.pins.items():
        if pin.numbers:
            wish = before.same(key, pin) or _wish(cells, pin)
            found.wishes[key] = wish
            if wish.within is not None:
                within.add(wish.within)
    _check(cells, found, within)
    return found


def _wish(cells: CellMap, pin: Pin) -> Wish:
    assert pin.numbers is not None
    try:
        return (cells.wish_of_cpus if pin.cpus else cells.wish_of_cells)(pin.numbers)
    except InvalidArgument as error:
        raise ConfigUnsupported(f"{pin.key}: {error}") from None


def _check(cells: CellMap, found: Asked, within: set[int]) -> None:
    """One node must be able to honour all of it."""
    if len(within) > 1:
        raise ConfigUnsupported(
            f"the XML names CPUs of {cells.names(frozenset(within))}, a domain runs on one node: {cells.borders()}"
        )
    found.within = next(iter(within), None)
    allowed = found.allowed
    told = "; ".join(f"{key}: {cells.names(bound)}" for key, bound in found.bound.items())
    if allowed == NONE:
        raise ConfigUnsupported(f"no node satisfies all of the XML: {told}")
    if found.within is not None and allowed is not None and found.within not in allowed:
        where = cells.names(frozenset({found.within}))
        raise ConfigUnsupported(f"the XML names CPUs of {where}, which is not among those it allows: {told}")


@dataclass(frozen=True, slots=True)
class _Before:
    """The definition as it was: what a client leaves as it was shown stays as it is."""

    place: Place | None = None
    document: Document | None = None
    shown: dict[str, Numbers] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: CellMap, old: bytes | None, node: str) -> _Before:
        document = read(old) if old is not None else None
        place = base_of(cells, document, node) if document is not None else None
        if document is None or place is None:
            return cls()
        return cls(place, document, shown_values(cells, place, document))

    def same(self, key: str, pin: Pin) -> Wish | None:
        """The wish that it was."""
        if self.document is None or self.place is None or self.shown.get(key) != pin.numbers:
            return None
        own, place = self.document.pins[key].numbers or NONE, self.place
        if place.covered(own) if pin.cpus else place.numa <= own:
            beyond = frozenset(number - place.width for number in own if number >= place.width and pin.cpus)
            return Wish(cells=self.document.bound.get(key), beyond=beyond)
        return Wish(within=place.cell, own=own)


def placed(found: Asked, cells: CellMap, node: str) -> bytes:
    """The XML as that node gets it; an unknown one: as placement reads it."""
    holder = cells.node(node)
    base = cells.cell(found.within) or holder
    values: dict[str, Numbers] = {}
    if base is not None:
        for key, wish in found.wishes.items():
            values[key] = (own_cpus if found.document.pins[key].cpus else own_cells)(wish, base)
    elsewhere = found.within if holder is None or found.within != holder.cell else None
    return rewritten(found.document, values, metadata_element(found.document, found.bound, elsewhere))


@dataclass(frozen=True, slots=True)
class Fitted:
    """An XML for another node.  dropped: what meant nothing there."""

    xml: bytes
    dropped: tuple[str, ...] = ()


def fitted(xml: bytes, cells: CellMap, source: str, target: str) -> Fitted:
    """A definition (or a running domain) that moves: all of the one node becomes all of the other, own numbers stay as
    far as the other has them; of what has none left, all of it."""
    document = None if says_nothing(xml) else read(xml)
    there = cells.node(target)
    if document is None or there is None:
        return Fitted(xml)
    here = base_of(cells, document, source)
    values: dict[str, Numbers] = {}
    dropped: list[str] = []
    for key, pin in document.pins.items():
        if pin.numbers:
            values[key] = _carried(pin.cpus, pin.numbers, here, there)
            if not pin.numbers & (there.own if pin.cpus else there.numa):
                dropped.append(key)
    ours = metadata_element(document, document.bound, None)
    return Fitted(rewritten(document, values, ours), tuple(dropped))


def _carried(cpus: bool, own: Numbers, here: Place | None, there: Place) -> Numbers:
    everything = there.own if cpus else there.numa
    if here is not None and (here.covered(own) if cpus else here.numa <= own):
        return everything
    return own & everything or everything


def with_bound(bound: Mapping[str, Numbers], key: str, cells: Numbers | None) -> dict[str, Numbers]:
    """The same with this said of one place; None: it binds nothing."""
    rest = {name: found for name, found in bound.items() if name != key}
    return rest if cells is None else {**rest, key: cells}
