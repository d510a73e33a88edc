"""Small files in the directories of pools: written whole or not at all, read in pieces.  Knows no pool."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from clusterhost.agent import pieces
from clusterhost.agent.errors import Unavailable

PRIVATE = ".clusterhost"
"""Beside volumes: where what is not whole yet is, as images that come from other nodes."""
LONGEST = 240
"""Bytes of a name that is left as it is."""
MOST = 1024 * 1024
"""Bytes of a piece."""


def put_part(path: str, offset: int, data: bytes, *, last: bool) -> None:
    """Write bytes of a file that comes in pieces, for its owner alone; it gets its name with the last one."""
    target = _checked(path)
    partial = target.parent / PRIVATE / f"{_short(target.name)}.part"
    if offset == 0:
        partial.unlink(missing_ok=True)
    pieces.write(_opened(partial), offset, data, last=last)
    if last:
        _refuse_unless_file(target)
        partial.replace(target)
        _sync(target.parent)
        with contextlib.suppress(OSError):
            partial.parent.rmdir()  # the last one leaves nothing


def read_part(path: str, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length), fewer at its end."""
    target = _checked(path)
    _refuse_unless_file(target)
    descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(offset)
        return file.read(min(length, MOST))


def _opened(partial: Path) -> int:
    """A descriptor for writing; whoever was the last to bring a file here has taken the directory away."""
    for last in (False, True):
        partial.parent.mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(partial.parent.lstat().st_mode):
            raise Unavailable("refused", f"{partial.parent} is there, and is no directory")
        try:
            return os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            if last:
                raise
    raise AssertionError


def _short(name: str) -> str:
    """With room for what comes behind it in a file's name."""
    data = os.fsencode(name)
    return name if len(data) <= LONGEST else hashlib.sha256(data).hexdigest()


def _checked(path: str) -> Path:
    target = Path(path)
    if not target.is_absolute() or ".." in target.parts or target.name.startswith("."):
        raise Unavailable("refused", f"{path!r} is no path of a volume")
    return target


def _refuse_unless_file(target: Path) -> None:
    """A device, a directory or a link is nobody's volume that is read or written so."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise Unavailable("refused", f"{target} is there, and is no file")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
