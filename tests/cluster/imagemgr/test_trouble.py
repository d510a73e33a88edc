"""What goes wrong is said with the node's path and what was missing, and leaves nothing half there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from imagemgr.chunks import CHUNK
from imagemgr.transfer import orders
from tests.cluster.imagemgr.conftest import Make
from tests.cluster.imagemgr.lab import MIB, Refused, image, same
from tests.cluster.imagemgr.test_crashes import RATE, wait
from tests.cluster.netmgr.lab import sh


def spoil(path: Path, offset: int, *, quietly: bool) -> None:
    """Write into it; quietly: so that its times do not tell, as a bad disk would."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"rotten")
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_corrupt_source_is_said_and_nothing_of_it_kept(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 6 * CHUNK}, 6 * CHUNK)
    offered = a.offer(path)
    spoil(path, 4 * CHUNK + 100, quietly=True)
    said = rf"/x: .* of 24 MiB are missing \(node a at .*: what it sent at byte {4 * CHUNK} is not what its digest"
    with pytest.raises(Refused, match=said + r".*\); nothing of it is kept"):
        b.fetch("x", offered, a.source(offered)).result(40)
    assert not list(b.images.iterdir())


def test_a_corrupt_source_is_left_for_one_that_is_not(node: Make):
    a, b, c = node("a"), node("b"), node("c")
    path = image(a.images / "x", {0: 8 * CHUNK}, 8 * CHUNK)
    twin = image(c.images / "x", {0: 8 * CHUNK}, 8 * CHUNK)
    offered, other = a.offer(path), c.offer(twin)
    assert offered.digest == other.digest
    for index in range(8):
        spoil(path, index * CHUNK, quietly=True)
    b.fetch("x", offered, a.source(offered), c.source(other)).result(40)
    assert same(twin, b.images / "x")


def test_an_image_that_is_written_to_meanwhile_is_said_and_not_taken_for_corrupt(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 10 * CHUNK}, 10 * CHUNK)
    offered = a.offer(path)
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 2 * CHUNK)
    spoil(path, 0, quietly=False)
    with pytest.raises(Refused, match=r"/x was written to after it was offered\); what has come is kept"):
        running.result(40)
    assert not (b.images / "x").exists()
    assert a.offer(path).digest != offered.digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """40 MiB."""
    path = tmp_path / "b" / "images"
    path.mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(path))
    yield path
    sh("umount", "-l", str(path))


def test_an_image_that_does_not_fit_is_refused_with_how_much_is_missing(small_disk: Path, node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 48 * MIB, 99 * MIB: 4096}, 100 * MIB))
    said = r"/x needs (48|52) MiB, 40 MiB are free: (8\.0|12|8\.1) MiB are missing"
    with pytest.raises(Refused, match=said):
        b.fetch("x", offered, a.source(offered)).result(40)
    assert not list(small_disk.iterdir())
    assert b.progress == []
    fits = a.offer(image(a.images / "y", {at * MIB: 64 * 1024 for at in range(0, 96, 4)}, 100 * MIB))
    b.fetch("y", fits, a.source(fits)).result(40)
    assert same(a.images / "y", small_disk / "y")


def test_a_disk_that_gets_full_meanwhile_is_said_and_freed_of_what_had_come(small_disk: Path, node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 32 * MIB}, 32 * MIB))
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 2 * CHUNK)
    (small_disk / "other").write_bytes(bytes(20 * MIB))
    said = r"/x: the disk is full, \d+ MiB of 32 MiB did not fit; what had come was removed"
    with pytest.raises(Refused, match=said):
        running.result(40)
    assert [each.name for each in small_disk.iterdir()] == ["other"]


def test_who_shows_no_ticket_gets_nothing_and_another_certificate_is_not_trusted(node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 99}, 99))
    good = a.source(offered)
    for bad, why in (
        (msgspec.structs.replace(good, ticket=bytes(32)), "its offer has ended"),
        (msgspec.structs.replace(good, fingerprint=bytes(32)), "its certificate is another one"),
        (msgspec.structs.replace(good, port=1), "connection refused"),
    ):
        said = rf"/x: 99 bytes of 99 bytes are missing \(node a at .*: {why}.*\); nothing was changed"
        with pytest.raises(Refused, match=said):
            b.fetch("x", offered, bad).result(40)
    assert not list(b.images.iterdir())


def test_a_manifest_that_is_not_the_digests_is_refused(node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 99}, 99))
    wrong = msgspec.structs.replace(offered, digest=bytes(32))
    with pytest.raises(Refused, match="its manifest is another one than was asked for"):
        b.fetch("x", wrong, a.source(offered)).result(40)
    larger = msgspec.structs.replace(offered, size=100)
    with pytest.raises(Refused, match="the image has 99 bytes, not 100 as was said"):
        b.fetch("x", larger, a.source(offered)).result(40)
    assert not list(b.images.iterdir())


def test_a_file_that_comes_up_meanwhile_is_not_replaced(node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 6 * CHUNK}, 6 * CHUNK))
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, CHUNK)
    (b.images / "x").write_bytes(b"mine")
    with pytest.raises(Refused, match="came up while it was fetched, and was not to be replaced"):
        running.result(40)
    assert (b.images / "x").read_bytes() == b"mine"
    assert [each.name for each in b.images.iterdir()] == ["x"]


def test_a_fetch_is_stopped_with_what_has_come_kept_or_removed(node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 10 * CHUNK}, 10 * CHUNK))
    path = str(b.images / "x")
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 2 * CHUNK)
    began = time.monotonic()
    b.order(orders.STOP, orders.StopArgs(path))
    assert time.monotonic() - began < 3
    with pytest.raises(Refused, match="somebody stopped it"):
        running.result(10)
    [part] = b.parts()
    assert part.done >= 2 * CHUNK
    running = b.fetch("x", offered, a.source(offered), bytes_per_second=RATE)
    wait(b, 3 * CHUNK)
    b.order(orders.REMOVE, orders.RemoveArgs(path))
    with pytest.raises(Refused, match="somebody stopped it"):
        running.result(10)
    assert not list(b.images.iterdir())
    b.order(orders.REMOVE, orders.RemoveArgs(path))


def test_a_part_without_a_journal_is_listed_and_removed(node: Make):
    b = node("b")
    private = b.images / ".clusterhost"
    private.mkdir()
    (private / "x.part").write_bytes(b"half")
    (private / "y.part").write_bytes(b"half")
    (private / "y.journal").write_bytes(b"not a journal")
    # A process that was killed while it removed them leaves the last of them, or the beginning of one.
    (private / "v.manifest").write_bytes(b"of an image that is there")
    (private / "w.journal.new").touch()
    (private / ("z" * 255)).touch()
    found = [(part.name, part.size, part.digest) for part in b.parts()]
    assert found == [("v", 0, b""), ("w", 0, b""), ("x", 4, b""), ("y", 4, b"")]
    for name in "vwxy":
        b.order(orders.REMOVE, orders.RemoveArgs(str(b.images / name)))
    assert b.parts() == []
    assert [path.name for path in private.iterdir()] == ["z" * 255]


def test_a_name_of_the_greatest_length_is_fetched_and_its_part_known_by_it(node: Make):
    a, b = node("a"), node("b")
    name = "n" * 255
    offered = a.offer(image(a.images / name, {0: 8 * CHUNK}, 8 * CHUNK))
    running = b.fetch(name, offered, a.source(offered), bytes_per_second=RATE)
    wait(b, CHUNK)
    assert [part.name for part in b.parts()] == [name]
    running.result(40)
    assert same(a.images / name, b.images / name)
    assert [each.name for each in b.images.iterdir()] == [name]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 64 MiB that is full of something else."""
    backing = image(tmp_path / "backing", {0: 64 * MIB}, 64 * MIB, seed=9)
    path = sh("losetup", "--find", "--show", str(backing), check=False).strip()
    if not path:
        pytest.skip("this machine has no loop devices")
    yield Path(path)
    sh("losetup", "-d", path)


def test_a_block_device_is_overwritten_in_place_holes_and_all(device: Path, node: Make):
    a, b = node("a"), node("b", POINT="chunk", TIMES=3)
    path = image(a.images / "x", {0: 3 * CHUNK, 9 * CHUNK + 4096: 3 * CHUNK}, 15 * CHUNK)
    offered = a.offer(path)
    args = orders.FetchArgs(str(device), offered.size, offered.digest, (a.source(offered),), RATE, block=True)
    with pytest.raises(EOFError):
        b.order(orders.FETCH, args)
    b.ended()
    b.up()
    b.order(orders.FETCH, args)
    with device.open("rb") as file:
        assert file.read(offered.size) == path.read_bytes()
    assert not list((b.state / "devices").iterdir())
    back = b.offer(device)
    a.fetch("back", back, b.source(back)).result(40)
    assert (a.images / "back").read_bytes()[: offered.size] == path.read_bytes()


def test_a_device_that_is_too_small_is_refused_untouched(device: Path, node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: CHUNK}, 65 * MIB))
    args = orders.FetchArgs(str(device), offered.size, offered.digest, (a.source(offered),), block=True)
    before = device.read_bytes()
    with pytest.raises(Refused, match=rf"{device} has {64 * MIB} bytes, the image {65 * MIB}"):
        b.order(orders.FETCH, args)
    assert device.read_bytes() == before
