"""Open an image to read its header, and nothing else of it.  Knows no format."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from imagemgr import formats
from imagemgr.header import Header, View


@contextlib.contextmanager
def view(path: str) -> Iterator[View]:
    """A file or block device, open for reading; OSError, also for what is neither."""
    # A pipe would wait for a writer.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise OSError(0, "it is neither a file nor a block device", path)
        size = os.lseek(file, 0, os.SEEK_END)
        yield View(size, lambda offset, length: os.pread(file, length, offset))
    finally:
        os.close(file)


def look(path: str, declared: str) -> Header:
    """The header of a file of a format that it is said to have: chains.Look."""
    with view(path) as found:
        return formats.check(declared, found)


def begins_like(path: str) -> str:
    """The format whose magic it has: to tell people, never to open a disk by."""
    with view(path) as found:
        return formats.begins_like(found)


def allocated(path: str) -> int:
    """Bytes of room that it takes; a block device takes none of its own."""
    return os.stat(path).st_blocks * 512
