"""Manifests: packed and read again, what is missing, and that damage is noticed."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr import chunks
from imagemgr.chunks import CHUNK, Content, Done, Manifest
from imagemgr.errors import ManifestDamaged

DIGESTS = st.binary(min_size=32, max_size=32)
FOUND = st.lists(st.none() | st.just(b"") | DIGESTS, max_size=20)


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    found = draw(FOUND)
    short = draw(st.integers(0, CHUNK - 1)) if found else 0
    return chunks.manifest_of(len(found) * CHUNK - short, found)


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest):
    data = chunks.encode(manifest)
    assert chunks.decode(data) == manifest
    assert chunks.encode(chunks.decode(data)) == data


@given(FOUND, st.integers(0, CHUNK - 1))
def test_chunks_cover_the_image_and_say_what_was_put_in(found: list[bytes | None], short: int):
    size = max(0, len(found) * CHUNK - short)
    manifest = chunks.manifest_of(size, found)
    listed = list(manifest.chunks())
    assert len(manifest) == len(listed) == len(found)
    assert sum(chunk.length for chunk in listed) == size
    end = 0
    for chunk, said in zip(listed, found, strict=True):
        assert chunk.offset == end
        assert chunk == manifest.chunk(chunk.index)
        assert (chunk.content, chunk.digest) == (
            (Content.HOLE, b"") if said is None else (Content.DATA, said) if said else (Content.ZERO, b"")
        )
        end += chunk.length
    data = [chunk.length for chunk in listed if chunk.content is Content.DATA]
    assert manifest.bytes_of_data == sum(data)


@given(manifests(), st.data())
def test_what_is_missing_gets_less_until_nothing_is(manifest: Manifest, data: st.DataObject):
    done = Done.none_of(manifest)
    wanted = {chunk.index for chunk in manifest.chunks() if chunk.content is not Content.HOLE}
    assert {chunk.index for chunk in chunks.missing(manifest, done)} == wanted
    order = data.draw(st.permutations(sorted(wanted)))
    for index in order:
        assert index not in done
        done = done.with_chunks([index])
        assert index in done
        wanted.remove(index)
        assert [chunk.index for chunk in chunks.missing(manifest, done)] == sorted(wanted)
    assert not list(chunks.missing(manifest, done))


@given(manifests(), manifests())
def test_an_older_copy_differs_where_its_bytes_do(wanted: Manifest, actual: Manifest):
    differing = {chunk.index for chunk in chunks.differing(wanted, actual)}
    for chunk in wanted.chunks():
        old = actual.chunk(chunk.index) if chunk.index < len(actual) else None
        same = old is not None and (old.length, old.digest) == (chunk.length, chunk.digest)
        assert (chunk.index in differing) != same
    assert not list(chunks.differing(wanted, wanted))


def test_a_hole_differs_from_data_but_not_from_zeros():
    hole, zero = chunks.manifest_of(CHUNK, [None]), chunks.manifest_of(CHUNK, [b""])
    data = chunks.manifest_of(CHUNK, [bytes(32)])
    assert not list(chunks.differing(hole, zero))
    assert not list(chunks.differing(zero, hole))
    assert [chunk.content for chunk in chunks.differing(hole, data)] == [Content.HOLE]
    assert [chunk.content for chunk in chunks.differing(data, zero)] == [Content.DATA]


def test_the_content_of_a_chunk_is_zeros_or_its_digest():
    for size in (1, 4096, CHUNK - 1, CHUNK):
        assert chunks.content_of(bytes(size), digest) == b""
        last = bytes(size - 1) + b"\1"
        assert chunks.content_of(last, digest) == digest(last)


def test_a_chunk_beyond_the_end_is_an_error():
    manifest = chunks.manifest_of(CHUNK + 1, [None, b""])
    for index in (-1, 2):
        with pytest.raises(IndexError):
            manifest.chunk(index)
    with pytest.raises(IndexError):
        Done.none_of(manifest).with_chunks([-1])
    with pytest.raises(IndexError):
        Done.none_of(manifest).with_chunks([8])


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (Manifest(1, b"", b""), "has 0 chunks, the image has 1"),
        (Manifest(0, b"\0", b""), "has 1 chunks, the image has 0"),
        (Manifest(CHUNK, b"\0\0", b""), "has 2 chunks, the image has 1"),
        (Manifest(CHUNK, b"\3", b""), "a chunk of kind 3, known are 0 to 2"),
        (Manifest(CHUNK, b"\2", b""), "has 0 bytes of digests, it needs 32"),
        (Manifest(CHUNK, b"\2", bytes(31)), "has 31 bytes of digests, it needs 32"),
        (Manifest(CHUNK, b"\1", bytes(32)), "has 32 bytes of digests, it needs 0"),
        (Manifest(-1, b"", b""), "has -1 bytes, allowed are 0 to"),
        (Manifest(2**60, b"", b""), "allowed are 0 to"),
        (Manifest(0, b"", b"", 2), "has version 2, 1 is known"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(manifest: Manifest, words: str):
    with pytest.raises(ManifestDamaged, match=words):
        chunks.decode(chunks.encode(manifest))


def test_what_is_no_manifest_is_refused():
    good = chunks.encode(chunks.manifest_of(CHUNK, [bytes(32)]))
    for data in (b"", b"\xc1", good + b"\0", good[:-1], b"\x80", msgspec.msgpack.encode(["x", b"", b""])):
        with pytest.raises(ManifestDamaged, match="are no manifest"):
            chunks.decode(data)


@given(manifests(), st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 3))
def test_damage_is_refused_or_says_another_manifest(
    manifest: Manifest, place: int, instead: bytes, size: int
):
    data = chunks.encode(manifest)
    place %= len(data) + 1
    damaged = data[:place] + instead + data[place + size :]
    try:
        found = chunks.decode(damaged)
    except ManifestDamaged as error:
        assert str(error)  # noqa: PT017
    else:
        assert (found == manifest) == (chunks.encode(found) == data)
        assert sum(chunk.length for chunk in found.chunks()) == found.size


def test_a_large_image_has_a_small_manifest():
    size = 2**40
    sparse = chunks.manifest_of(size, [None] * (size // CHUNK))
    assert len(chunks.encode(sparse)) < 300_000
    assert sparse.bytes_of_data == 0


@given(FOUND, st.integers(0, CHUNK - 1), st.data())
def test_files_that_read_alike_have_the_same_content(
    found: list[bytes | None], short: int, data: st.DataObject
):
    size = max(0, len(found) * CHUNK - short)
    other = [each if each else data.draw(st.sampled_from([None, b""])) for each in found]
    one, two = (chunks.content_only(chunks.manifest_of(size, each)) for each in (found, other))
    assert one == two
    assert chunks.encode(one) == chunks.encode(two)
    assert not list(chunks.differing(one, chunks.manifest_of(size, found)))
