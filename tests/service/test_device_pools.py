"""Pools of devices and of network storage, whose volumes are no files; and nodes that take long to reach a target."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clusterhost.control import imageops
from clusterhost.model.errors import NodeError, VolumeExists, VolumeNotFound
from clusterhost.service import pool_nodes
from clusterhost.service.ports import Answer
from compat.libvirt.schema import PROCEDURES
from imagemgr.model import Kind, PoolType
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakestorage import POOL
from tests.support.storehouse import stocked

DIR = "<pool type='dir'><name>{0}</name><target><path>/{0}</path></target></pool>"


async def test_devices_of_one_name_on_two_nodes_are_never_one_volume_and_nobody_reads_them(
    tmp_path: Path,
) -> None:
    async with stocked(tmp_path, type=PoolType.DISK, n1={"sdb1": b"0"}, n2={"sdb1": b"0"}) as here:
        assert await here.shown() == ["sdb1", "sdb1@n2"]
        assert here.storage.count(imageops.DIGEST) == 0


async def test_a_logical_volume_is_found_by_its_uuid_on_each_node(tmp_path: Path) -> None:
    async with stocked(tmp_path, type=PoolType.LOGICAL, n1={"lv": b"1"}, n2={"lv": b"2"}) as here:
        here.storage.keys = {("n1", "lv"): "Abc-1", ("n2", "lv"): "Xyz-2"}
        held = {each.shown: each for each in await here.volumes.listed(POOL)}
        assert await here.volumes.keys(POOL, held.values()) == ["Abc-1", "Xyz-2"]
        assert (await here.volumes.by_key("Abc-1"))[1].shown == "lv"
        assert (await here.volumes.by_key("Xyz-2"))[1].shown == "lv@n2"
        assert (await here.volumes.by_path("/pool/lv"))[1].shown == "lv"


@pytest.mark.parametrize(("kind", "type"), [(Kind.SHARED, PoolType.ISCSI), (Kind.LOCAL, PoolType.SCSI)])
async def test_a_path_that_does_not_say_the_volumes_name_is_asked_of_nodes(
    tmp_path: Path, kind: Kind, type: PoolType
) -> None:
    files = {"unit:0:0:1": b"1"}
    path = "/pool/ip-192.0.2.1:3260-iscsi-iqn.2026-11.test:a-lun-1"
    async with stocked(tmp_path, kind, type, n2=files) as here:
        here.storage.paths = {("n2", path): "unit:0:0:1"}
        assert (await here.volumes.by_path(path))[1].shown == "unit:0:0:1"
        with pytest.raises(VolumeNotFound, match="with matching path '/pool/other'"):
            await here.volumes.by_path("/pool/other")


async def test_a_partition_is_made_on_the_disk_that_calls_its_next_one_so_and_no_other_is_tried(
    tmp_path: Path,
) -> None:
    async with stocked(tmp_path, type=PoolType.DISK, n2={"sdb1": b"1"}) as here:
        here.storage.room = {"n1": 9, "n2": 7, "n3": 5}
        here.storage.expects = {"n1": "sdc1", "n2": "sdb2", "n3": "sdc1"}
        with pytest.raises(VolumeExists):
            await here.create("sdb1")
        await here.create("sdb2")
        assert "sdb2" in here.storage.files["n2"]
        await here.create("sdc1")
        assert "sdc1" in here.storage.files["n1"]
        tried = here.storage.count("STORAGE_VOL_CREATE_XML")
        with pytest.raises(NodeError, match="expected 'sdb2'"):
            await here.create("sdb7")
        assert here.storage.count("STORAGE_VOL_CREATE_XML") == tried + 1
        assert await here.shown() == ["sdb1", "sdb2", "sdc1"]


class Held:
    """Nodes that begin to start the pool of a name, and do not come to an end."""

    def __init__(self, front: Front, name: str, *nodes: str) -> None:
        self._front, self._name, self._nodes = front, name, nodes
        self._usual = front.nodes.call
        self.go = asyncio.Event()
        front.nodes.call = self.call  # type: ignore[method-assign]

    async def call(self, node: str, program: int, procedure: int, payload: bytes, **more: Any) -> Answer:
        kind = PROCEDURES[program, procedure]
        if node in self._nodes and kind.name == "STORAGE_POOL_CREATE" and kind.args is not None:
            args: Any = kind.args.from_bytes(payload)
            if args.pool.name == self._name:
                await self.go.wait()
        return await self._usual(node, program, procedure, payload, **more)


async def built(front: Front, name: str) -> bytes:
    pools = front.world.storage.pools
    uuid = (await pools.define(ANYONE, DIR.format(name))).uuid
    await pools.build(ANYONE, uuid)
    return uuid


async def test_while_no_node_reaches_the_target_of_a_pool_others_are_defined_and_started(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        far, near = await built(front, "far"), await built(front, "near")
        held = Held(front, "far", "n1", "n2", "n3")
        starting = asyncio.create_task(pools.start(ANYONE, far))
        async with asyncio.timeout(20):
            await pools.start(ANYONE, near)
            assert pools.nodes(near) == ("n1", "n2", "n3")
            await pools.define(ANYONE, DIR.format("other"))
        assert not starting.done()
        held.go.set()
        await starting
        assert pools.nodes(far) == ("n1", "n2", "n3")


async def test_a_client_does_not_wait_for_a_node_that_reaches_a_target_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_nodes, "LATE", 0.2)
    async with running(tmp_path) as front:
        pools = front.world.storage.pools
        far = await built(front, "far")
        held = Held(front, "far", "n2")
        async with asyncio.timeout(20):
            await pools.start(ANYONE, far)
            assert pools.nodes(far) == ("n1", "n3")
            assert pools.problem(far, "n2") == "has not answered yet"
            held.go.set()
            await front.quiet()
        assert pools.nodes(far) == ("n1", "n2", "n3")
        assert pools.problem(far, "n2") == ""
