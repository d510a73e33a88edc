"""Images get to the node of a start before it: over fake nodes with files, real volumes and a real store."""

import asyncio

import pytest

from clusterhost.model.errors import InvalidOperation, NodeUnreachable, NoPlacement
from clusterhost.service.admin import METHODS
from clusterhost.service.ports import Caller
from clusterhost.service.volume_rows import held_of, row_of
from imagemgr.model import CopyState
from imagemgr.place import written
from tests.support.clusters import running
from tests.support.shelves import POOL, stock

MIB = 1 << 20


def disks(*names, more=""):
    one = "<disk type='file'><source file='/images/{}'/><target dev='vda'/>{}</disk>"
    return "<devices>" + "".join(one.format(name, more) for name in names) + "</devices>"


async def kept_at(front, node, name, more):
    """Define it on that node; where its disk is does not matter then."""
    assert (await front.define(name, caller=Caller(view=node), more=more)).ok


async def begin_at(front, node, name):
    """Start it on that node: what `?node=` asks for."""
    return await front.begin(name, Caller(view=node))


async def copies(stocked, name):
    """Node -> state and generation of what is kept of a volume."""
    (held,) = [held for held in await stocked.volumes.all(POOL) if held.shown == name]
    return {copy.node: (copy.state, copy.generation) for copy in held.copies}


def where(front, name):
    return front.world.cluster.by_name(name).node


async def test_a_domain_goes_where_its_disk_is_when_it_is_defined_and_nothing_is_copied(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n3", "web")
        await front.define("web", more=disks("web"))
        assert where(front, "web") == "n3"
        assert (await front.begin("web")).ok
        assert where(front, "web") == "n3"
        assert not any(shelf.fetched for shelf in stocked.shelves.values())


async def test_a_start_on_another_node_copies_the_disk_first_as_a_job(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "the bytes", size=3 * MIB)
        await kept_at(front, "n2", "web", disks("web"))
        assert (await begin_at(front, "n2", "web")).ok
        assert where(front, "web") == "n2"
        assert stocked.content("n2", "web") == "the bytes"
        (job,) = front.world.jobs.rows()
        assert (job.kind, job.object, job.state, job.done, job.total) == (
            "images",
            "web",
            "done",
            3 * MIB,
            3 * MIB,
        )
        assert job.text == "1 image is on n2"
        assert await copies(stocked, "web") == {"n1": (CopyState.STALE, 0), "n2": (CopyState.WHOLE, 1)}


async def test_a_disk_that_is_only_read_stays_whole_everywhere(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "cd.iso")
        await kept_at(front, "n3", "web", disks("cd.iso", more="<readonly/>"))
        assert (await begin_at(front, "n3", "web")).ok
        whole = (CopyState.WHOLE, 0)
        assert await copies(stocked, "cd.iso") == {"n1": whole, "n3": whole}


async def test_a_node_with_an_old_copy_gets_the_newest_in_its_place(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "first")
        await front.define("web", more=disks("web"))
        for node, content in (("n2", "second"), ("n1", "third"), ("n3", "fourth")):
            assert await move(front, node) == node
            assert (await front.begin("web")).ok
            stocked.put(node, "web", content)  # the guest writes
            await front.relay("web", "DESTROY")
        assert stocked.content("n3", "web") == "fourth"
        found = await copies(stocked, "web")
        assert [node for node, (state, _) in found.items() if state is CopyState.WHOLE] == ["n3"]
        assert await move(front, "n1") == "n1"
        assert stocked.content("n1", "web") == "fourth"


async def move(front, node):
    answer = await METHODS["domain.move"](front.world, {"domain": "web", "to": node}, lambda *_: None)
    return answer["node"]


async def test_a_failed_copy_leaves_the_domain_where_it_was_and_says_which_node_and_image(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", size=4 * MIB)
        await front.define("web", more=disks("web"))
        stocked.shelves["n2"].refuses = "/images/web: 1048576 of 4194304 bytes are missing: no space left"
        with pytest.raises(InvalidOperation) as refused:
            await move(front, "n2")
        assert str(refused.value) == (
            "volume web did not get from node n1 to node n2: "
            "/images/web: 1048576 of 4194304 bytes are missing: no space left"
        )
        assert where(front, "web") == "n1"
        assert await copies(stocked, "web") == {"n1": (CopyState.WHOLE, 0)}
        assert (await front.begin("web")).ok


async def test_an_old_copy_is_still_known_as_one_after_a_failed_replacement(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "one")
        await kept_at(front, "n2", "web", disks("web"))
        await begin_at(front, "n2", "web")
        await front.relay("web", "DESTROY")
        before = await copies(stocked, "web")
        stocked.shelves["n1"].refuses = "the source is gone"
        with pytest.raises(InvalidOperation, match="did not get from node n2 to node n1"):
            await move(front, "n1")
        assert (
            await copies(stocked, "web")
            == before
            == {
                "n1": (CopyState.STALE, 0),
                "n2": (CopyState.WHOLE, 1),
            }
        )


async def test_without_the_node_that_has_the_newest_nothing_starts_and_the_node_is_named(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n3", "web")
        await front.define("web", caller=Caller(view="n1"), more=disks("web"))
        assert await copies(stocked, "web")
        front.cut("n3")
        with pytest.raises(NoPlacement, match="volume web is on n3, out of reach"):
            await front.begin("web")
        with pytest.raises(NodeUnreachable, match="volume web is on n3, out of reach"):
            await front.begin("web", Caller(view="n1"))
        assert where(front, "web") == "n1"
        front.mend("n3")
        assert (await front.begin("web")).ok


async def test_a_node_without_room_is_not_chosen(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", size=8 * MIB)
        await front.define("web", more=disks("web"))
        stocked.shelves["n2"].free = 7 * MIB
        assert await move(front, "") == "n3"
        reasons = await METHODS["placement.explain"](front.world, {"domain": "web"}, lambda *_: None)
        told = {row["node"]: row["text"] for row in reasons["reasons"]}
        assert told["n2"] == "has 7 MiB left in the pool, the images that must come need 8 MiB"


async def test_a_disk_that_a_running_domain_writes_to_is_not_copied(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "data")
        await front.define("one", more=disks("data"))
        assert (await front.begin("one")).ok
        await kept_at(front, "n2", "two", disks("data"))
        with pytest.raises(InvalidOperation, match="in use: domain 'one' writes to it on node n1"):
            await begin_at(front, "n2", "two")
        assert where(front, "two") == "n2"
        assert stocked.content("n2", "data") == ""


async def test_a_volume_that_is_written_while_it_is_copied_is_an_old_copy_and_no_start(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web")
        await kept_at(front, "n2", "web", disks("web"))
        raised = []

        def meanwhile():
            row = stocked.volumes.row(POOL, "web")
            held = written(held_of(row), "n1")
            stocked.volumes._take(row_of(POOL, held, row))
            raised.append(row.generation)

        stocked.shelves["n2"].meanwhile = meanwhile
        with pytest.raises(InvalidOperation, match="was written on node n1 while it was copied to node n2"):
            await begin_at(front, "n2", "web")
        assert raised
        assert (await copies(stocked, "web"))["n2"] == (CopyState.STALE, 0)


async def test_a_file_that_both_nodes_see_is_not_copied_onto_itself(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "the bytes")
        for name in ("n1", "n2"):
            front.machines[name].disks["/images/web"] = "one file"
        await kept_at(front, "n2", "web", disks("web"))
        assert (await begin_at(front, "n2", "web")).ok
        assert stocked.shelves["n2"].fetched == []


async def test_another_volume_of_that_name_is_never_written_over(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "mine")
        stocked.put("n2", "web", "somebody else's")
        await front.define("web", caller=Caller(view="n1"), more=disks("web"))
        with pytest.raises(InvalidOperation, match="has another volume than web at /images/web"):
            await move(front, "n2")
        assert stocked.content("n2", "web") == "somebody else's"


async def test_a_path_means_the_file_of_the_domains_own_node(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "mine")
        stocked.put("n2", "web", "other")
        await front.define("web", caller=Caller(view="n2"), more=disks("web"))
        assert await move(front, "n3") == "n3"
        assert stocked.content("n3", "web") == "other"


async def test_a_base_comes_with_its_overlay_and_before_it(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "base", "base")
        stocked.put("n1", "web", "overlay", backing="/images/base")
        await kept_at(front, "n3", "web", disks("web"))
        assert (await begin_at(front, "n3", "web")).ok
        assert stocked.shelves["n3"].fetched == ["base", "web"]
        assert await copies(stocked, "base") == {"n1": (CopyState.WHOLE, 0), "n3": (CopyState.WHOLE, 0)}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"web": "/secret/base"}, "leaves the pool's directory /images"),
        ({"web": "/images/gone"}, "its backing file /images/gone is no volume of pool default"),
        (
            {"web": "/images/a", "a": "/images/b", "b": "/images/a"},
            "the backing files of volume web are a circle",
        ),
    ],
)
async def test_a_chain_that_cannot_come_is_refused_and_starts_where_it_is(tmp_path, files, why):
    async with running(tmp_path) as front:
        stocked = stock(front)
        for name, backing in files.items():
            stocked.put("n1", name, name, backing=backing)
        await front.define("web", more=disks("web"))
        with pytest.raises(InvalidOperation, match=why):
            await move(front, "n2")
        assert stocked.shelves["n2"].fetched == []
        assert (await front.begin("web")).ok
        assert where(front, "web") == "n1"


async def test_a_node_where_the_pool_is_not_active_is_closed(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web")
        stocked.pools.stopped = {"n2"}
        await front.define("web", more=disks("web"))
        with pytest.raises(InvalidOperation, match="its pool default is not active there"):
            await move(front, "n2")


async def test_a_transient_domain_gets_its_disk_too(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n2", "web")
        await front.define("web", caller=Caller(view="n1"), more=disks("web"))
        assert (await front.begin("web", Caller(view="n1"))).ok
        assert stocked.content("n1", "web") == "one"


async def test_what_a_crash_left_of_a_copy_is_no_volume_and_is_taken_up_by_the_next_start(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "the bytes")
        await kept_at(front, "n2", "web", disks("web"))

        stocked.shelves["n2"].meanwhile = front.nodes.kill
        started = asyncio.ensure_future(begin_at(front, "n2", "web"))
        while not front.nodes.dead:
            await asyncio.sleep(0.001)
        await front.crash()
        await asyncio.gather(started, return_exceptions=True)
        stocked.shelves["n2"].meanwhile = lambda: None
        await front.start()
        stocked = stock(front)
        assert [held.shown for held in await stocked.volumes.listed(POOL)] == ["web"]
        assert (await copies(stocked, "web"))["n2"] == (CopyState.COMING, 0)
        assert (await begin_at(front, "n2", "web")).ok
        assert where(front, "web") == "n2"
        assert await copies(stocked, "web") == {"n1": (CopyState.STALE, 0), "n2": (CopyState.WHOLE, 1)}


async def test_an_image_that_only_a_node_without_an_agent_of_its_own_has_stays_there(tmp_path):
    async with running(tmp_path, beside="n1") as front:
        stocked = stock(front)
        stocked.put("n1", "web")
        await kept_at(front, "n2", "web", disks("web"))
        said = (
            "cannot be on node n2, it has no volume web: node n1, which has it: its agent does not run there"
        )
        with pytest.raises(InvalidOperation, match=said):
            await begin_at(front, "n2", "web")
        assert (await front.begin("web")).ok
        assert where(front, "web") == "n1"
        assert not any(shelf.fetched for shelf in stocked.shelves.values())
