"""A directory that is one place on all nodes, or on some, is found to be so: over fake nodes and a real store."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.model.errors import StorageRefused
from clusterhost.service import pool_probe
from clusterhost.service.admin import METHODS
from clusterhost.service.pool_probe import FOUND, SAID, SAID_LOCAL, largest
from clusterhost.service.pools import REFRESHED, SHARED, STARTED
from clusterhost.store.rows import PutVolume, VolumeRow
from compat.libvirt import messages as lv
from imagemgr.model import Kind
from tests.service.test_pools import ANYONE, BLUE, BUILD, problems, until
from tests.support.clusters import Front, running
from tests.support.fakelibvirt import Machine


def mount(front: Front, *nodes: str, server: str = "", path: str = "/blue") -> None:
    """These nodes see one directory there, with all that is written to it.  server: what it looks like to an agent."""
    there = [front.machines[node] for node in nodes]
    for machine in there:
        machine.disks[path] = server or f"nfs:{nodes[0]}"
        machine.do_storage_vol_create_xml = lambda args: create(args, there, path)
        machine.do_storage_pool_refresh = lambda args: None
        machine.do_storage_vol_lookup_by_name = lambda args: lv.RemoteStorageVolLookupByNameRet(
            lv.RemoteNonnullStorageVol(args.pool.name, args.name, f"{path}/{args.name}")
        )
        machine.do_storage_vol_delete = lambda args: delete(args, there)


def create(args: lv.RemoteStorageVolCreateXmlArgs, there: list[Machine], path: str):
    name = re.findall("<name>(.*)</name>", args.xml)[0]
    for machine in there:
        machine.disks[f"{path}/{name}"] = f"of {name}"
    return lv.RemoteStorageVolCreateXmlRet(lv.RemoteNonnullStorageVol(args.pool.name, name, f"{path}/{name}"))


def delete(args: lv.RemoteStorageVolDeleteArgs, there: list[Machine]) -> None:
    for machine in there:
        machine.disks.pop(args.vol.key, None)


def marks(front: Front, node: str) -> list[str]:
    return [path for path in front.machines[node].disks if "/.clusterhost-shared-" in path]


async def blue(front: Front) -> bytes:
    """The pool, built and active."""
    return (await front.world.storage.pools.create(ANYONE, BLUE, BUILD)).uuid


def state(front: Front, uuid: bytes) -> tuple[Kind, str, tuple[str, ...]]:
    pools = front.world.storage.pools
    return pools.by_uuid(uuid).kind, pools.place(uuid), pools.nodes(uuid)


def test_each_nodes_own_directory_is_no_place_of_several():
    assert largest({"n1": "a", "n2": "b", "n3": ""}) == ()
    assert largest({"n1": "", "n2": ""}) == (), "where nothing is, nothing is the same"
    assert largest({"n1": "a", "n2": "b", "n3": "b"}) == ("n2", "n3")
    assert largest({"n1": "a", "n2": "b", "n3": "b", "n4": "a"}) == ("n1", "n4")


@given(st.dictionaries(st.text("n1234", min_size=1), st.sampled_from(["", "a", "b", "c"])))
def test_a_place_is_that_of_the_most_nodes_and_of_at_least_two(told: dict[str, str]):
    found = largest(told)
    sizes = [list(told.values()).count(text) for text in "abc"]
    assert len(found) == (max(sizes) if max(sizes) > 1 else 0)
    assert len({told[node] for node in found}) <= 1


async def test_a_directory_that_all_nodes_see_is_found_to_be_one_place_when_it_is_started(tmp_path):
    async with running(tmp_path) as front:
        mount(front, "n1", "n2", "n3")
        pools, heard = front.world.storage.pools, []
        pools.listeners.append(lambda happened: heard.append(happened.what))
        uuid = await blue(front)
        assert state(front, uuid) == (Kind.SHARED, FOUND, ("n1", "n2", "n3"))
        assert heard == [STARTED, SHARED]
        assert len(marks(front, "n3")) == 1
        shown = await METHODS["pool.show"](front.world, {"pool": "blue"}, lambda *_: None)
        assert (shown["kind"], shown["place"]) == ("shared", "found to be one place")
        lines = [line for line in await front.world.store.journal(10, "blue") if line.kind == "share pool"]
        assert [line.text for line in lines] == ["shared, found to be one place on n1, n2, n3"]
        await front.stop()
        await front.start()
        assert state(front, uuid) == (Kind.SHARED, FOUND, ("n1", "n2", "n3"))


async def test_directories_that_differ_stay_one_on_each_node_and_nothing_is_written_to_them(tmp_path):
    async with running(tmp_path) as front:
        for node in front.machines:
            mount(front, node)
        uuid = await blue(front)
        assert state(front, uuid) == (Kind.LOCAL, "", ("n1", "n2", "n3"))
        assert not any(marks(front, node) for node in front.machines)


async def test_a_directory_that_is_mounted_later_is_found_at_a_refresh_and_rows_of_volumes_are_forgotten(
    tmp_path,
):
    async with running(tmp_path) as front:
        uuid, pools = await blue(front), front.world.storage.pools
        row = VolumeRow(
            f"{uuid.hex()}/web", uuid, "web", "web", 0, "whole", "", [["n1", "whole", 0, "", 0, 0]]
        )
        await front.world.storage.volumes.put(row)
        assert state(front, uuid)[0] is Kind.LOCAL
        mount(front, "n1", "n2", "n3")
        heard = []
        pools.listeners.append(lambda happened: heard.append(happened.what))
        await pools.refresh(ANYONE, uuid)
        assert state(front, uuid) == (Kind.SHARED, FOUND, ("n1", "n2", "n3"))
        assert heard == [REFRESHED, SHARED]
        await front.quiet()
        assert not front.world.ledger.volumes


async def test_a_node_that_has_another_directory_than_the_others_is_left_out_with_the_reason(tmp_path):
    async with running(tmp_path) as front:
        mount(front, "n1")
        mount(front, "n2", "n3")
        uuid = await blue(front)
        assert state(front, uuid) == (Kind.SHARED, FOUND, ("n2", "n3"))
        [(node, problem)] = problems(front, uuid).items()
        assert node == "n1"
        assert re.match(r"node n1 does not see the file /blue/\.clusterhost-shared-", problem)
        front.machines["n1"].disks.update(front.machines["n2"].disks)
        await until(lambda: state(front, uuid)[2] == ("n1", "n2", "n3"))


async def test_servers_whose_files_have_the_same_numbers_are_not_one_place(tmp_path):
    async with running(tmp_path) as front:
        for node in front.machines:
            mount(front, node, server="nfs:128")
        uuid = await blue(front)
        assert state(front, uuid) == (Kind.LOCAL, "", ("n1", "n2", "n3"))
        assert not any(marks(front, node) for node in front.machines), "the mark is taken away again"


async def test_a_node_that_joins_later_is_looked_at_and_left_out_when_its_directory_is_another(tmp_path):
    async with running(tmp_path) as front:
        front.cut("n2")
        front.cut("n3")
        mount(front, "n1", "n2")
        mount(front, "n3")
        uuid = await blue(front)
        assert state(front, uuid) == (Kind.LOCAL, "", ("n1",))
        front.mend("n2")
        await until(lambda: state(front, uuid) == (Kind.SHARED, FOUND, ("n1", "n2")))
        front.mend("n3")
        await until(lambda: "n3" in problems(front, uuid))
        assert state(front, uuid) == (Kind.SHARED, FOUND, ("n1", "n2"))


async def test_what_was_said_is_not_found_to_be_otherwise(tmp_path):
    async with running(tmp_path) as front:
        mount(front, "n1", "n2", "n3")
        uuid, pools = await blue(front), front.world.storage.pools
        await pools.set_shared(ANYONE, uuid, False)
        await pools.refresh(ANYONE, uuid)
        assert state(front, uuid) == (Kind.LOCAL, SAID_LOCAL, ("n1", "n2", "n3"))
        assert not marks(front, "n1")
        await pools.set_shared(ANYONE, uuid, True)
        assert state(front, uuid) == (Kind.SHARED, SAID, ("n1", "n2", "n3"))


async def test_what_was_found_may_be_said_too(tmp_path):
    async with running(tmp_path) as front:
        mount(front, "n1", "n2", "n3")
        uuid, pools = await blue(front), front.world.storage.pools
        await pools.set_shared(ANYONE, uuid, True)
        assert state(front, uuid) == (Kind.SHARED, SAID, ("n1", "n2", "n3"))
        assert len(marks(front, "n1")) == 1


async def test_a_pool_that_is_defined_anew_is_not_what_the_one_before_was_said_to_be(tmp_path):
    async with running(tmp_path) as front:
        mount(front, "n1", "n2", "n3")
        uuid, pools = await blue(front), front.world.storage.pools
        document = BLUE.replace("</name>", f"</name><uuid>{uuid.hex()}</uuid>")
        await pools.set_shared(ANYONE, uuid, False)
        await pools.destroy(ANYONE, uuid)
        assert (await pools.create(ANYONE, document, BUILD)).uuid == uuid
        assert state(front, uuid)[:2] == (Kind.SHARED, FOUND)


async def test_while_a_volume_is_incomplete_nothing_is_found(tmp_path):
    async with running(tmp_path) as front:
        uuid, pools = await blue(front), front.world.storage.pools
        await front.world.ledger.commit(
            PutVolume(VolumeRow(f"{uuid.hex()}/x", uuid, "x", "x", 0, "incomplete", "it was cut", []))
        )
        mount(front, "n1", "n2", "n3")
        await pools.refresh(ANYONE, uuid)
        assert state(front, uuid)[:2] == (Kind.LOCAL, "")


async def test_a_node_that_does_not_say_in_time_leaves_all_as_it_is_and_the_start_is_done(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pool_probe, "SECONDS", 0.2)
    async with running(tmp_path) as front:
        mount(front, "n1", "n2", "n3")
        usual = front.nodes.operate

        async def operate(node, kind, args, **more):
            if (node, kind) == ("n2", "identify"):
                await until(lambda: False, 3)
            return await usual(node, kind, args, **more)

        front.nodes.operate = operate
        uuid = await blue(front)
        assert state(front, uuid) == (Kind.LOCAL, "", ("n1", "n2", "n3"))


async def test_what_one_node_alone_sees_cannot_be_said_to_be_one_place(tmp_path):
    async with running(tmp_path) as front:
        uuid, pools = await blue(front), front.world.storage.pools
        mount(front, "n1")
        with pytest.raises(StorageRefused, match="node n2 does not see the file"):
            await pools.set_shared(ANYONE, uuid, True)
        assert state(front, uuid)[:2] == (Kind.LOCAL, "")
        assert not marks(front, "n1")
