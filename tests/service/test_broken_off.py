"""Shown by 4: whenever the front end or a node goes in the middle of what is done to volumes, nothing is lost, nothing
half done is listed, and `image verify --repair` leaves no orphan: over fake nodes, at every word to them."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from clusterhost.control import imageops
from clusterhost.model.errors import ClusterError, InvalidOperation, NodeError
from imagemgr.model import Copy, CopyState
from tests.support.brokenoff import DEEDS, WIPED, Break, again, check, mended, stocked_making
from tests.support.clusters import Front, running
from tests.support.fakelibvirt import Refused
from tests.support.image_calls import states
from tests.support.shelves import POOL


async def begun(directory):
    """A cluster with a volume that has two copies."""
    front = Front(directory)
    await front.start()
    stocked = with_copies(front)
    await stocked.volumes.listed(POOL)
    return front, stocked


def with_copies(front, *nodes):
    """A volume of a cluster has copies on these nodes, on two of them when none are named."""
    stocked = stocked_making(front)
    for node in nodes or ("n1", "n2"):
        stocked.put(node, "base")
    return stocked


async def broken(front, stocked, deed, *where):
    """Do it until who shall go has gone; False when it came to its end before."""
    gap = Break(front, *where)
    task = asyncio.ensure_future(deed.work(stocked))
    await asyncio.wait([task, gap.reached], return_when=asyncio.FIRST_COMPLETED)
    if gap.reached.done() and gap.victim == "front":
        await front.crash()
        task.cancel()
    with contextlib.suppress(ClusterError, asyncio.CancelledError, AssertionError):
        await task
    return gap.reached.done()


@pytest.mark.parametrize("victim", ["front", "node"])
@pytest.mark.parametrize("heard", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", DEEDS)
async def test_what_is_broken_off_leaves_nothing_lost_half_listed_or_left_over(tmp_path, name, heard, victim):
    deed, turn = DEEDS[name], 0
    while True:
        front, stocked = await begun(tmp_path / str(turn))
        if not await broken(front, stocked, deed, turn, heard, victim):
            break
        if victim == "front":
            await front.start()
            stocked = stocked_making(front)
        else:
            await check(stocked, replace(deed, there=False))
            for node in front.machines:
                front.mend(node)
        await check(stocked, deed)
        await mended(stocked, deed)
        await again(stocked, deed)
        await check(stocked, deed)
        await front.stop()
        turn += 1
    assert turn, "nothing was changed"
    await front.stop()


async def test_a_volume_is_not_deleted_or_wiped_while_a_copy_of_it_comes_and_the_copy_is_whole_then(tmp_path):
    async with running(tmp_path) as front:
        stocked = with_copies(front, "n1")
        said = []

        async def fetching(node, kind, args, **more):
            if kind == imageops.FETCH and not said:
                said.append(node)
                with pytest.raises(
                    InvalidOperation, match=r"volume 'base' is still in use: a copy of it comes"
                ):
                    await DEEDS["delete"].work(stocked)
            return await operate(node, kind, args, **more)

        operate, front.nodes.operate = front.nodes.operate, fetching
        await DEEDS["distribute"].work(stocked)
        assert said
        await DEEDS["delete"].work(stocked)
        assert not any(shelf.files for shelf in stocked.shelves.values())


@pytest.mark.parametrize("deed", ["delete", "wipe"])
async def test_a_copy_that_nobody_brings_any_more_does_not_come_back(tmp_path, deed):
    async with running(tmp_path) as front:
        stocked = with_copies(front)
        await stocked.volumes.all(POOL)
        await stocked.volumes.note_copy(POOL, "base", Copy("n3", CopyState.COMING, 0))
        stocked.shelves["n3"].parts["base"] = 4096
        await DEEDS[deed].work(stocked)
        left = WIPED if deed == "wipe" else ""
        assert not stocked.shelves["n3"].parts
        assert {node: stocked.content(node, "base") for node in stocked.shelves} == {
            "n1": left,
            "n2": left,
            "n3": "",
        }
        listed = [held.shown for held in await stocked.volumes.listed(POOL)]
        assert listed == (["base"] if left else [])


@pytest.mark.parametrize("deed", ["wipe", "resize"])
async def test_what_a_node_refuses_to_overwrite_is_as_it_was(tmp_path, deed):
    async with running(tmp_path) as front:
        stocked = with_copies(front)
        before = await states(stocked, "base")

        def refuse(args):
            raise Refused("this cannot be")

        for machine in front.machines.values():
            setattr(machine, f"do_storage_vol_{deed}", refuse)
        with pytest.raises(NodeError):
            await DEEDS[deed].work(stocked)
        assert await states(stocked, "base") == before == {"n1": "whole", "n2": "whole"}
        assert [held.shown for held in await stocked.volumes.listed(POOL)] == ["base"]
