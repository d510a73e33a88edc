"""A volume of a shared pool that a running domain writes to is given to no second one: over fake nodes."""

from dataclasses import replace

import pytest

from clusterhost.model.errors import InvalidOperation
from clusterhost.service.disk_plugs import DiskPlugs
from clusterhost.service.ports import Caller
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from imagemgr.model import Kind
from tests.support.clusters import ANYONE, Front, running
from tests.support.fakelibvirt import domain_xml
from tests.support.shelves import Stocked, stock

ATTACH = BY_NAME["remote:DOMAIN_ATTACH_DEVICE_FLAGS"]


def disk(source: str = "file='/images/web'", more: str = "") -> str:
    return (
        f"<devices><disk type='file'><source {source}/><target dev='vda'/>{more}</disk>"
        "<disk type='file'><source file='/elsewhere/web'/><target dev='vdb'/></disk></devices>"
    )


def shared(front: Front) -> Stocked:
    stocked = stock(front)
    stocked.pools.entry = replace(stocked.pools.entry, kind=Kind.SHARED)
    for node, machine in front.machines.items():
        machine.disks["/elsewhere/web"] = f"of {node}"
        machine.disks["/images/web"] = "one"
        stocked.put(node, "web")
    return stocked


async def defined(front: Front, name: str, node: str, xml: str) -> None:
    assert (await front.define(name, caller=Caller(view=node), more=xml)).ok


async def begun(front: Front, name: str, node: str) -> None:
    assert (await front.begin(name, Caller(view=node))).ok


@pytest.mark.parametrize("node", ["n1", "n2"])
@pytest.mark.parametrize("source", ["file='/images/web'", "pool='default' volume='web'"])
async def test_a_second_writer_is_refused_with_the_first_ones_name_and_node(tmp_path, node, source):
    async with running(tmp_path) as front:
        shared(front)
        await defined(front, "one", "n1", disk())
        await defined(front, "two", node, disk(source))
        await begun(front, "one", "n1")
        said = "volume web of pool default is in use: domain 'one' writes to it on node n1"
        with pytest.raises(InvalidOperation, match=said):
            await front.begin("two", Caller(view=node))
        assert front.runners(front.world.cluster.by_name("two").uuid) == []
        assert (await front.relay("one", "DESTROY")).ok
        await begun(front, "two", node)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ("<readonly/>", "", "domain 'one' reads it"),
        ("", "<readonly/>", "domain 'one' writes to it"),
        ("<shareable/>", "", "domain 'one' writes to it"),
        ("<readonly/>", "<readonly/>", ""),
        ("<readonly/>", "<transient/>", ""),
        ("<shareable/>", "<shareable/>", ""),
    ],
)
async def test_two_may_read_it_or_share_it_but_not_one_read_what_the_other_writes(tmp_path, one, two, said):
    async with running(tmp_path) as front:
        shared(front)
        await defined(front, "one", "n1", disk(more=one))
        await defined(front, "two", "n2", disk(more=two))
        await begun(front, "one", "n1")
        if not said:
            await begun(front, "two", "n2")
            return
        with pytest.raises(InvalidOperation, match=said):
            await front.begin("two", Caller(view="n2"))


async def test_the_definition_stays_where_it_was_when_a_start_is_refused(tmp_path):
    async with running(tmp_path) as front:
        shared(front)
        await defined(front, "one", "n1", disk())
        await defined(front, "two", "n2", disk())
        await begun(front, "one", "n1")
        with pytest.raises(InvalidOperation, match="domain 'one' writes to it on node n1"):
            await front.begin("two")
        assert front.holders(front.world.cluster.by_name("two").uuid) == ["n2"]


async def test_a_transient_one_is_asked_and_refused_too(tmp_path):
    async with running(tmp_path) as front:
        shared(front)
        create = BY_NAME["remote:DOMAIN_CREATE_XML"]

        async def made(name: str, node: str) -> bool:
            xml = domain_xml(name, more=disk())
            payload = lv.RemoteDomainCreateXmlArgs(xml, 0).to_bytes()
            return (await front.world.domains.create_xml(Caller(view=node), create, payload, xml, 0)).ok

        assert await made("one", "n1")
        with pytest.raises(InvalidOperation, match="domain 'one' writes to it on node n1"):
            await made("two", "n2")


async def test_one_whose_node_is_out_of_reach_is_taken_for_running(tmp_path):
    async with running(tmp_path) as front:
        shared(front)
        await defined(front, "one", "n1", disk())
        await defined(front, "two", "n2", disk())
        await begun(front, "one", "n1")
        front.cut("n1")
        with pytest.raises(InvalidOperation, match="domain 'one' writes to it on node n1"):
            await front.begin("two", Caller(view="n2"))


async def test_a_disk_that_is_plugged_in_is_looked_at_and_ones_own_is_no_second(tmp_path):
    async with running(tmp_path) as front:
        shared(front)
        await defined(front, "one", "n1", disk())
        await defined(front, "two", "n2", "")
        await begun(front, "one", "n1")
        await begun(front, "two", "n2")
        images, cluster = front.world.context.images, front.world.cluster
        snippet = f"<domain>{disk()}</domain>"
        await images.refuse_doubles(snippet, cluster.by_name("one").uuid)
        plug = DiskPlugs(front.world.context).plug
        args = lv.RemoteDomainAttachDeviceFlagsArgs(
            dom=front.handle("two"), xml="<disk type='file'><source file='/images/web'/></disk>", flags=1
        )
        with pytest.raises(InvalidOperation, match="domain 'one' writes to it on node n1"):
            await plug(ANYONE, ATTACH, args.to_bytes(), cluster.by_name("two").uuid)


async def test_domains_that_name_no_such_file_are_not_asked(tmp_path):
    async with running(tmp_path) as front:
        shared(front)
        await defined(
            front, "one", "n1", disk("file='/images/other'").replace("/elsewhere/web", "/elsewhere/x")
        )
        await begun(front, "one", "n1")
        before = front.machines["n1"].executed.count("DOMAIN_GET_XML_DESC")
        await defined(front, "two", "n2", disk())
        await begun(front, "two", "n2")
        assert front.machines["n1"].executed.count("DOMAIN_GET_XML_DESC") == before


async def test_local_pools_and_other_paths_are_left_to_the_node(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        await defined(front, "one", "n1", disk())
        await begun(front, "one", "n1")
        await front.world.context.images.refuse_doubles(f"<domain>{disk()}</domain>", None)
