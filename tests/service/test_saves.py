"""Save files are on a node: restores find it, and say which it is when it is away."""

import uuid

import pytest

from clusterhost.frontend.libvirt.handlers.saves import path_in
from clusterhost.model.errors import NodeUnreachable
from clusterhost.service.saves import Saves
from compat.libvirt import messages as lv
from compat.libvirt import typedparams
from compat.libvirt.schema import BY_NAME
from tests.support.clusters import ANYONE, running
from tests.support.fakelibvirt import Refused, domain_xml

PATH = "/save/web"
RESTORE = BY_NAME["remote:DOMAIN_RESTORE"]


async def save(front, name="web", path=PATH):
    """What virsh does."""
    domain = front.world.cluster.by_name(name)
    machine = front.machines[domain.node]

    def do_domain_save(args):
        guest = machine.find(args.dom)
        if args.to.startswith("/full/"):
            raise Refused("no space left on device")
        machine.files[args.to] = guest.xml
        machine.stop(guest, 4)

    machine.do_domain_save = do_domain_save
    payload = lv.RemoteDomainSaveArgs(front.handle(name), path).to_bytes()
    return await Saves(front.world.context).save(
        ANYONE, BY_NAME["remote:DOMAIN_SAVE"], payload, domain.uuid, path
    )


async def restore(front, path=PATH):
    return await front.world.domains.restore(ANYONE, RESTORE, RESTORE.args(path).to_bytes(), path)


async def saved(front):
    one = uuid.uuid4().bytes
    await front.define("web", one)
    assert (await front.begin("web")).ok
    assert (await save(front)).ok
    return front.world.cluster.by_uuid(one).node


async def test_a_restore_says_which_node_has_the_file_when_that_is_away_also_after_a_restart(tmp_path):
    async with running(tmp_path) as front:
        home = await saved(front)
        front.cut(home)
        with pytest.raises(NodeUnreachable, match=rf"save file {PATH} is on node {home}: .* is out of reach"):
            await restore(front)
        await front.world.ledger.close()
        await front.crash()
        front.machines[home].reachable = True
        await front.start()
        front.cut(home)
        with pytest.raises(NodeUnreachable, match=rf"save file {PATH} is on node {home}"):
            await restore(front)
        front.mend(home)
        await front.quiet()
        assert (await restore(front)).ok
        assert front.world.cluster.by_name("web").node == home


async def test_where_it_is_not_known_the_nodes_that_could_not_be_asked_are_named(tmp_path):
    async with running(tmp_path) as front:
        assert not (await restore(front, "/save/none")).ok
        front.cut("n2")
        with pytest.raises(
            NodeUnreachable, match="no node in reach has the save file /save/none; node n2 is"
        ):
            await restore(front, "/save/none")


async def test_a_save_that_failed_is_nowhere(tmp_path):
    async with running(tmp_path) as front:
        await front.define("web")
        await front.begin("web")
        assert not (await save(front, path="/full/web")).ok
        assert Saves(front.world.context).node_of("/full/web") == ""


async def test_of_two_files_at_a_path_that_of_the_last_save_is_read(tmp_path):
    async with running(tmp_path) as front:
        home = await saved(front)
        for name, machine in front.machines.items():
            if name != home:
                machine.files[PATH] = domain_xml("older", uuid.uuid4().bytes)
        payload = lv.RemoteDomainSaveImageGetXmlDescArgs(file=PATH, flags=0).to_bytes()
        read = BY_NAME["remote:DOMAIN_SAVE_IMAGE_GET_XML_DESC"]
        answer = await front.world.domains.save_image(ANYONE, read, payload, PATH)
        assert "<name>web</name>" in lv.RemoteDomainSaveImageGetXmlDescRet.from_bytes(answer.payload).xml
        assert (await restore(front)).ok
        assert front.world.cluster.by_name("web").active


def test_the_file_is_found_in_each_form_of_the_call():
    dom = lv.RemoteNonnullDomain("web", b"u" * 16, 1)
    assert path_in(lv.RemoteDomainSaveArgs(dom, PATH)) == PATH
    assert path_in(lv.RemoteDomainSaveFlagsArgs(dom, PATH, None, 0)) == PATH
    params = typedparams.to_params({"file": PATH})
    assert path_in(lv.RemoteDomainSaveParamsArgs(dom, params, 0)) == PATH
    assert path_in(lv.RemoteDomainSaveParamsArgs(dom, [], 0)) == ""
