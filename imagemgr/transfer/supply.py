"""What a node can give of an image: a file that is there, or one that is coming.  Knows no connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from imagemgr import swarm
from imagemgr.chunks import CHUNK
from imagemgr.transfer import files
from imagemgr.transfer.errors import SourceGone, TransferRefused
from imagemgr.transfer.files import Identity
from imagemgr.transfer.wire import Have

Arrived = Callable[[], tuple[int, tuple[int, ...]]]
"""Chunks that are there (a set of swarm's), and those that were asked for."""


class Supply(Protocol):
    """Threads share one."""

    @property
    def digest(self) -> bytes:
        """Of the image."""

    @property
    def room(self) -> int:
        """Bytes that it takes here, 0 for unknown."""

    def have(self) -> Have:
        """What there is of it now; SourceGone when there will be no more."""

    def descriptor(self) -> int:
        """A new one for reading; SourceGone."""

    def offers(self, index: int) -> bool:
        """This chunk may be read."""

    def check(self, fd: int) -> None:
        """What was read up to now is what was offered; SourceGone."""


class FileSupply:
    """A file as it was when it was read for its digest."""

    def __init__(self, path: Path, identity: Identity, digest: bytes, room: int) -> None:
        self.digest = digest
        self.room = room
        self._path = path
        self._identity = identity

    def have(self) -> Have:
        """See Supply."""
        return Have(whole=True)

    def descriptor(self) -> int:
        """See Supply."""
        try:
            fd = files.open_image(self._path)
        except (OSError, TransferRefused) as error:
            raise SourceGone(f"{self._path} cannot be read any more: {error}") from error
        try:
            self.check(fd)
        except SourceGone:
            os.close(fd)
            raise
        return fd

    def offers(self, index: int) -> bool:
        """See Supply."""
        return 0 <= index < -(-self._identity.size // CHUNK)

    def check(self, fd: int) -> None:
        """See Supply."""
        if not files.identity(fd).still(self._identity):
            raise SourceGone(f"{self._path} was written to after it was offered")


class Coming:
    """A copy that is being fetched here, or is about to: what has arrived of it, for others too."""

    def __init__(self, digest: bytes, size: int) -> None:
        self.digest = digest
        self.room = 0
        self._count = -(-size // CHUNK)
        self._lock = threading.Lock()
        self._fd = -1
        self._arrived: Arrived = _nothing
        self._file: FileSupply | None = None
        self._problem = ""

    def begin(self, fd: int, arrived: Arrived) -> None:
        """Its part is open there; chunks follow."""
        with self._lock:
            self._drop()
            self._fd, self._problem, self._file = os.dup(fd), "", None
            self._arrived = arrived

    def whole(self, file: FileSupply) -> None:
        """It is a file now."""
        with self._lock:
            self._file, self._problem = file, ""
            self._drop()

    def failed(self, problem: str) -> None:
        """No more comes."""
        with self._lock:
            if self._file is None:
                self._problem = problem
                self._drop()

    def have(self) -> Have:
        """See Supply."""
        with self._lock:
            if self._problem:
                raise SourceGone(self._problem)
            if self._file is not None:
                return self._file.have()
            has, asked = self._arrived()
            return Have(False, swarm.bits(has, self._count), asked)

    def descriptor(self) -> int:
        """See Supply."""
        with self._lock:
            if self._file is not None:
                return self._file.descriptor()
            if self._fd < 0:
                raise SourceGone(self._problem or "nothing of it is there yet")
            return os.dup(self._fd)

    def offers(self, index: int) -> bool:
        """See Supply."""
        with self._lock:
            if self._file is not None:
                return self._file.offers(index)
            return index >= 0 and bool(self._arrived()[0] >> index & 1)

    def check(self, fd: int) -> None:
        """See Supply.  A part is written once; the file that it became may be written to."""
        with self._lock:
            if self._file is not None:
                self._file.check(fd)

    def _drop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._arrived = _nothing


def _nothing() -> tuple[int, tuple[int, ...]]:
    return 0, ()
