"""A copy that is coming: `.clusterhost/NAME.part`, its manifest, and a journal that says which chunks are on the disk.

The journal never says more than is synced, so a copy is taken up wherever its writer was killed:

    point       what is left                                       what the next fetch does
    opened      an empty part                                      begins
    manifest    a manifest, a part, no or an older journal         takes chunks over that are the same in both
    journal     all three, nothing or little done                  goes on
    chunk       chunks in the part that the journal has not        fetches those again
    noted       all three                                          goes on
    synced      the same, all done                                 renames
    renamed     the image, a manifest and a journal                removes them, and is done
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from blake3 import blake3

from imagemgr import chunks, names
from imagemgr.chunks import CHUNK, Content, Done, Manifest
from imagemgr.errors import ManifestDamaged
from imagemgr.transfer import files
from imagemgr.transfer.errors import TransferRefused
from imagemgr.transfer.orders import Part as Left

LONGEST = 200
"""Bytes of a name that is kept in the names of our files; a longer one is replaced by its digest."""

_NO_REPLACE = 1
_HERE = -100
_libc = ctypes.CDLL(None, use_errno=True)

Point = Callable[[str], None]
"""Told where a writer is; a test kills it there."""


class Journal(msgspec.Struct, frozen=True, array_like=True):
    """done: as in chunks.Done."""

    name: str
    size: int
    digest: bytes
    done: bytes


class Part:
    """What comes to `target`; `aside`: where manifest and journal of a block device are kept.  For one thread."""

    def __init__(self, target: Path, aside: Path, *, block: bool, at: Point) -> None:
        self._target = target
        self._block = block
        self._at = at
        self._directory = aside if block else target.parent / names.PRIVATE
        stem = _stem(str(target) if block else target.name, always=block)
        self._part = target if block else self._directory / f"{stem}.part"
        self._journal = self._directory / f"{stem}.journal"
        self._manifest = self._directory / f"{stem}.manifest"
        self._name = str(target) if block else target.name
        self.fd = -1

    def open(self) -> None:
        """Open it for this process alone; TransferRefused, OSError."""
        if not self._target.parent.is_dir():
            raise TransferRefused(f"there is no directory {self._target.parent} for {self._target.name}")
        self.fd = self._open_device() if self._block else self._open_file()
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise TransferRefused(f"another process is bringing {self._target}") from error
        self._at("opened")

    def close(self) -> None:
        """What has come stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, manifest: Manifest, digest: bytes) -> Done:
        """Make it ready for chunks; those that are there already.  Everything else in it is a hole then."""
        size = files.identity(self.fd).size
        fresh = not self._block and size == 0
        done = Done.none_of(manifest) if fresh else self._found(manifest, digest, size)
        if self._block and size < manifest.size:
            raise TransferRefused(f"{self._target} has {size} bytes, the image {manifest.size}")
        _replace(self._manifest, chunks.encode(manifest))
        self._at("manifest")
        if not self._block:
            os.ftruncate(self.fd, manifest.size)
        self._write_journal(manifest.size, digest, done)
        self._at("journal")
        if not fresh:
            self._clear(manifest, done)
        return done

    def note(self, manifest: Manifest, digest: bytes, done: Done) -> None:
        """These chunks have been written: sync them, then say so."""
        os.fdatasync(self.fd)
        self._write_journal(manifest.size, digest, done)
        self._at("noted")

    def finish(self, *, replace: bool) -> None:
        """All chunks are there: make it the image.  TransferRefused where one came up meanwhile."""
        os.fsync(self.fd)
        self._at("synced")
        if not self._block:
            self._take_owner()
            _rename(self._part, self._target, replace=replace)
            files.sync_directory(self._target.parent)
        self._at("renamed")
        self.forget()

    def forget(self) -> None:
        """Remove manifest and journal."""
        for path in (self._journal, self._manifest):
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".new").unlink(missing_ok=True)
        if not self._block:
            with contextlib.suppress(OSError):
                self._directory.rmdir()  # the last one leaves nothing

    def remove(self) -> None:
        """Remove all of it; a device keeps what was written."""
        if not self._block:
            self._part.unlink(missing_ok=True)
        self.forget()

    def _open_file(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        for last in (False, True):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if not stat.S_ISDIR(self._directory.lstat().st_mode):
                raise TransferRefused(f"{self._directory} is no directory of this file system")
            try:
                return os.open(self._part, flags, 0o600)
            except FileNotFoundError:  # another one was the last, and left nothing
                if last:
                    raise
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise TransferRefused(f"{self._part} is a symbolic link") from error
        raise AssertionError

    def _open_device(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not stat.S_ISBLK(self._target.stat().st_mode):
            raise TransferRefused(f"{self._target} is no block device")
        # O_EXCL: not one that is mounted or part of another.
        return os.open(self._target, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)

    def _found(self, manifest: Manifest, digest: bytes, size: int) -> Done:
        """What the journal of an earlier fetch says, of this image or of another version of it."""
        none = Done.none_of(manifest)
        try:
            journal = _read(self._journal)
            if not (self._block or journal.size == size):
                return none
            if journal.digest == digest and len(journal.done) == len(none.bits):
                return Done(journal.done)
            before = chunks.decode(self._manifest.read_bytes())
        except (OSError, msgspec.DecodeError, ManifestDamaged):
            return none
        if files.digest_of(before) != journal.digest or len(journal.done) != -(-len(before) // 8):
            return none
        had = Done(journal.done)
        other = {chunk.index for chunk in chunks.differing(manifest, before)}
        return none.with_chunks(
            index
            for index in range(len(before))
            if index in had and index < len(manifest) and index not in other
        )

    def _clear(self, manifest: Manifest, done: Done) -> None:
        """Whatever a killed writer left where nothing is done."""
        clear = files.blank if self._block else files.punch
        for begin, end in _ranges(
            index for index in range(len(manifest)) if self._unclear(manifest, done, index)
        ):
            offset = begin * CHUNK
            clear(self.fd, offset, min(end * CHUNK, manifest.size) - offset)

    def _unclear(self, manifest: Manifest, done: Done, index: int) -> bool:
        # A device's chunks of data are written whole, zeros too.
        return index not in done and not (self._block and manifest.kinds[index] == Content.DATA)

    def _write_journal(self, size: int, digest: bytes, done: Done) -> None:
        _replace(self._journal, msgspec.msgpack.encode(Journal(self._name, size, digest, done.bits)))

    def _take_owner(self) -> None:
        """Who may use it stays as it was."""
        with contextlib.suppress(FileNotFoundError):
            before = self._target.lstat()
            if stat.S_ISREG(before.st_mode):
                os.fchmod(self.fd, stat.S_IMODE(before.st_mode))
                os.fchown(self.fd, before.st_uid, before.st_gid)


def left(directory: Path) -> list[Left]:
    """What unfinished fetches left below a pool's directory."""
    private = directory / names.PRIVATE
    found = (Path(path.name.removesuffix(".new")) for path in private.glob("*"))
    stems = sorted({path.stem for path in found if path.suffix in (".part", ".journal", ".manifest")})
    return [_left(private, stem) for stem in stems]


def _left(private: Path, stem: str) -> Left:
    try:
        journal = _read(private / f"{stem}.journal")
    except (OSError, msgspec.DecodeError):
        with contextlib.suppress(OSError):
            return Left(stem, (private / f"{stem}.part").lstat().st_size, 0, b"")
        return Left(stem, 0, 0, b"")
    done = 0
    with contextlib.suppress(OSError, ManifestDamaged, IndexError):
        manifest = chunks.decode((private / f"{stem}.manifest").read_bytes())
        had = Done(journal.done)
        done = sum(
            chunk.length
            for chunk in manifest.chunks()
            if chunk.content is Content.DATA and chunk.index in had
        )
    return Left(journal.name, journal.size, done, journal.digest)


def _read(path: Path) -> Journal:
    return msgspec.msgpack.decode(path.read_bytes(), type=Journal)


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all, on the disk."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    fresh.rename(path)


def _rename(old: Path, new: Path, *, replace: bool) -> None:
    if replace:
        old.rename(new)
        return
    if not _libc.renameat2(_HERE, os.fsencode(old), _HERE, os.fsencode(new), _NO_REPLACE):
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST or new.exists():
        raise TransferRefused(f"{new} came up while it was fetched, and was not to be replaced")
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(new))
    old.rename(new)


def _stem(name: str, *, always: bool) -> str:
    data = os.fsencode(name)
    return blake3(data).hexdigest() if always or len(data) > LONGEST else name


def _ranges(indices: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers: first, one after the last."""
    begin = end = -1
    for index in indices:
        if index != end:
            if begin >= 0:
                yield begin, end
            begin = index
        end = index + 1
    if begin >= 0:
        yield begin, end
