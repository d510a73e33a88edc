"""What a node does for orders about images: offers, fetches, digests, leftovers.  Blocks; knows no pipe."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from imagemgr.chunks import CHUNK
from imagemgr.errors import ImageError
from imagemgr.transfer import files, journal, pace
from imagemgr.transfer.errors import Stopped, TransferRefused
from imagemgr.transfer.journal import Part, Point
from imagemgr.transfer.limits import Limit
from imagemgr.transfer.manifests import Manifests
from imagemgr.transfer.orders import (
    DigestArgs,
    FetchArgs,
    Fetched,
    OfferArgs,
    Offered,
    PartsArgs,
    RemoveArgs,
    StopArgs,
)
from imagemgr.transfer.orders import Part as Left
from imagemgr.transfer.receive import Fetch, Surroundings, Told
from imagemgr.transfer.send import Server
from imagemgr.transfer.supply import Coming, FileSupply, Supply

AT_ONCE = 4
"""Fetches; others wait."""
WAIT_SECONDS = 2.0
"""How often one that waits says so: an order lasts as long as it tells something."""
UNSURE = 60.0
"""Seconds.  A file that was written to within them may be written again without its times telling."""
SOURCES = 16
"""The most of one fetch."""


class Node:
    """`carry_out` an order, in a thread of its own.  state: a directory; sending, receiving: bytes a second, 0 for no
    limit; at: see Surroundings; port: where images are given, 0 for any."""

    SAYS = (ImageError, Stopped, OSError)
    """What it raises; anything else is a mistake of ours."""

    def __init__(
        self,
        state: Path,
        sending: int = 0,
        receiving: int = 0,
        at: Point = lambda point: None,
        port: int = 0,
    ) -> None:
        self._manifests = Manifests(state / "manifests")
        self._server = Server(self._manifests, Limit(sending), port)
        self._around = Surroundings(self._manifests, Limit(receiving), state / "devices", at)
        self._lock = threading.Lock()
        self._fetches: dict[str, tuple[Fetch, Future[Fetched]]] = {}
        self._comings: dict[tuple[str, bytes], Coming] = {}
        self._room = threading.Semaphore(AT_ONCE)

    def carry_out(self, order: msgspec.Struct, address: str, told: Told) -> object:
        """Do it; its result.  ImageError, Stopped, OSError."""
        match order:
            case OfferArgs():
                return self._offer(order, address, told)
            case FetchArgs():
                return self._fetch(order, told)
            case StopArgs(path):
                self._stop(path)
            case RemoveArgs(path):
                self._remove(path)
            case DigestArgs(paths, again):
                return [self._digest(path, again, told) for path in paths]
            case PartsArgs(directory):
                return self._parts(directory)
        return None

    # ---- offers -------------------------------------------------------------------------------------------

    def _offer(self, order: OfferArgs, address: str, told: Told) -> Offered:
        if not address:
            raise TransferRefused("it is not known by which address other nodes reach this one")
        path = files.checked(order.path)
        if order.digest:
            supply: Supply = self._coming(order.path, order.digest, order.size)
            size = order.size
        else:
            supply, size = self._file(path, told)
        fingerprint = self._server.fingerprint
        ticket = self._server.offer(supply, order.bytes_per_second)
        return Offered(size, supply.digest, address, self._server.listen(address), fingerprint, ticket)

    def _file(self, path: Path, told: Told) -> tuple[Supply, int]:
        fd = files.open_image(path)
        try:
            before = files.identity(fd)
            digest = self._manifests.of_file(fd, _reading(path, told))
            if not files.identity(fd).still(before):
                raise TransferRefused(f"{path} was written to while it was read")
            return FileSupply(path, before, digest, files.room_taken(fd)), before.size
        finally:
            os.close(fd)

    def _digest(self, path: str, again: bool, told: Told) -> bytes:
        try:
            fd = files.open_image(files.checked(path))
        except (FileNotFoundError, NotADirectoryError):
            return b""
        try:
            reading = _reading(Path(path), told)
            return self._read(fd, reading) if again else self._manifests.of_file(fd, reading)
        finally:
            os.close(fd)

    def _read(self, fd: int, reading: Callable[[int, int], None]) -> bytes:
        """What is on the disk, not what the kernel remembers of it; what was noted of the file is void."""
        before = files.identity(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = self._manifests.keep(files.manifest_of(fd, reading))
        if files.identity(fd) == before and time.time() - before.modified / 1e9 > UNSURE:
            self._manifests.note(before, digest)
        return digest

    def _coming(self, path: str, digest: bytes, size: int) -> Coming:
        with self._lock:
            for key, coming in list(self._comings.items()):
                if key[0] not in self._fetches and not self._server.gives(coming):
                    del self._comings[key]
            return self._comings.setdefault((path, digest), Coming(digest, size))

    # ---- fetches ------------------------------------------------------------------------------------------

    def _fetch(self, order: FetchArgs, told: Told) -> Fetched:
        if not 0 < len(order.sources) <= SOURCES:
            raise TransferRefused(f"there are {len(order.sources)} sources, allowed are 1 to {SOURCES}")
        coming = self._coming(order.path, order.digest, order.size)
        with self._lock:
            running = self._fetches.get(order.path)
            if running is None:
                fetch = Fetch(order, self._around, coming, told)
                future: Future[Fetched] = Future()
                self._fetches[order.path] = fetch, future
        if running is not None:
            return self._join(order, *running, told)
        try:
            while not self._room.acquire(timeout=WAIT_SECONDS):
                fetch.tell(0, order.size, f"{order.path} waits until fewer images are fetched")
            try:
                future.set_result(fetch.run())
            finally:
                self._room.release()
        except BaseException as error:  # whoever has joined is told the same
            future.set_exception(error)
        finally:
            with self._lock:
                del self._fetches[order.path]
        return future.result()

    def _join(self, order: FetchArgs, fetch: Fetch, future: Future[Fetched], told: Told) -> Fetched:
        if fetch.args.digest != order.digest:
            raise TransferRefused(f"another image is being fetched to {order.path}")
        fetch.join(told)
        return future.result()

    def _stop(self, path: str) -> None:
        with self._lock:
            running = self._fetches.get(path)
        if running is not None:
            fetch, future = running
            fetch.stop()
            future.exception()

    def _remove(self, path: str) -> None:
        self._stop(path)
        target = files.checked(path)
        block = target.is_block_device()
        Part(target, self._around.aside, block=block, at=self._around.at).remove()

    def _parts(self, directory: str) -> list[Left]:
        return journal.left(files.checked(directory))


def _reading(path: Path, told: Told) -> Callable[[int, int], None]:
    """Progress of reading, not for every chunk of it."""
    last: list[Any] = [0]

    def reading(done: int, total: int) -> None:
        if done - last[0] >= 16 * CHUNK or done in (0, total):
            last[0] = done
            told(done, total, f"{path} is read: {pace.said(done, total, 0)}")

    return reading
