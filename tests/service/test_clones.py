"""Linked clones, and bases that nobody may change under their overlays: over nodes in memory and a real store."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from clusterhost.config import ImagesSection
from clusterhost.model.errors import CloneExists, InvalidOperation, NodeUnreachable
from clusterhost.service.block_jobs import BlockJobs, _written, images_of
from clusterhost.service.image_chains import AT_ONCE
from clusterhost.service.volume_clones import forgotten
from clusterhost.store.rows import DomainRow, PutDomain
from compat.libvirt import messages as lv
from compat.libvirt.schema import BY_NAME
from compat.xmldoc import XmlDocument
from imagemgr.chains import DEEPEST
from imagemgr.model import CopyState, Kind, Pool, PoolType
from tests.support.clusters import ANYONE, running
from tests.support.fakestorage import POOL, Entry
from tests.support.shelves import POOL as SHELVED
from tests.support.shelves import stock
from tests.support.storehouse import XML, stocked

QCOW2 = "<target><format type='qcow2'/></target>"
RAW = "<target><format type='raw'/></target>"
SECRET = "<target><format type='qcow2'/><encryption format='luks'/></target>"
OVER = QCOW2 + "<backingStore><path>/pool/{}</path><format type='qcow2'/></backingStore>"
FULL, LINKED = "STORAGE_VOL_CREATE_XML_FROM", "STORAGE_VOL_CREATE_XML"


async def linked(here, base=QCOW2):
    """A pool with linked clones, and a volume in it."""
    await here.work.clones.set_linked(ANYONE, here.pools.entry, True)
    await here.create("base", base)
    here.storage.done.clear()


async def clone(here, name="web", more=QCOW2, source="base", flags=0):
    return await here.work.clone(ANYONE, POOL, XML.format(name, more), (POOL, source), flags)


def said(here, name):
    """Of the document with which a volume was made: format, capacity, backing file and its format."""
    (xml,) = [xml for (_, made), xml in here.storage.documents.items() if made == name]
    document = XmlDocument.parse(xml)
    paths = ("target/format/@type", "capacity", "backingStore/path", "backingStore/format/@type")
    return tuple(document.text(f"string(/volume/{path})") for path in paths)


async def overlays(here, name):
    return await here.volumes.chains.overlays(POOL, await here.volumes.by_name(POOL, name))


async def test_a_clone_in_a_linked_pool_is_an_overlay_at_a_node_of_its_source(tmp_path):
    async with stocked(tmp_path) as here:
        here.storage.room = {"n2": 9}
        await linked(here)
        here.storage.room = {"n3": 9}
        assert (await clone(here)).name == "web"
        assert said(here, "web") == ("qcow2", "10", "/pool/base", "qcow2")
        assert "web" in here.storage.files["n2"]
        assert (here.storage.count(LINKED), here.storage.count(FULL)) == (1, 0)
        assert await here.shown() == ["base", "web"]
        with pytest.raises(CloneExists, match=r"storage volume name 'web' already in use\."):
            await clone(here)


async def test_of_a_raw_source_it_is_one_where_the_client_does_not_ask_for_raw(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here, RAW)
        await clone(here, "raw", RAW)
        assert here.storage.count(FULL) == 1
        await clone(here, "web", QCOW2)
        await clone(here, "unsaid", "")
        assert said(here, "web")[2:] == said(here, "unsaid")[2:] == ("/pool/base", "raw")
        assert said(here, "unsaid")[0] == "qcow2"
        assert await overlays(here, "base") == ("unsaid", "web")


async def test_it_keeps_what_the_client_says_and_is_as_large_as_it_wishes(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        more = (
            "<allocation>10</allocation><backingStore><path>/pool/other</path></backingStore>"
            "<target><permissions><mode>0600</mode></permissions><compat>1.1</compat></target>"
        )
        xml = XML.format("web", more).replace("<capacity>10<", "<capacity unit='KiB'>1<")
        await here.work.clone(ANYONE, POOL, xml, (POOL, "base"), 4)
        assert said(here, "web") == ("qcow2", "1024", "/pool/base", "qcow2")
        (document,) = [xml for (_, name), xml in here.storage.documents.items() if name == "web"]
        assert "<mode>0600</mode>" in document
        assert "<allocation>0</allocation>" in document


@pytest.mark.parametrize(
    ("base", "more", "flags"),
    [
        (QCOW2, QCOW2, 1),
        (QCOW2, QCOW2, 2),
        (QCOW2, RAW, 0),
        (QCOW2, SECRET, 0),
        (SECRET, QCOW2, 0),
        (QCOW2.replace("qcow2", "vmdk"), "", 0),
    ],
    ids=["metadata", "reflink", "raw is asked for", "encrypted", "source encrypted", "source is vmdk"],
)
async def test_a_clone_is_full_where_an_overlay_would_not_be_what_is_asked_for(tmp_path, base, more, flags):
    async with stocked(tmp_path) as here:
        await linked(here, base)
        await clone(here, more=more, flags=flags)
        assert here.storage.count(FULL) == 1


async def test_pools_do_as_they_are_told_and_else_as_the_configuration_says(tmp_path):
    async with stocked(tmp_path) as here:
        clones, entry = here.work.clones, here.pools.entry
        assert not clones.linked(entry)
        here.context.settings = replace_images(here.context.settings, True)
        assert clones.linked(entry)
        await clones.set_linked(ANYONE, entry, False)
        assert not clones.linked(entry)
        await clones.set_linked(ANYONE, entry, True)
        here.context.settings = replace_images(here.context.settings, False)
        here.again()
        assert here.work.clones.linked(entry)
        await here.context.ledger.commit(forgotten(POOL))
        assert not here.work.clones.linked(entry)
        with pytest.raises(InvalidOperation, match="of type logical; linked clones are for dir, fs, netfs"):
            await clones.set_linked(ANYONE, Logical(), True)


class Logical(Entry):
    @property
    def pool(self):
        return Pool(PoolType.LOGICAL, "p", POOL)


def replace_images(settings, on):
    return settings.model_copy(update={"images": ImagesSection(linked_clones=on)})


async def test_a_clone_into_another_pool_is_full(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        held = await here.volumes.by_name(POOL, "base")
        other = replace(here.pools.entry, name="other", uuid=b"o" * 16)
        xml = XML.format("web", QCOW2)
        node = await here.volumes.node_for(POOL, held)
        assert await here.work.clones.overlay(other, here.pools.entry, held, node, xml, 0) is None
        assert await here.work.clones.overlay(here.pools.entry, here.pools.entry, held, node, xml, 0)


async def test_a_base_is_frozen_until_its_overlays_are_gone(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        await clone(here, "web")
        await clone(here, "mail")
        here.again()
        doings = {
            "deleted": lambda: here.delete("base"),
            "wiped": lambda: here.wipe("base"),
            "resized": lambda: here.work.resize(ANYONE, POOL, "base", 20, 0),
            "written to": lambda: here.upload("base"),
        }
        for what, do in doings.items():
            with pytest.raises(InvalidOperation) as refused:
                await do()
            assert str(refused.value) == f"volume 'base' is the base of 'mail', 'web', so it cannot be {what}"
        await here.delete("web")
        with pytest.raises(InvalidOperation, match="the base of 'mail', so"):
            await here.delete("base")
        await here.delete("mail")
        await here.delete("base")
        assert await here.shown() == []


async def test_a_refusal_names_some_overlays_and_counts_the_others(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        for number in range(7):
            await clone(here, f"web{number}")
        with pytest.raises(InvalidOperation, match="'web3', 'web4' and 2 more, so"):
            await here.delete("base")


async def test_nodes_are_asked_once_what_a_volume_is_until_it_has_other_content(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        await clone(here)
        assert await overlays(here, "base") == ("web",)
        here.storage.done.clear()
        assert await overlays(here, "base") == ("web",)
        assert here.storage.count("STORAGE_VOL_GET_XML_DESC") == 0
        (node,) = [node for node, files in here.storage.files.items() if "web" in files]
        here.storage.documents[node, "web"] = XML.format("web", QCOW2)
        await here.wipe("web")
        assert await overlays(here, "base") == ()
        assert here.storage.count("STORAGE_VOL_GET_XML_DESC") == 1


async def test_a_volume_made_anew_is_not_taken_for_the_overlay_that_had_its_name(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        await clone(here)
        assert await overlays(here, "base") == ("web",)
        await here.delete("web")
        await here.create("web", QCOW2)
        assert await overlays(here, "base") == ()


async def test_an_overlay_that_is_being_made_counts_and_one_that_was_not_made_does_not(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        refused = pytest.raises(InvalidOperation, match="the base of 'web'")
        with here.volumes.chains.coming(POOL, "base", "web"), refused:
            await here.wipe("base")
        await here.wipe("base")


async def test_what_a_guest_wrote_into_its_raw_disk_freezes_nobodys_volume(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here)
        await here.create("disk", OVER.format("base"))
        assert await overlays(here, "base") == ("disk",)
        disk = "<disk><driver type='{}'/><source file='/pool/disk'/><target dev='vda'/></disk>"
        for form, found in (("qcow2", ("disk",)), ("raw", ())):
            xml = f"<domain><devices>{disk.format(form)}</devices></domain>"
            await here.context.ledger.commit(PutDomain(DomainRow(b"d" * 16, "guest", "n1", xml=xml)))
            assert await overlays(here, "base") == found
        held = await here.volumes.by_name(POOL, "disk")
        (link,) = await here.volumes.chains.chain(POOL, held)
        assert (link.path, link.format) == ("/pool/disk", "raw")


async def test_a_path_means_the_base_of_the_overlays_own_node(tmp_path):
    async with stocked(tmp_path, n1={"base": b"1"}, n2={"base": b"2", "web": b""}) as here:
        here.storage.documents["n2", "web"] = XML.format("web", OVER.format("base"))
        assert await here.shown() == ["base", "base@n2", "web"]
        assert await overlays(here, "base") == ()
        assert await overlays(here, "base@n2") == ("web",)


async def test_a_base_is_left_alone_when_nobody_can_say_what_a_node_that_is_away_has_on_it(tmp_path):
    files = {"n1": {"base": b"1"}, "n2": {"base": b"1", "web": b"2"}, "n3": {"other": b"3"}}
    async with stocked(tmp_path, **files) as here:
        assert await here.shown() == ["base", "other", "web"]
        here.lose("n3")
        assert await overlays(here, "base") == (), (
            "what is on n3 alone cannot be an overlay of what is not there"
        )
        here.lose("n2")
        here.again()
        with pytest.raises(NodeUnreachable, match="whether volume 'web' of pool p is an overlay of 'base'"):
            await here.work.resize(ANYONE, POOL, "base", 3, 0)
        here.regain("n2")
        await here.work.resize(ANYONE, POOL, "base", 3, 0)


async def test_a_volume_that_was_written_on_a_node_that_is_away_holds_up_nobody_where_it_was_before(tmp_path):
    files = {"n1": {"disk": b"1", "web": b"2"}, "n3": {"web": b"2"}}
    async with stocked(tmp_path, **files) as here:
        await here.shown()
        await here.volumes.raise_generation(POOL, "web", "n3")
        here.lose("n3")
        here.again()
        assert await overlays(here, "disk") == ()


async def test_a_node_that_does_not_answer_is_waited_for_once_by_many(tmp_path):
    files = {"n1": {"base": b"1"}, "n2": {f"v{number}": b"" for number in range(40)}}
    async with stocked(tmp_path, **files) as here:
        assert len(await here.shown()) == 41
        here.storage.late = {"n2"}
        base = await here.volumes.by_name(POOL, "base")
        await asyncio.gather(*(here.volumes.chains.overlays(POOL, base) for _ in range(10)))
        asked = [node for node, name in here.storage.done if name == "STORAGE_VOL_GET_XML_DESC"]
        assert asked.count("n1") == 1
        assert asked.count("n2") <= AT_ONCE + 1  # and who looks before anybody waits


async def test_a_chain_is_told_down_to_its_base(tmp_path):
    async with stocked(tmp_path) as here:
        await linked(here, RAW)
        await clone(here, "one")
        await clone(here, "two", source="one")
        links = await here.volumes.chains.chain(POOL, await here.volumes.by_name(POOL, "two"))
        assert [(link.path, link.format, link.held.shown) for link in links] == [
            ("/pool/two", "qcow2", "two"),
            ("/pool/one", "qcow2", "one"),
            ("/pool/base", "raw", "base"),
        ]


async def test_a_chain_ends_at_a_file_that_is_no_volume_and_never_goes_in_a_circle(tmp_path):
    async with stocked(tmp_path) as here:
        await here.create("away", OVER.format("../secret/base"))
        links = await here.volumes.chains.chain(POOL, await here.volumes.by_name(POOL, "away"))
        assert [(link.path, link.held is None) for link in links] == [
            ("/pool/away", False),
            ("/secret/base", True),
        ]
        for one, other in itertools.permutations(("a", "b")):
            await here.create(one, OVER.format(other))
        with pytest.raises(InvalidOperation, match="the backing files of volume a are a circle"):
            await here.volumes.chains.chain(POOL, await here.volumes.by_name(POOL, "a"))


async def test_a_chain_gets_no_longer_than_libvirt_opens(tmp_path):
    names = [f"v{number:03}" for number in range(DEEPEST)]
    async with stocked(tmp_path, n1=dict.fromkeys(names, b"")) as here:
        await here.work.clones.set_linked(ANYONE, here.pools.entry, True)
        for above, below in itertools.pairwise(reversed(names)):
            here.storage.documents["n1", above] = XML.format(above, OVER.format(below))
        here.storage.documents["n1", names[0]] = XML.format(names[0], QCOW2)
        await clone(here, "last", source=names[-2])
        with pytest.raises(InvalidOperation, match=f"has {DEEPEST} images in its chain, no more can be"):
            await clone(here, "more", source=names[-1])


async def test_an_overlay_is_made_where_all_of_the_chain_is(tmp_path):
    files = {"n1": {"one": b"1"}, "n2": {"one": b"1", "base": b"0"}, "n3": {"base": b"0"}}
    async with stocked(tmp_path, **files) as here:
        await here.work.clones.set_linked(ANYONE, here.pools.entry, True)
        for node in files:
            here.storage.documents[node, "one"] = XML.format("one", OVER.format("base"))
            here.storage.documents[node, "base"] = XML.format("base", QCOW2)
        here.storage.room = {"n1": 9}
        assert await here.shown() == ["base", "one"]
        await clone(here, "two", source="one")
        assert "two" in here.storage.files["n2"]


async def test_of_a_shared_pool_too_a_base_is_frozen(tmp_path):
    same = {"base": b"1"}
    async with stocked(tmp_path, Kind.SHARED, n1=same, n2=same, n3=same) as here:
        for node in same:
            here.storage.documents[node, "base"] = XML.format("base", QCOW2)
        for node in ("n1", "n2", "n3"):
            here.storage.documents[node, "base"] = XML.format("base", QCOW2)
        await here.work.clones.set_linked(ANYONE, here.pools.entry, True)
        await clone(here)
        with pytest.raises(InvalidOperation, match="the base of 'web'"):
            await here.delete("base")


# -- domains


def disk(name, more=""):
    return (
        f"<devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='/images/{name}'/>"
        f"<target dev='vda'/>{more}</disk></devices>"
    )


async def test_a_domain_that_would_write_to_a_base_is_not_started_and_stays_where_it_was(tmp_path):
    async with running(tmp_path) as front:
        stocked_ = stock(front)
        stocked_.put("n1", "base")
        stocked_.put("n1", "web", backing="/images/base")
        await front.define("template", more=disk("base"))
        await front.define("reader", more=disk("base", "<readonly/>"))
        await front.define("web", more=disk("web"))
        with pytest.raises(InvalidOperation) as refused:
            await front.begin("template")
        assert str(refused.value) == (
            "volume 'base' is the base of 'web', so it cannot be written to by a domain"
        )
        assert (await front.begin("reader")).ok
        assert (await front.begin("web")).ok
        (held,) = [held for held in await stocked_.volumes.all(SHELVED) if held.shown == "base"]
        assert {(copy.state, copy.generation) for copy in held.copies} == {(CopyState.WHOLE, 0)}


async def test_what_a_running_or_starting_domain_writes_to_gets_no_overlay(tmp_path):
    async with running(tmp_path) as front:
        stocked_ = stock(front)
        stocked_.put("n1", "disk")
        await front.define("web", more=disk("disk"))
        chains, context = stocked_.volumes.chains, front.world.context
        held = await stocked_.volumes.by_name(SHELVED, "disk")
        clones = front.world.storage.volume_work.clones
        await clones.refuse_written(stocked_.pools.entry, held, ["n1"])
        uuid = front.world.cluster.by_name("web").uuid
        with (
            context.placing.expecting(
                uuid, context.placing.start_for(uuid, disk("disk"), home="n1", only="n1")
            ),
            pytest.raises(InvalidOperation, match="domain 'web' writes to it on node n1"),
        ):
            await clones.refuse_written(stocked_.pools.entry, held, ["n1"])
        with (
            chains.coming(SHELVED, "disk", "new"),
            pytest.raises(InvalidOperation, match="the base of 'new'"),
        ):
            await front.begin("web")
        assert (await front.begin("web")).ok
        with pytest.raises(InvalidOperation, match="domain 'web' writes to it on node n1"):
            await clones.refuse_written(stocked_.pools.entry, held, ["n1"])


async def test_a_block_job_has_the_node_look_again_until_it_has_ended(tmp_path):
    async with running(tmp_path) as front:
        stocked_ = stock(front)
        stocked_.put("n1", "base")
        stocked_.put("n1", "web", backing="/images/base")
        await front.define("web", more=disk("web"))
        assert (await front.begin("web")).ok
        chains = stocked_.volumes.chains
        base = await stocked_.volumes.by_name(SHELVED, "base")
        assert await chains.overlays(SHELVED, base) == ("web",)
        shelf, jobs = stocked_.shelves["n1"], []
        shelf.files["web"].backing = ""
        assert await chains.overlays(SHELVED, base) == ("web",), "nobody has said that it changed"
        shelf.machine.do_domain_get_block_job_info = lambda args: job(jobs.append(args.path) or len(jobs) < 3)
        chains.changing(front.world.cluster.by_name("web").uuid)
        for _ in range(4):
            assert await chains.overlays(SHELVED, base) == ()
            await asyncio.sleep(0)
        assert jobs == ["vda"] * 3


def job(found):
    return lv.RemoteDomainGetBlockJobInfoRet(int(found), 1, 0, 0, 0)


async def test_nothing_is_committed_to_a_base_that_others_have(tmp_path):
    below = "<backingStore type='file'><source file='/images/base'/><backingStore/></backingStore>"
    async with running(tmp_path) as front:
        stocked_ = stock(front)
        stocked_.put("n1", "base")
        for name in ("web", "mail"):
            stocked_.put("n1", name, backing="/images/base")
        await front.define("web", more=disk("web", below))
        assert (await front.begin("web")).ok
        committed = []
        stocked_.shelves["n1"].machine.do_domain_block_commit = lambda args: committed.append(args.disk)
        jobs = BlockJobs(front.world.context, stocked_.volumes)
        procedure, uuid = BY_NAME["remote:DOMAIN_BLOCK_COMMIT"], front.world.cluster.by_name("web").uuid
        payload = procedure.args(front.handle("web"), "vda", None, None, 0, 4).to_bytes()
        with pytest.raises(
            InvalidOperation, match="'base' is the base of 'mail', so nothing can be committed"
        ):
            await jobs.commit(ANYONE, procedure, payload, uuid)
        assert committed == []
        del stocked_.shelves["n1"].files["mail"]
        stocked_.volumes.listings.forget(SHELVED)
        assert (await jobs.commit(ANYONE, procedure, payload, uuid)).ok
        assert committed == ["vda"]


async def test_no_snapshot_is_reverted_to_on_a_base(tmp_path):
    async with running(tmp_path) as front:
        stocked_ = stock(front)
        stocked_.put("n1", "base")
        stocked_.put("n1", "web", backing="/images/base")
        await front.define("template", more=disk("base"))
        jobs = BlockJobs(front.world.context, stocked_.volumes)
        procedure = BY_NAME["remote:DOMAIN_REVERT_TO_SNAPSHOT"]
        snapshot = lv.RemoteNonnullDomainSnapshot("s", front.handle("template"))
        uuid = front.world.cluster.by_name("template").uuid
        with pytest.raises(InvalidOperation, match="cannot be written to by a domain"):
            await jobs.revert(ANYONE, procedure, procedure.args(snapshot, 0).to_bytes(), uuid)


LIVE = """<domain><devices>
<disk><source file='/a' index='1'/><target dev='vda'/>
  <backingStore type='file' index='3'><source file='/b'/>
    <backingStore type='file' index='4'><source file='/c'/><backingStore/></backingStore>
  </backingStore></disk>
<disk><source dev='/dev/d'/><target dev='vdb'/></disk>
</devices></domain>"""


def test_the_images_of_a_running_disk_are_told_with_the_names_that_calls_may_use():
    assert images_of(LIVE, "vda") == images_of(LIVE, "/a") == [("/a", "1"), ("/b", "3"), ("/c", "4")]
    assert images_of(LIVE, "vdb") == [("/dev/d", "")]
    assert images_of(LIVE, "vdc") == []


@pytest.mark.parametrize(
    ("top", "base", "flags", "expected"),
    [
        (None, None, 0, ["/b", "/c"]),
        (None, None, 1, ["/b"]),
        ("/b", None, 0, ["/c"]),
        ("vda[3]", "vda[4]", 0, ["/c"]),
        (None, "/b", 0, ["/b"]),
        (None, "/wrong", 0, []),
        ("/wrong", None, 0, []),
    ],
)
def test_a_commit_changes_what_lies_below_its_top_down_to_its_base(top, base, flags, expected):
    assert _written(images_of(LIVE, "vda"), "vda", top, base, flags) == expected
