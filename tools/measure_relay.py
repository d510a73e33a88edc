"""Print the latency of calls to a libvirtd, direct and relayed (hub -> agent -> libvirtd), on this machine.

Usage: python -m tools.measure_relay [COUNT].  Needs root (a private libvirtd in namespaces, driver test:///default).
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from clusterhost.agent import transport
from clusterhost.agent.rpc import Rpc
from compat.libvirt import messages
from tests.support.control import ControlPlane, PrivateLibvirtd, number

WARM_UP = 200
UUID = uuid.UUID("31111111-2222-3333-4444-555555555555")


async def measure(count: int) -> None:
    """Measure and print."""
    libvirtd = PrivateLibvirtd()
    try:
        with tempfile.TemporaryDirectory() as directory:
            async with ControlPlane(Path(directory)) as plane:
                plane.agent("n1", libvirtd.uri())
                await plane.up("n1")
                await _measure(plane, libvirtd, count)
    finally:
        libvirtd.close()


async def _measure(plane: ControlPlane, libvirtd: PrivateLibvirtd, count: int) -> None:
    rpc = await transport.connect(transport.target(libvirtd.uri()))
    loop = asyncio.get_running_loop()
    dom = (await rpc.ask("remote:DOMAIN_LOOKUP_BY_NAME", messages.RemoteDomainLookupByNameArgs("test"))).dom
    calls = {
        "CONNECT_GET_LIB_VERSION": b"",
        "DOMAIN_GET_INFO": messages.RemoteDomainGetInfoArgs(dom).to_bytes(),
        "DOMAIN_GET_XML_DESC": messages.RemoteDomainGetXmlDescArgs(dom, 0).to_bytes(),
    }
    print(f"{'call':28}{'direct us':>12}{'relayed us':>12}{'ratio':>8}   (medians of {count})")
    for name, payload in calls.items():
        program, procedure = number(f"remote:{name}")

        def direct(
            program: int = program, procedure: int = procedure, payload: bytes = payload
        ) -> Awaitable[None]:
            future: asyncio.Future[None] = loop.create_future()
            rpc.call(program, procedure, payload, lambda *_: future.set_result(None))
            return future

        def relayed(
            program: int = program, procedure: int = procedure, payload: bytes = payload
        ) -> Awaitable[None]:
            future: asyncio.Future[None] = loop.create_future()
            plane.hub.submit("n1", program, procedure, payload, lambda _: future.set_result(None))
            return future

        one, two = await _median(direct, count), await _median(relayed, count)
        print(f"{name:28}{one:12.1f}{two:12.1f}{two / one:8.2f}")
    await _measure_define(plane, rpc, max(50, count // 10))
    rpc.close()


async def _measure_define(plane: ControlPlane, rpc: Rpc, count: int) -> None:
    """A call that changes: relayed with an operation id (recorded on disk) and the domain's report."""
    head = f"<domain type='test'><name>m</name><uuid>{UUID}</uuid><memory>8192</memory>"
    args = messages.RemoteDomainDefineXmlFlagsArgs(f"{head}<os><type>hvm</type></os></domain>", 0)
    numbers = itertools.count()
    key = UUID.bytes

    async def direct() -> None:
        await rpc.ask("remote:DOMAIN_DEFINE_XML_FLAGS", args)

    async def relayed() -> None:
        name, op = "remote:DOMAIN_DEFINE_XML_FLAGS", f"measure-{next(numbers)}"
        await plane.call("n1", name, args, report=key, op=op, domain=key, generation=1)

    one, two = await _median(direct, count, 20), await _median(relayed, count, 20)
    print(f"{'DOMAIN_DEFINE (op, report)':28}{one:12.1f}{two:12.1f}{two / one:8.2f}")


async def _median(call: Callable[[], Awaitable[None]], count: int, warm_up: int = WARM_UP) -> float:
    """Median of `count` calls one after the other, in microseconds."""
    for _ in range(warm_up):
        await call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    uvloop.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
