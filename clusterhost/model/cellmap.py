"""CPU and NUMA numbers of the cluster and of its nodes, and between the two.  Pure: knows no XML and no wire.

The cluster numbers the CPUs of all nodes one after the other; a node is one NUMA cell.  A set of CPUs that names
every CPU of some nodes says where a domain may run, one within a node says where on that node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clusterhost.model.errors import InvalidArgument

LIMIT = 16384
"""CPUs that a libvirt cpuset may name (VIR_DOMAIN_CPUMASK_LEN)."""

Numbers = frozenset[int]
NONE: Numbers = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """A node among the others.  first: what is added to its CPU numbers, of which there are `width`;
    online: those that run; numa: the node's own cells."""

    node: str
    cell: int
    first: int
    width: int
    online: Numbers
    numa: Numbers = frozenset({0})

    @property
    def cpus(self) -> Numbers:
        """All of its CPUs, by the cluster's numbers."""
        return frozenset(range(self.first, self.first + self.width))

    @property
    def own(self) -> Numbers:
        """All of its CPUs, by its own numbers."""
        return frozenset(range(self.width))

    def covered(self, own: Iterable[int]) -> bool:
        """Every CPU that runs is among these: no pinning at all."""
        return self.online <= frozenset(own)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a set of CPUs or cells asks for: anywhere (all None), whole `cells`, or `own` numbers `within` a cell.
    beyond: numbers past the last of all, counted from there (a node may be given some, and says what it thinks)."""

    cells: Numbers | None = None
    within: int | None = None
    own: Numbers = NONE
    beyond: Numbers = NONE

    @property
    def empty(self) -> bool:
        """It names nothing that is there."""
        return self.within is None and self.cells == NONE


@dataclass(frozen=True, slots=True)
class CellMap:
    """All nodes whose CPUs are known, by cell."""

    places: tuple[Place, ...] = ()

    @property
    def present(self) -> int:
        """How many CPU numbers there are."""
        return self.places[-1].first + self.places[-1].width if self.places else 0

    def node(self, name: str) -> Place | None:
        """The place of that node."""
        return next((place for place in self.places if place.node == name), None)

    def cell(self, number: int | None) -> Place | None:
        """The place with that cell number."""
        return next((place for place in self.places if place.cell == number), None)

    # -- out: a node's numbers as clients see them

    def shown_cpus(self, place: Place, own: Iterable[int], bound: Numbers | None = None) -> Numbers:
        """All of a node's CPUs mean all of those nodes that it may be on; others are shifted."""
        found = frozenset(own)
        beyond = {number - place.width + self.present for number in found if number >= place.width}
        if place.covered(found):
            return self.cpus_of(bound) | beyond
        return frozenset(place.first + number for number in found if number < place.width) | beyond

    def shown_cells(self, place: Place, own: Iterable[int], bound: Numbers | None = None) -> Numbers:
        """The same of NUMA cells; some of a node's own cells are that node."""
        found = frozenset(own)
        if not place.numa <= found:
            return frozenset({place.cell}) if found else NONE
        return self.cells if bound is None else bound

    @property
    def cells(self) -> Numbers:
        """All cell numbers."""
        return frozenset(place.cell for place in self.places)

    def cpus_of(self, cells: Numbers | None) -> Numbers:
        """CPUs of these cells by the cluster's numbers; None: all of them."""
        return frozenset().union(
            *(place.cpus for place in self.places if cells is None or place.cell in cells)
        )

    # -- in: what clients say

    def wish_of_cpus(self, given: Iterable[int]) -> Wish:
        """What a set of the cluster's CPUs asks for; InvalidArgument for parts of several nodes."""
        found = frozenset(given)
        beyond = frozenset(number - self.present for number in found if number >= self.present)
        touched = [place for place in self.places if found & place.cpus]
        whole = [place for place in touched if {place.first + number for number in place.online} <= found]
        if touched and len(whole) == len(self.places):
            return Wish(beyond=beyond)
        if len(whole) == len(touched):
            return Wish(cells=frozenset(place.cell for place in whole), beyond=beyond)
        if len(touched) == 1:
            place = touched[0]
            own = frozenset(number - place.first for number in found & place.cpus)
            return Wish(within=place.cell, own=own, beyond=beyond)
        raise InvalidArgument(
            f"CPUs {format_set(found)} are parts of several nodes, allowed are whole nodes or CPUs of one: "
            f"{self.borders()}"
        )

    def wish_of_cells(self, given: Iterable[int]) -> Wish:
        """What a set of NUMA cells asks for; a number that is no node's stays, and no node satisfies it."""
        found = frozenset(given)
        return Wish() if self.cells and self.cells <= found else Wish(cells=found)

    def borders(self) -> str:
        """Which CPUs are whose: `n1 0-1, n2 2-5`."""
        return ", ".join(f"{place.node} {format_set(place.cpus)}" for place in self.places)

    def names(self, cells: Numbers) -> str:
        """Nodes of these cells, for a sentence."""
        known = [place.node for place in self.places if place.cell in cells]
        unknown = [f"cell {number}" for number in sorted(cells - self.cells)]
        return ", ".join(known + unknown) or "no node"


def own_cpus(wish: Wish, place: Place) -> Numbers:
    """What a node is given: all of its CPUs, or what was asked for by its own numbers."""
    beyond = frozenset(place.width + number for number in wish.beyond)
    if wish.empty:
        return beyond
    return (place.own if wish.within is None else wish.own) | beyond


def own_cells(wish: Wish, place: Place) -> Numbers:
    """The same of NUMA cells."""
    return place.numa if wish.within is None else wish.own


def parse_set(text: str) -> Numbers | None:
    """A libvirt cpuset such as `0-3,^2,8`; None for what libvirt refuses."""
    found: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        without = part.startswith("^")
        low, dash, high = part.removeprefix("^").partition("-")
        first, last = _number(low), _number(high) if dash else _number(low)
        if first is None or last is None or first > last or (without and dash):
            return None
        if without:
            found.discard(first)
        else:
            found.update(range(first, last + 1))
    return frozenset(found)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < LIMIT else None


def format_set(numbers: Iterable[int]) -> str:
    """Numbers as libvirt writes a cpuset: ascending, runs as `a-b`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def from_bits(bits: bytes) -> Numbers:
    """The numbers in a libvirt cpumap: bit n % 8 of byte n / 8."""
    return frozenset(
        n * 8 + bit for n, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1
    )


def to_bits(numbers: Iterable[int], length: int) -> bytes:
    """A libvirt cpumap of `length` bytes; what does not fit is left out, as libvirt does."""
    bits = bytearray(length)
    for number in numbers:
        if number < length * 8:
            bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)
