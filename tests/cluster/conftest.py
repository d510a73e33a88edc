"""A libvirtd of its own with libvirt's test driver, and an agent before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.control import ControlPlane, PrivateLibvirtd


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@pytest.fixture
def own_libvirtd() -> Iterator[PrivateLibvirtd]:
    """For tests that stop or restart it."""
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@pytest_asyncio.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(tmp_path) as plane:
        yield plane


@pytest_asyncio.fixture
async def up(plane: ControlPlane, libvirtd: PrivateLibvirtd) -> AsyncIterator[ControlPlane]:
    """With agent n1 connected."""
    plane.agent("n1", libvirtd.uri())
    await plane.up("n1")
    yield plane
