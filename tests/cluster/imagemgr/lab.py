"""Workers, each in a network namespace of its own or in this one, and files with something in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from struct import Struct
from typing import Any

import msgspec

from imagemgr.transfer import orders
from tests.cluster.netmgr.lab import Space, sh

_LENGTH = Struct(">I")
MIB = 1024 * 1024
_FIEMAP, _SYNC, _EXTENTS = 0xC020660B, 1, 512
"""FS_IOC_FIEMAP and its FIEMAP_FLAG_SYNC (linux/fiemap.h); the most extents that are asked for."""
_MAP, _EXTENT = Struct("=QQLLLL"), Struct("=QQQ32x")
"""Of a map the fourth is the number of extents found; of an extent the third is its length."""


class Refused(Exception):
    """The worker said that there is a problem."""


class Worker:
    """A process, and orders to it.  images: its pool's directory."""

    def __init__(self, name: str, directory: Path, address: str, space: Space | None = None) -> None:
        self.name, self.address, self.space = name, address, space
        self.state = directory / name / "state"
        self.images = directory / name / "images"
        self.images.mkdir(parents=True, exist_ok=True)
        self.progress: list[tuple[int, int, str]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, Future[Any]] = {}
        self._number = 0

    def up(self, **env: object) -> None:
        """Start it."""
        enter = self.space.enter if self.space is not None else ()
        command = [*enter, sys.executable, "-m", "tests.cluster.imagemgr.program", str(self.state)]
        values = {**os.environ, **{name: str(value) for name, value in env.items()}}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=values, start_new_session=True
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def kill(self) -> None:
        """As a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process = None

    def ended(self, seconds: float = 30) -> None:
        """It ends by itself (a crash point)."""
        assert self.process is not None
        self.process.wait(seconds)
        self.kill()

    def send(self, kind: str, arguments: msgspec.Struct) -> Future[Any]:
        """An order; its result, or Refused, or EOFError when the process ended."""
        assert self.process is not None
        assert self.process.stdin is not None
        self._number += 1
        future: Future[Any] = Future()
        self._waiting[self._number] = future
        frame = msgspec.msgpack.encode([self._number, kind, arguments, self.address])
        self.process.stdin.write(_LENGTH.pack(len(frame)) + frame)
        self.process.stdin.flush()
        return future

    def order(self, kind: str, arguments: msgspec.Struct, seconds: float = 50) -> Any:
        """The same, waited for."""
        return self.send(kind, arguments).result(seconds)

    def offer(self, path: Path, **more: Any) -> orders.Offered:
        """Offer a file."""
        found = self.order(orders.OFFER, orders.OfferArgs(str(path), **more))
        return msgspec.convert(found, orders.Offered)

    def source(self, offered: orders.Offered) -> orders.Source:
        """What it offered as a receiver is told."""
        return orders.Source(self.name, offered.address, offered.port, offered.fingerprint, offered.ticket)

    def fetch(self, name: str, offered: orders.Offered, *sources: orders.Source, **more: Any) -> Future[Any]:
        """Fetch into its pool; the result has orders.Fetched's fields."""
        path = str(self.images / name)
        args = orders.FetchArgs(path, offered.size, offered.digest, sources, **more)
        return self.send(orders.FETCH, args)

    def parts(self) -> list[orders.Part]:
        """What is unfinished in its pool."""
        found = self.order(orders.PARTS, orders.PartsArgs(str(self.images)))
        return msgspec.convert(found, list[orders.Part])

    def sent(self) -> int:
        """Bytes that left its namespace."""
        assert self.space is not None
        return int(self.space("cat", "/sys/class/net/eth0/statistics/tx_bytes"))

    def memory(self) -> int:
        """Bytes of it that are in memory, at most so far."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as pipe:
            while len(head := pipe.read(_LENGTH.size)) == _LENGTH.size:
                (size,) = _LENGTH.unpack(head)
                number, what, result, text, done, total = msgspec.msgpack.decode(pipe.read(size))
                if what == "progress":
                    self.progress.append((done, total, text))
                elif what == "done":
                    self._waiting.pop(number).set_result(result)
                else:
                    self._waiting.pop(number).set_exception(Refused(text))
        for future in list(self._waiting.values()):
            future.set_exception(EOFError(f"{self.name} ended"))
        self._waiting.clear()


def image(path: Path, pieces: dict[int, int], size: int, seed: int = 1) -> Path:
    """A sparse file: random bytes, so many at each of these offsets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dice = random.Random(seed)
    with path.open("wb") as file:
        for offset, length in pieces.items():
            file.seek(offset)
            for at in range(0, length, 16 * MIB):
                file.write(dice.randbytes(min(16 * MIB, length - at)))
        file.truncate(size)
    return path


def room(path: Path) -> int:
    """Bytes of the blocks that a file's content has.  Not st_blocks where the file system can say more: ext4 counts the
    blocks there in which it notes where the others are, as many as chance has scattered those."""
    with path.open("rb") as file:
        asked = bytearray(_MAP.pack(0, 2**64 - 1, _SYNC, 0, _EXTENTS, 0) + bytes(_EXTENTS * _EXTENT.size))
        try:
            fcntl.ioctl(file, _FIEMAP, asked)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return path.stat().st_blocks * 512
    count = _MAP.unpack_from(asked)[3]
    assert count < _EXTENTS, f"{path} has too many pieces to be counted"
    return sum(_EXTENT.unpack_from(asked, _MAP.size + number * _EXTENT.size)[2] for number in range(count))


def same(one: Path, other: Path) -> bool:
    """Their bytes are equal."""
    return not sh("cmp", str(one), str(other), check=False) and one.stat().st_size == other.stat().st_size
