"""One source of a fetch: a connection, and a thread that asks it for chunks and hands on what comes, verified."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from imagemgr import swarm
from imagemgr.chunks import CHUNK, Chunk, Manifest
from imagemgr.swarm import Holding, Swarm
from imagemgr.transfer import tls
from imagemgr.transfer.errors import SourceCorrupt, SourceGone, Stopped
from imagemgr.transfer.orders import Source
from imagemgr.transfer.wire import Channel, GetChunk, GetHave, GetManifest, Gone, Have, Hello, Says

AHEAD = 2
"""Chunks that are asked for at a time, so that the sender never waits for a question."""
LOOK_SECONDS = 0.1
"""How often a source is asked what it has while it is not whole, and how much longer for each LOOK_CHUNKS it has."""
LOOK_CHUNKS = 16384
ATTEMPTS = 3
_PAUSE = 1.0

Write = Callable[[Chunk, int, memoryview | None], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all sources of a fetch share.  changed: guards swarm, told when that changes; write: a piece of a chunk at
    an offset in it, None: what was written of it is wrong; came: so many bytes came; at: told "chunk" for each."""

    swarm: Swarm
    manifest: Manifest
    receiver: bytes
    write: Write
    came: Callable[[int], None]
    changed: threading.Condition
    at: Callable[[str], None]


class Link:
    """A connection to a source, made anew when it breaks.  lost: it is given up; reason: why, or the last failure."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.name = name
        self.lost = self.corrupt = False
        self.reason = ""
        self._failures = 0
        self._channel: Channel | None = None
        self._cut = False

    def open(self, receiver: bytes, size: int) -> Channel:
        """The connection; SourceGone."""
        if self._channel is None:
            sock = tls.connect(self.source.address, self.source.port, self.source.fingerprint)
            count = -(-size // CHUNK)
            self._channel = Channel(sock, most=4096 + count)
            self._channel.send(Hello(self.source.ticket, receiver))
            if self._cut:
                self.close()
                raise SourceGone("the fetch has ended")
        return self._channel

    def manifest(self) -> tuple[bytes, int]:
        """Encoded, and the room that the file takes there; b"" while it is not known there.  SourceGone."""
        assert self._channel is not None
        self._channel.send(GetManifest())
        says = self._channel.answer()
        if not isinstance(says, Says):
            raise SourceGone("it answered what was not asked")
        if says.size > self._channel.most * 34:
            raise SourceGone(f"it has a manifest of {says.size} bytes")
        data = bytearray()
        while len(data) < says.size:
            piece = self._channel.piece(says.size - len(data))
            if isinstance(piece, Gone):
                raise SourceGone(piece.reason)
            data += piece.data
        return bytes(data), says.room

    def works(self) -> None:
        """A chunk came."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """It broke; after a few times in a row it is given up."""
        self.close()
        self.reason = reason
        self._failures += 1
        self.lost = self.lost or self._failures >= ATTEMPTS

    def lose(self, reason: str) -> None:
        """It sends what is not asked for: give it up."""
        self.close()
        self.reason, self.lost, self.corrupt = reason, True, True

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def cut(self) -> None:
        """From another thread: whatever waits on it, fails."""
        self._cut = True
        if (channel := self._channel) is not None:
            channel.shutdown()


class Pull(threading.Thread):
    """Asks a source until `over` is set, or it is lost.  `changed` guards the swarm, which all of a fetch share."""

    def __init__(self, link: Link, plan: Plan) -> None:
        super().__init__(name=f"pull-{link.name}", daemon=True)
        self.link = link
        self.over = False
        self._plan = plan
        self._whole = False
        self._looked = 0.0
        self._look_every = LOOK_SECONDS * (1 + len(plan.manifest) // LOOK_CHUNKS)
        self._asked: deque[int | None] = deque()
        """Chunks, and None for what it has."""

    def run(self) -> None:
        """See threading.Thread."""
        try:
            while not (self.over or self.link.lost):
                self._try()
        except Stopped:
            pass
        finally:
            self._forget()
            self.link.lost = True
            self.link.close()
            with self._plan.changed:
                self._plan.changed.notify_all()

    def _try(self) -> None:
        try:
            self._talk(self.link.open(self._plan.receiver, self._plan.manifest.size))
        except SourceGone as error:
            self._forget()
            if not self.over:
                self.link.failed(str(error))
                if not self.link.lost:
                    self._wait(_PAUSE)
        except SourceCorrupt as error:
            self.link.lose(str(error))

    def _forget(self) -> None:
        self._asked.clear()
        with self._plan.changed:
            self._plan.swarm.lose(self.link.name)
            self._plan.changed.notify_all()

    def _wait(self, seconds: float) -> None:
        with self._plan.changed:
            if not self.over:
                self._plan.changed.wait(seconds)

    def _talk(self, channel: Channel) -> None:
        self._whole, self._looked = False, 0.0
        while not self.over:
            self._ask(channel)
            if not self._asked:
                self._wait(self._look_every)
                continue
            index = self._asked.popleft()
            if index is None:
                self._learn(channel)
            else:
                self._take(channel, self._plan.manifest.chunk(index))

    def _ask(self, channel: Channel) -> None:
        now = time.monotonic()
        if not self._whole and now - self._looked >= self._look_every:
            self._looked = now
            channel.send(GetHave())
            self._asked.append(None)
        while len(self._asked) < AHEAD:
            with self._plan.changed:
                index = self._plan.swarm.next_for(self.link.name, now)
            if index is None:
                break
            self._asked.append(index)
            channel.send(GetChunk(index, self._plan.manifest.chunk(index).length))

    def _learn(self, channel: Channel) -> None:
        have = channel.answer()
        if not isinstance(have, Have):
            raise SourceGone("it answered what was not asked")
        self._whole = have.whole
        count = len(self._plan.manifest)
        coming = swarm.mask_of(index for index in have.coming if 0 <= index < count)
        holding = Holding(have.whole, swarm.mask(have.bits[: -(-count // 8)]), coming)
        with self._plan.changed:
            self._plan.swarm.learn(self.link.name, holding)

    def _take(self, channel: Channel, chunk: Chunk) -> None:
        digest, done = blake3(), 0
        while done < chunk.length:
            piece = channel.piece(chunk.length - done)
            if isinstance(piece, Gone):
                raise SourceGone(piece.reason)
            digest.update(piece.data)
            self._plan.write(chunk, done, piece.data)
            done += len(piece.data)
            self._plan.came(piece.wire)
        if digest.digest() != chunk.digest:
            self._plan.write(chunk, 0, None)
            raise SourceCorrupt(f"what it sent at byte {chunk.offset} is not what its digest says")
        self.link.works()
        with self._plan.changed:
            self._plan.swarm.arrived(chunk.index, time.monotonic())
            self._plan.changed.notify_all()
        self._plan.at("chunk")
