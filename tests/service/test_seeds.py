"""A metadata element makes a CD at a start: over fake nodes with files, real volumes and a real store."""

from __future__ import annotations

import uuid

import pytest

from clusterhost.frontend.libvirt.errors import OF_STORAGE
from clusterhost.model.errors import ClusterError, InvalidOperation, NoPlacement, StorageRefused
from clusterhost.service.ports import Caller
from compat.libvirt import messages as lv
from compat.libvirt.constants import VirErrorNumber
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import ANYONE, running
from tests.support.fakelibvirt import domain_xml
from tests.support.seedshelves import element, seeded
from tests.support.shelves import POOL
from tests.support.sshkeys import BLOB, KEY

ONE = uuid.UUID(int=1).bytes


def at(node):
    return Caller(view=node, session=1, who="test")


async def start(front, name, node, procedure="CREATE", flags=0):
    """With the call that a client makes."""
    kind = BY_NAME[f"remote:DOMAIN_{procedure}"]
    handle = front.handle(name)
    args = kind.args(handle) if procedure == "CREATE" else kind.args(handle, flags)
    return await front.world.domains.start(at(node), kind, args.to_bytes(), handle.uuid, flags)


async def ran(front, node, name="web"):
    """It was started and has ended."""
    assert (await start(front, name, node)).ok
    await front.relay(name, "DESTROY")


async def moved(front, node):
    """The home of the first domain is there."""
    await front.world.node_admin.move_domain(ONE, node, "test", lambda *_: None)


async def defined(front, node="n1", name="web", uuid=ONE, **seed):
    """A domain with a seed, defined at that node."""
    assert (await front.define(name, uuid, caller=at(node), more=element(**seed))).ok


async def test_a_start_makes_the_cd_where_it_starts_and_the_definition_stays_as_it_was(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        inner = f"<ch:key>{KEY}</ch:key><ch:user-data>#!/bin/sh\ntrue</ch:user-data>"
        await defined(front, "n2", inner=inner)
        before = front.machines["n2"].guests[ONE].xml
        assert cluster.names() == set(), "nothing is made for a domain that was never started"
        assert await start(front, "web", "n2") is not None
        assert cluster.names() == {"n2/web-seed.iso"}
        said = cluster.nodes["n2"].seed("web")
        assert said["meta-data"] == {
            "instance-id": str(uuid.UUID(int=1)),
            "local-hostname": "web",
            "public-keys": [KEY],
        }
        assert said["user-data"] == b"#!/bin/sh\ntrue\n"
        assert cluster.nodes["n2"].disks() == ["/images/web-seed.iso"]
        assert front.machines["n2"].guests[ONE].xml == before
        assert await cluster.listed() == ["web-seed.iso"]


@pytest.mark.parametrize("procedure", ["CREATE", "CREATE_WITH_FLAGS"])
async def test_the_answer_is_that_of_the_call_that_was_made(tmp_path, procedure):
    async with running(tmp_path) as front:
        seeded(front)
        await defined(front)
        answer = await start(front, "web", "n1", procedure)
        assert answer.ok
        ret = BY_NAME[f"remote:DOMAIN_{procedure}"].ret
        assert answer.payload == b"" if ret is None else ret.from_bytes(answer.payload).dom.uuid == ONE


async def test_flags_that_a_create_does_not_know_are_left_out(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        await defined(front)
        flags = []
        create = front.machines["n1"].do_domain_create_xml
        front.machines["n1"].do_domain_create_xml = lambda args: (flags.append(args.flags), create(args))[1]
        assert (await start(front, "web", "n1", "CREATE_WITH_FLAGS", 1 | 4 | 8)).ok
        assert flags == [1]
        assert len(cluster.nodes["n1"].ran) == 1


async def test_a_start_elsewhere_has_it_there_and_the_other_copy_stays_whole(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        await defined(front)
        await ran(front, "n1")
        await moved(front, "n3")
        await start(front, "web", "n3")
        assert cluster.names() == {"n1/web-seed.iso", "n3/web-seed.iso"}
        assert await cluster.listed() == ["web-seed.iso"]
        (held,) = await cluster.stocked.volumes.all(POOL)
        assert {(copy.node, str(copy.state), copy.generation) for copy in held.copies} == {
            ("n1", "whole", 0),
            ("n3", "whole", 0),
        }
        await front.undefine("web")
        assert {domain.name for domain in front.world.cluster.domains()} == {"web"}, "it runs on without"
        assert cluster.names() == {"n1/web-seed.iso", "n3/web-seed.iso"}
        await front.relay("web", "DESTROY")
        await front.quiet()
        assert cluster.names() == set()
        assert await cluster.listed() == []


async def test_it_is_written_again_only_when_it_says_something_else(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        machine = front.machines["n1"]
        await defined(front)
        for _ in range(2):
            await ran(front, "n1")
        assert machine.executed.count("put-volume") == 1
        await defined(front, attributes="name='other'")
        await start(front, "web", "n1")
        assert machine.executed.count("put-volume") == 2
        assert cluster.nodes["n1"].seed("web")["meta-data"]["local-hostname"] == "other"


async def test_other_nodes_have_the_older_one_after_a_change(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        await defined(front)
        await ran(front, "n1")
        await moved(front, "n2")
        await defined(front, "n2", attributes="instance-id='i-2'")
        await start(front, "web", "n2")
        (held,) = await cluster.stocked.volumes.all(POOL)
        assert {copy.node: str(copy.state) for copy in held.copies} == {"n1": "stale", "n2": "whole"}
        await front.relay("web", "DESTROY")
        await moved(front, "n1")
        await start(front, "web", "n1")
        assert cluster.nodes["n1"].seed("web")["meta-data"]["instance-id"] == "i-2"


async def test_undefine_rename_and_a_definition_without_it_leave_nothing(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        for number, name in enumerate(("gone", "renamed", "without"), 1):
            await defined(front, "n1", name, uuid.UUID(int=number).bytes)
            await ran(front, "n1", name)
        assert len(cluster.names()) == 3
        assert (await front.undefine("gone")).ok
        assert "n1/gone-seed.iso" not in cluster.names()
        kind = BY_NAME["remote:DOMAIN_RENAME"]
        two = uuid.UUID(int=2).bytes
        payload = kind.args(front.handle("renamed"), "new", 0).to_bytes()
        assert (await front.world.domains.rename(ANYONE, kind, payload, two, "new")).ok
        assert "n1/renamed-seed.iso" not in cluster.names()
        await front.define("without", uuid.UUID(int=3).bytes, caller=at("n1"))
        assert cluster.names() == set()
        front.machines["n1"].guests[two].xml = front.machines["n1"].guests[two].xml.replace("renamed", "new")
        front.world.inventory.on_definition("n1", two, front.machines["n1"].guests[two].xml)
        await start(front, "new", "n1")
        assert cluster.names() == {"n1/new-seed.iso"}


async def test_what_a_node_that_is_away_has_goes_when_it_is_back(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        await defined(front)
        await ran(front, "n1")
        await moved(front, "n2")
        await ran(front, "n2")
        front.cut("n1")
        assert (await front.undefine("web")).ok
        assert "n1/web-seed.iso" in cluster.names()
        front.mend("n1")
        await front.quiet()
        assert cluster.names() == set()
        await defined(front, uuid=None)
        await start(front, "web", "n1")
        assert cluster.names() == {"n1/web-seed.iso"}


async def test_a_front_end_that_was_away_when_a_domain_went_deletes_its_cd(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        await defined(front)
        await start(front, "web", "n1")
        await front.world.ledger.commit()
        await front.crash()
        machine = front.machines["n1"]
        machine.stop(machine.guests[ONE])
        del machine.guests[ONE]
        await front.start()
        cluster = seeded(front)
        front.cut("n1")
        front.mend("n1")
        await front.quiet()
        assert cluster.names() == set()


async def test_a_domain_that_is_not_defined_has_one_for_as_long_as_it_runs(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        xml = domain_xml("once", ONE, more=element())
        kind = BY_NAME["remote:DOMAIN_CREATE_XML"]
        payload = lv.RemoteDomainCreateXmlArgs(xml, 0).to_bytes()
        assert (await front.world.domains.create_xml(at("n3"), kind, payload, xml, 0)).ok
        assert cluster.names() == {"n3/once-seed.iso"}
        assert cluster.nodes["n3"].disks() == ["/images/once-seed.iso"]
        await front.relay("once", "DESTROY")
        await front.quiet()
        assert cluster.names() == set()


async def test_a_create_that_fails_leaves_no_cd(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        front.machines["n3"].do_domain_create_xml = front.machines["n3"].do_connect_domain_xml_to_native
        xml = domain_xml("once", ONE, more=element())
        payload = lv.RemoteDomainCreateXmlArgs(xml, 0).to_bytes()
        kind = BY_NAME["remote:DOMAIN_CREATE_XML"]
        assert not (await front.world.domains.create_xml(at("n3"), kind, payload, xml, 0)).ok
        await front.quiet()
        assert cluster.names() == set()


async def test_a_managed_save_runs_on_with_the_cd_that_it_had(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        machine = front.machines["n1"]
        await defined(front)
        await start(front, "web", "n1")
        before = cluster.nodes["n1"].seed("web")
        await front.relay("web", "DESTROY")
        await defined(front, attributes="name='other'")
        machine.guests[ONE].saved = True
        assert (await start(front, "web", "n1")).ok
        assert len(cluster.nodes["n1"].ran) == 1, "the save is what it runs from"
        assert cluster.nodes["n1"].seed("web") == before
        await front.relay("web", "DESTROY")
        machine.guests[ONE].saved = True
        assert (await start(front, "web", "n1", "CREATE_WITH_FLAGS", 8)).ok
        assert len(cluster.nodes["n1"].ran) == 2
        assert cluster.nodes["n1"].seed("web")["meta-data"]["local-hostname"] == "other"


async def test_what_was_saved_keeps_its_cd_until_it_has_run_on(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        machine = front.machines["n1"]
        await defined(front)
        await ran(front, "n1")
        machine.guests[ONE].saved = True
        await front.world.context.virt.look("n1", ONE)
        await front.define("web", ONE, caller=at("n1"))
        assert (await start(front, "web", "n1")).ok
        assert cluster.names() == {"n1/web-seed.iso"}
        await front.relay("web", "DESTROY")
        assert (await start(front, "web", "n1")).ok
        assert cluster.names() == set()


async def test_user_data_comes_from_a_volume_on_whichever_node_it_is(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        cluster.stocked.put("n3", "web.yaml", "#cloud-config\n{}\n" + "\0" * 100)
        more = element("<ch:user-data volume='web.yaml'/>")
        await front.define("web", ONE, caller=at("n1"), more=more)
        await start(front, "web", "n1")
        assert cluster.nodes["n1"].seed("web")["user-data"] == b"#cloud-config\n{}\n"


async def test_somebody_elses_volume_of_that_name_is_left_alone(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        cluster.stocked.put("n1", "web-seed.iso", "mine")
        await defined(front)
        with pytest.raises(InvalidOperation, match=r"web-seed\.iso of pool default is there already"):
            await start(front, "web", "n1")
        assert cluster.stocked.content("n1", "web-seed.iso") == "mine"
        await front.undefine("web")
        assert cluster.stocked.content("n1", "web-seed.iso") == "mine"


async def test_a_node_that_cannot_have_it_is_left_out(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        cluster.stocked.pools.stopped |= {"n1"}
        await defined(front)
        assert (await front.begin("web")).ok
        assert front.world.cluster.by_name("web").node != "n1"
        await front.relay("web", "DESTROY")
        cluster.stocked.pools.stopped |= {"n2", "n3"}
        with pytest.raises(NoPlacement, match="cannot have the seed, its pool default is not active there"):
            await front.begin("web")


async def test_a_cd_that_cannot_be_written_starts_nothing_and_the_next_start_makes_it(tmp_path):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        cluster.nodes["n1"].refuses = "put-volume: /images/web-seed.iso: No space left on device"
        await defined(front)
        with pytest.raises(InvalidOperation, match="No space left"):
            await start(front, "web", "n1")
        assert not front.world.cluster.by_name("web").active
        assert await cluster.listed() == []
        cluster.nodes["n1"].refuses = ""
        assert (await start(front, "web", "n1")).ok
        assert await cluster.listed() == ["web-seed.iso"]


@pytest.mark.parametrize(("trouble", "new"), [("refuses", True), ("lost", True), ("lost", False)])
async def test_a_crash_while_it_is_written_is_mended_by_the_next_start(tmp_path, trouble, new):
    async with running(tmp_path) as front:
        cluster = seeded(front)
        await defined(front)
        if not new:
            await ran(front, "n1")
            await defined(front, attributes="name='other'")
        setattr(cluster.nodes["n1"], trouble, "the power is cut")
        with pytest.raises(ClusterError, match="the power is cut"):
            await start(front, "web", "n1")
        await front.crash()
        setattr(cluster.nodes["n1"], trouble, "")
        await front.start()
        cluster = seeded(front)
        assert await cluster.listed() == [], "it is not known to be whole"
        assert (await start(front, "web", "n1")).ok
        assert await cluster.listed() == ["web-seed.iso"]
        said = cluster.nodes["n1"].seed("web")["meta-data"]["local-hostname"]
        assert said == ("web" if new else "other")
        await front.relay("web", "DESTROY")
        await front.undefine("web")
        assert cluster.names() == set()


@pytest.mark.parametrize(
    ("seed", "code"),
    [
        ({"attributes": "hostname='x'"}, VirErrorNumber.ERR_XML_ERROR),
        ({"attributes": "name='a b'"}, VirErrorNumber.ERR_XML_ERROR),
        ({"attributes": "network='bridge'"}, VirErrorNumber.ERR_CONFIG_UNSUPPORTED),
        ({"inner": f"<ch:key>{KEY.replace(BLOB, BLOB[:-4])}</ch:key>"}, VirErrorNumber.ERR_XML_ERROR),
    ],
)
async def test_a_definition_with_bad_values_is_refused_in_libvirts_code(tmp_path, seed, code):
    async with running(tmp_path) as front:
        seeded(front)
        with pytest.raises(StorageRefused) as refused:
            await front.define("web", ONE, more=element(**seed))
        assert OF_STORAGE[refused.value.kind][0] == code
        assert not list(front.world.cluster.domains())
