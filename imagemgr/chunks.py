"""What is in an image, chunk by chunk: hole, zeros or a digest; and what of it is still missing.  Pure.

A manifest is packed, as an image of a tebibyte has 262,144 chunks: a byte for each, and 32 for each with data.  Which
digest (BLAKE3) is the caller's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from imagemgr.errors import ManifestDamaged

CHUNK = 4 * 1024 * 1024
"""Bytes of a chunk; the last of an image may be shorter."""

DIGEST = 32
"""Bytes of a digest."""

MOST = 2**50
"""Bytes of the largest image that a manifest is read of."""

VERSION = 1
_ZEROS = bytes(CHUNK)


class Content(IntEnum):
    """HOLE: no room is taken; ZERO: room is taken, all of it is zero; DATA: anything else."""

    HOLE = 0
    ZERO = 1
    DATA = 2


_KINDS = bytes(Content)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One of an image: bytes from offset on.  digest: b"" but of DATA."""

    index: int
    offset: int
    length: int
    content: Content
    digest: bytes = b""

    def same_bytes(self, other: Chunk) -> bool:
        """Whether a reader would see the same; a hole reads as zeros."""
        return self.length == other.length and self.digest == other.digest


class Manifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An image of `size` bytes.  kinds: a Content for each chunk, digests: of those with data, both in order."""

    size: int
    kinds: bytes
    digests: bytes
    version: int = VERSION

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def bytes_of_data(self) -> int:
        """Bytes that a copy has to carry, uncompressed."""
        full = self.kinds.count(Content.DATA) * CHUNK
        short = -self.size % CHUNK
        return full - short if self.kinds.endswith(bytes([Content.DATA])) else full

    def chunk(self, index: int) -> Chunk:
        """One of them; IndexError."""
        if not 0 <= index < len(self.kinds):
            raise IndexError(f"chunk {index} of {len(self.kinds)}")
        return self._chunk(index, self.kinds.count(Content.DATA, 0, index))

    def chunks(self) -> Iterator[Chunk]:
        """All of them, in order."""
        place = 0
        for index, kind in enumerate(self.kinds):
            yield self._chunk(index, place)
            place += kind == Content.DATA

    def _chunk(self, index: int, place: int) -> Chunk:
        content, offset = Content(self.kinds[index]), index * CHUNK
        digest = self.digests[place * DIGEST : (place + 1) * DIGEST] if content is Content.DATA else b""
        return Chunk(index, offset, min(CHUNK, self.size - offset), content, digest)


@dataclass(frozen=True, slots=True)
class Done:
    """Which chunks are there already: a bit for each."""

    bits: bytes

    @classmethod
    def none_of(cls, manifest: Manifest) -> Done:
        """Nothing is there."""
        return cls(bytes(-(-len(manifest) // 8)))

    def __contains__(self, index: int) -> bool:
        return bool(self.bits[index >> 3] >> (index & 7) & 1)

    def with_chunks(self, indices: Iterable[int]) -> Done:
        """These too; IndexError."""
        bits = bytearray(self.bits)
        for index in indices:
            if index < 0:
                raise IndexError(f"chunk {index}")
            bits[index >> 3] |= 1 << (index & 7)
        return Done(bytes(bits))


def manifest_of(size: int, chunks: Iterable[bytes | None]) -> Manifest:
    """A manifest of what is in each chunk: None for a hole, b"" for zeros, else its digest.  ManifestDamaged."""
    kinds, digests = bytearray(), bytearray()
    for found in chunks:
        kinds.append(Content.HOLE if found is None else Content.DATA if found else Content.ZERO)
        digests += found or b""
    return _checked(Manifest(size, bytes(kinds), bytes(digests)))


def content_of(data: bytes | bytearray, digest: Callable[[bytes | bytearray], bytes]) -> bytes:
    """What manifest_of takes of a chunk that is no hole: b"" when all of it is zero, else its digest."""
    zeros = _ZEROS if len(data) == CHUNK else bytes(len(data))
    return b"" if data == zeros else digest(data)


def missing(wanted: Manifest, done: Done) -> Iterator[Chunk]:
    """Chunks that have yet to be written, in order; holes are there from the beginning."""
    for chunk in wanted.chunks():
        if chunk.content is not Content.HOLE and chunk.index not in done:
            yield chunk


def differing(wanted: Manifest, actual: Manifest) -> Iterator[Chunk]:
    """Chunks of which a reader of `actual` would see other bytes; what it has beyond the end is not told."""
    old = actual.chunks()
    for chunk in wanted.chunks():
        before = next(old, None)
        if before is None or not chunk.same_bytes(before):
            yield chunk


def content_only(manifest: Manifest) -> Manifest:
    """The same, zeros taken for holes: equal for all files that read alike, whatever room they take.

    Room that is only reserved is told as a hole by some file systems and as zeros by others."""
    kinds = manifest.kinds.replace(bytes([Content.ZERO]), bytes([Content.HOLE]))
    return Manifest(manifest.size, kinds, manifest.digests)


def encode(manifest: Manifest) -> bytes:
    """Bytes that say it; always the same for the same manifest, so that they have a digest themselves."""
    return _encoder.encode(manifest)


def decode(data: bytes) -> Manifest:
    """The manifest that bytes say; ManifestDamaged."""
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestDamaged(f"the bytes are no manifest: {error}") from error
    return _checked(found)


def _checked(manifest: Manifest) -> Manifest:
    if manifest.version != VERSION:
        raise ManifestDamaged(f"the manifest has version {manifest.version}, {VERSION} is known")
    if not 0 <= manifest.size <= MOST:
        raise ManifestDamaged(f"the image has {manifest.size} bytes, allowed are 0 to {MOST}")
    count = -(-manifest.size // CHUNK)
    if len(manifest.kinds) != count:
        raise ManifestDamaged(f"the manifest has {len(manifest.kinds)} chunks, the image has {count}")
    if unknown := manifest.kinds.translate(None, _KINDS):
        raise ManifestDamaged(
            f"the manifest has a chunk of kind {unknown[0]}, known are 0 to {len(_KINDS) - 1}"
        )
    size = manifest.kinds.count(Content.DATA) * DIGEST
    if len(manifest.digests) != size:
        raise ManifestDamaged(f"the manifest has {len(manifest.digests)} bytes of digests, it needs {size}")
    return manifest


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Manifest)
