"""Maps, statistics and parameters that name CPUs or cells, between the wire and the cluster's numbers.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from clusterhost.frontend.libvirt.hostview.cells import Cell
from clusterhost.model.cellmap import CellMap, Numbers, Place, format_set, from_bits, parse_set, to_bits
from clusterhost.model.pinning import base_of
from clusterhost.model.pinxml import Document
from clusterhost.service.ports import ClusterEvent
from compat.libvirt import messages, typedparams
from compat.libvirt.messages.remote_common import RemoteTypedParam

NODESET = "numa_nodeset"
TUNED = ("cputune.vcpupin", "cputune.emulatorpin", "cputune.iothreadpin")
"""Names of an event's parameters that hold a cpuset; a number may follow."""


def cell_map(cells: Sequence[Cell]) -> CellMap:
    """Their CPU numbers; a node whose CPUs are not known has no place."""
    return CellMap(tuple(_place(cell) for cell in cells if cell.facts.width))


def _place(cell: Cell) -> Place:
    document = cell.facts.document
    own = [] if document is None else document.findall("host/topology/cells/cell")
    numbers = [found.get("id", "") for found in own]
    return Place(
        node=cell.node.name,
        cell=cell.node.cell,
        first=cell.first_cpu,
        width=cell.facts.width,
        online=frozenset(cpu.number for cpu in cell.facts.cpus if cpu.online),
        numa=frozenset(int(number) for number in numbers if number.isdigit()) or frozenset({0}),
    )


def map_length(count: int) -> int:
    """Bytes of a cpumap for that many CPUs."""
    return (count + 7) // 8


@dataclass(frozen=True, slots=True)
class Lens:
    """Through which a domain's maps are seen.  place: whose numbers they have."""

    cells: CellMap
    place: Place
    document: Document

    @classmethod
    def on(cls, cells: CellMap, document: Document, node: str) -> Lens | None:
        """None when the node's CPUs are not known."""
        place = base_of(cells, document, node)
        return None if place is None else cls(cells, place, document)

    def bound(self, key: str) -> Numbers | None:
        """Cells that were named for that pin, or for all CPUs when it has none of its own."""
        key = key if key in self.document.pins else "vcpu"
        return self.document.bound.get(key)

    def numbers(self, key: str, own: Numbers) -> Numbers:
        """A node's CPUs as the cluster's."""
        return self.cells.shown_cpus(self.place, own, self.bound(key))

    def map(self, key: str, bits: bytes, length: int | None = None) -> bytes:
        """A node's cpumap as the cluster's; length in bytes, None: what it takes."""
        wide = map_length(self.cells.present) if length is None else length
        return to_bits(self.numbers(key, from_bits(bits)), wide)

    def maps(self, keys: Sequence[str], bits: bytes, length: int) -> bytes:
        """Several of them, one after the other, each of `length` bytes."""
        if not keys:
            return b""
        step = len(bits) // len(keys)
        return b"".join(self.map(key, bits[n * step : (n + 1) * step], length) for n, key in enumerate(keys))

    def nodeset(self, text: str) -> str:
        """A node's nodeset as the cluster's; empty stays empty."""
        own = parse_set(text)
        if not own:
            return text
        return format_set(self.cells.shown_cells(self.place, own, self.document.bound.get("numatune")))

    def numa_parameters(self, params: Sequence[RemoteTypedParam]) -> list[RemoteTypedParam]:
        """numa_nodeset in the cluster's numbers."""
        return [
            typedparams.param(item.field, item.value.type, self.nodeset(str(item.value.value)))
            if item.field == NODESET
            else item
            for item in params
        ]


def tuned_event(event: ClusterEvent, cells: CellMap) -> ClusterEvent:
    """An event that tells of a new pinning.  All of a node's CPUs are shown as just these: it does not say what was
    asked for."""
    place = cells.node(event.node)
    if place is None:
        return event
    message = messages.RemoteDomainEventCallbackTunableMsg.from_bytes(event.payload)
    params = [_tuned(cells, place, item) if item.field.startswith(TUNED) else item for item in message.params]
    return replace(event, payload=msgspec.structs.replace(message, params=params).to_bytes())


def _tuned(cells: CellMap, place: Place, item: RemoteTypedParam) -> RemoteTypedParam:
    own = parse_set(str(item.value.value))
    if not own:
        return item
    shown = cells.shown_cpus(place, own, frozenset({place.cell}))
    return typedparams.param(item.field, item.value.type, format_set(shown))


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a range of the cluster's CPUs that is a node's: its own first number and how many; and how many of
    others come before it."""

    before: int
    first: int
    count: int

    @classmethod
    def of(cls, place: Place, start: int, count: int) -> Window:
        """A range that has none of it gives a count of 0."""
        low, high = max(start, place.first), min(start + count, place.first + place.width)
        if low >= high:
            return cls(count, 0, 0)
        return cls(low - start, low - place.first, high - low)


def spread(
    window: Window, params: Sequence[RemoteTypedParam], row: Sequence[RemoteTypedParam], count: int
) -> list[RemoteTypedParam]:
    """Statistics of `count` CPUs: the node's own in their window, nothing but zeros elsewhere.  row: one CPU's."""
    width = len(row)
    zeros = [RemoteTypedParam(item.field, msgspec.structs.replace(item.value, value=0)) for item in row]
    rows = len(params) // width if width else 0
    after = count - window.before - rows
    return [*(zeros * window.before), *params, *(zeros * max(after, 0))]
