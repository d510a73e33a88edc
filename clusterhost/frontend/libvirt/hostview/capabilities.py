"""The capabilities document of the cluster: one host, a NUMA cell for each node.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clusterhost.frontend.libvirt.hostview import guests, hostcpu
from clusterhost.frontend.libvirt.hostview.cells import Cell, Cpu, members, numbers
from clusterhost.frontend.libvirt.hostview.trees import (
    Element,
    bare,
    clone,
    common,
    kept,
    make,
    number_of,
    tag_of,
    text_of,
    write,
)
from clusterhost.model.cellmap import format_set

LOCAL, REMOTE = 10, 255
"""ACPI distances: 10 is a cell's own memory, 255 says unreachable: no guest spans two nodes."""


def merge(uuid: str, cells: Sequence[Cell], baseline: Element | None = None) -> str:
    """The document.  uuid: the cluster's own, never a node's (libvirt refuses to migrate between equal ones).
    The cells need at least one readable document among their members."""
    hosts, guest_lists = _read(cells)
    host = make("host")
    host.append(make("uuid", uuid))
    cpus = [cpu for found in hosts if (cpu := found.find("cpu")) is not None]
    if cpus:
        host.append(hostcpu.merge(cpus, baseline))
    for tag, merged in _PLAIN.items():
        found = [child for each in hosts if (child := each.find(tag)) is not None]
        if len(found) == len(hosts) and (element := merged(found)) is not None:
            host.append(element)
    host.extend(_unknown(hosts))
    host.append(topology(cells))
    cache = _cache(cells)
    if len(cache):
        host.append(cache)
    host.extend(_alone(cells))
    host.extend(security_models(hosts))
    root = make("capabilities")
    root.append(host)
    root.extend(guests.merge(guest_lists))
    return write(root)


def host_cpus(cells: Sequence[Cell]) -> list[Element]:
    """The `<cpu>` of every member that has one, by cell."""
    return [cpu for host in _read(cells)[0] if (cpu := host.find("cpu")) is not None]


def readable(cells: Sequence[Cell]) -> bool:
    """At least one member has told its capabilities."""
    return any(cell.facts.document is not None for cell in members(cells))


def first_security_model(cells: Sequence[Cell]) -> tuple[str, str]:
    """Model and domain of interpretation that all members put first; libvirt's "none" when they differ."""
    firsts = {(text_of(host, "secmodel/model"), text_of(host, "secmodel/doi")) for host in _read(cells)[0]}
    return firsts.pop() if len(firsts) == 1 else ("none", "0")


def _read(cells: Sequence[Cell]) -> tuple[list[Element], list[list[Element]]]:
    documents = [cell.facts.document for cell in members(cells) if cell.facts.document is not None]
    hosts = [document.find("host") for document in documents]
    return [make("host") if host is None else host for host in hosts], [
        document.findall("guest") for document in documents
    ]


# ---- parts of <host> ----


def _power(_: Sequence[Element]) -> Element:
    """Nothing: a cluster is not suspended (a node is, through its view)."""
    return make("power_management")


def _iommu(found: Sequence[Element]) -> Element:
    support = all(element.get("support") == "yes" for element in found)
    return make("iommu", support="yes" if support else "no")


def _migration(found: Sequence[Element]) -> Element:
    children: list[Element] = []
    for same_tag in common(found, tag_of):
        if same_tag[0].tag == "uri_transports":
            transports = [clone(transport[0]) for transport in common(same_tag, text_of)]
            if transports:
                children.append(bare(same_tag[0], *transports))
        elif (child := kept(same_tag)) is not None:
            children.append(child)
    return bare(found[0], *children)


_PLAIN: dict[str, Callable[[Sequence[Element]], Element | None]] = {
    "power_management": _power,
    "iommu": _iommu,
    "migration_features": _migration,
}
_OTHERS = {"uuid", "cpu", "topology", "cache", "memory_bandwidth", "secmodel", *_PLAIN}


def _unknown(hosts: Sequence[Element]) -> list[Element]:
    """What newer libvirts add: shown when every node says the same."""
    new = [[child for child in host if child.tag not in _OTHERS] for host in hosts]
    return [child for found in common(new, tag_of) if (child := kept(found)) is not None]


def security_models(hosts: Sequence[Element]) -> list[Element]:
    """Models that every node has, with the base labels on which they agree."""
    found = common(
        [host.findall("secmodel") for host in hosts],
        lambda model: (text_of(model, "model"), text_of(model, "doi")),
    )
    return [_security_model(models) for models in found]


def _security_model(models: Sequence[Element]) -> Element:
    labels = common(
        [model.findall("baselabel") for model in models], lambda label: (label.get("type"), text_of(label))
    )
    plain = [clone(child) for child in models[0] if child.tag != "baselabel"]
    return bare(models[0], *plain, *(clone(label[0]) for label in labels))


# ---- topology ----


def topology(cells: Sequence[Cell]) -> Element:
    """`<topology>` with one cell for each node."""
    table = make("cells", num=len(cells))
    table.extend(_cell(cell, cells) for cell in cells)
    return bare(make("topology"), table)


def _cell(cell: Cell, cells: Sequence[Cell]) -> Element:
    online = cell.online
    element = make("cell", id=cell.node.cell)
    element.append(make("memory", str(cell.facts.memory if online else 0), unit="KiB"))
    for size, count in cell.facts.pages:
        element.append(make("pages", str(count if online else 0), unit="KiB", size=size))
    distances = make("distances")
    distances.extend(
        make("sibling", id=other.node.cell, value=LOCAL if other is cell else REMOTE) for other in cells
    )
    cpus = make("cpus", num=len(cell.facts.cpus))
    cpus.extend(_cpu(cpu, cell) for cpu in cell.facts.cpus)
    element.extend((distances, cpus))
    return element


def _cpu(cpu: Cpu, cell: Cell) -> Element:
    number = cell.first_cpu + cpu.number
    if not (cell.online and cpu.online):
        return make("cpu", id=number)
    return make(
        "cpu",
        id=number,
        socket_id=cell.first_socket + cpu.socket,
        die_id=cpu.die,
        core_id=cpu.core,
        siblings=format_set(cell.first_cpu + sibling for sibling in cpu.siblings),
    )


def _cache(cells: Sequence[Cell]) -> Element:
    """Cache banks renumbered.  Controls and monitors are shown for one node only: a domain's `<cachetune>`
    goes to the node as it is, and there the bank numbers are the node's own."""
    merged = make("cache")
    used: dict[int, int] = {}
    for cell in cells:
        cache = (
            None if cell.facts.document is None or not cell.online else cell.facts.document.find("host/cache")
        )
        if cache is None:
            continue
        first = dict(used)
        for child in cache:
            if child.tag == "bank":
                merged.append(_bank(child, cell, first, used, alone=len(cells) == 1))
            elif len(cells) == 1:
                merged.append(clone(child))
    return merged


def _bank(bank: Element, cell: Cell, first: dict[int, int], used: dict[int, int], *, alone: bool) -> Element:
    level = number_of(bank.get("level"))
    number = first.get(level, 0) + number_of(bank.get("id"))
    used[level] = max(used.get(level, 0), number + 1)
    moved = bare(bank, *(clone(child) for child in bank if alone))
    moved.set("id", str(number))
    moved.set("cpus", format_set(cell.first_cpu + cpu for cpu in numbers(bank.get("cpus"))))
    return moved


def _alone(cells: Sequence[Cell]) -> list[Element]:
    """`<memory_bandwidth>`, for one node only: its numbers, too, are the node's own."""
    if len(cells) > 1 or cells[0].facts.document is None:
        return []
    return [clone(found) for found in cells[0].facts.document.iterfind("host/memory_bandwidth")]
