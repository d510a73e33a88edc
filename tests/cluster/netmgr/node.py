"""A node as a program: a Keeper that takes orders as lines of JSON.

`python -m tests.cluster.netmgr.node DIR UNDERLAY`.  CRASH_AFTER=n ends it without a word after an order's
n-th step; RUN=1 has it look after its networks by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from netmgr.apply.keeper import Keeper
from netmgr.steps import Step
from netmgr.wanted import GuestGone, WantedGuest, WantedNetwork


class BrokenOff(BaseException):
    """An order asked to be broken off after its n-th step; a new Keeper takes over, as after a crash but quicker."""


class Node:
    """One Keeper and its orders."""

    def __init__(self, directory: Path, underlay: str) -> None:
        self.left, self.break_off = int(os.environ.get("CRASH_AFTER", "0")), 0
        self.steps: list[str] = []
        self.ports: set[str] = set()
        self.make = lambda: Keeper(directory, underlay, ports_of=self._ports, after=self._after)
        self.keeper = self.make()

    def _after(self, step: Step) -> None:
        self.steps.append(type(step).__name__)
        if len(self.steps) == self.left:
            os._exit(9)
        if len(self.steps) == self.break_off:
            raise BrokenOff

    async def _ports(self, uuid: str) -> frozenset[str]:
        return frozenset(self.ports)

    async def order(self, order: dict[str, Any]) -> Any:
        """Carry one out."""
        self.steps = []
        self.break_off = order.get("break_off", 0)
        what, uuid = order["do"], order.get("uuid", "")
        if what == "set":
            result: Any = await self.keeper.set(msgspec.convert(order["wanted"], WantedNetwork))
        elif what == "guest":
            kind: Any = GuestGone if "key" in order["guest"] else WantedGuest
            result = await self.keeper.guest(uuid, msgspec.convert(order["guest"], kind))
        elif what == "remove":
            result = await self.keeper.remove(uuid, order.get("serial"))
        elif what == "ports":
            self.ports = set(order["ports"])
            result = ()
        elif what == "results":
            result = tuple(self.keeper.results.values())
        else:
            result = await self.keeper.heal()
        return {"result": result, "steps": self.steps}


async def main(directory: Path, underlay: str) -> None:
    """Orders come on standard input until it ends."""
    node = Node(directory, underlay)
    runner = asyncio.create_task(node.keeper.run()) if os.environ.get("RUN") else None
    loop = asyncio.get_running_loop()
    print(json.dumps({"networks": node.keeper.networks}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            answer = await node.order(json.loads(line))
        except BrokenOff:
            node.keeper, answer = node.make(), {"broken_off": True}
        except Exception as error:  # the edge of a test program: whatever it is, the test shall see it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(msgspec.json.encode(answer).decode(), flush=True)
    if runner is not None:
        runner.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
