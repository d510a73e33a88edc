"""Fetches one image from several sources, verifies each chunk, and makes it a file when all are there.

A thread for each source asks for chunks and writes them; the caller's thread keeps the journal and tells how far it is.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imagemgr import chunks, swarm
from imagemgr.chunks import CHUNK, Chunk, Content, Done, Manifest
from imagemgr.errors import ManifestDamaged
from imagemgr.swarm import Swarm
from imagemgr.transfer import files, pace
from imagemgr.transfer.errors import SourceCorrupt, SourceGone, Stopped, TransferFailed, TransferRefused
from imagemgr.transfer.journal import Part, Point
from imagemgr.transfer.limits import Limit
from imagemgr.transfer.manifests import Manifests
from imagemgr.transfer.orders import FetchArgs, Fetched, Source
from imagemgr.transfer.pull import Link, Plan, Pull
from imagemgr.transfer.reuse import Older
from imagemgr.transfer.supply import Coming, FileSupply

NOTE_SECONDS = 1.0
"""At most so much, and what is on its way then, is fetched again after a crash."""
TAKEN_SECONDS = 30.0
"""The same of what an older file has."""
TELL_SECONDS = 0.25
PATIENCE = 120.0
"""Seconds in which nothing comes of any source before it is given up."""

Told = Callable[[int, int, str], None]
"""Bytes done, bytes in all, a sentence."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a fetch needs of its node.  aside: directory for journals of devices; receiving: the node's limit;
    at: told the points that journal.py lists, and "chunk"."""

    manifests: Manifests
    receiving: Limit
    aside: Path
    at: Point = field(default=lambda point: None)


class Fetch:
    """One of them; `run` it once."""

    def __init__(self, args: FetchArgs, around: Surroundings, coming: Coming, told: Told) -> None:
        self.args = args
        self._around = around
        self._coming = coming
        self._told = [told]
        self._path = files.checked(args.path)
        self._local = tuple(files.checked(path) for path in args.local) if not args.block else ()
        self._links = [Link(source, str(number)) for number, source in enumerate(args.sources)]
        self._changed = threading.Condition()
        self._receiver = secrets.token_bytes(16)
        self._limits = (Limit(args.bytes_per_second), around.receiving)
        self._received = 0
        self._stopped = False
        self._broken: OSError | None = None
        self._swarm = Swarm(0, 0)

    def join(self, told: Told) -> None:
        """Somebody else is to be told of it too."""
        self._told.append(told)

    def tell(self, done: int, total: int, text: str) -> None:
        """Say how far it is."""
        for told in self._told:
            told(done, total, text)

    def stop(self) -> None:
        """End it; `run` raises Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for link in self._links:
            link.cut()

    def run(self) -> Fetched:
        """Until it is there, whole and on the disk; TransferRefused, TransferFailed, Stopped, OSError."""
        began = time.monotonic()
        if not self.args.block and self._is_there():
            self._part().remove()
            return self._fetched(began)
        manifest = self._manifest()
        problem = "the fetch there has ended"
        try:
            with self._part() as part:
                part.open()
                self._bring(manifest, part)
            problem = ""
        finally:
            if problem:
                self._coming.failed(problem)
        self._become_file()
        return self._fetched(began)

    # ---- before -------------------------------------------------------------------------------------------

    def _part(self) -> Part:
        return Part(self._path, self._around.aside, block=self.args.block, at=self._around.at)

    def _is_there(self) -> bool:
        """The image is there already; TransferRefused where something else is that must stay."""
        try:
            fd = files.open_image(self._path)
        except FileNotFoundError:
            return False
        try:
            if files.identity(fd).is_device:
                raise TransferRefused(f"{self._path} is a block device, and a file was asked for")
            same_size = files.identity(fd).size == self.args.size
            if same_size and self._digest(fd) == self.args.digest:
                return True
        finally:
            os.close(fd)
        if not self.args.replace:
            raise TransferRefused(f"{self._path} is there with other content, and was not to be replaced")
        return False

    def _digest(self, fd: int) -> bytes:
        def told(done: int, total: int) -> None:
            self.tell(done, total, f"{self._path} is there, and is read")

        return self._around.manifests.of_file(fd, told)

    def _manifest(self) -> Manifest:
        """Of a file here, or of the first source that has it, else kept from before: theirs may have more holes."""
        found = self._local_manifest() or self._asked_manifest()
        found = found or self._around.manifests.load(self.args.digest)
        end = time.monotonic() + PATIENCE
        while found is None:
            self._still_hopeful(end)
            time.sleep(TELL_SECONDS)
            found = self._asked_manifest()
        if found.size != self.args.size:
            raise TransferRefused(f"the image has {found.size} bytes, not {self.args.size} as was said")
        return found

    def _local_manifest(self) -> Manifest | None:
        """Where a file here is known to have the same content nobody else needs to be there."""
        for path in self._local:
            fd = self._opened(path)
            if fd < 0:
                continue
            try:
                found = self._around.manifests.known(fd)
                if found is not None and files.digest_of(found) == self.args.digest:
                    self._coming.room = files.room_taken(fd)
                    return found
            finally:
                os.close(fd)
        return None

    def _opened(self, path: Path) -> int:
        """A file that may have some of it; -1: it cannot be read, and what it has comes from elsewhere."""
        try:
            return files.open_image(path)
        except (OSError, TransferRefused):
            return -1  # at its own path finish() refuses what must not be replaced

    def _asked_manifest(self) -> Manifest | None:
        for link in self._links:
            if link.lost:
                continue
            try:
                link.open(self._receiver, self.args.size)
                data, room = link.manifest()
                if data:
                    if self._around.manifests.keep(chunks.decode(data)) != self.args.digest:
                        raise SourceCorrupt("its manifest is another one than was asked for")
                    self._coming.room = room
                    return self._around.manifests.load(self.args.digest)
            except SourceGone as error:
                link.failed(str(error))
            except (SourceCorrupt, ManifestDamaged) as error:
                link.lose(str(error))
        return None

    def _still_hopeful(self, end: float) -> None:
        if self._stopped:
            raise Stopped(f"{self._path}: somebody stopped it")
        if time.monotonic() > end or all(link.lost for link in self._links):
            raise TransferFailed(self._missing_text(self.args.size, self.args.size, "nothing was changed"))

    def _need_room(self, manifest: Manifest, done: Done) -> None:
        """Say no before the disk is full.  A chunk may hold less than it is long, which the source's room tells."""
        if self.args.block:
            return
        left = sum(chunk.length for chunk in chunks.missing(manifest, done))
        whole = sum(chunk.length for chunk in manifest.chunks() if chunk.content is not Content.HOLE)
        need = left if not self._coming.room else min(left, max(0, self._coming.room - (whole - left)))
        free = files.room_free(self._path.parent)
        if need > free:
            raise TransferRefused(
                f"{self._path} needs {pace.amount(need)}, {pace.amount(free)} are free: "
                f"{pace.amount(need - free)} are missing"
            )

    # ---- bringing -----------------------------------------------------------------------------------------

    def _bring(self, manifest: Manifest, part: Part) -> None:
        done = part.begin(manifest, self.args.digest)
        self._lack(manifest, done)
        try:
            self._need_room(manifest, done)
            self._reserve(manifest, part, done)
            self._reuse(manifest, part, done)
            self._pull(manifest, part)
            part.finish(replace=self.args.replace)
        except TransferRefused:
            part.remove()
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # What has come keeps the disk full for everybody.
            part.remove()
            left = self._left(manifest)
            raise TransferFailed(
                f"{self._path}: the disk is full, {pace.amount(left)} of {pace.amount(manifest.bytes_of_data)}"
                " did not fit; what had come was removed"
            ) from error

    def _lack(self, manifest: Manifest, done: Done) -> None:
        data = (chunk for chunk in chunks.missing(manifest, done) if chunk.content is Content.DATA)
        wanted = swarm.mask_of(chunk.index for chunk in data)
        salt = int.from_bytes(self._receiver[:4])
        self._swarm = Swarm(wanted, len(manifest), salt, time.monotonic())

    def _reserve(self, manifest: Manifest, part: Part, done: Done) -> None:
        """Take the room of zeros; on a device they have been written."""
        if not self.args.block:
            for chunk in chunks.missing(manifest, done):
                if chunk.content is Content.ZERO:
                    files.reserve(part.fd, chunk.offset, chunk.length)

    def _reuse(self, manifest: Manifest, part: Part, done: Done) -> None:
        """Take over what files here have: an older one that is about to be replaced, and others that were named."""
        for path in (self._path, *self._local):
            if self.args.block or not self._swarm.missing:
                return
            old = self._opened(path)
            if old < 0:
                continue
            try:
                before = self._around.manifests.known(old)
                other = chunks.differing(manifest, before) if before is not None else ()
                older = Older(old, part.fd, {chunk.index for chunk in other})
                had = self._taken(older, path, manifest, part, done)
            finally:
                os.close(old)
            if had != done:
                done = had
                self._lack(manifest, done)

    def _taken(self, older: Older, path: Path, manifest: Manifest, part: Part, done: Done) -> Done:
        """What is there with what the file had of it.  Notes little: what is lost is taken again."""
        where = "an older copy" if path == self._path else str(path)
        noted = told = time.monotonic()
        total = manifest.bytes_of_data
        left = self._left(manifest)
        taken: list[int] = []
        for chunk in chunks.missing(manifest, done):
            if self._stopped:
                break
            if chunk.content is Content.DATA and older.take(chunk):
                taken.append(chunk.index)
                left -= chunk.length
            now = time.monotonic()
            if now - noted >= TAKEN_SECONDS:
                part.note(manifest, self.args.digest, done.with_chunks(taken))
                noted = time.monotonic()
            if now - told >= TELL_SECONDS:
                told = now
                self.tell(total - left, total, f"{pace.said(total - left, total, 0)}, from {where}")
        return done.with_chunks(taken)

    def _pull(self, manifest: Manifest, part: Part) -> None:
        self._coming.begin(part.fd, lambda: self._now(manifest))
        plan = Plan(
            self._swarm,
            manifest,
            self._receiver,
            self._write(part),
            self._arrived,
            self._changed,
            self._around.at,
        )
        links = self._links if self._swarm.missing else []
        pulls = [Pull(link, plan) for link in links if not link.lost]
        for pull in pulls:
            pull.start()
        try:
            self._watch(manifest, part)
        finally:
            for pull in pulls:
                pull.over = True
                pull.link.cut()
            with self._changed:
                self._changed.notify_all()
            for pull in pulls:
                pull.join()
        self._end(manifest, part)

    def _write(self, part: Part) -> Callable[[Chunk, int, memoryview | None], None]:
        """Write a piece of a chunk; None: what was written of the chunk is wrong."""
        put = files.write_all if self.args.block else files.write_sparse

        def write(chunk: Chunk, at: int, view: memoryview | None) -> None:
            try:
                if view is not None:
                    put(part.fd, chunk.offset + at, view)
                elif not self.args.block:
                    files.punch(part.fd, chunk.offset, chunk.length)
            except OSError as error:
                with self._changed:
                    self._broken = error
                    self._changed.notify_all()
                raise Stopped from error

        return write

    def _arrived(self, wire: int) -> None:
        """Bytes came; hold back the next ones."""
        with self._changed:
            self._received += wire
        for limit in self._limits:
            limit.take(self._receiver, wire)

    def _watch(self, manifest: Manifest, part: Part) -> None:
        """Keep the journal and tell, until nothing is missing or nothing more comes."""
        noted = heard = time.monotonic()
        total, before = manifest.bytes_of_data, -1
        speed = pace.Pace(noted, total - self._left(manifest))
        while True:
            with self._changed:
                over = self._is_over()
                if not over:
                    self._changed.wait(TELL_SECONDS)
            now, had = time.monotonic(), total - self._left(manifest)
            if self._received != before:
                before, heard = self._received, now
            self.tell(had, total, pace.said(had, total, speed.rate(now, had)))
            if over or now - heard > PATIENCE:
                return
            if now - noted >= NOTE_SECONDS:
                part.note(manifest, self.args.digest, self._done(manifest))
                noted = time.monotonic()

    def _is_over(self) -> bool:
        lost = all(link.lost for link in self._links)
        return not self._swarm.missing or self._stopped or self._broken is not None or lost

    def _end(self, manifest: Manifest, part: Part) -> None:
        """All threads are through: is it whole?"""
        if self._broken is not None:
            raise self._broken
        if not self._swarm.missing:
            return
        if any(link.corrupt for link in self._links):
            part.remove()
            kept = "nothing of it is kept"
        else:
            part.note(manifest, self.args.digest, self._done(manifest))
            kept = "what has come is kept for the next attempt"
        if self._stopped:
            raise Stopped(f"{self._path}: somebody stopped it; {kept}")
        raise TransferFailed(self._missing_text(self._left(manifest), manifest.bytes_of_data, kept))

    def _now(self, manifest: Manifest) -> tuple[int, tuple[int, ...]]:
        """What is there, and what was asked for."""
        with self._changed:
            return self._all(manifest) & ~self._swarm.missing, self._swarm.coming

    def _all(self, manifest: Manifest) -> int:
        return (1 << len(manifest)) - 1

    def _done(self, manifest: Manifest) -> Done:
        """Holes count too."""
        return Done(swarm.bits(self._now(manifest)[0], len(manifest)))

    def _left(self, manifest: Manifest) -> int:
        """Bytes that are missing."""
        with self._changed:
            missing = self._swarm.missing
        short = -manifest.size % CHUNK if missing >> max(0, len(manifest) - 1) & 1 else 0
        return missing.bit_count() * CHUNK - short

    # ---- after --------------------------------------------------------------------------------------------

    def _become_file(self) -> None:
        """Others that fetch from here go on with the file."""
        if self.args.block:
            return
        fd = files.open_image(self._path)
        try:
            found = files.identity(fd)
            self._around.manifests.note(found, self.args.digest)
            self._coming.whole(FileSupply(self._path, found, self.args.digest, files.room_taken(fd)))
        finally:
            os.close(fd)

    def _fetched(self, began: float) -> Fetched:
        seconds = time.monotonic() - began
        return Fetched(self.args.size, self.args.digest, self._received, seconds)

    def _missing_text(self, left: int, total: int, kept: str) -> str:
        why = "; ".join(f"{name_of(link.source)}: {link.reason}" for link in self._links if link.reason)
        return (
            f"{self._path}: {pace.amount(left)} of {pace.amount(total)} are missing"
            f" ({why or f'nothing came for {PATIENCE:.0f} s'}); {kept}"
        )


def name_of(source: Source) -> str:
    """A source in a sentence."""
    return f"node {source.node} at {source.address}"
