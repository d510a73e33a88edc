"""Nodes and documents for the tests of the host view."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clusterhost.frontend.libvirt.hostview import HostView
from clusterhost.frontend.libvirt.hostview.cells import Cell
from clusterhost.model.cluster import Cluster
from clusterhost.model.errors import ClusterError, NodeUnreachable
from clusterhost.model.node import Admin, Figures, Host, Link, Node
from clusterhost.service.ports import Answer
from compat.libvirt import messages
from compat.libvirt.schema import PROCEDURES
from compat.libvirt.xdr import Message

DATA = Path(__file__).parent / "data"
UUID = bytes.fromhex("c1000000000040008000000000000001")
MIB = 1024 * 1024

N1 = Host(
    hostname="n1", model="x86_64", memory=4942028, cpus=2, mhz=2596, cores=2, libvirt_version=9000000,
    hypervisor_version=7002022, capabilities=(DATA / "capabilities-n1.xml").read_text(),
)  # fmt: skip
N2 = replace(
    N1, hostname="n2", memory=8388608, cpus=4, mhz=2000, cores=4, libvirt_version=10000000,
    hypervisor_version=7001000, capabilities=(DATA / "capabilities-n2.xml").read_text(),
)  # fmt: skip
N3 = replace(
    N1, hostname="n3", memory=9884056, cpus=3, mhz=3000, numa_nodes=2, cores=2,
    capabilities=(DATA / "capabilities-n3.xml").read_text(),
)  # fmt: skip


def node(name: str, cell: int, host: Host, link: Link = Link.UP, admin: Admin = Admin.ENABLED) -> Node:
    """A node with figures that tell it apart."""
    figures = Figures(
        free_memory=(cell + 1) * 100 * MIB,
        cpu={"kernel": 10 + cell, "user": 20, "idle": 30, "iowait": cell},
        memory={"total": host.memory, "free": (cell + 1) * 1000, "buffers": 5, "cached": 6},
    )
    return Node(
        name, cell, admin, link, host=host, figures=figures, reason="" if link is Link.UP else "no beat"
    )


def cluster(*nodes: Node) -> Cluster:
    """A cluster of these."""
    made = Cluster(UUID, "demo", "demo.example")
    for each in nodes:
        made.put_node(each)
    return made


def cells(*nodes: Node) -> list[Cell]:
    """Their cells."""
    return HostView(cluster(*nodes)).cells


class TellingNodes:
    """service.ports.Nodes of a few nodes that answer from a table: procedure -> node -> result."""

    def __init__(self, model: Cluster, told: dict[str, dict[str, Message | bytes]]) -> None:
        self.model = model
        self.told = told
        self.asked: list[tuple[str, str, Any]] = []

    async def call(self, name: str, program: int, number: int, payload: bytes, **_: Any) -> Answer:
        procedure = PROCEDURES[program, number]
        args = None if procedure.args is None else procedure.args.from_bytes(payload)
        self.asked.append((name, procedure.name, args))
        if not self.model.node(name).usable:
            raise NodeUnreachable(f"node {name} is out of reach since 12:03:04")
        result = self.told[procedure.name][name]
        if isinstance(result, bytes):
            return Answer(False, result)
        return Answer(True, result.to_bytes())

    async def fan_out(
        self, names: Sequence[str], program: int, number: int, payload: bytes, **options: Any
    ) -> dict[str, Answer | ClusterError]:
        found: dict[str, Answer | ClusterError] = {}
        for name in names:
            try:
                found[name] = await self.call(name, program, number, payload, **options)
            except ClusterError as error:
                found[name] = error
        return found


@dataclass
class Client:
    """A session of the cluster (view None) or of a node, as handlers see it."""

    model: Cluster
    told: dict[str, dict[str, Message | bytes]] = field(default_factory=dict)
    view: str | None = None
    readonly: bool = False

    def __post_init__(self) -> None:
        self.nodes = TellingNodes(self.model, self.told)
        self.host = HostView(self.model)
        self.world = SimpleNamespace(nodes=self.nodes, host=self.host, cluster=self.model)


def decoded(kind: type[Message], result: Message | bytes) -> Any:
    """A handler's result through the wire."""
    return kind.from_bytes(result if isinstance(result, bytes) else result.to_bytes())


def libvirt_error(code: int, text: str) -> bytes:
    """A node's error struct."""
    return messages.VirNetMessageError(
        code=code, domain=10, message=text, level=2, dom=None, str1="%s", str2=text, str3=None,
        int1=-1, int2=-1, net=None,
    ).to_bytes()  # fmt: skip


def awaited(result: object) -> bool:
    """It needs a node."""
    return isinstance(result, Awaitable)
