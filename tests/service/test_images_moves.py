"""What is kept of volumes while libvirt moves a domain with its disks, over fake nodes and a real store."""

import pytest

from clusterhost.model.errors import ClusterError, InvalidOperation
from imagemgr.model import CopyState
from tests.service.test_images import copies, disks
from tests.service.test_migration import LIVE, PERSIST, UNDEFINE, Client
from tests.support.clusters import running
from tests.support.shelves import POOL, stock

COPY_ALL = 1 << 6
FLAGS = LIVE | PERSIST | UNDEFINE | COPY_ALL


async def started(front, name="web"):
    """A domain that runs on n1 with a disk there."""
    stocked = stock(front)
    stocked.put("n1", name, "the bytes")
    await front.define(name, more=disks(name))
    assert (await front.begin(name)).ok
    return stocked


async def prepared(front, target="n2", flags=FLAGS):
    """A move up to where the target is ready, or not: who moves it, and what was answered."""
    client = Client(front, "web", target, flags)
    await client.begin()
    return client, await client.prepare()


def mirrored(stocked):
    """libvirt has made the image at the target and has written to it."""
    stocked.put("n2", "web", "half of it")


async def test_while_it_is_copied_the_target_has_no_volume_and_afterwards_it_alone_has(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        client, answer = await prepared(front)
        assert answer.ok
        mirrored(stocked)
        assert await copies(stocked, "web") == {"n1": (CopyState.WHOLE, 0), "n2": (CopyState.COMING, 0)}
        assert [held.shown for held in await stocked.volumes.listed(POOL)] == ["web"]
        await client.perform()
        await client.finish()
        assert await copies(stocked, "web") == {"n1": (CopyState.STALE, 0), "n2": (CopyState.WHOLE, 1)}
        assert stocked.content("n1", "web") == "the bytes", "until the move is certain"
        await client.confirm()
        await front.quiet()
        assert stocked.content("n1", "web") == ""
        assert await copies(stocked, "web") == {"n2": (CopyState.WHOLE, 1)}


async def test_a_move_that_is_given_up_leaves_the_source_as_the_only_copy(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        client, answer = await prepared(front)
        assert answer.ok
        mirrored(stocked)
        await client.finish(cancelled=1)
        await client.confirm(cancelled=1)
        await front.quiet()
        assert await copies(stocked, "web") == {"n1": (CopyState.WHOLE, 0)}
        assert stocked.content("n2", "web") == ""
        assert stocked.content("n1", "web") == "the bytes"


async def test_a_target_that_refuses_keeps_nothing(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        front.machines["n2"].refuses = True
        _, answer = await prepared(front)
        assert not answer.ok
        assert await copies(stocked, "web") == {"n1": (CopyState.WHOLE, 0)}


async def test_another_volume_at_the_target_stops_the_move_before_it_begins(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        stocked.put("n2", "web", "somebody else's")
        with pytest.raises(InvalidOperation, match="node n2 has another volume than web at /images/web"):
            await prepared(front)
        assert stocked.content("n2", "web") == "somebody else's"


async def test_a_file_that_both_nodes_see_is_neither_removed_nor_followed(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        for name in ("n1", "n2"):
            front.machines[name].disks["/images/web"] = "one file"
        stocked.put("n2", "web", "the bytes")
        client, answer = await prepared(front)
        assert answer.ok
        await client.perform()
        await client.finish()
        await client.confirm()
        await front.quiet()
        assert stocked.content("n1", "web") == stocked.content("n2", "web") == "the bytes"


@pytest.mark.parametrize("elsewhere", ["n1", "n2"])
async def test_a_node_whose_agent_runs_elsewhere_gives_and_takes_volumes_by_libvirt_alone(
    tmp_path, elsewhere
):
    async with running(tmp_path, beside=elsewhere) as front:
        stocked = await started(front)
        client, answer = await prepared(front)
        assert answer.ok
        mirrored(stocked)
        await client.perform()
        await client.finish()
        await client.confirm()
        await front.quiet()
        assert await copies(stocked, "web") == {"n2": (CopyState.WHOLE, 1)}
        assert stocked.content("n1", "web") == ""


async def test_an_old_copy_at_the_target_is_gone_before_libvirt_writes_there(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        await front.relay("web", "DESTROY")
        await front.world.node_admin.move_domain(
            front.world.cluster.by_name("web").uuid, "n2", "test", lambda *_: None
        )
        assert (await front.begin("web")).ok
        assert stocked.content("n1", "web") == "the bytes"
        _, answer = await prepared(front, "n1")
        assert answer.ok
        assert stocked.content("n1", "web") == ""


async def test_a_front_end_that_dies_after_the_switch_over_goes_on_with_the_volumes(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        client, _ = await prepared(front)
        mirrored(stocked)
        await client.perform()
        await client.finish()
        await front.crash()
        await front.start()
        stocked = stock(front)
        await front.settled()
        assert front.world.cluster.by_name("web").node == "n2"
        assert stocked.content("n1", "web") == ""
        assert await copies(stocked, "web") == {"n2": (CopyState.WHOLE, 1)}


async def test_a_move_without_its_disks_changes_no_volume(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        try:
            await prepared(front, flags=LIVE | PERSIST | UNDEFINE)
        except ClusterError as error:
            pytest.fail(f"libvirt decides about disks that nobody copies: {error}")
        assert await copies(stocked, "web") == {"n1": (CopyState.WHOLE, 0)}
