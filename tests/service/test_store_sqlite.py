"""What is SQLite's alone: files, locks, a full disk, flipped bytes, backups."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterhost.model.errors import InvalidArgument, StoreUnavailable
from clusterhost.store import schema, walcheck
from clusterhost.store.backup import backup
from clusterhost.store.database import Database, backend_of
from clusterhost.store.errors import StoreDamaged
from clusterhost.store.rows import DomainRow, NodeRow, PutDomain, PutNode, Saved, SetMeta
from clusterhost.store.store import Store
from tests.support.store_writer import domain

FAST = 5.0
"""Seconds within which an unavailable store must say so."""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clusterhost.db"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def _fill(filler: Path) -> None:
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


async def test_only_the_owner_may_read_the_files(path: Path) -> None:
    store = await Store.open(url_of(path))
    await store.write(SetMeta("a", "b"))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    await store.close()
    assert set(modes) == {"clusterhost.db", "clusterhost.db-wal", "clusterhost.db-shm", "clusterhost.db.lock"}
    assert set(modes.values()) == {0o600}


async def test_a_full_disk_is_told_and_left_behind(small_disk: Path) -> None:
    store = await Store.open(url_of(small_disk / "clusterhost.db"))
    await store.write(PutDomain(domain(1)))
    filler = small_disk / "filler"
    _fill(filler)
    start = time.monotonic()
    big = DomainRow(b"b" * 16, "big", "n1", xml="x" * 200_000)
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await store.write(PutDomain(big))
    assert time.monotonic() - start < FAST
    assert (await store.load()).domains == [domain(1)]
    filler.unlink()
    await store.write(PutDomain(big))
    assert (await store.load()).domains == [domain(1), big]
    await store.close()


async def test_a_database_that_somebody_else_locks_is_unavailable_until_he_lets_go(path: Path) -> None:
    store = await Store.open(url_of(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    outcome = await asyncio.gather(
        *(store.write(SetMeta(str(number), "v")) for number in range(3)), return_exceptions=True
    )
    assert time.monotonic() - start < FAST
    assert [type(error) for error in outcome] == [StoreUnavailable] * 3
    assert (await store.load()).meta == {}
    other.execute("ROLLBACK")
    other.close()
    await store.write(SetMeta("again", "yes"))
    assert (await store.load()).meta == {"again": "yes"}
    await store.close()


async def test_nothing_is_written_into_a_file_that_was_removed(path: Path) -> None:
    store = await Store.open(url_of(path))
    aside = path.with_name("aside")
    path.rename(aside)
    with pytest.raises(StoreUnavailable, match="was removed or replaced while in use"):
        await store.write(SetMeta("a", "b"))
    shutil.copy(aside, path)
    with pytest.raises(StoreUnavailable, match="was removed or replaced while in use"):
        await store.write(SetMeta("a", "b"))
    aside.rename(path)
    await store.write(SetMeta("a", "b"))
    await store.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///relative.db", "mysql://u:secret@h/d", "postgresql://h/d", "nonsense"]
)
async def test_a_database_of_another_kind_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await Store.open(url)
    assert "secret" not in str(refused.value)


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"none/clusterhost\.db: No such file"):
        await Store.open(url_of(tmp_path / "none" / "clusterhost.db"))


async def test_a_file_that_is_no_database_is_refused_with_what_to_do(path: Path) -> None:
    path.write_bytes(b"this is not a database, it is a letter to a friend\n" * 100)
    with pytest.raises(StoreDamaged, match=r"put a backup in its place by 'clusterhost restore'"):
        await Store.open(url_of(path))


def _filled(path: Path) -> Saved:
    """A database as a kill leaves it: part in the file, part in the log.  Returns what it holds."""
    database = Database(backend_of(url_of(path)))
    database.open(0)
    database.commit([[PutNode(NodeRow("n1", 0)), *(PutDomain(domain(number)) for number in range(60))]])
    database.close()
    database = Database(backend_of(url_of(path)))
    database.open(0)
    for number in range(60, 70):
        database.commit([[PutDomain(domain(number)), SetMeta("last", str(number))]])
    saved = database.load()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{path}.kept{suffix}")
    database.close()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}.kept{suffix}", f"{path}{suffix}")
    return saved


def _reopened(path: Path) -> Saved:
    database = Database(backend_of(url_of(path)))
    database.open(0)
    try:
        return database.load()
    finally:
        database.close()


def test_what_a_kill_leaves_in_the_log_is_not_taken_for_damage(path: Path) -> None:
    saved = _filled(path)
    assert Path(f"{path}-wal").stat().st_size > 0
    assert _reopened(path) == saved


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_byte_is_found_at_the_start_or_changes_nothing(path: Path, suffix: str, seed: int) -> None:
    saved = _filled(path)
    without_last = Saved({"last": "68"}, saved.nodes, saved.domains[:-1], saved.intents, saved.jobs)
    whole = Path(f"{path}.kept{suffix}").read_bytes()
    rng = random.Random(seed)
    refused = 0
    for _ in range(60):
        for name in ("", "-wal"):
            shutil.copy(f"{path}.kept{name}", f"{path}{name}")
        position = rng.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        Path(f"{path}{suffix}").write_bytes(damaged)
        try:
            found = _reopened(path)
        except StoreUnavailable as error:
            refused += str(path) in str(error)
            continue
        # The very last transaction of a log cannot be told from one that a power cut interrupted.
        allowed = [saved, without_last] if suffix else [saved]
        assert found in allowed, f"byte {position} of {suffix or 'the file'}"
    assert refused > 20


def test_a_log_that_a_power_cut_left_unfinished_is_taken_up_to_its_last_whole_transaction(path: Path) -> None:
    saved = _filled(path)
    log = Path(f"{path}-wal")
    torn = bytearray(log.read_bytes())
    end = len(torn.rstrip(b"\0"))  # behind it is room for what comes
    torn[end - 200 : end] = b"\0" * 200
    assert walcheck.damage(bytes(torn)) == ""
    log.write_bytes(torn)
    assert _reopened(path).domains == saved.domains[:-1]


async def test_an_upgrade_keeps_a_copy_of_the_database_as_it_was(path: Path) -> None:
    backend = backend_of(url_of(path))
    with backend.engine().connect() as connection:
        schema.ensure(connection, backend, target="0001")
    await (await Store.open(url_of(path))).close()
    kept = path.with_name("clusterhost.db.before-upgrade-from-0001")
    connection = sqlite3.connect(kept)
    found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    connection.close()
    assert found == [("0001",)]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_a_backup_made_while_the_store_is_written_is_whole(path: Path, tmp_path: Path) -> None:
    store = await Store.open(url_of(path))
    await store.write(*(PutDomain(domain(number)) for number in range(200)))

    async def write() -> None:
        for number in range(200, 400):
            await store.write(PutDomain(domain(number)), SetMeta("last", str(number)))

    writing = asyncio.create_task(write())
    target = tmp_path / "backup.db"
    for _ in range(3):
        size = await asyncio.to_thread(backup, url_of(path), target)
        assert size == target.stat().st_size
    await writing
    await store.close()
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith("backup")) == ["backup.db"]
    restored = await asyncio.to_thread(_reopened, target)
    assert restored.domains == [domain(number) for number in range(len(restored.domains))]
    assert len(restored.domains) >= 200
    assert restored.meta.get("last", "199") == str(len(restored.domains) - 1)


def test_a_backup_says_what_it_cannot_do(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="use pg_dump"):
        backup("postgresql+psycopg://h/d", tmp_path / "copy")
    with pytest.raises(StoreUnavailable, match="cannot copy the database"):
        backup(url_of(tmp_path / "none.db"), tmp_path / "copy")
    assert os.listdir(tmp_path) == []
