"""What is PostgreSQL's alone: a server that stops, hangs, comes back, or ends our session."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from clusterhost.model.errors import StoreUnavailable
from clusterhost.store.errors import StoreInUse, Superseded
from clusterhost.store.rows import PutDomain, SetMeta
from clusterhost.store.store import Store
from tests.support import postgres as private
from tests.support.store_writer import domain

FAST = 5.0
"""Seconds within which an unavailable store must say so."""


@pytest.fixture
def own_server() -> Iterator[private.PrivatePostgres]:
    """To be stopped and started."""
    yield from _servers()


@pytest.fixture(scope="module")
def server() -> Iterator[private.PrivatePostgres]:
    yield from _servers()


def _servers() -> Iterator[private.PrivatePostgres]:
    reason = private.missing()
    if reason:
        pytest.skip(reason)
    server = private.PrivatePostgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def end_sessions(server: private.PrivatePostgres, url: str) -> None:
    name = make_url(url).database
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


async def test_a_server_that_stops_is_told_and_its_return_is_noticed(
    own_server: private.PrivatePostgres,
) -> None:
    server = own_server
    store = await Store.open(server.new_database())
    await store.write(PutDomain(domain(1)))
    server.stop()
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="cannot take a change now"):
            await store.write(PutDomain(domain(2)))
    with pytest.raises(StoreUnavailable):
        await store.load()
    assert time.monotonic() - start < FAST
    server.start()
    await store.write(PutDomain(domain(3)))
    assert (await store.load()).domains == [domain(1), domain(3)]
    await store.close()


async def test_a_server_that_hangs_is_told_in_time_and_its_return_is_noticed(
    server: private.PrivatePostgres,
) -> None:
    store = await Store.open(server.new_database())
    server.signal_all(signal.SIGSTOP)
    try:
        start = time.monotonic()
        outcome = await asyncio.gather(
            *(store.write(SetMeta(str(number), "v")) for number in range(3)), return_exceptions=True
        )
        assert time.monotonic() - start < FAST
        assert [type(error) for error in outcome] == [StoreUnavailable] * 3
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not get to this change"):
            await store.write(SetMeta("queued", "v"))
        assert time.monotonic() - start < FAST
    finally:
        server.signal_all(signal.SIGCONT)
    await store.write(SetMeta("again", "yes"))
    saved = await store.load()
    await store.close()
    assert saved.meta["again"] == "yes"
    assert "queued" not in saved.meta


async def test_a_session_that_was_ended_is_replaced_and_its_lock_taken_again(
    server: private.PrivatePostgres,
) -> None:
    url = server.new_database()
    store = await Store.open(url)
    end_sessions(server, url)
    with pytest.raises(StoreUnavailable, match="cannot take a change now"):
        await store.write(SetMeta("a", "b"))
    await store.write(SetMeta("a", "b"))
    with pytest.raises(StoreInUse):
        await Store.open(url)
    await store.close()


async def test_who_lost_his_session_and_was_replaced_writes_nothing(server: private.PrivatePostgres) -> None:
    url = server.new_database()
    old = await Store.open(url)
    await old.write(PutDomain(domain(1)))
    end_sessions(server, url)
    new = await Store.open(url)
    await new.write(PutDomain(domain(2)))
    with pytest.raises(StoreUnavailable):
        await old.write(PutDomain(domain(8)))
    with pytest.raises(Superseded):
        await old.write(PutDomain(domain(9)))
    assert (await new.load()).domains == [domain(1), domain(2)]
    await old.close()
    await new.write(PutDomain(domain(3)))
    await new.close()
