"""Pinning, NUMA sets and CPU statistics of domains in the cluster's view: wire to use case.  The arithmetic is in
model.cellmap and hostview.pinning, the work in clusterhost.service.pinning.

Questions are asked of the domain's node with its own numbers; the XML tells what was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import msgspec

from clusterhost.frontend.libvirt.hostview.pinning import NODESET, Lens, Window, map_length, spread
from clusterhost.frontend.libvirt.passthrough import reachable
from clusterhost.frontend.libvirt.route import Handler
from clusterhost.model.cellmap import format_set, from_bits, parse_set, to_bits
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, NodeError
from clusterhost.service.pinning import CONFIG, LIVE, PinCall
from compat.libvirt import messages, typedparams
from compat.libvirt.constants import REMOTE_CPUMAPS_MAX
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import Message

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

Result = Awaitable[Message | bytes | None]


class Question:
    """A call about one domain, asked of its node."""

    def __init__(self, session: Session, name: str, args: Any) -> None:
        self.session = session
        self.procedure = BY_NAME[f"remote:{name}"]
        self.args = args
        self.domain: Domain = session.cluster.by_uuid(args.dom.uuid, session.view)
        reachable(session.cluster, self.domain.node)
        self.cells = session.world.context.cell_map()
        self.place = self.cells.node(self.domain.node)

    async def asked(self, args: Message) -> bytes:
        """The node's ret struct.  NodeError."""
        answer = await self.session.world.nodes.call(
            self.domain.node,
            self.procedure.program_id,
            self.procedure.number,
            args.to_bytes(),
            readonly=self.session.readonly,
            deadline=self.session.front.deadline,
        )
        if not answer.ok:
            raise NodeError(answer.payload)
        return answer.payload

    async def seen(self, args: Message, config: bool) -> tuple[bytes, Lens | None]:
        """The node's ret struct, and how to look at it."""
        payload, lens = await asyncio.gather(self.asked(args), self._lens(config))
        return payload, lens

    async def _lens(self, config: bool) -> Lens | None:
        try:
            document = await self.session.world.pinning.document(self.domain, config=config)
        except ClusterError:
            return None  # it is not running, or has no definition: the question itself is refused for that
        return Lens.on(self.cells, document, self.domain.node)

    def config(self, flags: int) -> bool:
        """It is about the definition."""
        return bool(flags & CONFIG) or (not flags & LIVE and not self.domain.active)

    def ask_maps(self, count: int, maplen: int) -> int | None:
        """Length of a map to ask the node for; None: the call goes as it came, so that the node refuses it."""
        if self.place is None or count < 0 or maplen <= 0 or count * maplen > REMOTE_CPUMAPS_MAX:
            return None
        return map_length(self.place.width)


async def get_vcpus(session: Session, args: messages.RemoteDomainGetVcpusArgs) -> Message | bytes:
    """DOMAIN_GET_VCPUS: where each virtual CPU runs and may run."""
    question = Question(session, "DOMAIN_GET_VCPUS", args)
    length = question.ask_maps(args.maxinfo, args.maplen)
    place = question.place
    if place is None or (length is None and args.maplen):
        return await question.asked(args)
    payload, lens = await question.seen(msgspec.structs.replace(args, maplen=length or 0), False)
    ret = messages.RemoteDomainGetVcpusRet.from_bytes(payload)
    info = [
        msgspec.structs.replace(each, cpu=each.cpu + place.first) if each.cpu >= 0 else each
        for each in ret.info
    ]
    keys = [f"vcpupin:{each.number}" for each in info]
    maps = lens.maps(keys, ret.cpumaps, args.maplen) if lens is not None and length else ret.cpumaps
    return messages.RemoteDomainGetVcpusRet(info=info, cpumaps=maps)


async def get_vcpu_pin_info(
    session: Session, args: messages.RemoteDomainGetVcpuPinInfoArgs
) -> Message | bytes:
    """DOMAIN_GET_VCPU_PIN_INFO."""
    question = Question(session, "DOMAIN_GET_VCPU_PIN_INFO", args)
    length = question.ask_maps(args.ncpumaps, args.maplen)
    if length is None:
        return await question.asked(args)
    payload, lens = await question.seen(
        msgspec.structs.replace(args, maplen=length), question.config(args.flags)
    )
    ret = messages.RemoteDomainGetVcpuPinInfoRet.from_bytes(payload)
    if lens is None:
        return payload
    keys = [f"vcpupin:{number}" for number in range(ret.num)]
    maps = lens.maps(keys, ret.cpumaps[: ret.num * length], args.maplen)
    return messages.RemoteDomainGetVcpuPinInfoRet(cpumaps=maps, num=ret.num)


async def get_emulator_pin_info(
    session: Session, args: messages.RemoteDomainGetEmulatorPinInfoArgs
) -> Message | bytes:
    """DOMAIN_GET_EMULATOR_PIN_INFO."""
    question = Question(session, "DOMAIN_GET_EMULATOR_PIN_INFO", args)
    length = question.ask_maps(1, args.maplen)
    if length is None:
        return await question.asked(args)
    payload, lens = await question.seen(
        msgspec.structs.replace(args, maplen=length), question.config(args.flags)
    )
    ret = messages.RemoteDomainGetEmulatorPinInfoRet.from_bytes(payload)
    if lens is None or not ret.cpumaps:
        return payload
    maps = lens.map("emulatorpin", ret.cpumaps, args.maplen)
    return messages.RemoteDomainGetEmulatorPinInfoRet(cpumaps=maps, ret=ret.ret)


async def get_iothread_info(
    session: Session, args: messages.RemoteDomainGetIothreadInfoArgs
) -> Message | bytes:
    """DOMAIN_GET_IOTHREAD_INFO."""
    question = Question(session, "DOMAIN_GET_IOTHREAD_INFO", args)
    payload, lens = await question.seen(args, question.config(args.flags))
    if lens is None:
        return payload
    ret = messages.RemoteDomainGetIothreadInfoRet.from_bytes(payload)
    info = [
        msgspec.structs.replace(each, cpumap=lens.map(f"iothreadpin:{each.iothread_id}", each.cpumap))
        for each in ret.info
    ]
    return messages.RemoteDomainGetIothreadInfoRet(info=info, ret=ret.ret)


async def get_numa_parameters(
    session: Session, args: messages.RemoteDomainGetNumaParametersArgs
) -> Message | bytes:
    """DOMAIN_GET_NUMA_PARAMETERS: a cell is a node."""
    question = Question(session, "DOMAIN_GET_NUMA_PARAMETERS", args)
    payload, lens = await question.seen(args, question.config(args.flags))
    if lens is None:
        return payload
    ret = messages.RemoteDomainGetNumaParametersRet.from_bytes(payload)
    return messages.RemoteDomainGetNumaParametersRet(
        params=lens.numa_parameters(ret.params), nparams=ret.nparams
    )


async def get_cpu_stats(session: Session, args: messages.RemoteDomainGetCpuStatsArgs) -> Message | bytes:
    """DOMAIN_GET_CPU_STATS: the domain has used no CPU of another node (what it used there before a move is told by
    no node)."""
    question = Question(session, "DOMAIN_GET_CPU_STATS", args)
    place = question.place
    if place is None or args.start_cpu < 0 or args.ncpus < 0:
        return await question.asked(args)
    if args.ncpus == 0:
        ret = messages.RemoteDomainGetCpuStatsRet.from_bytes(await question.asked(args))
        return messages.RemoteDomainGetCpuStatsRet(params=ret.params, nparams=question.cells.present)
    if args.nparams == 0:
        return await question.asked(msgspec.structs.replace(args, start_cpu=0))
    if args.start_cpu >= question.cells.present:
        beyond = args.start_cpu - question.cells.present + place.width
        return await question.asked(msgspec.structs.replace(args, start_cpu=beyond))
    count = min(args.ncpus, question.cells.present - args.start_cpu)
    window = Window.of(place, args.start_cpu, count)
    own = msgspec.structs.replace(args, start_cpu=window.first, ncpus=max(window.count, 1))
    ret = messages.RemoteDomainGetCpuStatsRet.from_bytes(await question.asked(own))
    row = ret.params[: ret.nparams]
    params = spread(window, ret.params if window.count else [], row, count)
    return messages.RemoteDomainGetCpuStatsRet(params=params, nparams=ret.nparams)


# -- setting


async def _pin(session: Session, name: str, args: Any, key: str, flags: int) -> bytes:
    """A cpumap."""

    def to_node(numbers: frozenset[int], affects: int) -> bytes:
        length = map_length(max(numbers) + 1) if numbers else min(len(args.cpumap), 1)
        changes: dict[str, Any] = {"cpumap": to_bits(numbers, length)}
        if hasattr(args, "flags"):
            changes["flags"] = affects
        packed: bytes = msgspec.structs.replace(args, **changes).to_bytes()
        return packed

    procedure = BY_NAME[f"remote:{name}"]
    call = PinCall(
        args.dom.uuid, key, True, from_bits(args.cpumap), flags, procedure, args.to_bytes(), to_node
    )
    return await _set(session, call)


async def _set(session: Session, call: PinCall) -> bytes:
    answer = await session.world.pinning.pin(session.caller, call)
    if not answer.ok:
        raise NodeError(answer.payload)
    return answer.payload


def pin_vcpu(session: Session, args: messages.RemoteDomainPinVcpuArgs) -> Result:
    """DOMAIN_PIN_VCPU: as it runs."""
    return _pin(session, "DOMAIN_PIN_VCPU", args, f"vcpupin:{args.vcpu}", LIVE)


def pin_vcpu_flags(session: Session, args: messages.RemoteDomainPinVcpuFlagsArgs) -> Result:
    """DOMAIN_PIN_VCPU_FLAGS."""
    return _pin(session, "DOMAIN_PIN_VCPU_FLAGS", args, f"vcpupin:{args.vcpu}", args.flags)


def pin_emulator(session: Session, args: messages.RemoteDomainPinEmulatorArgs) -> Result:
    """DOMAIN_PIN_EMULATOR."""
    return _pin(session, "DOMAIN_PIN_EMULATOR", args, "emulatorpin", args.flags)


def pin_iothread(session: Session, args: messages.RemoteDomainPinIothreadArgs) -> Result:
    """DOMAIN_PIN_IOTHREAD."""
    return _pin(session, "DOMAIN_PIN_IOTHREAD", args, f"iothreadpin:{args.iothreads_id}", args.flags)


NUMA_MODE = "numa_mode"
MODES = ("strict", "preferred", "interleave", "restrictive")
"""virDomainNumatuneMemMode, as in XML."""


async def set_numa_parameters(session: Session, args: messages.RemoteDomainSetNumaParametersArgs) -> bytes:
    """DOMAIN_SET_NUMA_PARAMETERS: the nodeset names nodes."""
    question = Question(session, "DOMAIN_SET_NUMA_PARAMETERS", args)
    given = parse_set(str(typedparams.get(args.params, NODESET, "")))
    if not given:
        return await question.asked(args)  # the mode alone, or a nodeset that libvirt refuses

    def to_node(numbers: frozenset[int], affects: int) -> bytes:
        params = typedparams.replace(args.params, NODESET, format_set(numbers))
        return messages.RemoteDomainSetNumaParametersArgs(args.dom, params, affects).to_bytes()

    mode = typedparams.get(args.params, NUMA_MODE)
    if mode is not None and not 0 <= mode < len(MODES):
        return await question.asked(args)
    word = None if mode is None else MODES[mode]
    call = PinCall(
        args.dom.uuid,
        "numatune",
        False,
        given,
        args.flags,
        question.procedure,
        args.to_bytes(),
        to_node,
        word,
    )
    return await _set(session, call)


PINNING: dict[str, Handler] = {
    "remote:DOMAIN_GET_VCPUS": get_vcpus,
    "remote:DOMAIN_GET_VCPU_PIN_INFO": get_vcpu_pin_info,
    "remote:DOMAIN_GET_EMULATOR_PIN_INFO": get_emulator_pin_info,
    "remote:DOMAIN_GET_IOTHREAD_INFO": get_iothread_info,
    "remote:DOMAIN_GET_NUMA_PARAMETERS": get_numa_parameters,
    "remote:DOMAIN_GET_CPU_STATS": get_cpu_stats,
    "remote:DOMAIN_PIN_VCPU": pin_vcpu,
    "remote:DOMAIN_PIN_VCPU_FLAGS": pin_vcpu_flags,
    "remote:DOMAIN_PIN_EMULATOR": pin_emulator,
    "remote:DOMAIN_PIN_IOTHREAD": pin_iothread,
    "remote:DOMAIN_SET_NUMA_PARAMETERS": set_numa_parameters,
}
"""Rows of ROUTES in the cluster's view; in a node's view they are relayed as they come."""
