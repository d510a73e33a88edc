"""What is known of the host that clients see, kept until a node's facts change.  Pure but for `refresh`,
which asks a node through the port it is given; knows no sockets and no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clusterhost.frontend.libvirt.hostview import capabilities, hostcpu, pinning
from clusterhost.frontend.libvirt.hostview.cells import Cell, Facts, arrange, members, read_facts
from clusterhost.frontend.libvirt.hostview.trees import Element, parse, write
from clusterhost.model.cellmap import CellMap
from clusterhost.model.cluster import Cluster, format_uuid
from clusterhost.model.errors import ClusterError, InvalidXml, NodeUnreachable
from clusterhost.model.node import Host, Node
from clusterhost.service.ports import Nodes
from compat.libvirt import messages
from compat.libvirt.errors import XdrError
from compat.libvirt.schema import BY_NAME

ANSWERS = 512
"""Answers kept at most: some are kept by what clients ask, which is without end."""


class Encoded(bytes):
    """A result that is already in its wire form."""

    __slots__ = ()

    def to_bytes(self) -> bytes:
        """Itself, as messages do it."""
        return self


class HasNodes(Protocol):
    """What `refresh` needs of the world."""

    @property
    def nodes(self) -> Nodes: ...


class HostView:
    """One for a front end.  deadline: seconds that a node has to answer a question of ours."""

    def __init__(self, cluster: Cluster, deadline: float = 30.0) -> None:
        self.cluster = cluster
        self.deadline = deadline
        self.stamp = 0
        """Rises when answers made before may be wrong."""
        self._seen = -1
        self._nodes: list[Node] = []
        self._facts: dict[str, tuple[Host, Facts]] = {}
        self._cells: list[Cell] = []
        self._map: tuple[list[Cell], CellMap] | None = None
        self._answers: dict[object, Encoded] = {}
        self._baselines: dict[tuple[str, ...], Element | None] = {}

    # -- the model, as cells

    @property
    def cells(self) -> list[Cell]:
        """All cells by number; figures in them may be old (`node` has the present ones)."""
        if self.cluster.version != self._seen:
            self._look()
        return self._cells

    def _look(self) -> None:
        """The version rises with domains, too: answers about the host are kept unless a node changed."""
        self._seen = self.cluster.version
        now = self.cluster.cells()
        if len(now) == len(self._nodes) and all(map(_alike, now, self._nodes)):
            return
        self._nodes = now
        facts: dict[str, tuple[Host, Facts]] = {}
        for node in now:
            old = self._facts.get(node.name)
            facts[node.name] = old if old and old[0] == node.host else (node.host, read_facts(node.host))
        self._facts = facts
        self._cells = arrange(now, {name: read for name, (_, read) in facts.items()})
        self.forget()

    def cell_map(self) -> CellMap:
        """CPU numbers of all cells, for what is said of domains."""
        if self._map is None or self._map[0] is not self.cells:
            self._map = (self.cells, pinning.cell_map(self.cells))
        return self._map[1]

    def node(self, cell: Cell) -> Node:
        """The node of a cell as it is now."""
        return self.cluster.nodes.get(cell.node.name, cell.node)

    def online(self) -> list[Cell]:
        """Cells that can be asked and used; NodeUnreachable with the reason of each node if none can."""
        found = [cell for cell in self.cells if cell.online]
        if not found:
            raise NodeUnreachable(self.nobody())
        return found

    def able(self) -> list[Cell]:
        """Cells to ask what the cluster can do: those open to new domains, else any that answers."""
        return [cell for cell in members(self.cells) if cell.online] or self.online()

    def nobody(self) -> str:
        """Why no node can answer."""
        nodes = self.cluster.cells()
        if not nodes:
            return f"cluster '{self.cluster.name}' has no node yet"
        reasons = ", ".join(f"{node.name} is {node.link.value}" for node in nodes)
        return f"no node of cluster '{self.cluster.name}' can be reached: {reasons}"

    # -- answers

    def forget(self) -> None:
        """Every answer must be made anew."""
        self._answers.clear()
        self.stamp += 1

    def answer(self, key: object) -> Encoded | None:
        """What was kept under that key since a node's facts last changed."""
        if self.cluster.version != self._seen:
            self._look()
        return self._answers.get(key)

    def keep(self, key: object, payload: bytes, stamp: int) -> Encoded:
        """Keep an answer, unless something changed since `stamp` was read (before the nodes were asked)."""
        encoded = Encoded(payload)
        if stamp == self.stamp and self.cluster.version == self._seen:
            if len(self._answers) >= ANSWERS:
                self._answers.clear()
            self._answers[key] = encoded
        return encoded

    def made(self, key: object, make: Callable[[], bytes]) -> Encoded:
        """The kept answer, or a new one from the model alone."""
        found = self.answer(key)
        return found if found is not None else self.keep(key, make(), self.stamp)

    # -- capabilities

    def capabilities(self) -> str:
        """The document from what is known now; NodeUnreachable when no node has ever told its own."""
        cells = self.cells
        if not capabilities.readable(cells):
            raise NodeUnreachable(self.nobody())
        cpus = capabilities.host_cpus(cells)
        baseline = self._baselines.get(_key(hostcpu.baseline_request(cpus))) if cpus else None
        return capabilities.merge(format_uuid(self.cluster.uuid), cells, baseline)

    @property
    def unsettled(self) -> bool:
        """The nodes' CPUs differ and no baseline was asked for yet: `refresh` would do better."""
        return _key(self._request()) not in self._baselines if self._request() else False

    async def refresh(self, world: HasNodes) -> None:
        """Ask one node for the baseline of CPUs of different models.  Called when membership changes; a node
        that cannot tell leaves the first node's CPU in place.  Never raises what a node says."""
        request = self._request()
        if not request or self._baselines.get(_key(request)) is not None:
            return
        self._baselines = {_key(request): await self._ask(world.nodes, request)}
        self.forget()

    def _request(self) -> list[Element]:
        cpus = capabilities.host_cpus(self.cells)
        return hostcpu.baseline_request(cpus) if cpus else []

    async def _ask(self, nodes: Nodes, cpus: list[Element]) -> Element | None:
        args = messages.RemoteConnectBaselineCpuArgs(xmlCPUs=[write(cpu) for cpu in cpus], flags=0)
        procedure = BY_NAME["remote:CONNECT_BASELINE_CPU"]
        for cell in [cell for cell in members(self.cells) if cell.online]:
            try:
                answer = await nodes.call(
                    cell.node.name,
                    procedure.program_id,
                    procedure.number,
                    args.to_bytes(),
                    deadline=self.deadline,
                )
                if answer.ok:
                    return parse(messages.RemoteConnectBaselineCpuRet.from_bytes(answer.payload).cpu)
            except (ClusterError, InvalidXml, XdrError):
                continue  # the next node may know better; without any, the first node's CPU is shown
        return None


def _alike(now: Node, old: Node) -> bool:
    """Nothing that the host is made of differs (figures change each second)."""
    return (
        now.name == old.name
        and now.cell == old.cell
        and now.admin is old.admin
        and now.link is old.link
        and (now.host is old.host or now.host == old.host)
    )


def _key(cpus: list[Element]) -> tuple[str, ...]:
    return tuple(write(cpu) for cpu in cpus)
