"""A backup in the place of a database that is lost, damaged or in use."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from clusterhost.model.errors import InvalidArgument, StoreUnavailable
from clusterhost.store.backup import backup
from clusterhost.store.errors import StoreDamaged, StoreInUse
from clusterhost.store.restore import restore
from clusterhost.store.rows import Intent, NodeRow, PutDomain, PutIntent, PutNode, SetMeta
from clusterhost.store.store import Store
from tests.support.store_writer import domain

NOW = 1_700_000_000.25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory / "clusterhost.db"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def saved(path: Path, tmp_path: Path) -> Path:
    """A backup of a database with three domains, a node and an open intent; the database has gone on since."""

    async def make() -> None:
        store = await Store.open(url_of(path))
        intent = Intent("op", "start", domain(1).uuid, "n1", "", 5, "{}", 1.0)
        await store.write(*(PutDomain(domain(number)) for number in range(3)), PutNode(NodeRow("n1", 0)))
        await store.write(SetMeta("next_generation", "7"), PutIntent(intent))
        await asyncio.to_thread(backup, url_of(path), tmp_path / "saved.db")
        await store.write(PutDomain(domain(3)))
        await store.close()

    asyncio.run(make())
    return tmp_path / "saved.db"


async def reopened(path: Path) -> Store:
    return await Store.open(url_of(path))


@pytest.mark.parametrize("lost", [False, True])
async def test_the_backup_is_there_and_what_was_before_is_kept(path: Path, saved: Path, lost: bool) -> None:
    if lost:
        path.unlink()
    done = await asyncio.to_thread(restore, url_of(path), saved, NOW)
    assert (done.nodes, done.domains, done.epoch) == (1, 3, 1_700_000_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = await reopened(path)
    found = await store.load()
    await store.close()
    assert found.domains == [domain(number) for number in range(3)]
    assert found.intents == []
    assert store.epoch == 1_700_000_001
    assert int(found.meta["next_generation"]) >= 1_700_000_000_250
    kept = path.with_name("clusterhost.db.before-restore")
    assert done.kept == (None if lost else kept)
    if not lost:
        before = await reopened(kept)
        assert len((await before.load()).domains) == 4
        await before.close()


async def test_a_damaged_database_with_its_log_gives_way(path: Path, saved: Path) -> None:
    path.write_bytes(b"\0" * 4096)
    Path(f"{path}-wal").write_bytes(b"left by a crash")
    done = await asyncio.to_thread(restore, url_of(path), saved, NOW)
    assert done.domains == 3
    assert not Path(f"{path}-wal").exists()
    assert Path(f"{done.kept}-wal").read_bytes() == b"left by a crash"


async def test_a_restore_is_refused_while_a_front_end_runs(path: Path, saved: Path) -> None:
    store = await reopened(path)
    with pytest.raises(StoreInUse, match=f"in use by process {os.getpid()}"):
        await asyncio.to_thread(restore, url_of(path), saved, NOW)
    await store.write(SetMeta("still", "served"))
    await store.close()


def spoil(saved: Path, how: str) -> None:
    if how == "row":
        connection = sqlite3.connect(saved)
        connection.execute("UPDATE domains SET node = 'elsewhere'")
        connection.commit()
        connection.close()
    elif how == "pages":
        data = bytearray(saved.read_bytes())
        data[4096:8192] = os.urandom(4096)
        saved.write_bytes(data)
    elif how == "text":
        saved.write_text("not a database")
    elif how == "foreign":
        saved.unlink()
        connection = sqlite3.connect(saved)
        connection.execute("CREATE TABLE songs (title TEXT)")
        connection.commit()
        connection.close()
    else:
        saved.unlink()


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("row", StoreDamaged, r"saved\.db is damaged \(.*nothing was restored"),
        ("pages", StoreUnavailable, r"saved\.db|damaged"),
        ("text", StoreUnavailable, r"saved\.db is not a backup that can be read"),
        ("foreign", InvalidArgument, r"saved\.db is a database, but none of clusterhost"),
        ("gone", StoreUnavailable, r"saved\.db is not a backup that can be read"),
    ],
)
def test_what_is_no_whole_backup_changes_nothing(
    path: Path, saved: Path, how: str, error: type[Exception], text: str
) -> None:
    spoil(saved, how)
    before = path.read_bytes()
    with pytest.raises(error, match=text):
        restore(url_of(path), saved, NOW)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["clusterhost.db", "clusterhost.db.lock"]


def test_a_restore_says_what_it_cannot_do(path: Path, saved: Path) -> None:
    with pytest.raises(InvalidArgument, match="use pg_restore"):
        restore("postgresql+psycopg://h/d", saved, NOW)
    with pytest.raises(InvalidArgument, match="is the database itself"):
        restore(url_of(path), path, NOW)
