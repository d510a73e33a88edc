"""Handlers of what only nodes can say about the host, joined: what all can do.  Knows no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from clusterhost.frontend.libvirt.handlers.host_ask import (
    MAX_CELLS,
    Result,
    Session,
    ask,
    ask_all,
    ask_one,
    cell_range,
    host_view,
    no_flags,
    procedure,
    too_many,
)
from clusterhost.frontend.libvirt.hostview import HostView, domaincaps
from clusterhost.frontend.libvirt.hostview.cells import Cell
from clusterhost.frontend.libvirt.hostview.trees import parse, write
from clusterhost.model.errors import InvalidArgument, NodeError
from compat.libvirt import messages
from compat.libvirt.schema import Procedure
from compat.libvirt.xdr import Message


def _kept(
    session: Session, key: object, ask_nodes: Callable[[], Awaitable[bytes]]
) -> Result | Awaitable[Result]:
    """The kept answer at once, or a new one from the nodes."""
    view = host_view(session)
    found = view.answer(key)
    return found if found is not None else _ask_and_keep(view, key, ask_nodes)


async def _ask_and_keep(view: HostView, key: object, ask_nodes: Callable[[], Awaitable[bytes]]) -> Result:
    stamp = view.stamp
    return view.keep(key, await ask_nodes(), stamp)


def connect_get_max_vcpus(
    session: Session, args: messages.RemoteConnectGetMaxVcpusArgs
) -> Result | Awaitable[Result]:
    async def lowest() -> bytes:
        answers = await ask_all(session, procedure("CONNECT_GET_MAX_VCPUS"), args)
        decode = messages.RemoteConnectGetMaxVcpusRet.from_bytes
        return messages.RemoteConnectGetMaxVcpusRet(
            max_vcpus=min(decode(answer).max_vcpus for answer in answers)
        ).to_bytes()

    return _kept(session, ("MAX_VCPUS", args.type), lowest)


def connect_get_cpu_model_names(
    session: Session, args: messages.RemoteConnectGetCpuModelNamesArgs
) -> Result | Awaitable[Result]:
    async def shared() -> bytes:
        asked = messages.RemoteConnectGetCpuModelNamesArgs(arch=args.arch, need_results=1, flags=args.flags)
        answers = await ask_all(session, procedure("CONNECT_GET_CPU_MODEL_NAMES"), asked)
        lists = [messages.RemoteConnectGetCpuModelNamesRet.from_bytes(answer).models for answer in answers]
        models = [model for model in lists[0] if all(model in other for other in lists[1:])]
        return messages.RemoteConnectGetCpuModelNamesRet(
            models=models if args.need_results else [], ret=len(models)
        ).to_bytes()

    return _kept(session, ("CPU_MODELS", args.arch, bool(args.need_results), args.flags), shared)


def connect_compare_cpu(session: Session, args: messages.RemoteConnectCompareCpuArgs) -> Awaitable[Result]:
    return _compare(session, procedure("CONNECT_COMPARE_CPU"), args)


def connect_compare_hypervisor_cpu(
    session: Session, args: messages.RemoteConnectCompareHypervisorCpuArgs
) -> Awaitable[Result]:
    return _compare(session, procedure("CONNECT_COMPARE_HYPERVISOR_CPU"), args)


async def _compare(session: Session, asked: Procedure, args: Message) -> Result:
    """The worst of incompatible (0), identical (1) and superset (2): what holds on whichever node it runs."""
    answers = await ask_all(session, asked, args)
    decode = messages.RemoteConnectCompareCpuRet.from_bytes  # the other procedure's result has the same form
    return messages.RemoteConnectCompareCpuRet(result=min(decode(answer).result for answer in answers))


def connect_baseline_cpu(session: Session, args: messages.RemoteConnectBaselineCpuArgs) -> Awaitable[Result]:
    return ask_one(session, procedure("CONNECT_BASELINE_CPU"), args)


def connect_baseline_hypervisor_cpu(
    session: Session, args: messages.RemoteConnectBaselineHypervisorCpuArgs
) -> Awaitable[Result]:
    return ask_one(session, procedure("CONNECT_BASELINE_HYPERVISOR_CPU"), args)


def connect_get_domain_capabilities(
    session: Session, args: messages.RemoteConnectGetDomainCapabilitiesArgs
) -> Result | Awaitable[Result]:
    question = domaincaps.Question(args.emulatorbin, args.arch, args.machine, args.virttype)
    key = ("DOMAIN_CAPABILITIES", question, args.flags)
    return _kept(session, key, lambda: _domain_capabilities(session, question, args.flags))


async def _domain_capabilities(session: Session, question: domaincaps.Question, flags: int) -> bytes:
    """Nodes that cannot honour the question (no such emulator) do not count when another can."""
    documents = [parse(text) for text in await _domain_documents(session, question, flags)]
    again = domaincaps.pinned(question, documents)
    if again is not None:
        documents = [parse(text) for text in await _domain_documents(session, again, flags)]
    cpus = domaincaps.host_models(documents)
    baseline = None
    if cpus:
        first = documents[0]
        asked = messages.RemoteConnectBaselineHypervisorCpuArgs(
            emulator=first.findtext("path"),
            arch=first.findtext("arch"),
            machine=first.findtext("machine"),
            virttype=first.findtext("domain"),
            xmlCPUs=[write(cpu) for cpu in cpus],
            flags=0,
        )
        try:
            found = await ask_one(session, procedure("CONNECT_BASELINE_HYPERVISOR_CPU"), asked)
            baseline = parse(messages.RemoteConnectBaselineHypervisorCpuRet.from_bytes(found).cpu)
        except NodeError:
            baseline = None  # no baseline of these models: the first node's host model is shown
    return messages.RemoteConnectGetDomainCapabilitiesRet(
        capabilities=write(domaincaps.merge(documents, baseline))
    ).to_bytes()


async def _domain_documents(session: Session, question: domaincaps.Question, flags: int) -> list[str]:
    asked = messages.RemoteConnectGetDomainCapabilitiesArgs(
        emulatorbin=question.emulator,
        arch=question.arch,
        machine=question.machine,
        virttype=question.virttype,
        flags=flags,
    )
    answers = await ask_all(session, procedure("CONNECT_GET_DOMAIN_CAPABILITIES"), asked, lenient=True)
    decode = messages.RemoteConnectGetDomainCapabilitiesRet.from_bytes
    return [decode(answer).capabilities for answer in answers]


async def node_get_free_pages(session: Session, args: messages.RemoteNodeGetFreePagesArgs) -> Result:
    no_flags(procedure("NODE_GET_FREE_PAGES"), args.flags)
    view = host_view(session)
    numbers = _pages_range(view, "virNodeGetFreePages", args.startCell, args.cellCount, len(args.pages))
    cells = [cell for cell in view.cells if cell.online and (cell.node.cell in numbers or -1 in numbers)]
    answers = await asyncio.gather(*(_free_pages(session, cell, list(args.pages)) for cell in cells))
    found = {cell.node.cell: counts for cell, counts in zip(cells, answers, strict=True)}
    nothing = [0] * len(args.pages)
    found[-1] = [sum(column) for column in zip(*answers, strict=True)] or nothing
    counts = [count for number in numbers for count in found.get(number, nothing)]
    return messages.RemoteNodeGetFreePagesRet(counts=counts)


def _pages_range(view: HostView, function: str, start: int, count: int, pages: int) -> range:
    if count == 0:
        raise InvalidArgument(f"cellCount in {function} must not be zero")
    numbers = cell_range(view, start, count)
    if len(numbers) * pages > MAX_CELLS:
        raise too_many("page counts", len(numbers) * pages, MAX_CELLS)
    return numbers


async def _free_pages(session: Session, cell: Cell, pages: list[int]) -> list[int]:
    """Sums over the node's own cells, by page size."""
    own = max(cell.node.host.numa_nodes, 1)
    args = messages.RemoteNodeGetFreePagesArgs(pages=pages, startCell=0, cellCount=own, flags=0)
    answer = await ask(session, cell.node.name, procedure("NODE_GET_FREE_PAGES"), args)
    counts = messages.RemoteNodeGetFreePagesRet.from_bytes(answer).counts
    return [sum(counts[index :: len(pages)]) for index in range(len(pages))]


async def node_alloc_pages(session: Session, args: messages.RemoteNodeAllocPagesArgs) -> Result:
    """On every node of the range; it may spread the pages over its own cells as its kernel likes."""
    view = host_view(session)
    numbers = _pages_range(view, "virNodeAllocPages", args.startCell, args.cellCount, len(args.pageSizes))
    asked = procedure("NODE_ALLOC_PAGES")
    total = 0
    for cell in view.cells:
        if cell.node.cell in numbers or -1 in numbers:
            own = messages.RemoteNodeAllocPagesArgs(
                pageSizes=args.pageSizes,
                pageCounts=args.pageCounts,
                startCell=-1,
                cellCount=1,
                flags=args.flags,
            )
            answer = await ask(session, cell.node.name, asked, own)
            total += messages.RemoteNodeAllocPagesRet.from_bytes(answer).ret
    return messages.RemoteNodeAllocPagesRet(ret=total)
