"""Images by orders through the hub: an agent has a process that moves them, tells its progress, and outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from clusterhost.control import imageops as ops
from clusterhost.model.errors import ClusterError
from tests.cluster.imagemgr.lab import MIB, image, same
from tests.support.control import ControlPlane, PrivateLibvirtd

pytestmark = pytest.mark.real


@pytest_asyncio.fixture
async def here(plane: ControlPlane, libvirtd: PrivateLibvirtd) -> ControlPlane:
    """With agent n1 on its node."""
    plane.agent("n1", libvirtd.uri(), inside=libvirtd)
    await plane.up("n1")
    return plane


async def order(plane: ControlPlane, node: str, kind: str, arguments: Any, **more: Any) -> bytes:
    return await plane.hub.operate(node, kind, msgspec.msgpack.encode(arguments), **more)


async def offer(plane: ControlPlane, path: Path) -> tuple[ops.Offered, ops.Source]:
    answer = await order(plane, "n1", ops.OFFER, ops.OfferArgs(str(path)))
    found = msgspec.msgpack.decode(answer, type=ops.Offered)
    return found, ops.Source("n1", found.address, found.port, found.fingerprint, found.ticket)


def movers() -> list[int]:
    """Processes that move images."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"imagemgr.transfer.worker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


async def test_an_image_goes_from_agent_to_agent_and_the_order_lasts_while_it_does(
    here: ControlPlane, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    here.agent("n2", libvirtd.uri(), inside=libvirtd)
    await here.up("n2")
    path, copy = image(tmp_path / "a/x", {0: 24 * MIB}, 40 * MIB), tmp_path / "b/x"
    copy.parent.mkdir()
    offered, source = await offer(here, path)
    told: list[tuple[int, int, str]] = []
    args = ops.FetchArgs(str(copy), offered.size, offered.digest, (source,), bytes_per_second=8 * MIB)
    answer = await order(
        here, "n2", ops.FETCH, args, op="fetch-1", deadline=1.5, progress=lambda *each: told.append(each)
    )
    fetched = msgspec.msgpack.decode(answer, type=ops.Fetched)
    assert fetched.seconds > 2, "longer than the deadline"
    assert same(path, copy)
    done = [each[0] for each in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1] == 24 * MIB
    assert any("MiB/s" in each[2] for each in told)
    again = await order(here, "n2", ops.FETCH, args, op="fetch-1")
    assert again == answer, "a repeated operation has the same answer"


async def test_where_images_are_given_and_how_fast_is_a_matter_of_settings(
    plane: ControlPlane, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    plane.agent("n1", libvirtd.uri(), inside=libvirtd, images_port=16603, images_sending_mib=8.0)
    await plane.up("n1")
    path = image(tmp_path / "x", {0: 16 * MIB}, 16 * MIB)
    offered, source = await offer(plane, path)
    assert offered.port == 16603
    (tmp_path / "b").mkdir()
    args = ops.FetchArgs(str(tmp_path / "b/x"), offered.size, offered.digest, (source,))
    fetched = msgspec.msgpack.decode(await order(plane, "n1", ops.FETCH, args), type=ops.Fetched)
    assert 1.5 < fetched.seconds < 20
    assert same(path, tmp_path / "b/x")


async def test_a_refusal_names_the_node_and_what_is_wrong(here: ControlPlane, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=rf"node n1: .*{tmp_path}/nothing: no such file or directory"):
        await order(here, "n1", ops.OFFER, ops.OfferArgs(str(tmp_path / "nothing")))
    with pytest.raises(ClusterError, match="node n1: image-offer cannot be read"):
        await here.hub.operate("n1", ops.OFFER, msgspec.msgpack.encode({"nonsense": 1}))
    assert msgspec.msgpack.decode(await order(here, "n1", ops.DIGEST, ops.DigestArgs(("/nothing",)))) == [b""]


async def test_an_agent_that_is_not_on_its_node_has_no_images(up: ControlPlane, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="node n1: the agent of this node does not run on it"):
        await order(up, "n1", ops.PARTS, ops.PartsArgs(str(tmp_path)))


async def test_a_process_that_is_killed_fails_its_orders_and_the_next_has_a_new_one(
    here: ControlPlane, tmp_path: Path
) -> None:
    before = set(movers())
    path = image(tmp_path / "x", {0: 16 * MIB}, 16 * MIB)
    (tmp_path / "b").mkdir()
    offered, source = await offer(here, path)
    args = ops.FetchArgs(str(tmp_path / "b/x"), offered.size, offered.digest, (source,), 4 * MIB)
    running = asyncio.create_task(order(here, "n1", ops.FETCH, args))
    await asyncio.sleep(0.7)
    [pid] = set(movers()) - before
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ClusterError, match="node n1: the process that moves images ended before it answered"):
        await running
    offered, source = await offer(here, path)
    again = ops.FetchArgs(str(tmp_path / "b/x"), offered.size, offered.digest, (source,))
    await order(here, "n1", ops.FETCH, again)
    assert same(path, tmp_path / "b/x")
    here.agents[0].stop()
    for _ in range(100):
        if set(movers()) <= before:
            break
        await asyncio.sleep(0.05)
    assert set(movers()) <= before, "it ends with its agent"
