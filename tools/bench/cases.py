"""What is measured: a table of calls with the ratio that each shall keep to."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import libvirt

from tools.bench import console, images, networks, volumes
from tools.bench.measure import Act, Limit, Result, calls_per_second, in_turn
from tools.bench.scene import RUNNING, Scene, SceneFailed, fill_nodes

CACHED, RELAYED, CHANGE = 1.0, 3.0, 1.2
CONSOLE, PARALLEL, STATS = 0.5, 1.0, 0.6
CLIENTS = 16
PARALLEL_SECONDS = 3.0
PARALLEL_ROUNDS = 3
MIXED = 10
"""Calls in one act of `_mixed`."""


@dataclass(frozen=True)
class Case:
    """One call: `make` gives, for a connection, what to repeat."""

    name: str
    group: str
    target: float
    make: Callable[[Scene, libvirt.virConnect], Act]
    rounds: int = 15


def _call(name: str) -> Callable[[Scene, libvirt.virConnect], Act]:
    return lambda scene, connection: getattr(connection, name)


def _on_domain(use: Callable[[libvirt.virDomain], object]) -> Callable[[Scene, libvirt.virConnect], Act]:
    def make(scene: Scene, connection: libvirt.virConnect) -> Act:
        domain = connection.lookupByName(RUNNING)
        return lambda: use(domain)

    return make


def _lookup(scene: Scene, connection: libvirt.virConnect) -> Act:
    return lambda: connection.lookupByName(RUNNING)


def _define(scene: Scene, connection: libvirt.virConnect) -> Act:
    xml = scene.xml(f"define-{uuid.uuid4()}")
    return lambda: connection.defineXML(xml).undefine()


def _start(scene: Scene, connection: libvirt.virConnect) -> Act:
    xml = scene.xml(f"start-{uuid.uuid4()}")

    def act() -> None:
        domain = connection.defineXML(xml)
        domain.create()
        domain.destroy()
        domain.undefine()

    return act


CASES = (
    Case("getLibVersion", "cached", CACHED, _call("getLibVersion")),
    Case("lookupByName", "cached", CACHED, _lookup),
    Case("state", "cached", CACHED, _on_domain(lambda domain: domain.state())),
    Case("listAllDomains (100)", "cached", CACHED, _call("listAllDomains")),
    Case("getInfo (nodeinfo)", "cached", CACHED, _call("getInfo")),
    Case("getCapabilities", "cached", CACHED, _call("getCapabilities")),
    Case("info", "relayed", RELAYED, _on_domain(lambda domain: domain.info())),
    Case("XMLDesc, running", "relayed", RELAYED, _on_domain(lambda domain: domain.XMLDesc())),
    Case("blockStats", "relayed", RELAYED, _on_domain(lambda domain: domain.blockStats("vda"))),
    Case("define, undefine", "change", CHANGE, _define),
    Case("define, start, destroy, undefine", "change", CHANGE, _start, rounds=8),
)


def run(scene: Scene, say: Callable[[str], None], only: Sequence[str] = ("",)) -> Iterator[Result | Limit]:
    """One result after the other, of what has one of the names in its own or its group's; what fails is told."""
    for name, group, measure in _all():
        if any(part in name or part in group for part in only):
            say(name)
            try:
                yield measure(scene)
            except SceneFailed as error:
                say(f"{name}: not measured: {error}")


def _all() -> Iterator[tuple[str, str, Callable[[Scene], Result | Limit]]]:
    for case in CASES:
        yield case.name, case.group, partial(_case, case)
    yield f"{CLIENTS} clients, mixed calls", "parallel", _parallel
    yield "console (virtio)", "stream", partial(_stream, "console (virtio)", console.CONSOLE_LOAD)
    yield "channel (virtio)", "stream", partial(_stream, "channel (virtio)", console.CHANNEL_LOAD)
    yield from networks.all_cases()
    yield from images.all_cases()
    yield from volumes.all_cases()
    yield "getAllDomainStats, 3 nodes against each in turn", "fan-out", _stats


def _case(case: Case, scene: Scene) -> Result:
    direct, cluster = (case.make(scene, connection) for _, connection in scene.sides)
    return Result(case.name, case.group, "µs", *in_turn(direct, cluster, rounds=case.rounds), case.target)


def _parallel(scene: Scene) -> Result:
    rates: list[list[float]] = [[], []]
    for number in range(PARALLEL_ROUNDS):
        for side in ((0, 1), (1, 0))[number % 2]:
            rates[side].append(_rate(scene.sides[side][0]))
    direct, cluster = (statistics.median(found) for found in rates)
    return Result(f"{CLIENTS} clients, mixed calls", "parallel", "calls/s", direct, cluster, PARALLEL, True)


def _rate(uri: str) -> float:
    connections = [libvirt.open(uri) for _ in range(CLIENTS)]
    try:
        return MIXED * calls_per_second([_mixed(connection) for connection in connections], PARALLEL_SECONDS)
    finally:
        for connection in connections:
            connection.close()


def _mixed(connection: libvirt.virConnect) -> Act:
    """MIXED calls in the mixture of a monitoring client."""
    domain = connection.lookupByName(RUNNING)

    def act() -> None:
        connection.getLibVersion()
        connection.getInfo()
        for _ in range(3):
            connection.lookupByName(RUNNING)
            domain.state()
        domain.info()
        connection.numOfDomains()

    return act


def _stream(name: str, load: console.Load, scene: Scene) -> Result:
    console.tell(scene.direct, load.commands)
    rates: list[list[float]] = [[], []]
    for _ in range(3):
        for side, (_, connection) in enumerate(scene.sides):
            rates[side].append(console.megabytes_per_second(connection, load))
    direct, cluster = (statistics.median(found) for found in rates)
    return Result(name, "stream", "MB/s", direct, cluster, CONSOLE, True)


def _stats(scene: Scene) -> Result:
    fill_nodes(scene)
    connections = [libvirt.open(uri) for uri in scene.node_uris]

    def direct() -> None:
        for connection in connections:
            connection.getAllDomainStats()

    times = in_turn(direct, scene.cluster.getAllDomainStats, seconds=0.2)
    for connection in connections:
        connection.close()
    return Result("getAllDomainStats, 3 nodes against each in turn", "fan-out", "µs", *times, STATS)
