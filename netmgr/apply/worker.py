"""The process that makes a node's networks: reads orders on its standard input, answers on its output, heals meanwhile.

A process of its own because it needs other rights and more memory than the agent beside it.  Frames: a big-endian
length, then MessagePack of [number, order] and [number, Outcome].  It ends when its input does; what it made stays.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from struct import Struct

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from netmgr.apply.keeper import Keeper, StaleOrder, UnknownNetwork
from netmgr.apply.survey import survey
from netmgr.orders import (
    ChangeNetwork,
    KeepOnly,
    Order,
    Outcome,
    PassNetwork,
    RemoveNetwork,
    SetGuest,
    SetNetwork,
    Survey,
    encode,
)
from netmgr.wanted import Unfit

LENGTH = Struct(">I")
MAX_FRAME = 64 * 1024 * 1024

log = logging.getLogger("netmgr.worker")

_decode = msgspec.msgpack.Decoder(tuple[int, Order]).decode


class Worker:
    """Orders to a Keeper."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def carry_out(self, order: Order) -> Outcome:
        """Do it; what is in the way is told, never raised."""
        try:
            if isinstance(order, Survey):
                return Outcome(found=await asyncio.to_thread(survey))
            return Outcome(await self._do(order))
        except (Unfit, OSError, NetlinkError) as error:
            return Outcome(str(error))
        except StaleOrder:
            return Outcome()  # a later one has been carried out
        except UnknownNetwork:
            return Outcome("the network has not been set here yet")

    async def _do(self, order: Order) -> str:
        match order:
            case SetNetwork(network):
                return (await self._keeper.set(network)).reason
            case PassNetwork() | Survey():
                return ""  # nothing of the kernel's is to be changed
            case ChangeNetwork(part):
                return (await self._keeper.change(part)).reason
            case SetGuest(uuid, guest, gone):
                change = guest or gone
                return (await self._keeper.guest(uuid, change)).reason if change is not None else ""
            case RemoveNetwork(uuid, serial):
                return (await self._keeper.remove(uuid, serial)).reason
            case KeepOnly(uuids):
                unwanted = [uuid for uuid in self._keeper.networks if uuid not in uuids]
                results = [await self._keeper.remove(uuid) for uuid in unwanted]
                return "; ".join(result.reason for result in results if result.reason)


async def _frames(reader: asyncio.StreamReader, worker: Worker) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def answer(number: int, order: Order) -> None:
        data = encode((number, await worker.carry_out(order)))
        sys.stdout.buffer.write(LENGTH.pack(len(data)) + data)
        sys.stdout.buffer.flush()

    while True:
        try:
            (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            number, order = _decode(await reader.readexactly(size))
        except asyncio.IncompleteReadError:
            break
        task = asyncio.create_task(answer(number, order))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(state_dir: Path, underlay: str) -> None:
    keeper = Keeper(state_dir, underlay)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_FRAME)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    healing = asyncio.create_task(keeper.run())
    serving = asyncio.create_task(_frames(reader, Worker(keeper)))
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    await asyncio.wait([healing, serving], return_when=asyncio.FIRST_COMPLETED)
    for task in (healing, serving):
        task.cancel()
    for outcome in await asyncio.gather(healing, serving, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def main() -> None:
    """Until the input ends."""
    parser = argparse.ArgumentParser(prog="netmgr-worker", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--underlay", required=True)
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    asyncio.run(_serve(options.state, options.underlay))


if __name__ == "__main__":
    main()
