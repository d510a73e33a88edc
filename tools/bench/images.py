"""Images from node to node: a copy against qemu-img's through a local socket, memory meanwhile, many receivers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from imagemgr.transfer import orders
from imagemgr.transfer.frames import LENGTH, Order, Said
from tools.bench.measure import Limit, Result
from tools.bench.scene import Scene, SceneFailed

COPY, MEMORY, MANY = 1.3, 64.0, 1.5
MIB = 1024 * 1024
SIZE, DATA = 4096 * MIB, {0: 512 * MIB, 1024 * MIB: 256 * MIB, 3000 * MIB: 256 * MIB}
ROUNDS = 5
RECEIVERS, LINK, SMALL = 8, 16 * MIB, 256 * MIB
"""LINK: bytes a second that each node sends, and receives, at most."""

COPIED = "image: 1 GiB of data in 4 GiB to another node, on the disk, against qemu-img convert -S"
SLIM = "image: memory above idle of either process meanwhile"
SPREAD = f"image: to {RECEIVERS} nodes at 16 MiB/s each, against one"


def all_cases() -> Iterator[tuple[str, str, Callable[[Scene], Result | Limit]]]:
    """Name, group, and what measures."""
    yield COPIED, "image", copied
    yield SLIM, "image", memory
    yield SPREAD, "image", spread


class Mover:
    """The process that moves images at a node, in this machine's own network; a directory for its images."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.images = directory / "images"
        self.images.mkdir(parents=True)
        command = (sys.executable, "-m", "imagemgr.transfer.worker", "--state", str(directory / "state"))
        self.process = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._waiting: dict[int, Future[msgspec.Raw]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def order(self, kind: str, arguments: msgspec.Struct) -> Future[msgspec.Raw]:
        """Begin it."""
        assert self.process.stdin is not None
        number = len(self._waiting) + 1
        self._waiting[number] = Future()
        raw = msgspec.Raw(msgspec.msgpack.encode(arguments))
        frame = msgspec.msgpack.encode(Order(number, kind, raw, "127.0.0.1"))
        self.process.stdin.write(LENGTH.pack(len(frame)) + frame)
        self.process.stdin.flush()
        return self._waiting[number]

    def offer(self, name: str, of: orders.Offered | None = None) -> orders.Offered:
        """Offer an image, or what is coming of one."""
        more: dict[str, Any] = {} if of is None else {"digest": of.digest, "size": of.size}
        found = self.order(orders.OFFER, orders.OfferArgs(str(self.images / name), **more)).result(60)
        return msgspec.msgpack.decode(found, type=orders.Offered)

    def fetch(self, name: str, offered: orders.Offered, *others: orders.Offered) -> Future[msgspec.Raw]:
        """Fetch it of all of these."""
        sources = tuple(
            orders.Source("bench", each.address, each.port, each.fingerprint, each.ticket)
            for each in (offered, *others)
        )
        path = str(self.images / name)
        return self.order(orders.FETCH, orders.FetchArgs(path, offered.size, offered.digest, sources))

    def most_memory(self) -> float:
        """MB that it has had in memory so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) / 1024

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            while len(head := pipe.read(LENGTH.size)) == LENGTH.size:
                (size,) = LENGTH.unpack(head)
                said = msgspec.msgpack.decode(pipe.read(size), type=Said)
                if said.what == "done":
                    self._waiting[said.number].set_result(msgspec.Raw(bytes(said.result)))
                elif said.what == "problem":
                    self._waiting[said.number].set_exception(SceneFailed(said.text))


def copied(scene: Scene) -> Result:
    """Seconds from the order to the last byte on the disk, its digest included; who begins changes every round."""
    with _movers(2) as (directory, [sender, receiver]):
        source = _image(sender.images / "x", DATA, SIZE)
        taken: list[list[float]] = [[], []]
        for number in range(ROUNDS):
            for side in ((0, 1), (1, 0))[number % 2]:
                os.sync()
                # As if it were new to the sender: a manifest that is known saves reading it.
                os.utime(source)
                act = _converted if side == 0 else _moved
                taken[side].append(act(directory, source, sender, receiver))
        return Result(COPIED, "image", "s", *(statistics.median(each) for each in taken), COPY)


def memory(scene: Scene) -> Limit:
    """Of the process that sends a GiB or the one that receives it, whichever is more."""
    with _movers(2) as (_, [sender, receiver]):
        both = (sender, receiver)
        for each in both:
            each.order(orders.PARTS, orders.PartsArgs(str(each.images))).result(60)
        idle = [each.most_memory() for each in both]
        _image(sender.images / "x", DATA, SIZE)
        receiver.fetch("x", sender.offer("x")).result(120)
        most = max(each.most_memory() - before for each, before in zip(both, idle, strict=True))
        return Limit(SLIM, "image", "MB", most, MEMORY)


def spread(scene: Scene) -> Result:
    """Seconds until the last has it, against seconds for one."""
    limits = ("--sending", str(LINK), "--receiving", str(LINK))
    with _movers(2 + RECEIVERS, *limits) as (_, [sender, one, *many]):
        _image(sender.images / "x", {0: SMALL}, SMALL)
        offered = sender.offer("x")
        began = time.monotonic()
        one.fetch("x", offered).result(120)
        alone = time.monotonic() - began
        coming = [each.offer("x", of=offered) for each in many]
        began = time.monotonic()
        running = [
            each.fetch("x", offered, *(other for other in coming if other is not own))
            for each, own in zip(many, coming, strict=True)
        ]
        for each in running:
            each.result(300)
        return Result(SPREAD, "image", "s", alone, time.monotonic() - began, MANY)


def _converted(directory: Path, source: Path, sender: Mover, receiver: Mover) -> float:
    socket, target = directory / "nbd", directory / "converted"
    server = subprocess.Popen(["qemu-nbd", "-r", "-t", "-f", "raw", "-k", str(socket), str(source)])
    try:
        while not socket.exists():
            time.sleep(0.01)
        began = time.monotonic()
        command = ["qemu-img", "convert", "-S", "4k", "-f", "raw", "-O", "raw"]
        subprocess.run([*command, f"nbd+unix:///?socket={socket}", str(target)], check=True)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        return time.monotonic() - began
    finally:
        server.terminate()
        server.wait()
        socket.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def _moved(directory: Path, source: Path, sender: Mover, receiver: Mover) -> float:
    began = time.monotonic()
    receiver.fetch("y", sender.offer(source.name)).result(120)
    taken = time.monotonic() - began
    (receiver.images / "y").unlink()
    return taken


def _image(path: Path, data: dict[int, int], size: int) -> Path:
    """Sparse, with bytes that cannot be compressed at these offsets."""
    with path.open("wb") as file:
        for offset, length in data.items():
            file.seek(offset)
            for _ in range(0, length, MIB):
                file.write(os.urandom(MIB))
        file.truncate(size)
    return path


@contextmanager
def _movers(count: int, *options: str) -> Iterator[tuple[Path, list[Mover]]]:
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ch-images-")))
        movers = [Mover(directory / f"n{number}", *options) for number in range(count)]
        for each in movers:
            undo.callback(each.close)
        yield directory, movers
