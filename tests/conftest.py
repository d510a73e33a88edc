"""For every test: says what the machine offers, fails on what a test leaves behind.  Knows no product."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.support import leaks, machine

GRACE = 2.0
"""Seconds that processes and tasks have to end after a test."""

_at_start: dict[str, frozenset[str]] = {}


# A busy machine is no reason to fail: pytest's own timeout is the bound on how long a test may take.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    os.environ[leaks.MARKER] = str(os.getpid())
    _at_start["mounts"] = leaks.mounts()


def pytest_report_header(config: pytest.Config) -> str:
    return "met: " + ", ".join(machine.met(getattr(config, "cache", None)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_leaked_tasks")


@pytest_asyncio.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Set up first and torn down last: every task that a test or its fixtures made must be over by then."""
    before = asyncio.all_tasks()
    yield
    mine = asyncio.current_task()
    deadline = time.monotonic() + GRACE
    while left := {task for task in asyncio.all_tasks() - before if task is not mine}:
        if time.monotonic() > deadline:
            names = ", ".join(sorted(str(task.get_coro()) for task in left))
            pytest.fail(f"left behind: {len(left)} asyncio tasks: {names}")
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No child process, network namespace or bridge outlives the test that made it."""
    before = leaks.look()
    yield
    deadline = time.monotonic() + GRACE
    while left := leaks.look().new_since(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(left))
        time.sleep(0.02)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_all() -> Iterator[None]:
    """After all tests no process of the run lives, not even an orphan, and no mount is left (but in a demo that was
    given: what the tests start anew there stays)."""
    before = leaks.look()
    yield
    if "CLUSTERHOST_TEST_STATE" in os.environ:
        return
    deadline = time.monotonic() + 2 * GRACE
    while left := _left(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind by the whole run: " + "; ".join(left))
        time.sleep(0.05)


def _left(before: leaks.Traces) -> list[str]:
    return [
        *(f"process {pid}: {line}" for pid, line in leaks.marked_processes().items()),
        *(f"mount: {point}" for point in sorted(leaks.mounts() - _at_start["mounts"])),
        *leaks.look().new_since(before),
    ]
