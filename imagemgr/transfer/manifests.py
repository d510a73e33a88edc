"""Manifests that were made once, kept on the disk: by digest, and which file had which.  Forgets the oldest."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from pathlib import Path

from imagemgr import chunks
from imagemgr.chunks import Content, Manifest
from imagemgr.errors import ManifestDamaged
from imagemgr.transfer import files
from imagemgr.transfer.files import Identity, Told

KEPT = 128
"""Files of the cache; a manifest of a tebibyte of data has 8.25 MiB."""
AT_ONCE = 2
"""Images that are read at a time."""
_WAIT = 2.0
"""Seconds after which who waits for others says so."""
_UNSURE = 2.0
"""Seconds.  A file may be written again within one tick of the clock that its times are taken from."""


class Manifests:
    """In a directory of the agent's.  Threads may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._reading = threading.Semaphore(AT_ONCE)

    def of_file(self, fd: int, told: Told) -> bytes:
        """The digest of an open file, read unless that was done before.  OSError."""
        before = files.identity(fd)
        if digest := self._known(before):
            return digest
        while not self._reading.acquire(timeout=_WAIT):
            told(0, before.size)
        try:
            began = time.time()
            manifest = files.manifest_of(fd, told)
        finally:
            self._reading.release()
        after = files.identity(fd)
        digest = self.keep(manifest)
        if before == after and began - after.modified / 1e9 > _UNSURE:
            self.note(after, digest)
        return digest

    def known(self, fd: int) -> Manifest | None:
        """What is in an open file, where that was read before and it was not written to."""
        digest = self._known(files.identity(fd))
        return self.load(digest) if digest else None

    def keep(self, manifest: Manifest) -> bytes:
        """Keep it; its digest.  Of those that differ in holes alone the one with most stays: a copy may be sparser."""
        digest = files.digest_of(manifest)
        before = self.load(digest)
        if before is None or manifest.kinds.count(Content.HOLE) > before.kinds.count(Content.HOLE):
            self._write(self.path(digest), chunks.encode(manifest))
            self._prune()
        return digest

    def note(self, identity: Identity, digest: bytes) -> None:
        """That file has this content, as long as it is not written to."""
        if not identity.is_device:
            self._write(self._index(identity), digest)

    def path(self, digest: bytes) -> Path:
        """Where the manifest of a digest is, if it is."""
        return self._directory / f"{digest.hex()}.manifest"

    def load(self, digest: bytes) -> Manifest | None:
        """The manifest of a digest; None when it was forgotten, or is not that one."""
        try:
            manifest = chunks.decode(self.path(digest).read_bytes())
        except (OSError, ManifestDamaged):
            return None
        return manifest if files.digest_of(manifest) == digest else None

    def _known(self, identity: Identity) -> bytes:
        if identity.is_device:
            return b""
        try:
            digest = self._index(identity).read_bytes()
            os.utime(self.path(digest))
        except OSError:
            return b""
        return digest

    def _index(self, identity: Identity) -> Path:
        parts = (identity.device, identity.inode, identity.size, identity.modified, identity.changed)
        return self._directory / ("-".join(f"{part:x}" for part in parts) + ".file")

    def _write(self, path: Path, data: bytes) -> None:
        """Whole or not at all.  Not synced: what is lost is read again, and a manifest proves itself."""
        fresh = path.with_name(f"{secrets.token_hex(4)}.new")
        fresh.write_bytes(data)
        fresh.rename(path)

    def _prune(self) -> None:
        def age(path: Path) -> float:
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
            return 0.0

        for pattern in ("*.manifest", "*.file", "*.new"):
            found = sorted(self._directory.glob(pattern), key=age, reverse=True)
            for path in found[KEPT:]:
                path.unlink(missing_ok=True)
