"""Sparse writing, limits, compression and how it is said: the parts of a transfer, each by itself."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemgr import chunks
from imagemgr.chunks import CHUNK
from imagemgr.transfer import files, pace, tls
from imagemgr.transfer.errors import TransferRefused
from imagemgr.transfer.files import GRAIN
from imagemgr.transfer.limits import Limit
from imagemgr.transfer.manifests import Manifests
from imagemgr.transfer.reuse import Older
from imagemgr.transfer.squeeze import Squeezer

GRAINS = st.lists(st.sampled_from(["zeros", "data", "last", "middle"]), max_size=12)
_CONTENT = {
    "zeros": bytes(GRAIN),
    "data": b"x" * GRAIN,
    "last": bytes(GRAIN - 1) + b"x",
    "middle": bytes(100) + b"x" + bytes(GRAIN - 101),
}


@settings(max_examples=40, deadline=None)
@given(kinds=GRAINS, short=st.integers(0, GRAIN - 1), offset=st.integers(0, 3))
def test_zeros_are_not_written_and_everything_else_is(
    kinds: list[str], short: int, offset: int, tmp_path_factory: pytest.TempPathFactory
):
    data = b"".join(_CONTENT[kind] for kind in kinds)
    data = data[: max(0, len(data) - short)]
    path = tmp_path_factory.mktemp("sparse") / "x"
    with path.open("w+b") as file:
        file.truncate(offset * GRAIN + len(data))
        files.write_sparse(file.fileno(), offset * GRAIN, memoryview(data))
    assert path.read_bytes() == bytes(offset * GRAIN) + data
    grains = [data[at : at + GRAIN] for at in range(0, len(data), GRAIN)]
    assert path.stat().st_blocks * 512 <= GRAIN * sum(any(grain) for grain in grains)
    os.unlink(path)


def test_a_manifest_tells_holes_from_data_and_is_made_anew_only_when_the_file_is_written_to(tmp_path: Path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(b"data")
        file.seek(3 * CHUNK)
        file.write(b"more")
        file.truncate(5 * CHUNK + 1)
    old = time.time() - 60
    os.utime(path, (old, old))
    kept = Manifests(tmp_path / "kept")
    told: list[int] = []

    def digest() -> bytes:
        fd = files.open_image(path)
        try:
            return kept.of_file(fd, lambda done, total: told.append(done))
        finally:
            os.close(fd)

    first = digest()
    manifest = kept.load(first)
    assert manifest is not None
    assert list(manifest.kinds) == [2, 0, 0, 2, 0, 0]
    assert told[-1] == 5 * CHUNK + 1
    told.clear()
    assert digest() == first
    assert not told
    with path.open("r+b") as file:
        file.write(b"DATA")
    assert digest() != first
    assert told
    told.clear()
    digest()
    assert told, "it may have been written again in the same tick"


def test_a_file_of_the_cache_that_is_not_what_it_says_is_not_used(tmp_path: Path):
    kept = Manifests(tmp_path)
    path = tmp_path / "x"
    path.write_bytes(b"data")
    fd = files.open_image(path)
    digest = kept.of_file(fd, lambda done, total: None)
    os.close(fd)
    assert kept.load(digest) is not None
    kept.path(digest).write_bytes(kept.path(digest).read_bytes()[:-1] + b"?")
    assert kept.load(digest) is None
    assert kept.load(bytes(32)) is None


def test_a_limit_is_kept_and_shared_by_those_who_wait_whatever_number_of_threads_they_have():
    limit = Limit(1_000_000)
    had = {"one": 0, "many": 0}
    end = time.monotonic() + 1.5

    def work(who: str) -> None:
        while time.monotonic() < end:
            limit.take(who, 10_000)
            had[who] += 10_000

    threads = [threading.Thread(target=work, args=(who,)) for who in ("one", *["many"] * 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(had.values()) < 2_200_000
    assert sum(had.values()) > 800_000
    assert 0.7 < had["one"] / had["many"] < 1.4


def test_no_limit_holds_up_nobody():
    limit = Limit(0)
    began = time.monotonic()
    for _ in range(10_000):
        limit.take("me", 1 << 30)
    assert time.monotonic() - began < 1


def test_what_saves_an_eighth_is_compressed_if_the_link_is_slower_than_that():
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    text, noise = memoryview(b"the quick brown fox " * 10_000), memoryview(os.urandom(200_000))
    squeezer = Squeezer(clock)
    assert squeezer.wanted(text)
    assert not squeezer.wanted(noise)
    assert squeezer.packed(noise) is None
    packed = squeezer.packed(text)
    assert packed is not None
    assert len(packed) < len(text) / 8
    squeezer.sent(1_000_000, 1.0)
    assert squeezer.wanted(text)
    squeezer = Squeezer(clock)
    squeezer.packed(text)
    squeezer.sent(1_000_000, 0.000001)
    assert [squeezer.wanted(text) for _ in range(18)].count(True) == 1, "it is tried once in a while"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (10 * 2**20, "10 MiB"), (2**60, "1048576 TiB")],
)
def test_amounts_are_said_in_units(count: int, text: str):
    assert pace.amount(count) == text


def test_the_rate_is_that_of_late_and_says_how_long_it_will_take():
    speed = pace.Pace(0.0, 0)
    for second in range(1, 11):
        rate = speed.rate(second, second * 2**20)
    assert rate == 2**20
    for second in range(11, 31):
        rate = speed.rate(second, 10 * 2**20)
    assert rate == 0
    assert pace.said(2**20, 11 * 2**20, 2**20) == "1.0 MiB of 11 MiB, 1.0 MiB/s, 10 s left"
    assert pace.said(2**20, 2**20, 5.0) == "1.0 MiB of 1.0 MiB"


CHUNKS = st.lists(st.sampled_from(["hole", "same", "other", "more"]), min_size=1, max_size=4)
_FILLED = {"hole": bytes(CHUNK), "same": b"s" * CHUNK, "other": b"o" * CHUNK, "more": b"m" * CHUNK}


@settings(max_examples=25, deadline=None)
@given(new=CHUNKS, old=CHUNKS, cut=st.integers(0, CHUNK - 1), known=st.booleans())
def test_of_an_older_file_the_chunks_are_taken_that_are_the_same_and_no_others(
    new: list[str], old: list[str], cut: int, known: bool, tmp_path_factory: pytest.TempPathFactory
):
    directory = tmp_path_factory.mktemp("older")
    for name, kinds in (("new", new), ("old", old)):
        (directory / name).write_bytes(b"".join(_FILLED[kind] for kind in kinds)[: -cut or None])
    with (directory / "new").open("rb") as file:
        wanted = files.manifest_of(file.fileno(), lambda *_: None)
    with (directory / "old").open("rb") as before, (directory / "part").open("w+b") as part:
        part.truncate(wanted.size)
        had = files.manifest_of(before.fileno(), lambda *_: None)
        differing = {chunk.index for chunk in chunks.differing(wanted, had)}
        older = Older(before.fileno(), part.fileno(), differing if known else set())
        data = [chunk for chunk in wanted.chunks() if chunk.digest]
        taken = {chunk.index for chunk in data if older.take(chunk)}
        read = [(directory / name).read_bytes() for name in ("new", "old")]
        one, other = ({c.index: text[c.offset : c.offset + c.length] for c in data} for text in read)
        same = {index for index in one if one[index] == other[index]}
        assert taken == (same - differing if known else same)
        found = files.manifest_of(part.fileno(), lambda *_: None)
        assert [chunk.digest for chunk in found.chunks()] == [
            chunk.digest if chunk.index in taken else b"" for chunk in wanted.chunks()
        ]


def test_a_port_that_another_has_is_said_with_its_number():
    with tls.listen("127.0.0.1") as busy:
        port = busy.getsockname()[1]
        said = f"images cannot be given at address 127.0.0.1, port {port}: address already in use"
        with pytest.raises(TransferRefused, match=said):
            tls.listen("127.0.0.1", port)
    with pytest.raises(TransferRefused, match=r"address 192\.0\.2\.1: cannot assign requested address"):
        tls.listen("192.0.2.1")


def test_an_older_file_that_cannot_be_read_gives_nothing(tmp_path: Path):
    (tmp_path / "old").write_bytes(b"s" * CHUNK)
    with (tmp_path / "old").open("rb") as before, (tmp_path / "part").open("w+b") as part:
        part.truncate(CHUNK)
        [chunk] = files.manifest_of(before.fileno(), lambda *_: None).chunks()
        older = Older(before.fileno(), part.fileno())
        os.truncate(tmp_path / "old", CHUNK // 2)
        assert not older.take(chunk)
        assert part.read() == bytes(CHUNK)
