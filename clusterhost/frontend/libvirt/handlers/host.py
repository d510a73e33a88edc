"""Handlers of what clients ask about the host: one machine with a NUMA cell for each node.  Translates
between the wire and hostview; knows no sockets.

In the view of one node every one of these calls is relayed to that node as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.handlers import host_nodes
from clusterhost.frontend.libvirt.handlers.host_ask import (
    Handler,
    Result,
    Session,
    ask,
    cell_range,
    host_view,
    no_flags,
    procedure,
    relay_to_view,
    too_many,
)
from clusterhost.frontend.libvirt.hostview import HostView, capabilities, sysinfo
from clusterhost.frontend.libvirt.hostview.cells import Cell, cpu_map, locate, members, node_info
from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import ClusterError, InvalidArgument, NodeUnreachable, Unsupported
from clusterhost.service.ports import Answer
from compat.libvirt import messages
from compat.libvirt.xdr import Message

MAX_CPU_BYTES = 2048
"""REMOTE_CPUMAP_MAX."""
CPU_VALUES = 4
"""Kernel, user, idle, iowait."""
MAX_STATS = 16
"""REMOTE_NODE_CPU_STATS_MAX and REMOTE_NODE_MEMORY_STATS_MAX."""

# ---- answered from the model ----


def node_get_info(session: Session, _: None) -> Result:
    return host_view(session).made("NODE_GET_INFO", lambda: _node_info(host_view(session)))


def _node_info(view: HostView) -> bytes:
    view.online()
    info = node_info(view.cells)
    return messages.RemoteNodeGetInfoRet(
        model=info.model.encode()[:31].ljust(32, b"\0"),
        memory=info.memory,
        cpus=info.cpus,
        mhz=info.mhz,
        nodes=info.nodes,
        sockets=info.sockets,
        cores=info.cores,
        threads=info.threads,
    ).to_bytes()


def connect_get_capabilities(session: Session, _: None) -> Result | Awaitable[Result]:
    view = host_view(session)
    found = view.answer("CAPABILITIES")
    if found is not None:
        return found
    return _settled(session) if view.unsettled else view.made("CAPABILITIES", lambda: _capabilities(view))


async def _settled(session: Session) -> Result:
    """Nodes of different CPU models: the first who asks waits for the baseline."""
    view = host_view(session)
    await view.refresh(session.world)
    return view.made("CAPABILITIES", lambda: _capabilities(view))


def _capabilities(view: HostView) -> bytes:
    return messages.RemoteConnectGetCapabilitiesRet(capabilities=view.capabilities()).to_bytes()


def connect_get_type(session: Session, _: None) -> Result:
    view = host_view(session)
    return view.made("TYPE", lambda: messages.RemoteConnectGetTypeRet(type=_type(view)).to_bytes())


def _type(view: HostView) -> str:
    """Asked by clients right after they open, so it is answered without any node too."""
    return next((kind for cell in view.cells if (kind := cell.node.host.hypervisor_type)), "QEMU")


def connect_get_version(session: Session, _: None) -> Result:
    view = host_view(session)
    return view.made("VERSION", lambda: messages.RemoteConnectGetVersionRet(hv_ver=_version(view)).to_bytes())


def _version(view: HostView) -> int:
    return _lowest(view, [cell.node.host.hypervisor_version for cell in members(view.cells)])


def connect_get_lib_version(session: Session, _: None) -> Result:
    view = host_view(session)
    return view.made(
        "LIB_VERSION",
        lambda: messages.RemoteConnectGetLibVersionRet(
            lib_ver=_lowest(view, [cell.node.host.libvirt_version for cell in members(view.cells)])
        ).to_bytes(),
    )


def _lowest(view: HostView, versions: Sequence[int]) -> int:
    known = [version for version in versions if version]
    if not known:
        raise NodeUnreachable(view.nobody())
    return min(known)


def connect_get_hostname(session: Session, _: None) -> Result:
    view = host_view(session)
    return messages.RemoteConnectGetHostnameRet(hostname=view.cluster.hostname)


def connect_get_sysinfo(session: Session, args: messages.RemoteConnectGetSysinfoArgs) -> Result:
    no_flags(procedure("CONNECT_GET_SYSINFO"), args.flags)
    view = host_view(session)
    cluster = view.cluster
    return view.made(
        "SYSINFO",
        lambda: messages.RemoteConnectGetSysinfoRet(
            sysinfo=sysinfo.build(format_uuid(cluster.uuid), cluster.name, view.cells)
        ).to_bytes(),
    )


def node_get_security_model(session: Session, _: None) -> Result:
    view = host_view(session)
    return view.made("SECURITY_MODEL", lambda: _security_model(view))


def _security_model(view: HostView) -> bytes:
    model, doi = capabilities.first_security_model(view.cells)
    # libvirtd counts the NUL that ends each of the two.
    return messages.RemoteNodeGetSecurityModelRet(
        model=model.encode() + b"\0", doi=doi.encode() + b"\0"
    ).to_bytes()


def node_get_cpu_map(session: Session, args: messages.RemoteNodeGetCpuMapArgs) -> Result:
    no_flags(procedure("NODE_GET_CPU_MAP"), args.flags)
    bits, online, present = cpu_map(host_view(session).cells)
    if len(bits) > MAX_CPU_BYTES:
        raise too_many("bytes of the CPU map", len(bits), MAX_CPU_BYTES)
    return messages.RemoteNodeGetCpuMapRet(
        cpumap=bits if args.need_map else b"", online=online if args.need_online else 0, ret=present
    )


def _free(view: HostView, cell: Cell) -> int:
    """Bytes; 0 for a node out of reach: nothing of it can be had."""
    node = view.node(cell)
    return node.figures.free_memory if node.usable else 0


def node_get_free_memory(session: Session, _: None) -> Result:
    view = host_view(session)
    return messages.RemoteNodeGetFreeMemoryRet(freeMem=sum(_free(view, cell) for cell in view.online()))


def node_get_cells_free_memory(session: Session, args: messages.RemoteNodeGetCellsFreeMemoryArgs) -> Result:
    view = host_view(session)
    if args.startCell < 0:
        raise InvalidArgument("startCell in virNodeGetCellsFreeMemory must be zero or greater")
    if args.maxcells <= 0:
        raise InvalidArgument("maxCells in virNodeGetCellsFreeMemory must be greater than zero")
    asked = cell_range(view, args.startCell, args.maxcells)
    free = {cell.node.cell: _free(view, cell) for cell in view.cells}
    return messages.RemoteNodeGetCellsFreeMemoryRet(cells=[free.get(number, 0) for number in asked])


def node_get_memory_stats(session: Session, args: messages.RemoteNodeGetMemoryStatsArgs) -> Result:
    asked = procedure("NODE_GET_MEMORY_STATS")
    no_flags(asked, args.flags)
    view = host_view(session)
    if args.cellNum < -1:
        raise InvalidArgument("cellNum in virNodeGetMemoryStats only accepts -1 as a negative value")
    values = _memory_of_all(view) if args.cellNum == -1 else _memory_of_cell(view, args.cellNum)
    if not _wanted(args.nparams, len(values), "virHostMemGetStatsLinux must be"):
        return messages.RemoteNodeGetMemoryStatsRet(params=[], nparams=len(values))
    params = [messages.RemoteNodeGetMemoryStats(field=name, value=value) for name, value in values.items()]
    return messages.RemoteNodeGetMemoryStatsRet(params=params, nparams=len(params))


def _memory_of_cell(view: HostView, number: int) -> dict[str, int]:
    """KiB.  As libvirt: a cell has but these two."""
    for cell in view.cells:
        if cell.node.cell == number:
            total = cell.facts.memory if view.node(cell).usable else 0
            return {"total": total, "free": _free(view, cell) // 1024}
    last = view.cells[-1].node.cell if view.cells else 0
    text = f"cellNum in virHostMemGetStats must be less than or equal to {last}"
    raise errors.argument("virHostMemGetStats", "cellNum", text)


def _memory_of_all(view: HostView) -> dict[str, int]:
    online = view.online()
    sums = _sum([view.node(cell).figures.memory for cell in online])
    return sums or {
        "total": sum(cell.facts.memory for cell in online),
        "free": sum(_free(view, cell) for cell in online) // 1024,
    }


def _sum(figures: Sequence[dict[str, int]]) -> dict[str, int]:
    """Sums of the names that all have, in the first's order."""
    return {
        name: sum(each[name] for each in figures)
        for name in figures[0]
        if all(name in each for each in figures)
    }


def _wanted(found: int, have: int, where: str) -> bool:
    """False: only the number of values was asked for, as clients do first."""
    if found > MAX_STATS:
        raise errors.internal("nparams too large")
    if found not in (0, have):
        raise InvalidArgument(f"nparams in {where} {have}")
    return found != 0


def node_get_cpu_stats(
    session: Session, args: messages.RemoteNodeGetCpuStatsArgs
) -> Result | Awaitable[Result]:
    asked = procedure("NODE_GET_CPU_STATS")
    no_flags(asked, args.flags)
    view = host_view(session)
    if args.cpuNum < -1:
        raise InvalidArgument("cpuNum in virNodeGetCPUStats only accepts -1 as a negative value")
    if args.cpuNum >= 0:
        found = locate(view.cells, args.cpuNum)
        if found is None and args.nparams == 0:
            # How many values a CPU has is told before its number is looked at.
            return messages.RemoteNodeGetCpuStatsRet(params=[], nparams=CPU_VALUES)
        if found is None:
            text = "Invalid cpuNum in virHostCPUGetStatsLinux"
            raise errors.argument("virHostCPUGetStatsLinux", "cpuNum", text)
        cell, number = found
        own = messages.RemoteNodeGetCpuStatsArgs(cpuNum=number, nparams=args.nparams, flags=args.flags)
        return ask(session, cell.node.name, asked, own)
    figures = [view.node(cell).figures.cpu for cell in view.online()]
    count = len(_sum(figures))
    if _wanted(args.nparams, count, "virHostCPUGetStatsLinux must be equal to"):
        return _cpu_of_all(session, args)
    return messages.RemoteNodeGetCpuStatsRet(params=[], nparams=count)


async def _cpu_of_all(session: Session, args: messages.RemoteNodeGetCpuStatsArgs) -> Result:
    """Sums, asked of the nodes: clients take the difference of two answers a second apart, which figures of
    each second would often make 0.  For a node that does not answer, its last figures."""
    view = host_view(session)
    asked = procedure("NODE_GET_CPU_STATS")
    cells = view.online()
    answers = await session.world.nodes.fan_out(
        [cell.node.name for cell in cells],
        asked.program_id,
        asked.number,
        args.to_bytes(),
        readonly=session.readonly,
        deadline=view.deadline,
    )
    values = _sum([_cpu_of_node(view, cell, answers.get(cell.node.name)) for cell in cells])
    params = [messages.RemoteNodeGetCpuStats(field=name, value=value) for name, value in values.items()]
    return messages.RemoteNodeGetCpuStatsRet(params=params, nparams=len(params))


def _cpu_of_node(view: HostView, cell: Cell, answer: Answer | ClusterError | None) -> dict[str, int]:
    if not isinstance(answer, Answer) or not answer.ok:
        return view.node(cell).figures.cpu
    told = messages.RemoteNodeGetCpuStatsRet.from_bytes(answer.payload)
    return {param.field: param.value for param in told.params}


# ---- what only a node has ----


def _of_a_node(what: str) -> Handler:
    def handler(session: Session, args: Message) -> Result:
        raise Unsupported(f"{what} belongs to a node: open it with ?node=NAME")

    return handler


# ---- the table ----


def _viewed(name: str, handler: Handler) -> Handler:
    """In a node's view the call goes to that node, whatever it is."""
    asked = procedure(name)

    def routed(session: Session, args: Any) -> Result | Awaitable[Result]:
        if session.view is not None:
            return relay_to_view(session, asked, args)
        return handler(session, args)

    return routed


_TABLE: tuple[tuple[str, str, Handler], ...] = (
    ("NODE_GET_INFO", "cached", node_get_info),
    ("CONNECT_GET_CAPABILITIES", "cached", connect_get_capabilities),
    ("CONNECT_GET_TYPE", "cached", connect_get_type),
    ("CONNECT_GET_VERSION", "cached", connect_get_version),
    ("CONNECT_GET_LIB_VERSION", "cached", connect_get_lib_version),
    ("CONNECT_GET_HOSTNAME", "cached", connect_get_hostname),
    ("CONNECT_GET_SYSINFO", "cached", connect_get_sysinfo),
    ("NODE_GET_SECURITY_MODEL", "cached", node_get_security_model),
    ("NODE_GET_CPU_MAP", "cached", node_get_cpu_map),
    ("NODE_GET_FREE_MEMORY", "cached", node_get_free_memory),
    ("NODE_GET_CELLS_FREE_MEMORY", "cached", node_get_cells_free_memory),
    ("NODE_GET_MEMORY_STATS", "cached", node_get_memory_stats),
    ("NODE_GET_CPU_STATS", "node", node_get_cpu_stats),
    ("NODE_GET_FREE_PAGES", "node", host_nodes.node_get_free_pages),
    ("NODE_ALLOC_PAGES", "node", host_nodes.node_alloc_pages),
    ("CONNECT_GET_MAX_VCPUS", "fan-out", host_nodes.connect_get_max_vcpus),
    ("CONNECT_GET_CPU_MODEL_NAMES", "fan-out", host_nodes.connect_get_cpu_model_names),
    ("CONNECT_COMPARE_CPU", "fan-out", host_nodes.connect_compare_cpu),
    ("CONNECT_COMPARE_HYPERVISOR_CPU", "fan-out", host_nodes.connect_compare_hypervisor_cpu),
    ("CONNECT_BASELINE_CPU", "node", host_nodes.connect_baseline_cpu),
    ("CONNECT_BASELINE_HYPERVISOR_CPU", "node", host_nodes.connect_baseline_hypervisor_cpu),
    ("CONNECT_GET_DOMAIN_CAPABILITIES", "fan-out", host_nodes.connect_get_domain_capabilities),
    ("NODE_GET_MEMORY_PARAMETERS", "node", _of_a_node("memory tuning")),
    ("NODE_SET_MEMORY_PARAMETERS", "node", _of_a_node("memory tuning")),
    ("NODE_GET_SEV_INFO", "node", _of_a_node("the SEV platform")),
    ("NODE_SUSPEND_FOR_DURATION", "node", _of_a_node("suspending a machine")),
)

HOST_ROUTES: dict[str, tuple[str, Handler]] = {
    f"remote:{name}": (kind, _viewed(name, handler)) for name, kind, handler in _TABLE
}
"""Procedure -> kind of row, handler."""
