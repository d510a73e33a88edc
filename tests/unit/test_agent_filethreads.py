"""A stream's thread reads and writes a file as the stream says: bytes, holes, from where and how much."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterhost.agent.filethreads import CHUNK, Beyond, FileThread, Part
from clusterhost.control.messages import STREAM_WINDOW

PAGE = 4096


class Told:
    """What the thread said; what was read is put together again."""

    def __init__(self, thread: FileThread, *, greedy: bool = True) -> None:
        self.thread = thread
        self.greedy = greedy
        self.bytes = bytearray()
        self.holes = 0
        self.written = 0
        self.end: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

    def data(self, payload: bytes) -> None:
        self.bytes += payload
        if self.greedy:
            self.thread.credited(len(payload))

    def hole(self, length: int) -> None:
        self.bytes += bytes(length)
        self.holes += length

    def passed(self, count: int) -> None:
        self.written += count

    def over(self, error: OSError | None) -> None:
        self.end.set_result(error)


async def begun(part: Part, *, greedy: bool = True) -> Told:
    thread = FileThread(asyncio.get_running_loop(), part)
    assert await asyncio.wait_for(thread.opened, 10)
    told = Told(thread, greedy=greedy)
    thread.begin(told)
    return told


async def read(part: Part) -> tuple[bytes, int, OSError | None]:
    told = await begun(part)
    error = await asyncio.wait_for(told.end, 10)
    await asyncio.wait_for(told.thread.ended, 10)
    return bytes(told.bytes), told.holes, error


async def write(part: Part, pieces: list[bytes | int]) -> tuple[int, OSError | None]:
    told = await begun(part)
    for piece in pieces:
        told.thread.give(piece)
    told.thread.give(None)
    error = await asyncio.wait_for(told.end, 10)
    return told.written, error


def laid_out(path: Path, pages: list[bool]) -> bytes:
    """A file with data where it is true and holes where not."""
    with path.open("wb") as file:
        for number, full in enumerate(pages):
            if full:
                file.seek(number * PAGE)
                file.write(os.urandom(PAGE))
        file.truncate(len(pages) * PAGE)
    return path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    pages=st.lists(st.booleans(), max_size=12),
    offset=st.integers(0, 13 * PAGE),
    length=st.integers(0, 13 * PAGE),
    holes=st.booleans(),
)
def test_what_is_read_is_the_part_of_the_file_with_or_without_its_holes(pages, offset, length, holes):
    with TemporaryDirectory() as directory:
        path = Path(directory, "volume")
        whole = laid_out(path, pages)
        found, skipped, error = asyncio.run(read(Part(str(path), False, offset, length, holes)))
    if holes and offset > len(whole):
        # As libvirt has it: it asks what is there, beyond the end.
        assert error is not None
        assert error.errno == errno.ENXIO
        return
    assert error is None
    assert found == (whole[offset : offset + length] if length else whole[offset:])
    if not holes:
        assert skipped == 0
    elif not any(pages):
        assert skipped == len(found)


@settings(max_examples=60, deadline=None)
@given(
    before=st.integers(0, 3 * PAGE),
    offset=st.integers(0, 2 * PAGE),
    pieces=st.lists(st.one_of(st.binary(min_size=1, max_size=3000), st.integers(1, 2 * PAGE)), max_size=8),
)
def test_what_is_written_is_bytes_and_holes_one_after_the_other(before, offset, pieces):
    old = os.urandom(before)
    expected = bytearray(old)
    at = offset
    for piece in pieces:
        # A hole keeps what is there, and what follows it is cut off: so does libvirt.
        end = at + (piece if isinstance(piece, int) else len(piece))
        if len(expected) < end:
            expected += bytes(end - len(expected))
        if isinstance(piece, int):
            del expected[end:]
        else:
            expected[at:end] = piece
        at = end
    with TemporaryDirectory() as directory:
        path = Path(directory, "volume")
        path.write_bytes(old)
        written, error = asyncio.run(write(Part(str(path), True, offset), pieces))
        found = path.read_bytes()
    assert error is None
    assert written == sum(len(piece) for piece in pieces if isinstance(piece, bytes))
    assert found == expected


def test_more_than_the_length_that_was_said_is_refused_and_what_fits_is_there(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(bytes(100))
    _, error = asyncio.run(write(Part(str(path), True, 10, 20), [b"a" * 15, b"b" * 15]))
    assert isinstance(error, Beyond)
    assert path.read_bytes() == bytes(10) + b"a" * 15 + b"b" * 5 + bytes(70)


def test_a_hole_ends_with_the_length_that_was_said(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(b"")
    _, error = asyncio.run(write(Part(str(path), True, 0, 1000, True), [5000]))
    assert error is None
    assert path.stat().st_size == 1000


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_what_is_no_plain_file_is_left_to_libvirtd(tmp_path, kind):
    path = tmp_path / "volume"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")

    async def usable(writing: bool) -> bool:
        thread = FileThread(asyncio.get_running_loop(), Part(str(path), writing))
        found = await asyncio.wait_for(thread.opened, 10)
        thread.stop()
        await asyncio.wait_for(thread.ended, 10)
        return found

    assert not asyncio.run(usable(writing=False))
    assert not asyncio.run(usable(writing=True))


def test_no_more_is_read_than_the_window_until_it_is_passed_on(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(os.urandom(STREAM_WINDOW * 3 // 2))

    async def watched() -> bytes:
        told = await begun(Part(str(path), False), greedy=False)
        while len(told.bytes) < STREAM_WINDOW:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(told.bytes) == STREAM_WINDOW
        told.thread.credited(STREAM_WINDOW)
        assert await asyncio.wait_for(told.end, 10) is None
        return bytes(told.bytes)

    assert asyncio.run(watched()) == path.read_bytes()


def test_after_its_stop_nothing_is_told_and_the_thread_ends(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(os.urandom(STREAM_WINDOW + CHUNK))

    async def stopped(part: Part) -> None:
        told = await begun(part, greedy=False)
        if part.writing:
            told.thread.give(b"begun")
        while not (told.bytes or told.written):
            await asyncio.sleep(0.01)
        told.thread.stop()
        before = (len(told.bytes), told.written)
        told.thread.give(b"too late")
        await asyncio.wait_for(told.thread.ended, 10)
        await asyncio.sleep(0.05)
        assert (len(told.bytes), told.written) == before
        assert not told.end.done()

    asyncio.run(stopped(Part(str(path), False)))
    asyncio.run(stopped(Part(str(path), True)))
    assert path.read_bytes()[:5] == b"begun"
    assert b"too late" not in path.read_bytes()


async def test_as_many_small_pieces_as_come_are_written(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"")
    told = await begun(Part(str(path), writing=True))
    pieces = [bytes([number % 251]) * (number % 7) for number in range(20_000)]
    for piece in pieces:
        told.thread.give(piece)
    told.thread.give(None)
    assert await asyncio.wait_for(told.end, 10) is None
    assert path.read_bytes() == b"".join(pieces)
    assert told.written == path.stat().st_size


async def test_a_single_piece_does_not_wait_for_others(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"")
    told = await begun(Part(str(path), writing=True))
    told.thread.give(b"alone")
    async with asyncio.timeout(10):
        while path.read_bytes() != b"alone":
            await asyncio.sleep(0.01)
    told.thread.stop()
    await asyncio.wait_for(told.thread.ended, 10)


@pytest.mark.parametrize("most", [1, 999, 1000, 1001, 2500])
async def test_no_more_is_written_than_was_said_wherever_pieces_end(tmp_path: Path, most: int) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"")
    told = await begun(Part(str(path), writing=True, length=most))
    data = os.urandom(3000)
    for at in range(0, 3000, 1000):
        told.thread.give(data[at : at + 1000])
    told.thread.give(None)
    assert isinstance(await asyncio.wait_for(told.end, 10), Beyond)
    assert path.read_bytes() == data[:most]
