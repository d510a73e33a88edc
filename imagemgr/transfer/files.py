"""Files and block devices of images: what is in them, sparse writing, room.  Knows no network and no journal."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from imagemgr import chunks, names
from imagemgr.chunks import CHUNK, Manifest
from imagemgr.errors import PathRefused
from imagemgr.transfer.errors import TransferRefused

GRAIN = 4096
"""Bytes of zeros, at such an offset, that are not written."""

_READERS = 2
_ZEROS = bytes(GRAIN)
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

Told = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file it is, and as of when (ns).  A block device has no times, so it is never taken for read."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    is_device: bool = False

    def still(self, other: Identity) -> bool:
        """Its bytes are the same; who may read it and how it is called may have changed."""
        return replace(self, changed=0) == replace(other, changed=0)


def checked(path: str) -> Path:
    """A path that says what it means: absolute, without `.` and `..`; PathRefused."""
    if names.normal(path) != path:
        raise PathRefused(f"path {path!r} is not written in its shortest form, {names.normal(path)!r}")
    return Path(path)


def open_image(path: Path) -> int:
    """A descriptor for reading; TransferRefused for what is neither file nor block device, FileNotFoundError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        # Logical volumes are links to their devices; any other link may lead out of the pool.
        if not stat.S_ISBLK(os.stat(path).st_mode):
            raise TransferRefused(
                f"{path} is a symbolic link, allowed are files and block devices"
            ) from error
        fd = os.open(path, flags)
    kind = os.fstat(fd).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        os.close(fd)
        raise TransferRefused(f"{path} is neither a file nor a block device")
    return fd


def identity(fd: int) -> Identity:
    """Of an open file."""
    found = os.fstat(fd)
    if stat.S_ISBLK(found.st_mode):
        return Identity(found.st_rdev, found.st_ino, os.lseek(fd, 0, os.SEEK_END), 0, 0, is_device=True)
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def room_taken(fd: int) -> int:
    """Bytes that an open file takes on its file system; 0 for a device."""
    return os.fstat(fd).st_blocks * 512


def digest_of(manifest: Manifest) -> bytes:
    """Of an image's content; see orders."""
    return blake3(chunks.encode(chunks.content_only(manifest))).digest()


def manifest_of(fd: int, told: Told) -> Manifest:
    """Read all of it, holes aside.  OSError (EIO) when it gets shorter meanwhile."""
    size = identity(fd).size
    with ThreadPoolExecutor(_READERS, "image-reader") as pool:
        return chunks.manifest_of(size, _contents(fd, size, pool, told))


def _contents(fd: int, size: int, pool: ThreadPoolExecutor, told: Told) -> Iterator[bytes | None]:
    """What is in each chunk, in order; a few are read ahead."""
    buffers = deque(bytearray(CHUNK) for _ in range(_READERS + 1))
    reading: deque[tuple[Future[bytes] | None, bytearray | None, int]] = deque()

    def first() -> bytes | None:
        future, buffer, end = reading.popleft()
        if buffer is not None:
            buffers.append(buffer)
        found = future.result() if future is not None else None
        told(end, size)
        return found

    data = 0
    for offset in range(0, size, CHUNK):
        end = min(offset + CHUNK, size)
        if data < end and data <= offset:
            data = _next_data(fd, offset, size)
        if data >= end:
            reading.append((None, None, end))
        else:
            while not buffers:
                yield first()
            buffer = buffers.popleft()
            reading.append((pool.submit(_content, fd, offset, end - offset, buffer), buffer, end))
        while len(reading) > _READERS + 1:
            yield first()
    while reading:
        yield first()


def has_data(fd: int, offset: int, length: int) -> bool:
    """Whether these bytes are anything but a hole, as far as the file system says."""
    return _next_data(fd, offset, offset + length) < offset + length


def _next_data(fd: int, offset: int, size: int) -> int:
    """Where data begin at or after an offset."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return offset  # devices, and file systems that know no holes
        raise


def _content(fd: int, offset: int, length: int, buffer: bytearray) -> bytes:
    view = memoryview(buffer)[:length]
    read_into(fd, offset, view)
    data = buffer if length == len(buffer) else bytearray(view)
    return chunks.content_of(data, lambda each: blake3(each).digest())


def read_into(fd: int, offset: int, view: memoryview) -> None:
    """Fill it; OSError (EIO) where the file ends before."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if not count:
            raise OSError(errno.EIO, f"the file ends at byte {offset + done}")
        done += count


def write_sparse(fd: int, offset: int, view: memoryview) -> None:
    """Write, but for zeros; where they go has to be a hole already."""
    size = len(view)
    begin = at = 0
    while at < size:
        end = min(at + GRAIN, size)
        # Two looks that hardly cost anything tell most grains of data.
        if view[at] or view[(at + end) // 2] or view[at:end].tobytes() != _ZEROS[: end - at]:
            at = end
            continue
        _write(fd, offset + begin, view[begin:at])
        begin = at = end
    _write(fd, offset + begin, view[begin:size])


def write_all(fd: int, offset: int, view: memoryview) -> None:
    """Write, zeros too: a device has no holes."""
    _write(fd, offset, view)


def _write(fd: int, offset: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def punch(fd: int, offset: int, length: int) -> None:
    """Make a hole of it, or zeros where the file system has no holes."""
    if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        _write_zeros(fd, offset, length)


def blank(fd: int, offset: int, length: int) -> None:
    """Zeros on a device, without sending them to it where it can do that itself."""
    if _fallocate(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length):
        _write_zeros(fd, offset, length)


def reserve(fd: int, offset: int, length: int) -> None:
    """Take the room of zeros; nothing where the file system cannot."""
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """0, or the error that says that it cannot be done that way."""
    if not _libc.fallocate(fd, mode, offset, length):
        return 0
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV):
        raise OSError(number, os.strerror(number))
    return number


def _write_zeros(fd: int, offset: int, length: int) -> None:
    zeros = memoryview(bytes(256 * 1024))
    for at in range(0, length, len(zeros)):
        _write(fd, offset + at, zeros[: min(len(zeros), length - at)])


def sync_directory(path: Path) -> None:
    """Names in it are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def room_free(directory: Path) -> int:
    """Bytes that may be written below a directory."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
