"""Define, start, undefine and the rest, over fake nodes and a real store."""

import uuid

import pytest

from clusterhost.model.errors import (
    DomainExists,
    DomainNotFound,
    InvalidOperation,
    InvalidXml,
    NodeUnreachable,
    NoPlacement,
)
from clusterhost.service.ports import Caller
from clusterhost.service.virt import error_text
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import ANYONE, running


async def test_six_definitions_spread_over_three_nodes_and_start_where_they_are(tmp_path):
    async with running(tmp_path) as front:
        for number in range(6):
            assert (await front.define(f"web{number}")).ok
        assert sorted(len(machine.guests) for machine in front.machines.values()) == [2, 2, 2]
        for number in range(6):
            assert (await front.begin(f"web{number}")).ok
        assert len({domain.id for domain in front.world.cluster.domains()}) == 6
        assert all(domain.state == 1 for domain in front.world.cluster.domains())


async def test_a_definition_without_uuid_gets_one_and_the_node_sees_the_same(tmp_path):
    async with running(tmp_path) as front:
        answer = await front.define("web")
        uuid_ = lv.RemoteDomainDefineXmlRet.from_bytes(answer.payload).dom.uuid
        assert front.world.cluster.by_name("web").uuid == uuid_
        assert front.holders(uuid_) == [front.world.cluster.by_name("web").node]


async def test_a_redefinition_goes_to_the_node_that_has_it(tmp_path):
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        await front.define("web", one)
        home = front.world.cluster.by_uuid(one).node
        await front.define("other")
        assert (await front.define("web", one, memory_mib=96)).ok
        assert front.holders(one) == [home]
        assert "96" in front.world.ledger.domains[one].xml


async def test_half_a_match_is_refused_in_libvirts_words(tmp_path):
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        await front.define("web", one)
        with pytest.raises(DomainExists, match="domain 'web' is already defined with uuid"):
            await front.define("mail", one)
        with pytest.raises(DomainExists, match="domain 'web' already exists with uuid"):
            await front.define("web", uuid.uuid4().bytes)
        with pytest.raises(DomainExists, match="domain 'web' already exists with uuid"):
            await front.define("web")


async def test_what_no_libvirt_takes_is_refused_in_its_own_words_and_a_document_type_in_ours(tmp_path):
    async with running(tmp_path) as front:
        define = front.world.domains.define
        procedure = BY_NAME["remote:DOMAIN_DEFINE_XML"]
        for bad in ("", "<domain>", "<network/>", "<domain><name>x</name><uuid>q</uuid></domain>"):
            answer = await define(ANYONE, procedure, lv.RemoteDomainDefineXmlArgs(bad).to_bytes(), bad)
            assert not answer.ok
            assert "libxml2" in error_text(answer.payload)
        bad = "<!DOCTYPE a [<!ENTITY b 'c'>]><domain/>"
        with pytest.raises(InvalidXml):
            await define(ANYONE, procedure, lv.RemoteDomainDefineXmlArgs(bad).to_bytes(), bad)
        xml = "<domain type='qemu'/>"
        answer = await define(ANYONE, procedure, lv.RemoteDomainDefineXmlArgs(xml).to_bytes(), xml)
        assert not answer.ok


async def test_virt_installs_create_then_define_is_one_domain(tmp_path):
    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        assert (await front.create("web", one)).ok
        before = front.world.cluster.by_uuid(one)
        assert before.active
        assert not before.persistent
        assert (await front.define("web", one)).ok
        after = front.world.cluster.by_uuid(one)
        assert (after.persistent, after.id) == (True, before.id)
        assert front.holders(one) == [before.node]


async def test_a_start_that_does_not_fit_at_home_takes_the_definition_along(tmp_path):
    async with running(tmp_path, names=("n1", "n2"), node_memory_reserve_mib=0) as front:
        here = Caller(view="n1", who="test")
        one, two, three = (uuid.uuid4().bytes for _ in range(3))
        await front.define("first", one, memory_mib=1000, caller=here)
        await front.begin("first")
        await front.define("second", two, memory_mib=1000, caller=here)
        assert front.holders(two) == ["n1"]
        front.shown.clear()
        assert (await front.begin("second")).ok
        assert front.world.cluster.by_uuid(two).node == "n2"
        assert front.holders(two) == ["n2"] == front.runners(two)
        assert [(event, detail) for event, detail, _ in front.lifecycle()] == [(4, 0), (2, 0)]
        await front.define("third", three, memory_mib=1000)
        with pytest.raises(NoPlacement, match=r"n1.*n2"):
            await front.begin("third")


async def test_undefine_of_a_running_domain_leaves_it_transient_and_of_an_inactive_one_removes_it(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        await front.begin("web")
        assert (await front.undefine("web")).ok
        assert front.world.cluster.by_name("web").active
        assert not front.world.cluster.by_name("web").persistent
        await front.relay("web", "DESTROY")
        with pytest.raises(DomainNotFound):
            front.world.cluster.by_name("web")
        await front.define("web")
        await front.undefine("web")
        assert len(front.world.cluster) == 0
        assert not front.world.ledger.domains


async def test_define_again_after_undefine_is_not_taken_for_a_stale_order(tmp_path):
    async with running(tmp_path, names=("n1",)) as front:
        one = uuid.uuid4().bytes
        for _ in range(3):
            assert (await front.define("web", one)).ok
            assert (await front.begin("web")).ok
            assert (await front.relay("web", "DESTROY")).ok
            assert (await front.undefine("web")).ok


async def test_rename_keeps_names_unique(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        await front.define("mail")
        one = front.world.cluster.by_name("web").uuid
        procedure = BY_NAME["remote:DOMAIN_RENAME"]
        for name, fits in (("mail", False), ("www", True)):
            payload = lv.RemoteDomainRenameArgs(front.handle("web"), name, 0).to_bytes()
            if fits:
                assert (await front.world.domains.rename(ANYONE, procedure, payload, one, name)).ok
            else:
                with pytest.raises(InvalidOperation, match="domain with name 'mail' already exists"):
                    await front.world.domains.rename(ANYONE, procedure, payload, one, name)
        assert front.world.cluster.by_name("www").uuid == one
        assert front.world.ledger.domains[one].name == "www"


async def test_autostart_is_the_clusters_and_happens_once_a_boot(tmp_path):
    async with running(tmp_path, names=("n1",)) as front:
        await front.define("web")
        one = front.world.cluster.by_name("web").uuid
        await front.world.domains.set_autostart(ANYONE, one, True)
        assert not front.machines["n1"].guests[one].autostart
        front.cut("n1")
        front.mend("n1")
        await front.quiet()
        assert front.runners(one) == []
        front.cut("n1")
        front.machines["n1"].power_cut()
        front.mend("n1")
        await front.quiet()
        assert front.runners(one) == ["n1"]
        await front.relay("web", "DESTROY")
        front.cut("n1")
        front.mend("n1")
        await front.quiet()
        assert front.runners(one) == []


async def test_autostart_of_a_transient_domain_is_refused(tmp_path):
    async with running(tmp_path) as front:
        await front.create("web")
        with pytest.raises(InvalidOperation, match="cannot set autostart for transient domain"):
            await front.world.domains.set_autostart(ANYONE, front.world.cluster.by_name("web").uuid, True)


async def test_a_restore_happens_on_a_node_that_has_the_file(tmp_path):
    from tests.support.fakelibvirt import domain_xml

    async with running(tmp_path) as front:
        one = uuid.uuid4().bytes
        await front.define("web", one)
        home = front.world.cluster.by_uuid(one).node
        other = next(name for name in front.machines if name != home)
        front.machines[other].files["/save/web"] = domain_xml("web", one)
        procedure = BY_NAME["remote:DOMAIN_RESTORE"]
        missing = procedure.args("/save/none").to_bytes()
        assert not (await front.world.domains.restore(ANYONE, procedure, missing, "/save/none")).ok
        payload = procedure.args("/save/web").to_bytes()
        assert (await front.world.domains.restore(ANYONE, procedure, payload, "/save/web")).ok
        assert front.runners(one) == [other] == front.holders(one)


async def test_calls_about_a_domain_of_a_lost_node_name_it_and_since_when(tmp_path):
    async with running(tmp_path, names=("n1",)) as front:
        await front.define("web")
        front.cut("n1")
        assert front.world.cluster.by_name("web").node == "n1"
        with pytest.raises(NodeUnreachable, match=r"node n1 is out of reach since \d\d:\d\d:\d\d: cut"):
            await front.begin("web")
        with pytest.raises(NoPlacement, match="n1"):
            await front.define("other")


async def test_a_client_that_leaves_does_not_undo_what_it_began(tmp_path):
    import asyncio

    async with running(tmp_path) as front:
        task = asyncio.create_task(front.define("web"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await front.quiet()
        assert front.world.cluster.by_name("web").persistent
        assert not front.world.ledger.intents
