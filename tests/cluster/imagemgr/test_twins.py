"""What another file of the node has is taken from there, verified, and does not come.  No namespaces are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagemgr.chunks import CHUNK
from imagemgr.transfer import orders
from tests.cluster.imagemgr.lab import MIB, Refused, Worker, image, room, same

SPREAD = {0: 5 * MIB, 20 * MIB + 12345: 3 * MIB, 60 * MIB: 64 * 1024}
SIZE = 80 * MIB
Here = Callable[[str], Worker]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    """`here("a")`: a worker that others reach by loopback."""
    made: list[Worker] = []

    def make(name: str) -> Worker:
        made.append(worker := Worker(name, tmp_path, "127.0.0.1"))
        worker.up()
        return worker

    yield make
    for worker in made:
        worker.kill()


def read_once(worker: Worker, path: Path) -> orders.Offered:
    """Old enough for its digest to be kept."""
    os.utime(path, (path.stat().st_atime - 3600, path.stat().st_mtime - 3600))
    return worker.offer(path)


def test_a_file_with_the_same_bytes_is_taken_whole_and_nothing_comes(here: Here):
    a, b = here("a"), here("b")
    path = image(a.images / "web", SPREAD, SIZE)
    twin = image(b.images / "twin", SPREAD, SIZE)
    offered = read_once(a, path)
    assert read_once(b, twin).digest == offered.digest
    fetched = b.fetch("copy", offered, a.source(offered), local=(str(twin),)).result(40)
    copy = b.images / "copy"
    assert (fetched["received"], fetched["digest"]) == (0, offered.digest)
    assert same(path, copy)
    assert room(copy) <= room(path)
    assert copy.stat().st_ino != twin.stat().st_ino
    assert sorted(each.name for each in b.images.iterdir()) == ["copy", "twin"]
    assert b.offer(copy).digest == offered.digest


def test_it_is_enough_when_nobody_else_is_there_any_more(here: Here):
    a, b = here("a"), here("b")
    path = image(a.images / "web", SPREAD, SIZE)
    twin = image(b.images / "twin", SPREAD, SIZE)
    offered, _ = read_once(a, path), read_once(b, twin)
    a.kill()
    fetched = b.fetch("copy", offered, a.source(offered), local=(str(twin),)).result(40)
    assert fetched["received"] == 0
    assert same(path, b.images / "copy")


def test_a_file_that_was_written_to_gives_what_is_still_the_same_and_the_rest_comes(here: Here):
    a, b = here("a"), here("b")
    path = image(a.images / "web", SPREAD, SIZE)
    twin = image(b.images / "twin", SPREAD, SIZE)
    offered, _ = read_once(a, path), read_once(b, twin)
    with twin.open("r+b") as file:
        file.seek(CHUNK + 5)
        file.write(b"rot")
    fetched = b.fetch("copy", offered, a.source(offered), local=("/nothing/there", str(twin))).result(40)
    assert same(path, b.images / "copy")
    assert MIB // 2 < fetched["received"] < CHUNK + MIB


@pytest.mark.parametrize("kind", ["link", "directory", "no file", "shorter"])
def test_what_cannot_be_read_is_passed_by(here: Here, kind: str):
    a, b = here("a"), here("b")
    path, local = image(a.images / "web", SPREAD, SIZE), b.images / "twin"
    if kind == "link":
        local.symlink_to(path)
    elif kind == "directory":
        local.mkdir()
    elif kind == "shorter":
        local.write_bytes(b"x")
    offered = a.offer(path)
    fetched = b.fetch("copy", offered, a.source(offered), local=(str(local),)).result(40)
    assert same(path, b.images / "copy")
    assert fetched["received"] >= 8 * MIB


def test_a_path_with_dots_in_it_is_refused(here: Here):
    a, b = here("a"), here("b")
    offered = a.offer(image(a.images / "web", {0: 10}, 10))
    with pytest.raises(Refused, match="shortest form"):
        b.fetch("copy", offered, a.source(offered), local=(f"{b.images}/../twin",)).result(40)
