"""A copy has the same bytes and takes the same room; what is there already is not fetched, what must stay stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagemgr.chunks import CHUNK
from imagemgr.transfer import orders
from tests.cluster.imagemgr.conftest import Make
from tests.cluster.imagemgr.lab import MIB, Refused, Worker, image, room, same
from tests.cluster.netmgr.lab import sh, until

SPREAD = {0: 5 * MIB, 20 * MIB + 12345: 3 * MIB, 90 * MIB: 64 * 1024, 200 * MIB - 77: 77}
SIZE = 200 * MIB
DATA = 6 * CHUNK


def source(worker: Worker, name: str = "web.img") -> Path:
    return image(worker.images / name, SPREAD, SIZE)


def test_a_copy_has_the_same_bytes_and_holes_and_leaves_nothing_beside(node: Make):
    a, b = node("a"), node("b")
    path = source(a)
    offered = a.offer(path)
    fetched = b.fetch("copy.img", offered, a.source(offered)).result(40)
    copy = b.images / "copy.img"
    assert same(path, copy)
    assert room(copy) <= room(path)
    assert [each.name for each in b.images.iterdir()] == ["copy.img"]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (fetched["size"], fetched["digest"]) == (offered.size, offered.digest)
    assert fetched["received"] < DATA
    assert b.offer(copy).digest == offered.digest
    assert b.order(orders.DIGEST, orders.DigestArgs((str(copy), "/nothing/there"))) == [offered.digest, b""]
    done, total, _ = b.progress[-1]
    assert done == total > 0


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_an_image_may_have_any_size(node: Make, size: int):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: size}, size)
    offered = a.offer(path)
    b.fetch("x", offered, a.source(offered)).result(40)
    assert same(path, b.images / "x")


def test_zeros_that_take_room_take_it_in_the_copy_and_the_digest_is_that_of_holes(node: Make):
    a, b = node("a"), node("b")
    full, sparse = a.images / "full", image(a.images / "sparse", {}, 10 * CHUNK)
    full.write_bytes(bytes(10 * CHUNK))
    offered = a.offer(full)
    fetched = b.fetch("full", offered, a.source(offered)).result(40)
    assert fetched["received"] == 0
    assert same(full, b.images / "full")
    assert room(b.images / "full") == room(full)
    assert a.offer(sparse).digest == offered.digest == b.offer(b.images / "full").digest


def test_a_sparse_image_stays_so_where_a_full_one_with_the_same_content_was_seen_before(node: Make):
    a, b = node("a"), node("b")
    sparse = image(a.images / "sparse", {0: 100}, 10 * CHUNK)
    full = a.images / "full"
    full.write_bytes(sparse.read_bytes())
    offered = a.offer(full)
    b.fetch("full", offered, a.source(offered)).result(40)
    again = a.offer(sparse)
    assert again.digest == offered.digest
    b.fetch("sparse", again, a.source(again)).result(40)
    assert same(sparse, b.images / "sparse")
    assert room(b.images / "sparse") <= room(sparse)


def test_the_same_content_is_not_fetched_again_and_other_content_only_replaced_when_asked(node: Make):
    a, b = node("a"), node("b")
    path = source(a)
    offered = a.offer(path)
    copy = b.images / "copy.img"
    copy.write_bytes(b"precious")
    copy.chmod(0o640)
    with pytest.raises(Refused, match=r"copy\.img is there with other content, and was not to be replaced"):
        b.fetch("copy.img", offered, a.source(offered)).result(40)
    assert copy.read_bytes() == b"precious"
    assert [each.name for each in b.images.iterdir()] == ["copy.img"]
    assert b.fetch("copy.img", offered, a.source(offered), replace=True).result(40)["received"] > 0
    assert same(path, copy)
    assert copy.stat().st_mode & 0o777 == 0o640
    assert b.fetch("copy.img", offered, a.source(offered)).result(40)["received"] == 0


def older(path: Path, at: Path) -> None:
    """A copy of an image, with one byte of its last piece and its length changed."""
    at.write_bytes(path.read_bytes())
    with at.open("r+b") as file:
        file.seek(200 * MIB - 1)
        file.write(b"!" if file.read(1) != b"!" else b"?")
        file.truncate(201 * MIB)


def test_what_an_older_copy_has_is_taken_from_there_and_only_the_rest_comes(node: Make):
    a, b = node("a"), node("b")
    path, copy = source(a), b.images / "web.img"
    older(path, copy)
    before = copy.stat().st_ino
    offered = a.offer(path)
    fetched = b.fetch("web.img", offered, a.source(offered), replace=True).result(40)
    assert fetched["received"] < CHUNK + 64 * 1024
    assert same(path, copy)
    assert copy.stat().st_ino != before, "a new file: who had the older one open goes on with it"
    assert room(copy) <= room(path)
    assert [each.name for each in b.images.iterdir()] == ["web.img"]


def test_what_an_older_copy_that_was_read_before_has_otherwise_is_not_looked_at_again(node: Make):
    a, b = node("a"), node("b")
    path, copy = source(a), b.images / "web.img"
    image(copy, {0: 5 * MIB}, SIZE, seed=2)
    with copy.open("r+b") as file, path.open("rb") as good:
        good.seek(20 * MIB)
        file.seek(20 * MIB)
        file.write(good.read(4 * MIB))
    os.utime(copy, (1, 1))  # of one that was written just now nothing is kept
    b.offer(copy)
    offered = a.offer(path)
    whole = b.fetch("new.img", offered, a.source(offered)).result(40)
    fetched = b.fetch("web.img", offered, a.source(offered), replace=True).result(40)
    assert 3 * MIB <= whole["received"] - fetched["received"] <= CHUNK + 64 * 1024
    assert same(path, copy)


@pytest.fixture
def clones(tmp_path: Path) -> Iterator[Path]:
    """A file system whose files may have blocks in common."""
    disk, path = tmp_path / "xfs", tmp_path / "b" / "images"
    path.mkdir(parents=True)
    disk.touch()
    os.truncate(disk, 400 * MIB)
    sh("mkfs.xfs", "-q", "-m", "reflink=1", str(disk))
    sh("mount", "-o", "loop", str(disk), str(path))
    yield path
    sh("umount", "-l", str(path))


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs (xfsprogs)")
def test_where_files_may_have_blocks_in_common_an_older_copys_take_no_more_room(clones: Path, node: Make):
    a, b = node("a"), node("b")
    path, copy = image(a.images / "x", {0: 120 * MIB}, 128 * MIB), clones / "x"
    copy.write_bytes(path.read_bytes())
    with path.open("r+b") as file:
        file.write(b"!")
    offered, before = a.offer(path), os.statvfs(clones)
    with copy.open("rb") as held:
        fetched = b.fetch("x", offered, a.source(offered), replace=True).result(40)
        after = os.statvfs(clones)
        assert held.read(1) != b"!"
    assert fetched["received"] < CHUNK + 64 * 1024
    assert same(path, copy)
    assert (before.f_bfree - after.f_bfree) * after.f_frsize < 3 * CHUNK


def test_an_order_for_a_fetch_that_runs_joins_it_and_one_for_another_image_is_refused(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 6 * CHUNK}, 6 * CHUNK)
    offered, other = a.offer(path), a.offer(image(a.images / "y", {0: 99}, 99))
    first = b.fetch("x", offered, a.source(offered), bytes_per_second=16 * MIB)
    again = b.fetch("x", offered, a.source(offered))
    with pytest.raises(Refused, match=r"another image is being fetched to .*/x"):
        b.fetch("x", other, a.source(other)).result(40)
    assert first.result(40) == again.result(40)
    assert first.result()["seconds"] > 1
    assert same(path, b.images / "x")


def test_whoever_waits_for_others_to_be_fetched_says_so_and_gets_it(node: Make):
    a, b = node("a"), node("b")
    path = image(a.images / "x", {0: 6 * CHUNK}, 6 * CHUNK)
    offered = a.offer(path)
    running = [
        b.fetch(f"{number}", offered, a.source(offered), bytes_per_second=6 * MIB) for number in range(4)
    ]
    until(lambda: len(b.parts()) == len(running), 10, "four are being fetched")
    last = b.fetch("last", offered, a.source(offered))
    for each in (*running, last):
        each.result(40)
    assert any(text == f"{b.images}/last waits until fewer images are fetched" for _, _, text in b.progress)
    assert same(path, b.images / "last")


def test_an_image_that_shrinks_is_compressed_on_a_slow_link(node: Make):
    a, b = node("a", SENDING=8 * MIB), node("b")
    path = a.images / "text"
    path.write_bytes(b"".join(b"%d bottles of beer on the wall\n" % count for count in range(400_000)))
    offered = a.offer(path)
    fetched = b.fetch("text", offered, a.source(offered)).result(40)
    assert fetched["received"] < offered.size / 2
    assert same(path, b.images / "text")


def test_two_fetches_from_one_sender_get_the_same_share(node: Make):
    a, b, c = node("a", SENDING=16 * MIB), node("b"), node("c")
    offered = [
        a.offer(image(a.images / name, {0: 6 * CHUNK}, 6 * CHUNK, seed)) for seed, name in enumerate("xy")
    ]
    running = [worker.fetch("z", each, a.source(each)) for worker, each in zip((b, c), offered, strict=True)]
    seconds = [each.result(40)["seconds"] for each in running]
    # 48 MiB at 16 MiB/s.
    assert min(seconds) > 2
    assert max(seconds) < 1.4 * min(seconds)


def test_an_image_that_is_held_open_elsewhere_may_be_replaced_and_stays_what_it_was_there(node: Make):
    a, b = node("a"), node("b")
    offered = a.offer(source(a))
    old = b.images / "copy.img"
    old.write_bytes(b"old")
    with old.open("rb") as reader:
        b.fetch("copy.img", offered, a.source(offered), replace=True).result(40)
        assert reader.read() == b"old"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("images/x", "is not absolute"),
        ("{pool}/../x", "is not written in its shortest form"),
        ("{pool}//x", "is not written in its shortest form"),
        ("{pool}/x\n", "control characters"),
        ("{pool}/missing/x", "there is no directory .*/missing for x"),
        ("{pool}/link", "link is a symbolic link"),
        ("{pool}/pipe", "pipe is neither a file nor a block device"),
        ("{pool}/directory", "directory is neither a file nor a block device|is a directory"),
    ],
)
def test_what_is_no_place_for_an_image_is_refused(node: Make, path: str, why: str):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 99}, 99))
    outside = b.images.parent / "outside"
    outside.write_bytes(b"outside")
    (b.images / "link").symlink_to(outside)
    (b.images / "directory").mkdir()
    os.mkfifo(b.images / "pipe")
    before = sorted(b.images.rglob("*"))
    path = path.format(pool=b.images)
    args = orders.FetchArgs(path, offered.size, offered.digest, (a.source(offered),), replace=True)
    with pytest.raises(Refused, match=why):
        b.order(orders.FETCH, args)
    assert outside.read_bytes() == b"outside"
    assert sorted(b.images.rglob("*")) == before


def test_a_private_directory_that_is_a_link_is_not_followed(node: Make, tmp_path: Path):
    a, b = node("a"), node("b")
    offered = a.offer(image(a.images / "x", {0: 99}, 99))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (b.images / ".clusterhost").symlink_to(elsewhere)
    with pytest.raises(Refused, match=r"\.clusterhost is no directory of this file system"):
        b.fetch("x", offered, a.source(offered)).result(40)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", ["link", "pipe"])
def test_what_is_no_image_is_not_offered(node: Make, name: str):
    a = node("a")
    (a.images / "link").symlink_to("/etc/passwd")
    os.mkfifo(a.images / "pipe")
    with pytest.raises(Refused, match=r"is a symbolic link|is neither a file nor a block device"):
        a.offer(a.images / name)


def test_what_was_noted_of_a_file_is_believed_until_it_is_read_again(node: Make):
    a = node("a")
    paths = [image(a.images / name, {0: 2 * CHUNK}, 2 * CHUNK, seed) for seed, name in enumerate("xy")]
    for path in paths:
        os.utime(path, (1e9, 1e9))  # nobody writes to it any more
    names = tuple(map(str, paths))
    x, y = a.order(orders.DIGEST, orders.DigestArgs(names))
    for noted in (a.state / "manifests").glob("*.file"):
        if noted.read_bytes() == x:
            noted.write_bytes(y)  # as if the disk had changed it behind everybody's back
    assert a.order(orders.DIGEST, orders.DigestArgs(names)) == [y, y]
    assert a.order(orders.DIGEST, orders.DigestArgs(names, again=True)) == [x, y]
    assert a.order(orders.DIGEST, orders.DigestArgs(names)) == [x, y]
