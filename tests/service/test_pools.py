"""Storage pools of the cluster, over fake nodes and a real store."""

import asyncio
import uuid as uuids

import pytest

from clusterhost.model.errors import InvalidOperation, NodeError, PoolNotFound, StorageRefused
from clusterhost.model.node import Admin
from clusterhost.service.pools import (
    CREATED,
    DEFINED,
    DELETED,
    REFRESHED,
    STARTED,
    STOPPED,
    UNDEFINED,
)
from imagemgr.model import Room
from imagemgr.xml import read_pool
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import Machine
from tests.support.fakepools import FakePool

DIR = "<pool type='dir'><name>{}</name>{}<target><path>{}</path></target></pool>"
BLUE = DIR.format("blue", "", "/blue")
NETFS = """<pool type='netfs'><name>far</name><source><host name='h'/><dir path='/s'/></source>
<target><path>/far</path></target></pool>"""
BUILD = 1


def own(machine: Machine, xml: str, *, active: bool = True) -> FakePool:
    """A pool that the node has of its own."""
    made = FakePool(uuids.uuid4().bytes, read_pool(xml), active=active)
    machine.pools[made.uuid] = made
    machine.directories.add(made.pool.target.path)
    return made


def at(front: Front, name: str) -> dict[str, FakePool]:
    """Who has a pool of that name."""
    return {
        node: pool
        for node, machine in front.machines.items()
        for pool in machine.pools.values()
        if pool.pool.name == name
    }


def problems(front: Front, uuid: bytes) -> dict[str, str]:
    """What nodes say is in the way."""
    states = front.world.storage.pool_nodes.states(uuid)
    return {state.node: state.problem for state in states if state.problem}


async def until(check, seconds=8.0):
    """Wait for what nodes are told again."""
    for _ in range(int(seconds * 50)):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


async def test_a_new_cluster_has_a_default_pool_on_every_node_and_makes_it_once(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        entry = pools.by_name("default")
        assert (entry.active, entry.autostart, entry.persistent) == (True, True, True)
        assert pools.nodes(entry.uuid) == ("n1", "n2", "n3")
        assert [pool.autostart for pool in at(front, "default").values()] == [True] * 3
        assert "/var/lib/libvirt/images" in front.machines["n3"].directories
        await pools.destroy(ANYONE, entry.uuid)
        await pools.undefine(ANYONE, entry.uuid)
        assert at(front, "default") == {}
        await front.stop()
        await front.start()
        assert list(front.world.storage.pools.all()) == []


async def test_a_life_is_told_once_for_the_cluster_after_the_last_node_did_it(tmp_path):
    async with running(tmp_path) as front:
        pools, heard = front.world.storage.pools, []
        pools.listeners.append(lambda happened: heard.append((happened.what, len(at(front, "blue")))))
        uuid = (await pools.define(ANYONE, BLUE)).uuid
        await pools.build(ANYONE, uuid)
        await pools.start(ANYONE, uuid)
        await pools.refresh(ANYONE, uuid)
        await pools.destroy(ANYONE, uuid)
        await pools.delete(ANYONE, uuid)
        await pools.undefine(ANYONE, uuid)
        acts = (DEFINED, CREATED, STARTED, REFRESHED, STOPPED, DELETED)
        assert heard == [*((act, 3) for act in acts), (UNDEFINED, 0)]
        with pytest.raises(PoolNotFound):
            pools.by_uuid(uuid)


async def test_what_every_node_refuses_fails_with_the_nodes_own_error_and_leaves_nothing(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.define(ANYONE, BLUE)).uuid
        with pytest.raises(NodeError, match="cannot open directory '/blue'"):
            await pools.start(ANYONE, uuid)
        assert not pools.by_uuid(uuid).active
        with pytest.raises(NodeError, match="cannot open directory '/green'"):
            await pools.create(ANYONE, DIR.format("green", "", "/green"))
        assert [entry.name for entry in pools.all()] == ["default", "blue"]
        assert at(front, "green") == {}
        assert problems(front, uuid) == {}


async def test_one_node_that_cannot_is_shown_with_its_reason_and_told_again(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.define(ANYONE, BLUE)).uuid
        front.machines["n2"].pool_problem = "the disk is broken"
        await pools.build(ANYONE, uuid)
        await pools.start(ANYONE, uuid)
        assert pools.nodes(uuid) == ("n1", "n3")
        assert problems(front, uuid) == {"n2": "the disk is broken"}
        assert pools.problem(uuid, "n2") == "the disk is broken"
        front.machines["n2"].pool_problem = ""
        await until(lambda: pools.nodes(uuid) == ("n1", "n2", "n3"))
        assert "/blue" in front.machines["n2"].directories, "it was built when the cluster's was"


async def test_a_directory_is_never_made_that_no_client_asked_for(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.define(ANYONE, BLUE)).uuid
        front.machines["n1"].directories.add("/blue")
        await pools.start(ANYONE, uuid)
        await asyncio.sleep(2.5)
        assert pools.nodes(uuid) == ("n1",)
        assert "/blue" not in front.machines["n2"].directories


async def test_a_pool_of_a_nodes_own_at_the_same_place_is_taken_as_it_is_and_stays_when_the_node_leaves(
    tmp_path,
):
    async with running(tmp_path) as front:
        theirs = own(front.machines["n2"], BLUE)
        pools = front.world.storage.pools
        uuid = (await pools.create(ANYONE, BLUE, BUILD)).uuid
        assert pools.handle_at(uuid, "n2").uuid == theirs.uuid != uuid
        assert pools.handle_at(uuid, "n1").uuid == uuid
        assert pools.nodes(uuid) == ("n1", "n2", "n3")
        for node in ("n2", "n3"):
            await front.world.node_admin.set_admin(node, Admin.DISABLED, "test")
            await front.world.node_admin.remove(node, "test")
        assert at(front, "blue").keys() == {"n1", "n2"}
        assert theirs.active
        assert "/blue" in front.machines["n3"].directories, "what is in it is nobody's to delete"
        assert at(front, "default").keys() == {"n1"}


async def test_another_pool_of_that_name_on_a_node_refuses_a_new_one_with_the_reason(tmp_path):
    async with running(tmp_path) as front:
        own(front.machines["n2"], DIR.format("blue", "", "/other"))
        pools = front.world.storage.pools
        with pytest.raises(
            StorageRefused, match="node n2 has a pool 'blue' of its own: target /other, not /blue"
        ):
            await pools.define(ANYONE, BLUE)
        assert at(front, "blue").keys() == {"n2"}


async def test_a_node_that_joins_with_another_pool_of_that_name_keeps_it_and_says_so(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.create(ANYONE, BLUE, BUILD)).uuid
        theirs = own(Machine("n4", front.machines), DIR.format("blue", "", "/other"))
        await front.world.node_admin.add("n4", "", "", "test")
        front.nodes.join("n4")
        await until(lambda: pools.problem(uuid, "n4"))
        assert pools.problem(uuid, "n4") == "the node has a pool 'blue' of its own: target /other, not /blue"
        await pools.destroy(ANYONE, uuid)
        assert theirs.active
        assert at(front, "blue") == {"n4": theirs}


async def test_a_node_that_joins_later_gets_all_pools_and_builds_those_that_were_built(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.define(ANYONE, BLUE)).uuid
        await pools.build(ANYONE, uuid)
        await pools.start(ANYONE, uuid)
        Machine("n4", front.machines)
        await front.world.node_admin.add("n4", "", "", "test")
        front.nodes.join("n4")
        await until(lambda: pools.nodes(uuid) == ("n1", "n2", "n3", "n4"))
        assert {"/blue", "/var/lib/libvirt/images"} <= front.machines["n4"].directories


async def test_a_node_that_was_away_hears_at_its_return_what_it_missed(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        gone, stopped = [
            (await pools.create(ANYONE, DIR.format(name, "", f"/{name}"), BUILD)).uuid for name in ("a", "b")
        ]
        await pools.define(ANYONE, DIR.format("b", f"<uuid>{uuids.UUID(bytes=stopped)}</uuid>", "/b"))
        front.cut("n3")
        await pools.destroy(ANYONE, gone)
        await pools.destroy(ANYONE, stopped)
        assert pools.nodes(stopped) == ()
        front.mend("n3")
        await until(lambda: "n3" not in at(front, "a"))
        await until(lambda: not at(front, "b")["n3"].active)
        assert at(front, "b").keys() == {"n1", "n2", "n3"}


async def test_a_node_that_missed_the_end_of_one_pool_gets_the_next_of_its_name_and_uuid(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.create(ANYONE, BLUE, BUILD)).uuid
        front.cut("n3")
        await pools.destroy(ANYONE, uuid)
        kept = f"<uuid>{uuids.UUID(bytes=uuid)}</uuid>"
        await pools.define(ANYONE, DIR.format("blue", kept, "/new"))
        await pools.start(ANYONE, uuid, BUILD)
        front.mend("n3")
        await until(lambda: pools.nodes(uuid) == ("n1", "n2", "n3"))
        assert {pool.pool.target.path for pool in at(front, "blue").values()} == {"/new"}
        assert "/new" in front.machines["n3"].directories


async def test_a_redefinition_reaches_nodes_and_a_transient_pool_becomes_persistent_by_it(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        uuid = (await pools.create(ANYONE, BLUE, BUILD)).uuid
        assert [pool.persistent for pool in at(front, "blue").values()] == [False] * 3
        mode = "<permissions><mode>0750</mode></permissions>"
        kept = f"<uuid>{uuids.UUID(bytes=uuid)}</uuid>"
        await pools.define(ANYONE, DIR.format("blue", kept, "/blue").replace("</target>", f"{mode}</target>"))
        assert [pool.persistent for pool in at(front, "blue").values()] == [True] * 3
        assert {pool.pool.target.permissions.mode for pool in at(front, "blue").values()} == {0o750}
        with pytest.raises(InvalidOperation, match="storage pool 'blue' is still active"):
            await pools.undefine(ANYONE, uuid)


async def test_pools_outlive_the_front_end_and_are_known_before_nodes_have_spoken(tmp_path):
    front = Front(tmp_path)
    await front.start()
    pools = front.world.storage.pools
    uuid = (await pools.define(ANYONE, BLUE)).uuid
    theirs = own(front.machines["n2"], NETFS)
    far = (await pools.create(ANYONE, NETFS, BUILD)).uuid
    await pools.start(ANYONE, uuid, BUILD)
    await pools.destroy(ANYONE, uuid)
    await pools.set_autostart(ANYONE, uuid, True)
    await front.crash()
    await front.start()
    pools = front.world.storage.pools
    assert pools.by_uuid(uuid).active, "autostart"
    assert pools.handle_at(far, "n2").uuid == theirs.uuid
    await until(lambda: pools.nodes(uuid) == ("n1", "n2", "n3") == pools.nodes(far))
    await front.stop()


@pytest.mark.parametrize("turns", [1, 4, 8, 12, 20, 40, 80])
@pytest.mark.parametrize("act", ["define", "start", "destroy", "undefine"])
async def test_nodes_are_as_the_store_says_after_a_crash_in_the_middle(tmp_path, act, turns):
    front = Front(tmp_path)
    await front.start()
    pools = front.world.storage.pools
    for machine in front.machines.values():
        machine.directories.add("/blue")
    uuid = uuids.uuid4().bytes
    document = DIR.format("blue", f"<uuid>{uuids.UUID(bytes=uuid)}</uuid>", "/blue")
    if act != "define":
        await pools.define(ANYONE, document)
    if act == "destroy":
        await pools.start(ANYONE, uuid)
    work = pools.define(ANYONE, document) if act == "define" else getattr(pools, act)(ANYONE, uuid)
    doing = asyncio.create_task(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    await front.crash()
    await asyncio.gather(doing, return_exceptions=True)
    await front.start()
    row = front.world.ledger.pools.get(uuid)
    wanted = [] if row is None else [row.active] * 3
    await until(lambda: [pool.active for pool in at(front, "blue").values()] == wanted)
    await front.stop()


async def test_room_is_that_of_all_nodes_for_local_pools_and_of_one_for_shared(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        far = (await pools.create(ANYONE, NETFS, BUILD)).uuid
        assert await pools.info(pools.by_name("default").uuid) == Room(300, 120, 180)
        assert await pools.info(far) == Room(100, 40, 60)
        front.cut("n2")
        assert await pools.info(pools.by_name("default").uuid) == Room(200, 80, 120)


async def test_a_pool_that_no_node_can_read_is_inactive_after_its_refresh(tmp_path):
    async with running(tmp_path) as front:
        pools, heard = front.world.storage.pools, []
        entry = pools.by_name("default")
        pools.listeners.append(lambda happened: heard.append(happened.what))
        front.machines["n1"].pool_problem = "the disk is broken"
        await pools.refresh(ANYONE, entry.uuid)
        assert pools.nodes(entry.uuid) == ("n2", "n3")
        for machine in front.machines.values():
            machine.pool_problem = "the disk is broken"
        with pytest.raises(NodeError, match="the disk is broken"):
            await pools.refresh(ANYONE, entry.uuid)
        assert not pools.by_uuid(entry.uuid).active
        assert heard == [REFRESHED, STOPPED]


async def test_the_same_source_or_name_twice_is_refused_in_libvirts_terms(tmp_path):
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        await pools.define(ANYONE, BLUE)
        with pytest.raises(StorageRefused, match="pool 'blue' already exists with uuid"):
            await pools.define(ANYONE, BLUE)
        with pytest.raises(StorageRefused, match="the source of pool 'red' is that of pool 'blue'"):
            await pools.define(ANYONE, DIR.format("red", "", "/blue"))
        with pytest.raises(StorageRefused) as refused:
            await pools.define(ANYONE, "<pool type='nothing'/>")
        assert refused.value.kind
