"""The agent's way to the process that makes networks (netmgr.apply.worker): hands orders on, does not know them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from clusterhost.agent.workers import Work, WorkerProcess

_WORK = Work("netmgr.apply.worker", "networks cannot be made", "makes networks", end_seconds=5.0, kept=True)
_answer = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw]).decode


class NetworkWorker:
    """One process, from the first order on, or from the start when there is something to look after: it heals."""

    def __init__(self, state_dir: Path, underlay: str) -> None:
        self._state_dir = state_dir
        self._worker = WorkerProcess(_WORK, ["--state", str(state_dir), "--underlay", underlay], self._take)

    async def start(self) -> None:
        """Start the process if networks were made here before."""
        if any((self._state_dir / "networks").glob("*")):
            await self._worker.start()

    def may_have(self, uuid: str) -> bool:
        """It makes that network ("*": any), or may be about to; False: there is nothing to be removed."""
        return self._worker.running or any((self._state_dir / "networks").glob(f"{uuid}.network"))

    async def order(self, data: bytes) -> bytes:
        """Hand an order on (MessagePack); its Outcome (MessagePack).  Unavailable when the process ends meanwhile."""
        return await self._worker.order(lambda number: msgspec.msgpack.encode((number, msgspec.Raw(data))))

    async def close(self) -> None:
        """End the process; what it made stays."""
        await self._worker.close()

    def _take(self, body: bytes) -> None:
        number, outcome = _answer(body)
        if number in self._worker.waiting:
            self._worker.waiting[number].give(bytes(outcome))
