"""What both databases promise: SQLite and PostgreSQL answer every test here alike."""

from __future__ import annotations

import ast
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine

from clusterhost.model.errors import InvalidArgument, StoreUnavailable
from clusterhost.store import crash, schema, tables
from clusterhost.store.database import backend_of
from clusterhost.store.errors import StoreDamaged, StoreInUse, Superseded
from clusterhost.store.restore import renumber
from clusterhost.store.rows import (
    DomainRow,
    DropDomain,
    DropIntent,
    DropLease,
    DropNetwork,
    DropNode,
    DropPool,
    DropVolume,
    Intent,
    JobRow,
    Journal,
    LeaseRow,
    NetworkRow,
    NodeRow,
    PoolRow,
    PutDomain,
    PutIntent,
    PutJob,
    PutLease,
    PutNetwork,
    PutNode,
    PutPool,
    PutVolume,
    SetMeta,
    VolumeRow,
)
from clusterhost.store.statements import Statements
from clusterhost.store.store import Store
from tests.support import postgres as private
from tests.support.store_writer import domain

ROOT = Path(__file__).parents[2]
ODD = "naïve \U0001f600 'quoted' \"twice\" % \\ ; -- \n\t<&>"


@pytest.fixture(scope="module")
def postgres() -> Iterator[private.PrivatePostgres | None]:
    if private.missing():
        yield None
        return
    server = private.PrivatePostgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres: private.PrivatePostgres | None) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/clusterhost.db"
    if postgres is None:
        pytest.skip(private.missing())
    return postgres.new_database()


def engine_of(url: str) -> Engine:
    """A way around the store."""
    return backend_of(url).engine()


def run_writer(url: str, crash_at: str = "", count: int = 100_000) -> subprocess.Popen[str]:
    environment = {**os.environ, crash.VARIABLE: crash_at}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.store_writer", url, str(count)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


async def opened_soon(url: str) -> Store:
    """PostgreSQL lets a killed session's lock go when it notices."""
    return await Store.open(url, wait=20)


async def test_what_was_written_is_there_after_a_new_open(url: str) -> None:
    node = NodeRow(
        "n1", 0, "draining", "pub", "join", "qemu+ssh://h/", "10.0.0.1", {"a": [1, ODD]}, 7, "boot"
    )
    web = DomainRow(bytes(range(16)), ODD, "n1", 4, 9, 2**40, True, False, 1, f"<domain>{ODD}</domain>")
    intent = Intent("op-1", "start", web.uuid, "n1", "n2", 3, '{"flags": 1}', 1_700_000_000.123456)
    jobs = [
        JobRow(12, "drain", "n1", "running", 1, 6, ODD, 1.5, None),
        JobRow("j", "move", "d", "done", finished=2),
    ]
    network = NetworkRow(b"n" * 16, ODD, 7, f"<network>{ODD}</network>", "<network/>", True, 2**40)
    lease = LeaseRow("k/4", network.uuid, "02:00:0a:00:00:02", 4, "10.0.0.2", ODD, "held", 1.25, web.uuid)
    pool = PoolRow(b"p" * 16, ODD, f"<pool>{ODD}</pool>", "shared", True, True, False, 2**40)
    copies = [["n1", "whole", 3, "ab" * 32, 2**50, 2**40], [ODD, "stale", 2, "", 1, 0]]
    volume = VolumeRow("p/v", pool.uuid, "v", f"{ODD}@n1", 3, "incomplete", ODD, copies)
    store = await Store.open(url)
    await store.write(
        PutNode(node), PutDomain(web), PutIntent(intent), SetMeta("uuid", ODD), *map(PutJob, jobs)
    )
    await store.write(PutNetwork(network), PutLease(lease), PutPool(pool), PutVolume(volume))
    await store.close()
    store = await Store.open(url)
    saved = await store.load()
    await store.close()
    assert (saved.nodes, saved.domains, saved.intents, saved.meta) == ([node], [web], [intent], {"uuid": ODD})
    assert sorted(saved.jobs, key=lambda job: job.kind) == jobs
    assert (saved.networks, saved.leases) == ([network], [lease])
    assert (saved.pools, saved.volumes) == ([pool], [volume])


async def test_a_put_replaces_and_a_drop_forgets_also_what_is_not_there(url: str) -> None:
    store = await Store.open(url)
    await store.write(*(PutDomain(domain(number)) for number in range(3)), PutNode(NodeRow("n1", 0)))
    await store.write(
        PutNetwork(NetworkRow(b"n" * 16, "net", 1)), PutLease(LeaseRow("k", b"n" * 16, "m", 4, "a"))
    )
    await store.write(PutPool(PoolRow(b"p" * 16, "pool", "")), PutVolume(VolumeRow("k", b"p" * 16, "v", "v")))
    moved = DomainRow(domain(1).uuid, "renamed", "n2")
    await store.write(PutDomain(moved), DropDomain(domain(0).uuid), DropDomain(b"?" * 16), DropIntent("none"))
    await store.write(DropNode("n1"), DropNode("n1"))
    await store.write(DropNetwork(b"n" * 16), DropNetwork(b"?" * 16), DropLease("k"), DropLease("?"))
    await store.write(DropPool(b"p" * 16), DropPool(b"?" * 16), DropVolume("k"), DropVolume("?"))
    saved = await store.load()
    await store.close()
    assert (saved.networks, saved.leases, saved.pools, saved.volumes) == ([], [], [], [])
    assert saved.domains == [moved, domain(2)]
    assert saved.nodes == []


async def test_a_write_is_kept_whole_or_not_at_all(url: str) -> None:
    store = await Store.open(url)
    with pytest.raises(InvalidArgument, match="cannot be stored"):
        await store.write(PutDomain(domain(1)), SetMeta("key", "\ud800"), PutDomain(domain(2)))
    saved = await store.load()
    await store.close()
    assert (saved.domains, saved.meta) == ([], {})


async def test_one_bad_change_does_not_hurt_those_written_with_it(url: str) -> None:
    store = await Store.open(url)
    bad = [store.write(SetMeta("bad", "\ud800")) for _ in range(3)]
    outcome = await asyncio.gather(
        *(store.write(PutDomain(domain(number))) for number in range(40)), *bad, return_exceptions=True
    )
    saved = await store.load()
    await store.close()
    assert outcome[:40] == [None] * 40
    assert [type(error) for error in outcome[40:]] == [InvalidArgument] * 3
    assert len(saved.domains) == 40


async def test_changes_take_effect_in_the_order_they_were_asked_for(url: str) -> None:
    store = await Store.open(url)
    await asyncio.gather(*(store.write(SetMeta("last", str(number))) for number in range(700)))
    saved = await store.load()
    await store.close()
    assert saved.meta == {"last": "699"}


async def test_many_writers_share_few_transactions(url: str) -> None:
    store = await Store.open(url)
    commits = 0
    commit = store._writer._commit

    def counted(batch: object) -> None:
        nonlocal commits
        commits += 1
        commit(batch)  # type: ignore[arg-type]

    store._writer._commit = counted
    await asyncio.gather(*(store.write(SetMeta(str(number), "v")) for number in range(500)))
    await store.close()
    assert commits <= 10


async def test_the_epoch_rises_with_each_open(url: str) -> None:
    epochs = []
    for _ in range(3):
        store = await Store.open(url)
        epochs.append(store.epoch)
        await store.close()
    assert epochs == [1, 2, 3]


async def test_the_journal_gives_the_newest_first_and_one_object_alone(url: str) -> None:
    store = await Store.open(url)
    lines = [Journal(float(number), "start", f"d{number % 2}", "root", ODD, "{}") for number in range(6)]
    for line in lines:
        await store.write(line)
    newest, about = await store.journal(2), await store.journal(10, "d1")
    await store.close()
    assert newest == [lines[5], lines[4]]
    assert about == [lines[5], lines[3], lines[1]]


async def test_a_second_front_end_is_refused_until_the_first_is_gone(url: str) -> None:
    first = await Store.open(url)
    with pytest.raises(StoreInUse, match="in use by"):
        await Store.open(url)
    waiting = asyncio.create_task(Store.open(url, wait=10))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await first.close()
    second = await waiting
    assert second.epoch == first.epoch + 1
    await second.close()


async def test_an_old_front_end_can_write_nothing_after_a_newer_one_took_over(url: str) -> None:
    old = await Store.open(url)
    await old.write(PutDomain(domain(1)))
    engine = engine_of(url)
    with engine.begin() as connection:  # what the newer one does as it opens
        values = tables.LEADER_ROW.encode(tables.LeaderRow(1, old.epoch + 1))
        connection.execute(Statements(engine.dialect).set_leader, values)
    for number in (2, 3):
        with pytest.raises(Superseded, match=r"epoch is 2, ours 1.*must stop"):
            await old.write(PutDomain(domain(number)))
    saved = await old.load()
    await old.close()
    assert saved.domains == [domain(1)]


async def test_a_cancelled_caller_harms_nobody(url: str) -> None:
    store = await Store.open(url)
    tasks = [asyncio.create_task(store.write(PutDomain(domain(number)))) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcome = await asyncio.gather(*tasks, return_exceptions=True)
    await store.write(SetMeta("still", "alive"))
    saved = await store.load()
    await store.close()
    assert outcome[1::2] == [None] * 25
    assert {row.name for row in saved.domains} >= {f"d{number}" for number in range(1, 50, 2)}
    assert saved.meta == {"still": "alive"}


async def test_a_closed_store_says_so(url: str) -> None:
    store = await Store.open(url)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.write(SetMeta("a", "b"))


async def test_a_value_that_changed_by_itself_is_found_at_the_load(url: str) -> None:
    store = await Store.open(url)
    await store.write(PutDomain(domain(1)))
    with engine_of(url).begin() as connection:
        connection.exec_driver_sql("UPDATE domains SET xml = 'y' || substr(xml, 2)")
    with pytest.raises(
        StoreDamaged, match=r"01' of table domains.*(put a backup in|restore it from a backup)"
    ):
        await store.load()
    await store.close()


def test_the_migrations_make_the_tables_that_the_code_uses(url: str) -> None:
    backend = backend_of(url)
    with backend.engine().connect() as connection:
        schema.ensure(connection, backend)
        assert schema.revision(connection) == schema.REVISIONS[-1]
        with connection.begin():
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, tables.METADATA) == []


async def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    await (await Store.open(url)).close()
    with engine_of(url).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(
        StoreUnavailable, match="schema '0999', this version knows 0001, 0002, 0003, 0004: start the newer"
    ):
        await Store.open(url)


@pytest.mark.parametrize(
    "point", sorted(name for name in crash.CRASH_POINTS if name.startswith("store.migrate."))
)
@pytest.mark.parametrize("before", ["nothing", "0001"])
async def test_a_migration_killed_half_way_leaves_the_database_usable(
    url: str, point: str, before: str
) -> None:
    if before != "nothing":
        backend = backend_of(url)
        with backend.engine().connect() as connection:
            schema.ensure(connection, backend, target=before)
            with connection.begin():
                connection.exec_driver_sql(*Statements(connection.dialect).of(PutDomain(domain(5))))
    process = run_writer(url, point)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (-signal.SIGKILL, "")
    store = await opened_soon(url)
    saved = await store.load()
    await store.write(SetMeta("usable", "yes"), PutJob(JobRow(1, "drain", "n1", "done")))
    await store.close()
    assert saved.domains == ([domain(5)] if before != "nothing" else [])


@pytest.mark.parametrize(("point", "kept"), [("store.before_commit", False), ("store.after_commit", True)])
async def test_a_kill_beside_the_commit_leaves_the_whole_transaction_or_nothing(
    url: str, point: str, kept: bool
) -> None:
    process = run_writer(url, point)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (-signal.SIGKILL, "open\n")
    store = await opened_soon(url)
    saved, journal = await store.load(), await store.journal()
    await store.close()
    assert saved.domains == ([domain(0)] if kept else [])
    assert saved.meta == ({"last": "0"} if kept else {})
    assert len(journal) == (1 if kept else 0)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_acknowledged_is_lost_by_a_kill_at_any_moment(url: str, seed: int) -> None:
    process = run_writer(url)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    time.sleep(random.Random(seed).uniform(0.01, 0.4))
    process.kill()
    with process:
        output = process.stdout.read()  # communicate() would miss what readline() has taken along
    acknowledged = [int(line) for line in output.split("\n")[:-1]]
    store = await opened_soon(url)
    saved, journal = await store.load(), await store.journal(100_000)
    await store.close()
    assert saved.domains[: len(acknowledged)] == [domain(number) for number in acknowledged]
    assert len(acknowledged) <= len(saved.domains) <= len(acknowledged) + 1
    assert len(journal) == len(saved.domains), "a transaction was split"
    assert saved.meta.get("last", "-1") == str(len(saved.domains) - 1)


def test_the_crash_points_of_the_code_are_those_of_the_registry() -> None:
    patterns = _crash_points_in_code()
    unknown = {
        pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in crash.CRASH_POINTS)
    }
    unreached = {
        name for name in crash.CRASH_POINTS if not any(re.fullmatch(pattern, name) for pattern in patterns)
    }
    assert (unknown, unreached) == (set(), set())


def test_a_crash_point_that_no_code_reaches_is_refused() -> None:
    assert crash.check_armed({}) == ""
    assert crash.check_armed({crash.VARIABLE: "store.after_commit"}) == "store.after_commit"
    with pytest.raises(InvalidArgument, match=r"is 'define\.never', allowed are define\."):
        crash.check_armed({crash.VARIABLE: "define.never"})


def _crash_points_in_code() -> set[str]:
    calls = (
        node
        for path in (ROOT / "clusterhost").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "crash_point"
    )
    return {_pattern(call.args[0]) for call in calls}


def _pattern(name: ast.expr) -> str:
    """A regular expression of the names that the expression can stand for."""
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else "[a-z]+" for part in parts)


async def test_a_database_put_in_place_by_other_means_is_numbered_on(url: str) -> None:
    store = await Store.open(url)
    await store.write(PutDomain(domain(1)))
    with pytest.raises(StoreInUse):
        await asyncio.to_thread(renumber, url, 1_700_000_000.0)
    await store.close()
    done = await asyncio.to_thread(renumber, url, 1_700_000_000.0)
    assert (done.domains, done.epoch, done.kept) == (1, 1_700_000_000, None)
    again = await asyncio.to_thread(renumber, url, 1_700_000_000.0)
    assert again.epoch == 1_700_000_001
    store = await Store.open(url)
    assert (store.epoch, (await store.load()).domains) == (1_700_000_002, [domain(1)])
    await store.close()
