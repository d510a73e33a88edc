"""Chunks that an older file has at their place: taken from there, verified, so that they need not come.

Knows no network and no journal.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Set
from struct import Struct

from blake3 import blake3

from imagemgr.chunks import CHUNK, Chunk
from imagemgr.transfer import files

_CLONE_RANGE = 0x4020940D
"""FICLONERANGE (linux/fs.h): two files have the same blocks, until one of them is written to."""
_RANGE = Struct("=qQQQ")
_NEVER = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS})


class Older:
    """An older file, and the part that it is taken to; both open.  unlike: chunks that it is known not to have."""

    def __init__(self, old: int, part: int, unlike: Set[int] = frozenset()) -> None:
        self._old = old
        self._part = part
        self._unlike = unlike
        self._size = files.identity(old).size
        self._clones = True
        self._buffer = bytearray(CHUNK)

    def take(self, chunk: Chunk) -> bool:
        """Whether it has this chunk, whose place in the part is a hole; then that has it too.  OSError of the part."""
        if not self._may_have(chunk):
            return False
        if self._clone(chunk):
            # Looked at there: whoever writes to the older file now changes no clone.
            if self._is_in(self._part, chunk):
                return True
            files.punch(self._part, chunk.offset, chunk.length)
            return False
        if not self._is_in(self._old, chunk):
            return False
        files.write_sparse(self._part, chunk.offset, memoryview(self._buffer)[: chunk.length])
        return True

    def _may_have(self, chunk: Chunk) -> bool:
        if chunk.index in self._unlike or chunk.offset + chunk.length > self._size:
            return False
        return files.has_data(self._old, chunk.offset, chunk.length)

    def _clone(self, chunk: Chunk) -> bool:
        if not self._clones:
            return False
        asked = _RANGE.pack(self._old, chunk.offset, chunk.length, chunk.offset)
        try:
            fcntl.ioctl(self._part, _CLONE_RANGE, asked)
        except OSError as error:
            self._clones = error.errno not in _NEVER
            return False
        return True

    def _is_in(self, fd: int, chunk: Chunk) -> bool:
        view = memoryview(self._buffer)[: chunk.length]
        try:
            files.read_into(fd, chunk.offset, view)
        except OSError:
            return False  # what cannot be read comes from elsewhere
        return blake3(view).digest() == chunk.digest
