"""Nodes as NUMA cells of one machine: cpu numbers, memory, what is online.  Pure: writes no XML.

A cell is a node and keeps its number.  Global cpu number = the cell's first number + the node's own number;
cells follow each other by number.  A node out of reach keeps its cell and its cpu numbers, with the cpus
offline and no memory, so that nothing else is renumbered when a node dies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterhost.frontend.libvirt.hostview.trees import Element, number_of, parse
from clusterhost.model.errors import InvalidXml
from clusterhost.model.node import Admin, Host, Node


@dataclass(frozen=True, slots=True)
class Cpu:
    """One cpu by the node's own numbers.  siblings: empty when it is offline."""

    number: int
    socket: int = -1
    die: int = 0
    core: int = 0
    siblings: tuple[int, ...] = ()

    @property
    def online(self) -> bool:
        """The node's libvirtd tells where it sits, which it does for online cpus only."""
        return self.socket >= 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is read once from a node's capabilities.  memory, pages in KiB; document: None if unreadable."""

    document: Element | None
    cpus: tuple[Cpu, ...]
    memory: int
    pages: tuple[tuple[int, int], ...]

    @property
    def width(self) -> int:
        """How many cpu numbers the node takes up."""
        return max((cpu.number for cpu in self.cpus), default=-1) + 1

    @property
    def sockets(self) -> int:
        """How many socket numbers it takes up."""
        return max((cpu.socket for cpu in self.cpus), default=-1) + 1


@dataclass(frozen=True, slots=True)
class Cell:
    """A node in its place.  first_cpu, first_socket: what is added to its own numbers."""

    node: Node
    facts: Facts
    first_cpu: int
    first_socket: int

    @property
    def online(self) -> bool:
        """Its cpus and memory can be used now."""
        return self.node.usable


def read_facts(host: Host) -> Facts:
    """Facts of a node; a document that cannot be read leaves the figures of its node info."""
    try:
        document = parse(host.capabilities) if host.capabilities else None
    except InvalidXml:
        document = None  # a broken node must not take the cluster's answers down with it
    cells = [] if document is None else document.findall("host/topology/cells/cell")
    cpus = tuple(_read_cpu(cpu) for cell in cells for cpu in cell.iterfind("cpus/cpu"))
    if not cpus:
        cpus = tuple(Cpu(number, 0, 0, number, (number,)) for number in range(host.cpus))
    memory = sum(_kib(cell.find("memory")) for cell in cells)
    pages: dict[int, int] = {}
    for page in (page for cell in cells for page in cell.iterfind("pages")):
        size = _kib(page, page.get("size"))
        pages[size] = pages.get(size, 0) + number_of(page.text)
    return Facts(document, cpus, memory or host.memory, tuple(pages.items()))


def arrange(nodes: Iterable[Node], facts: dict[str, Facts]) -> list[Cell]:
    """Cells by number, of the nodes that have ever told what they are."""
    cells: list[Cell] = []
    cpu = socket = 0
    for node in sorted(nodes, key=lambda node: node.cell):
        if node.host.memory:
            cells.append(Cell(node, facts[node.name], cpu, socket))
            cpu += facts[node.name].width
            socket += facts[node.name].sockets
    return cells


def members(cells: Sequence[Cell]) -> list[Cell]:
    """Cells whose abilities count: open to new domains (also when out of reach just now: the host that
    clients see must not change its CPU because a node restarts); all, when every one is disabled."""
    return [cell for cell in cells if cell.node.admin is Admin.ENABLED] or list(cells)


def locate(cells: Sequence[Cell], cpu: int) -> tuple[Cell, int] | None:
    """The cell of a global cpu number and the node's own number; None when there is no such cpu."""
    for cell in cells:
        if cell.first_cpu <= cpu < cell.first_cpu + cell.facts.width:
            return cell, cpu - cell.first_cpu
    return None


def cpu_map(cells: Sequence[Cell]) -> tuple[bytes, int, int]:
    """Bitmap of online cpus (bit n of byte n/8, libvirt's cpumap), their number, the number of all."""
    present = sum(cell.facts.width for cell in cells)
    bits = bytearray((present + 7) // 8)
    online = 0
    for cell in cells:
        if not cell.online:
            continue
        for cpu in cell.facts.cpus:
            if cpu.online:
                number = cell.first_cpu + cpu.number
                bits[number >> 3] |= 1 << (number & 7)
                online += 1
    return bytes(bits), online, present


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """libvirt's virNodeInfo.  memory in KiB.  nodes * sockets * cores * threads > every cpu number."""

    model: str
    memory: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


def node_info(cells: Sequence[Cell]) -> NodeInfo:
    """Sums over the cells that are online; the shape over all, so that clients size their cpumaps right."""
    online = [cell for cell in cells if cell.online]
    models = {cell.node.host.model for cell in online}
    sockets, cores, threads = _shape(cells)
    return NodeInfo(
        model=models.pop() if len(models) == 1 else "mixed",
        memory=sum(cell.node.host.memory for cell in online),
        cpus=cpu_map(cells)[1],
        mhz=min(cell.node.host.mhz for cell in online),
        nodes=len(cells),
        sockets=sockets,
        cores=cores,
        threads=threads,
    )


def _shape(cells: Sequence[Cell]) -> tuple[int, int, int]:
    """Sockets, cores and threads of every cell: the nodes' own when all agree, else flat and wide enough."""
    shapes = {
        (cell.node.host.numa_nodes * cell.node.host.sockets, cell.node.host.cores, cell.node.host.threads)
        for cell in cells
    }
    widest = max(cell.facts.width for cell in cells)
    if len(shapes) == 1:
        sockets, cores, threads = shapes.pop()
        if sockets * cores * threads >= widest:
            return sockets, cores, threads
    return 1, widest, 1


def _read_cpu(cpu: Element) -> Cpu:
    number = number_of(cpu.get("id"))
    if cpu.get("socket_id") is None:
        return Cpu(number)
    return Cpu(
        number,
        number_of(cpu.get("socket_id")),
        number_of(cpu.get("die_id")),
        number_of(cpu.get("core_id")),
        numbers(cpu.get("siblings")) or (number,),
    )


def numbers(text: str | None) -> tuple[int, ...]:
    """Numbers of a libvirt cpuset such as "0-3,8"; what is malformed is left out."""
    found: list[int] = []
    for part in (text or "").split(","):
        low, _, high = part.partition("-")
        first = number_of(low, -1)
        last = number_of(high, first)
        if first >= 0 and last - first < 65536:
            found.extend(range(first, last + 1))
    return tuple(found)


_UNITS = {"": 1, "KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20, "TiB": 1 << 30}


def _kib(element: Element | None, text: str | None = None) -> int:
    if element is None:
        return 0
    value = number_of(element.text if text is None else text)
    return value * _UNITS.get(element.get("unit") or "", 1)
