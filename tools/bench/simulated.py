"""A network on many nodes: a real front end and its real control plane; the nodes' agents are simulated.

An agent here is the real link (ZeroMQ, CURVE, hello, snapshot, beats) in one process with all others; it makes nothing,
and answers an order after the time that a real node was seen to take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog

from clusterhost import daemon
from clusterhost.config import ClusterSection, ControlSection, Settings
from clusterhost.control import messages as m
from clusterhost.control.keys import KeyPair, load_or_make, new_pair
from clusterhost.control.link import Link, Place
from clusterhost.service.ports import Caller
from clusterhost.store.rows import NodeRow, PutNode
from netmgr.orders import Found, Outcome, SetNetwork, Survey, decode_order, encode
from tools.bench.scene import SceneFailed

ROUNDS, SECONDS = 5, 120
LOOK_SECONDS = 0.005
"""What a real node takes to say which links it has."""
_XML = (
    "<network><name>n{0}</name><forward mode='nat'/><ip address='10.60.{0}.1' prefix='24'>"
    "<dhcp><range start='10.60.{0}.10' end='10.60.{0}.99'/></dhcp></ip></network>"
)


def seconds_on(nodes: int, answer: float) -> float:
    """Median of define and start until all nodes have it; answer: seconds that each takes to say so.  SceneFailed."""
    words = [sys.executable, "-m", "tools.bench.simulated", str(nodes), str(answer)]
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=SECONDS, check=False)
    if done.returncode:
        raise SceneFailed("the simulated nodes did not come up")
    return float(json.loads(done.stdout)["seconds"])


class _Agent:
    """control.link.LinkHandler of a node that does nothing."""

    def __init__(
        self, number: int, control: str, bulk: str, server: str, pair: KeyPair, answer: float
    ) -> None:
        self._answer = answer
        self._address = f"10.200.{number // 250}.{number % 250 + 1}"
        place = Place(f"s{number}", control, bulk, server, 1, f"boot-{number}")
        self.link = Link(place, pair, self)

    def epoch_seen(self) -> int:
        return 0

    def on_up(self, welcome: m.Welcome) -> None:
        facts = m.NodeFacts(hostname=self._address, memory_kib=1 << 20, cpus=2, underlay=self._address)
        self.link.send(m.Snapshot(1, facts, [], m.NodeStats()))

    def on_down(self, reason: str) -> None:
        pass

    def on_control(self, message: m.ToAgent, payload: bytes) -> None:
        if isinstance(message, m.Operation) and message.kind == "network":
            order = decode_order(message.args)
            outcome = Outcome(found=Found()) if isinstance(order, Survey) else Outcome()
            seconds = self._answer if isinstance(order, SetNetwork) else LOOK_SECONDS
            done = m.Done(message.id, msgspec.msgpack.encode(encode(outcome)))
            asyncio.get_running_loop().call_later(seconds, self.link.send, done)
        elif isinstance(message, m.Relay | m.Operation):
            self.link.send(m.Failed(message.id, "unsupported", "it is simulated"))

    def on_direct(self, message: m.Relay, payload: bytes, respond: Any) -> None:
        respond(m.Failed(message.id, "unsupported", "it is simulated"), None)

    def on_bulk(self, message: m.Bulk, payload: bytes) -> None:
        pass

    async def beat(self) -> None:
        """Alive, every second."""
        while True:
            await asyncio.sleep(1.0)
            if self.link.up:
                self.link.send(m.Beat(1, m.NodeStats()))


async def _agents(told: dict[str, Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for number, (public, secret) in enumerate(told["pairs"]):
            pair = KeyPair(public, secret)
            agent = _Agent(number, told["control"], told["bulk"], told["server"], pair, told["answer"])
            group.create_task(agent.link.run())
            group.create_task(agent.beat())
            await asyncio.sleep(0.02)  # all at once would be a test of handshakes


async def _front_end(count: int, answer: float) -> float:
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ch-bench-sim-"))
        control, bulk = (f"tcp://127.0.0.1:{_free_port()}" for _ in range(2))
        settings = Settings(
            cluster=ClusterSection(name="simulated", hostname="cluster", state_dir=Path(directory)),
            control=ControlSection(control=control, bulk=bulk, direct="off"),
        )
        server = load_or_make(settings.control.key_file).public
        world = await daemon.open_world(settings, stack)
        pairs = [new_pair() for _ in range(count)]
        rows = [PutNode(NodeRow(f"s{n}", n, public_key=pair.public)) for n, pair in enumerate(pairs)]
        await world.ledger.commit(*rows)
        world.inventory.load()
        world.node_admin.load()
        told = {"control": control, "bulk": bulk, "server": server, "answer": answer}
        told["pairs"] = [(pair.public, pair.secret) for pair in pairs]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tools.bench.simulated", "agents", stdin=subprocess.PIPE
        )
        assert process.stdin is not None
        stack.callback(process.terminate)
        process.stdin.write(json.dumps(told).encode())
        process.stdin.close()
        return await _measure(world, count)


async def _measure(world: Any, count: int) -> float:
    networks, nodes = world.networking.networks, world.networking.nodes
    default = networks.by_name("default").uuid
    while sum(nodes.ready(default, f"s{number}") for number in range(count)) < count:
        await asyncio.sleep(0.2)
    caller, taken = Caller(who="bench"), []
    for number in range(ROUNDS):
        began = time.perf_counter()
        net = await networks.define(caller, _XML.format(number), validate=False)
        await networks.start(caller, net.uuid)
        taken.append(time.perf_counter() - began)
        assert all(nodes.ready(net.uuid, f"s{node}") for node in range(count))
    return sorted(taken)[ROUNDS // 2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """`agents`, with what they need on standard input; or how many nodes there are and how long each takes."""
    logging.basicConfig(level=logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if sys.argv[1:] == ["agents"]:
        asyncio.run(_agents(json.load(sys.stdin)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", type=int)
    parser.add_argument("answer", type=float)
    options = parser.parse_args()
    print(json.dumps({"seconds": asyncio.run(_front_end(options.nodes, options.answer))}))


if __name__ == "__main__":
    main()
