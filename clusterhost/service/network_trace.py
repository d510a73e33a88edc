"""Trace the way between guests: ask the nodes on it what they see, and let netmgr.walk say where it stops.

Asks at once and changes nothing.  What a node shall have is what the cluster would tell it now.
"""

from __future__ import annotations

import asyncio
import uuid as uuids
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec

from clusterhost.model.errors import ClusterError
from clusterhost.model.node import Link, Node
from clusterhost.service.admin_args import Args, Method, text_of
from clusterhost.service.describe import describe_silence
from clusterhost.service.network_ends import Ends, ends
from clusterhost.service.ports import Progress
from clusterhost.service.world import World
from clusterhost.service.xml import parse_uuid
from netmgr.hops import Plug, Spot, wire
from netmgr.seen import Asked, Crossing, Probe, Question, Sight, decode_sight, encode
from netmgr.walk import Beyond, walk
from netmgr.wanted import WantedNetwork

T = TypeVar("T")

KIND = "network-look"
"""The agent's operation."""
DEADLINE = 25.0
"""Seconds that a node has to look, which a busy one may need."""
PATIENCE = 1.0
"""Seconds until it is told who is waited for, and again."""
CROSSING_SECONDS = 5.0
"""How long nodes listen for each other: as long as a broken way makes a trace take."""


async def network_trace(world: World, args: Args, progress: Progress) -> object:
    """What is on the way from a guest to another one, its gateway or an address outside, and where it stops."""
    words = text_of(args, "source"), text_of(args, "target")
    found = await _ends(world, *words, progress)
    probe = bool(args.get("probe"))
    shall = {node: _shall(world, found, node) for node in found.nodes}
    crossings = _crossings(world, found, shall)
    nodes = found.nodes if found.source.running else ()  # else there is nothing on the way
    questions = {node: _question(found, node, shall, crossings[node], probe=probe) for node in nodes}
    seen = await _ask_all(world, questions, progress)
    spots = {
        node: Spot(node, silent=said, shall=shall[node])
        if isinstance(said, str)
        else Spot(node, said, shall=shall[node])
        for node, said in seen.items()
    }
    way = walk(found.source, found.target, spots, probe=probe)
    return {
        "source": _end(found.source),
        "target": _end(found.target),
        "whole": way.whole,
        "end": way.end,
        "hops": [
            {"node": hop.node, "part": hop.part, "state": str(hop.state), "found": hop.found}
            for hop in way.hops
        ],
    }


async def _ends(world: World, source: str, target: str, progress: Progress) -> Ends:
    """Their nodes have the definitions of what runs."""

    def tell(_: set[str]) -> None:
        progress(0, 0, "waits for the definitions")

    return (await _patiently({"": ends(world, source, target)}, tell))[""]


async def _ask_all(
    world: World, questions: dict[str, Question], progress: Progress
) -> dict[str, Sight | str]:
    """What each node sees, or why it does not say."""

    def tell(waiting: set[str]) -> None:
        done, names = len(questions) - len(waiting), ", ".join(sorted(waiting))
        progress(done, len(questions), f"waits for {names}")

    return await _patiently({node: _ask(world, node, one) for node, one in questions.items()}, tell)


async def _patiently(
    work: dict[str, Coroutine[Any, Any, T]], tell: Callable[[set[str]], None]
) -> dict[str, T]:
    """Do it all at once, and tell of what takes long."""
    tasks = {name: asyncio.create_task(one) for name, one in work.items()}
    waiting = set(tasks.values())
    try:
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=PATIENCE)
            if waiting:
                tell({name for name, task in tasks.items() if task in waiting})
        return {name: task.result() for name, task in tasks.items()}
    finally:
        for task in waiting:
            task.cancel()


async def _ask(world: World, name: str, question: Question) -> Sight | str:
    node = world.cluster.node(name)
    if not _answers(node):
        return describe_silence(node)
    if not node.host.has_files:
        return f"node {name} cannot be looked at: its agent runs elsewhere"
    try:
        answer = await world.nodes.operate(name, KIND, encode(question), deadline=DEADLINE)
        return decode_sight(msgspec.msgpack.decode(answer, type=bytes))
    except ClusterError as error:
        return str(error)
    except msgspec.DecodeError as error:
        return f"what node {name} sees cannot be read: {error}"


def _answers(node: Node) -> bool:
    """Its agent does; libvirtd is not needed."""
    return node.link in (Link.UP, Link.VIRT_DOWN)


def _question(
    found: Ends,
    node: str,
    shall: dict[str, dict[str, WantedNetwork]],
    crossing: Crossing | None,
    *,
    probe: bool,
) -> Question:
    target = found.target
    plugs = [plug for plug in (found.source, target) if isinstance(plug, Plug)]
    macs = tuple(plug.mac for plug in plugs)
    others = {net.local for name, nets in shall.items() if name != node for net in nets.values()} - {""}
    nets = shall[node].values()
    return Question(
        networks=tuple(Asked(net.uuid, net.bridge, net.overlay, macs) for net in nets),
        links=(
            *(plug.tap for plug in plugs if plug.node == node and plug.tap),
            *(wire(net) for net in nets if net.trunk is not None),
        ),
        ways=(*sorted(others), *((target.address,) if isinstance(target, Beyond) else ())),
        crossing=crossing,
        probe=_probe(target, shall[node])
        if probe and isinstance(target, Plug) and target.node == node
        else None,
    )


def _crossings(
    world: World, found: Ends, shall: dict[str, dict[str, WantedNetwork]]
) -> dict[str, Crossing | None]:
    """For each node; none where the other one would not answer, or there is no other."""
    token = uuids.uuid4().bytes
    crossed = found.networks[-1]
    nets = {node: shall[node].get(crossed) for node in found.nodes}
    able = len(nets) > 1 and all(_answers(world.cluster.node(node)) for node in nets)
    return {
        node: Crossing(net.overlay, token, node == found.source.node, CROSSING_SECONDS)
        if able and net is not None and net.trunk is None
        else None
        for node, net in nets.items()
    }


def _probe(target: Plug, shall: dict[str, WantedNetwork]) -> Probe | None:
    four = [address for address in target.addresses if ip_address(address).version == 4]
    net = shall.get(target.network)
    return Probe(net.bridge, four[0], target.mac) if four and net is not None else None


def _shall(world: World, found: Ends, node: str) -> dict[str, WantedNetwork]:
    """The networks on the way as a node shall have them; those that are not ours to make are left out."""
    nodes = world.networking.nodes
    told = {uuid: nodes.shall(parse_uuid(uuid), node) for uuid in found.networks}
    return {uuid: shall for uuid, shall in told.items() if shall is not None}


def _end(end: Plug | Beyond) -> dict[str, object]:
    if isinstance(end, Beyond):
        return {"address": end.address, "gateway": end.gateway}
    return {
        "domain": end.domain,
        "node": end.node,
        "network": end.name,
        "mac": end.mac,
        "addresses": list(end.addresses),
    }


METHODS: dict[str, Method] = {"network.trace": network_trace}
"""Names of the command's calls -> who answers them."""
