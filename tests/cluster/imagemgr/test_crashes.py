"""Either end is killed at a named point: the next fetch ends what was begun, and fetches little twice."""

from __future__ import annotations

import time

import pytest

from imagemgr.chunks import CHUNK
from tests.cluster.imagemgr.conftest import Make
from tests.cluster.imagemgr.lab import MIB, Refused, Worker, image, same

CHUNKS = 10
RATE = 16 * MIB
POINTS = [
    ("opened", 1),
    ("manifest", 1),
    ("journal", 1),
    ("chunk", 3),
    ("noted", 1),
    ("chunk", CHUNKS),
    ("synced", 1),
    ("renamed", 1),
]


def clean(worker: Worker, name: str) -> bool:
    """Nothing of a fetch is left but the image."""
    return [each.name for each in worker.images.iterdir()] == [name] and not worker.parts()


@pytest.mark.parametrize(("point", "times"), POINTS)
def test_a_receiver_killed_at_a_point_is_taken_up_by_the_next(node: Make, point: str, times: int):
    a, b = node("a"), node("b", POINT=point, TIMES=times)
    path = image(a.images / "x", {0: (CHUNKS - 1) * CHUNK, CHUNKS * CHUNK: CHUNK}, (CHUNKS + 2) * CHUNK)
    offered = a.offer(path)
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    with pytest.raises(EOFError):
        running.result(40)
    b.ended()
    assert (b.images / "x").exists() == (point == "renamed"), "no half of it is ever seen"
    b.up()
    if point not in ("opened", "manifest", "renamed"):
        [part] = b.parts()
        assert (part.name, part.size, part.digest) == ("x", offered.size, offered.digest)
        assert part.done <= times * CHUNK or point != "chunk"
    fetched = b.fetch("x", offered, a.source(offered)).result(40)
    assert same(path, b.images / "x")
    assert clean(b, "x")
    if point in ("synced", "renamed"):
        assert fetched["received"] <= CHUNK * CHUNKS * (point == "synced")


def test_what_was_journalled_before_the_receiver_was_killed_is_not_fetched_again(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 20 * CHUNK}, 20 * CHUNK)
    offered = a.offer(path)
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 12 * CHUNK)
    had = b.progress[-1][0]
    b.kill()
    with pytest.raises(EOFError):
        running.result(10)
    b.up()
    [part] = b.parts()
    assert part.done > 0
    fetched = b.fetch("x", offered, a.source(offered)).result(40)
    twice = had + fetched["received"] - 20 * CHUNK
    # What comes in the second between two journals and while one is written.
    assert twice < 2 * RATE
    assert fetched["received"] <= 20 * CHUNK - part.done + 64 * 1024
    assert same(path, b.images / "x")
    assert clean(b, "x")


def test_a_fetch_whose_sender_was_killed_says_what_is_missing_and_goes_on_with_a_new_offer(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 12 * CHUNK}, 12 * CHUNK)
    offered = a.offer(path)
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 4 * CHUNK)
    a.kill()
    missing = rf"{b.images}/x: \d+ MiB of 48 MiB are missing \(node a at 10\.98\.0\.1: .*\); .* kept"
    with pytest.raises(Refused, match=missing):
        running.result(40)
    assert not (b.images / "x").exists()
    [part] = b.parts()
    assert 0 < part.done < 12 * CHUNK
    a.up()
    offered = a.offer(path)
    fetched = b.fetch("x", offered, a.source(offered)).result(40)
    assert fetched["received"] <= 12 * CHUNK - part.done + 64 * 1024
    assert same(path, b.images / "x")
    assert clean(b, "x")


def test_a_link_that_is_cut_for_a_while_only_delays(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 8 * CHUNK}, 8 * CHUNK)
    offered = a.offer(path)
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 2 * CHUNK)
    assert b.space is not None
    b.space("ip", "link", "set", "eth0", "down")
    time.sleep(1.5)
    b.space("ip", "link", "set", "eth0", "up")
    running.result(40)
    assert same(path, b.images / "x")


@pytest.mark.parametrize("point", ["chunk", "synced"])
def test_an_older_copy_is_as_it_was_when_the_receiver_was_killed_and_is_taken_from_again(
    node: Make, point: str
):
    a, b = node("a"), node("b", POINT=point)
    path, copy = image(a.images / "x", {0: 8 * CHUNK}, 8 * CHUNK), b.images / "x"
    copy.write_bytes(path.read_bytes())
    with path.open("r+b") as file:
        file.write(b"another")
    offered = a.offer(path)
    b.fetch("x", offered, a.source(offered), replace=True)
    b.ended()
    assert copy.read_bytes()[CHUNK:] == path.read_bytes()[CHUNK:]
    assert not same(path, copy), "the older copy is as it was"
    b.up()
    assert len(b.parts()) == 1
    fetched = b.fetch("x", offered, a.source(offered), replace=True).result(40)
    assert fetched["received"] < 2 * CHUNK
    assert same(path, copy)
    assert clean(b, "x")


def test_chunks_of_an_older_version_are_kept_when_a_newer_one_is_asked_for(node: Make):
    a, b = node("a"), node("b", POINT="chunk", TIMES=10)
    path = image(a.images / "x", {0: 12 * CHUNK}, 12 * CHUNK)
    offered = a.offer(path)
    b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    b.ended()
    b.up()
    [part] = b.parts()
    with path.open("r+b") as file:
        file.seek(5 * CHUNK)
        file.write(b"another")
        file.truncate(11 * CHUNK + 5)
    offered = a.offer(path)
    fetched = b.fetch("x", offered, a.source(offered)).result(40)
    # All that was there, but the chunk that changed and the one that was cut.
    assert fetched["received"] < (12 - part.done // CHUNK + 2) * CHUNK
    assert part.done >= 3 * CHUNK
    assert same(path, b.images / "x")
    assert clean(b, "x")


def wait(worker: Worker, count: int) -> None:
    """Until so many bytes have come."""
    end = time.monotonic() + 30
    while not worker.progress or worker.progress[-1][0] < count:
        assert time.monotonic() < end, worker.progress[-3:]
        time.sleep(0.05)
