"""Files that a definition names and that are no volumes: starts go where they are, or those only read are brought."""

from dataclasses import replace

import pytest

from clusterhost.config import ImagesSection
from clusterhost.model.errors import InvalidOperation, NoPlacement
from clusterhost.model.node import Admin
from clusterhost.service.admin import METHODS
from clusterhost.service.ports import Caller
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from imagemgr.model import Kind, PoolTarget
from tests.service.test_images import begin_at, kept_at, where
from tests.service.test_migration import Client
from tests.support.clusters import ANYONE, running
from tests.support.fakelibvirt import Refused, domain_xml
from tests.support.shelves import LOCAL, OnePool, stock

ISO = "/srv/iso/a.iso"
KERNEL = "/var/lib/libvirt/boot/vmlinuz"


def cdrom(path=ISO, policy=""):
    return (
        f"<devices><disk type='file' device='cdrom'><source file='{path}'{policy}/><target dev='sda'/>"
        "<readonly/></disk></devices>"
    )


def disk(path):
    return f"<devices><disk type='file'><source file='{path}'/><target dev='vda'/></disk></devices>"


def kernel(path=KERNEL):
    return f"<os><kernel>{path}</kernel></os>"


def put(front, path, **identities):
    """put(front, "/a", n1="one"): what the file is on which node."""
    for node, identity in identities.items():
        front.machines[node].disks[path] = identity


def counted(front):
    """Nodes whose agents are asked for files, in order."""
    asked = []
    for name, machine in front.machines.items():
        usual = machine.operate

        def operate(kind, args, name=name, usual=usual):
            if kind == "identify":
                asked.append(name)
            return usual(kind, args)

        machine.operate = operate
    return asked


async def explained(front, name="web"):
    found = await METHODS["placement.explain"](front.world, {"domain": name}, lambda *_: None)
    return {row["node"]: row["text"] for row in found["reasons"]}


async def test_a_domain_starts_where_its_install_medium_is_and_the_others_are_told_why_not(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        put(front, ISO, n3="iso")
        await kept_at(front, "n1", "web", cdrom())
        assert (await front.begin("web")).ok
        assert where(front, "web") == "n3"
        told = await explained(front)
        assert told["n1"] == f"has no file {ISO}"
        await front.relay("web", "DESTROY")
        front.world.context.placing._outcomes.clear()
        told = await explained(front)
        assert told["n1"] == told["n2"] == f"has no file {ISO}"


async def test_a_transient_domain_goes_there_too(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        put(front, ISO, n2="iso")
        xml = domain_xml("web", more=cdrom())
        payload = lv.RemoteDomainCreateXmlArgs(xml, 0).to_bytes()
        create = BY_NAME["remote:DOMAIN_CREATE_XML"]
        assert (await front.world.domains.create_xml(ANYONE, create, payload, xml, 0)).ok
        assert where(front, "web") == "n2"


async def test_at_home_one_question_is_asked_and_none_of_a_domain_without_such_files(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web")
        put(front, ISO, n1="iso", n2="iso2", n3="iso3")
        asked = counted(front)
        await kept_at(front, "n1", "web", cdrom())
        assert (await front.begin("web")).ok
        assert asked == ["n1"]
        await kept_at(front, "n1", "plain", disk("/images/web"))
        assert (await front.begin("plain")).ok
        assert asked == ["n1"]


async def test_of_many_nodes_only_a_few_are_asked(tmp_path):
    names = tuple(f"n{number:02}" for number in range(1, 41))
    async with running(tmp_path, names=names) as front:
        stock(front)
        put(front, ISO, **{name: name for name in names[3:]})
        await kept_at(front, "n01", "web", cdrom())
        asked = counted(front)
        assert (await front.begin("web")).ok
        assert where(front, "web") not in names[:3]
        assert len(asked) <= 8


async def test_what_no_node_has_is_told_by_a_libvirtd_in_its_own_words(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        await kept_at(front, "n2", "web", cdrom())
        machine = front.machines["n2"]

        def refuse(args):
            raise Refused(f"Cannot access storage file '{ISO}': No such file or directory")

        machine.do_domain_create = refuse
        answer = await front.begin("web")
        assert not answer.ok
        assert b"Cannot access storage file" in answer.payload
        assert where(front, "web") == "n2"


async def test_a_medium_that_is_optional_binds_nobody(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        put(front, ISO, n3="iso")
        await kept_at(front, "n1", "web", cdrom(policy=" startupPolicy='optional'"))
        asked = counted(front)
        assert (await front.begin("web")).ok
        assert (where(front, "web"), asked) == ("n1", [])


async def test_a_disk_outside_of_pools_that_is_written_is_only_where_it_is(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        put(front, "/var/lib/libvirt/images/sub/web", n1="one")
        put(front, "/srv/b", n1="one", n2="another")
        await kept_at(front, "n1", "web", disk("/var/lib/libvirt/images/sub/web"))
        await kept_at(front, "n1", "b", disk("/srv/b"))
        await front.world.node_admin.set_admin("n1", Admin.DISABLED, "test")
        with pytest.raises(NoPlacement, match=r"n2, n3: does not see its disk .*/sub/web of node n1"):
            await front.begin("web")
        with pytest.raises(NoPlacement, match="n2: has another file at its disk /srv/b of node n1"):
            await front.begin("b")
        assert not any(machine.shelf.fetched for machine in front.machines.values())


async def test_a_new_definition_finds_the_node_that_has_its_disk(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        put(front, "/srv/b", n2="one")
        await front.define("b", more=disk("/srv/b"))
        assert (await front.begin("b")).ok
        assert where(front, "b") == "n2"


async def with_kernel(front, has, home):
    """A domain of node `home`, and its kernel, which only node `has` has and no domain may go to."""
    stocked = stock(front)
    put(front, KERNEL, **{has: "kernel"})
    stocked.put(has, "vmlinuz", "a kernel")
    await kept_at(front, home, "web", kernel())
    await front.world.node_admin.set_admin(has, Admin.DISABLED, "test")
    return stocked


@pytest.mark.parametrize(("has", "target"), [("n1", "n2"), ("n3", "n1")])
async def test_a_kernel_in_an_allowed_directory_is_brought_where_a_domain_may_be_as_a_job(
    tmp_path, has, target
):
    async with running(tmp_path) as front:
        stocked = await with_kernel(front, has, "n1")
        assert (await front.begin("web")).ok
        assert where(front, "web") == target
        assert stocked.content(target, "vmlinuz") == "a kernel"
        (job,) = [job for job in front.world.jobs.rows() if job.kind == "images"]
        assert (job.state, job.text) == ("done", f"1 file is on {target}")


async def begun_after_move(front, node):
    await METHODS["domain.move"](front.world, {"domain": "web", "to": node}, lambda *_: None)
    return (await front.begin("web")).ok


@pytest.mark.parametrize("same", [True, False])
async def test_another_kernel_at_the_path_is_not_replaced(tmp_path, same):
    async with running(tmp_path) as front:
        stocked = stock(front)
        put(front, KERNEL, n1="kernel", n2="other")
        stocked.put("n1", "vmlinuz", "a kernel")
        stocked.put("n2", "vmlinuz", "a kernel" if same else "another kernel")
        await kept_at(front, "n1", "web", kernel())
        if same:
            assert await begun_after_move(front, "n2")
            return
        why = f"cannot be on node n2, it has another file at {KERNEL} than node n1"
        with pytest.raises(InvalidOperation, match=why):
            await begun_after_move(front, "n2")
        assert stocked.content("n2", "vmlinuz") == "another kernel"


async def test_no_directory_is_allowed_but_those_of_the_settings(tmp_path):
    async with running(tmp_path, sections={"images": ImagesSection(directories="/srv/iso")}) as front:
        stocked = stock(front)
        put(front, KERNEL, n1="kernel")
        put(front, ISO, n1="iso")
        stocked.put("n1", "a.iso", "install")
        await kept_at(front, "n1", "web", kernel())
        with pytest.raises(InvalidOperation, match=f"node n2 has no file {KERNEL}"):
            await begun_after_move(front, "n2")
        await front.undefine("web")
        await kept_at(front, "n1", "web", cdrom())
        assert await begun_after_move(front, "n2")
        assert stocked.content("n2", "a.iso") == "install"


async def test_the_node_that_a_client_names_gets_what_it_lacks(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        put(front, KERNEL, n1="kernel")
        stocked.put("n1", "vmlinuz", "a kernel")
        await front.define("web", caller=Caller(view="n2"), more=kernel())
        assert (await begin_at(front, "n2", "web")).ok
        assert stocked.content("n2", "vmlinuz") == "a kernel"


async def test_a_running_domain_goes_to_a_node_with_its_medium_whoever_chooses(tmp_path):
    async with running(tmp_path) as front:
        stock(front)
        put(front, ISO, n1="iso", n3="other")
        await kept_at(front, "n1", "web", cdrom())
        assert (await front.begin("web")).ok
        with pytest.raises(InvalidOperation, match=f"node n2 has no file {ISO}"):
            await METHODS["domain.move"](front.world, {"domain": "web", "to": "n2"}, lambda *_: None)
        answer = await METHODS["domain.move"](front.world, {"domain": "web"}, lambda *_: None)
        assert answer["node"] == "n3" == where(front, "web")
        put(front, ISO, n1="")
        with pytest.raises(NoPlacement, match=f"n1, n2: has no file {ISO}"):
            await Client(front, "web", None).all()
        put(front, ISO, n2="third")
        assert all(answer.ok for answer in await Client(front, "web", None).all())
        assert where(front, "web") == "n2"


async def test_a_file_of_a_pool_that_is_one_place_is_not_put_where_that_is_missing(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.pools.entry = OnePool(
            pool=replace(LOCAL, target=PoolTarget("/var/lib/libvirt/boot")), kind=Kind.SHARED
        )
        stocked.put("n1", "vmlinuz", "a kernel")
        put(front, KERNEL, n1="kernel")
        await kept_at(front, "n1", "web", kernel())
        await front.world.node_admin.set_admin("n1", Admin.DISABLED, "test")
        with pytest.raises(NoPlacement, match=f"n2, n3: has no file {KERNEL}"):
            await front.begin("web")
        assert not stocked.content("n2", "vmlinuz")
