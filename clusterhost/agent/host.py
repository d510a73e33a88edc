"""Ask libvirtd about its machine: facts once, figures every second.  Sends nothing to the front end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.rpc import PROCEDURE, Rpc, decoded
from clusterhost.control.messages import NodeFacts, NodeStats
from compat.libvirt.messages import (
    RemoteConnectGetDomainCapabilitiesArgs,
    RemoteNodeGetCpuStatsArgs,
    RemoteNodeGetMemoryStatsArgs,
)

_ALL = -1
_FREE = "remote:NODE_GET_FREE_MEMORY"
_CPU = "remote:NODE_GET_CPU_STATS"
_MEMORY = "remote:NODE_GET_MEMORY_STATS"
_DOMAINS = "remote:CONNECT_GET_DOMAIN_CAPABILITIES"
_FACTS = {
    "hostname": "remote:CONNECT_GET_HOSTNAME",
    "lib_ver": "remote:CONNECT_GET_LIB_VERSION",
    "hv_ver": "remote:CONNECT_GET_VERSION",
    "type": "remote:CONNECT_GET_TYPE",
    "capabilities": "remote:CONNECT_GET_CAPABILITIES",
    "uri": "remote:CONNECT_GET_URI",
}


async def facts(
    rpc: Rpc, *, migration_address: str, has_files: bool, underlay: str, underlay_mtu: int
) -> NodeFacts:
    """What the node is; what its driver does not offer stays empty.  Raises Unavailable."""
    node, *rest = await asyncio.gather(
        _maybe(rpc, "remote:NODE_GET_INFO"), *(_maybe(rpc, name) for name in _FACTS.values())
    )
    documents = [await _maybe(rpc, _DOMAINS, _of_type(kind)) for kind in ("kvm", "qemu")]
    found = {key: getattr(ret, key) for key, ret in zip(_FACTS, rest, strict=True) if ret is not None}
    hardware = {}
    if node is not None:
        names = ("cpus", "mhz", "nodes", "sockets", "cores", "threads")
        hardware = {name: getattr(node, name) for name in names}
        hardware["memory_kib"] = node.memory
        hardware["model"] = node.model.rstrip(b"\0").decode("utf-8", "replace")
    return NodeFacts(
        hostname=found.get("hostname", ""),
        libvirt_version=found.get("lib_ver", 0),
        hypervisor_version=found.get("hv_ver", 0),
        hypervisor_type=found.get("type", ""),
        capabilities=found.get("capabilities", ""),
        domain_capabilities=[document.capabilities for document in documents if document is not None],
        uri=found.get("uri", ""),
        migration_address=migration_address,
        has_files=has_files,
        underlay=underlay,
        underlay_mtu=underlay_mtu,
        **hardware,
    )


def _of_type(kind: str) -> RemoteConnectGetDomainCapabilitiesArgs:
    return RemoteConnectGetDomainCapabilitiesArgs(None, None, None, kind, 0)


async def _maybe(rpc: Rpc, name: str, args: Any = None) -> Any:
    try:
        return await rpc.ask(name, args)
    except LibvirtRefused:
        return None


@dataclass(slots=True)
class _Question:
    """One round of figures: how many answers are missing, when it was asked (loop time)."""

    left: int
    asked: float
    found: dict[str, Any] = field(default_factory=dict)


class Figures:
    """Asks for what changes by the second, once at a time: a libvirtd that hangs is not asked more."""

    def __init__(self) -> None:
        self.stats = NodeStats()
        self._counts = {_CPU: 0, _MEMORY: 0}
        self._question: _Question | None = None

    async def prepare(self, rpc: Rpc) -> None:
        """Ask how many figures there are: libvirtd refuses any other number."""
        cpu = await _maybe(rpc, _CPU, RemoteNodeGetCpuStatsArgs(_ALL, 0, 0))
        memory = await _maybe(rpc, _MEMORY, RemoteNodeGetMemoryStatsArgs(0, _ALL, 0))
        self._counts = {_CPU: cpu.nparams if cpu else 0, _MEMORY: memory.nparams if memory else 0}

    def waiting(self, now: float) -> float:
        """Seconds since the question that has no answer yet; 0 when there is none."""
        return now - self._question.asked if self._question is not None else 0.0

    def ask(self, rpc: Rpc, now: float) -> None:
        """Ask unless the last answers are still missing."""
        if self._question is not None:
            return
        calls = {_FREE: b""}
        if count := self._counts[_CPU]:
            calls[_CPU] = RemoteNodeGetCpuStatsArgs(_ALL, count, 0).to_bytes()
        if count := self._counts[_MEMORY]:
            calls[_MEMORY] = RemoteNodeGetMemoryStatsArgs(count, _ALL, 0).to_bytes()
        question = self._question = _Question(len(calls), now)
        for name, payload in calls.items():
            program, procedure, _ = PROCEDURE[name]
            rpc.call(program, procedure, payload, self._take(name, question))

    def lost(self) -> None:
        """The connection is gone; nothing is awaited any more."""
        self._question = None

    def _take(self, name: str, question: _Question) -> Callable[[bool, bytes, str], None]:
        def answered(ok: bool, payload: bytes, failure: str) -> None:
            question.left -= 1
            if ok:
                with contextlib.suppress(Unavailable):
                    question.found[name] = decoded(name, payload)
            if not question.left and question is self._question:
                self._question = None
                if not failure:
                    self._settle(question.found)

        return answered

    def _settle(self, found: dict[str, Any]) -> None:
        free, cpu, memory = found.get(_FREE), found.get(_CPU), found.get(_MEMORY)
        self.stats = NodeStats(
            free_memory=free.freeMem if free else 0,
            cpu={item.field: item.value for item in cpu.params} if cpu else {},
            memory={item.field: item.value for item in memory.params} if memory else {},
        )


def boot_id() -> str:
    """Names this boot: the kernel's id and when process 1 began (clock ticks), as a node in a container or in
    namespaces shares its kernel with others and starts anew without it."""
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    after_name = Path("/proc/1/stat").read_text().rpartition(")")[2]
    return f"{kernel}.{after_name.split()[19]}"
