"""The agent's way to the process that moves images (imagemgr.transfer.worker): hands orders on, does not know them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from clusterhost.agent.errors import Unavailable
from clusterhost.agent.workers import Progress, Work, WorkerProcess
from imagemgr.transfer.frames import Order, Said

_WORK = Work("imagemgr.transfer.worker", "images cannot be moved", "moves images", end_seconds=2.0)
_decode = msgspec.msgpack.Decoder(Said).decode
_encode = msgspec.msgpack.Encoder().encode


_MIB = 1 << 20


class Settings(Protocol):
    """What it needs to know (config.AgentSettings)."""

    @property
    def state_dir(self) -> Path: ...
    @property
    def has_files(self) -> bool: ...
    @property
    def images_port(self) -> int: ...
    @property
    def images_sending_mib(self) -> float: ...
    @property
    def images_receiving_mib(self) -> float: ...


class ImageWorker:
    """One process, from the first order on.  address: where other nodes reach this one; it may block."""

    def __init__(self, settings: Settings, address: Callable[[], str]) -> None:
        self._address = address
        self._on_node = settings.has_files
        options = {
            "--state": settings.state_dir / "images",
            "--port": settings.images_port,
            "--sending": round(settings.images_sending_mib * _MIB),
            "--receiving": round(settings.images_receiving_mib * _MIB),
        }
        words = [str(word) for option in options.items() for word in option]
        self._worker = WorkerProcess(_WORK, words, self._take)

    async def order(self, kind: str, arguments: bytes, progress: Progress) -> bytes:
        """Hand an order on (MessagePack); its result (MessagePack).  Unavailable with the reason.

        progress: bytes done, bytes in all, a sentence."""
        if not self._on_node:
            text = "the agent of this node does not run on it and sees none of its files"
            raise Unavailable("refused", text)
        address = await asyncio.to_thread(self._address)

        def body(number: int) -> bytes:
            return _encode(Order(number, kind, msgspec.Raw(arguments), address))

        return await self._worker.order(body, progress)

    async def close(self) -> None:
        """End the process; what it has fetched of an image stays for the next."""
        await self._worker.close()

    def _take(self, body: bytes) -> None:
        said = _decode(body)
        waiting = self._worker.waiting.get(said.number)
        if waiting is None:
            return
        if said.what == "progress":
            waiting.progress(said.done, said.total, said.text)
        elif said.what == "done":
            waiting.give(bytes(said.result))
        else:
            waiting.refuse(said.text)


def or_loopback(address: str, control: str) -> str:
    """The address, or loopback where there is none and the front end is on this machine, with all nodes."""
    host = urlsplit(control).hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return address or ("127.0.0.1" if here else "")
