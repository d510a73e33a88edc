"""What `clusterhost image` asks of the cluster: lists, copies to many nodes, evictions, checks; over fake nodes."""

import asyncio

import pytest

from clusterhost.model.errors import InvalidOperation, VolumeNotFound
from clusterhost.service.image_copies import place_key
from clusterhost.service.volume_rows import INCOMPLETE, MAKING, held_of, row_of, with_copy
from compat.libvirt import messages as lv
from imagemgr.model import Copy, CopyState, Held
from tests.support.clusters import running
from tests.support.image_calls import DISK, ask, begin, note, states, stocked_in, with_overlay
from tests.support.shelves import POOL

MIB = 1 << 20


# -- showing


async def test_a_list_says_where_each_image_is_and_how_large(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base", size=3 * MIB)
        stocked.put("n2", "base", size=3 * MIB)
        stocked.put("n3", "web", "other")
        base, web = await ask(front, "list")
        assert (base["name"], base["nodes"], base["copies"], base["state"]) == (
            "base",
            ["n1", "n2"],
            2,
            "whole",
        )
        assert base["allocated_bytes"] == 3 * MIB
        assert web["nodes"] == ["n3"]


async def test_an_image_shows_its_chain_its_copies_and_who_uses_it(tmp_path):
    async with running(tmp_path) as front:
        with_overlay(front)
        await front.define("web", more=DISK.format("top", ""))
        found = await ask(front, "show", image="top")
        assert [link["image"] for link in found["chain"]] == ["top", "base"]
        assert found["depth"] == 2
        assert [(copy["node"], copy["state"], copy["current"]) for copy in found["copies"]] == [
            ("n1", "whole", True)
        ]
        assert [(use["domain"], use["written"], use["active"]) for use in found["users"]] == [
            ("web", True, False)
        ]
        base = await ask(front, "show", image="base")
        assert base["overlays"] == ["top"]


async def test_an_image_that_is_nowhere_is_not_found(tmp_path):
    async with running(tmp_path) as front:
        stocked_in(front)
        with pytest.raises(VolumeNotFound, match="pool default has no image 'x'"):
            await ask(front, "show", image="x")


async def test_an_older_copy_is_told_as_one(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "web")
        await begin(front, "n2", "web", "web")
        found = {
            row["node"]: (row["state"], row["current"]) for row in await ask(front, "copies", image="web")
        }
        assert found == {"n1": ("stale", False), "n2": ("whole", True)}


# -- evicting


async def two_copies(front, stocked):
    stocked.put("n1", "base")
    stocked.put("n2", "base")
    assert await states(stocked, "base") == {"n1": "whole", "n2": "whole"}


async def test_a_copy_goes_and_the_last_newest_one_stays(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        (row,) = await ask(front, "evict", image="base", nodes=["n1"])
        assert row["evicted"]
        assert await states(stocked, "base") == {"n2": "whole"}
        assert "base" not in stocked.shelves["n1"].files
        with pytest.raises(InvalidOperation, match="node n2 has the last newest copy of 'base'"):
            await ask(front, "evict", image="base", nodes=["n2"])
        assert "base" in stocked.shelves["n2"].files


async def test_a_copy_whose_only_other_one_is_away_stays(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        front.cut("n1")
        with pytest.raises(InvalidOperation, match="last newest copy"):
            await ask(front, "evict", image="base", nodes=["n2"])


async def test_an_older_copy_is_never_kept_for_a_newest_one(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "web")
        await begin(front, "n2", "web", "web")
        await front.relay("web", "DESTROY")
        with pytest.raises(InvalidOperation, match="node n2 has the last newest copy"):
            await ask(front, "evict", image="web", nodes=["n2"])
        (row,) = await ask(front, "evict", image="web", nodes=["n1"])
        assert row["evicted"]
        assert await states(stocked, "web") == {"n2": "whole"}


async def test_what_a_running_domain_reads_stays(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        await begin(front, "n2", "web", "base", "<readonly/>")
        with pytest.raises(InvalidOperation, match="in use on node n2: domain 'web' runs with it"):
            await ask(front, "evict", image="base", nodes=["n2"])
        assert (await ask(front, "evict", image="base", nodes=["n1"]))[0]["evicted"]


async def test_what_a_running_domain_has_below_its_disk_stays(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        below = "<backingStore type='file'><format type='qcow2'/><source file='/images/base'/></backingStore>"
        await begin(front, "n2", "web", "elsewhere", below)
        with pytest.raises(InvalidOperation, match="domain 'web' runs with it"):
            await ask(front, "evict", image="base", nodes=["n2"])


async def test_the_base_of_an_overlay_stays_where_that_is(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        stocked.put("n2", "top", "top", backing="/images/base")
        with pytest.raises(InvalidOperation, match="volume 'top' is an overlay of it"):
            await ask(front, "evict", image="base", nodes=["n2"])
        assert (await ask(front, "evict", image="base", nodes=["n1"]))[0]["evicted"]


async def test_a_domain_that_is_just_being_started_keeps_its_copy(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        await front.define("web", more=DISK.format("base", ""))
        uuid = front.world.cluster.by_name("web").uuid
        async with front.world.context.locks.hold(uuid):
            with pytest.raises(
                InvalidOperation, match="domain 'web', which has volume 'base', is being worked on"
            ):
                await ask(front, "evict", image="base", nodes=["n1"])
        assert await states(stocked, "base") == {"n1": "whole", "n2": "whole"}


async def test_a_copy_that_is_going_is_never_made_the_newest(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        await stocked.volumes.note_copy(POOL, "base", Copy("n1", CopyState.COMING))
        with pytest.raises(InvalidOperation, match="does not have all of volume"):
            await stocked.volumes.raise_generation(POOL, "base", "n1")
        assert (await states(stocked, "base"))["n2"] == "whole"


async def test_what_nobody_used_for_long_goes_but_for_one_copy(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        stocked.put("n3", "base")
        now = front.world.context.clock()
        stocked.shelves["n1"].used = stocked.shelves["n3"].used = now - 1000
        stocked.shelves["n2"].used = now - 10
        await states(stocked, "base")
        rows = await ask(front, "evict", older_than=100)
        assert [(row["node"], row["evicted"]) for row in rows] == [("n1", True), ("n3", True)]
        assert await states(stocked, "base") == {"n2": "whole"}
        stocked.shelves["n2"].used = now - 1000
        assert await ask(front, "evict", older_than=100) == []


# -- flattening

BELOW = "<backingStore type='file'><format type='qcow2'/><source file='/images/base'/></backingStore>"


def pulling(front, node, asked, *, ends_well=True):
    """That node's libvirtd pulls, and says twice how far it is."""
    machine, left = front.machines[node], [2]

    def pull(args):
        asked.append(args.path)

    def info(args):
        left[0] -= 1
        if left[0] < 0 and ends_well:
            for guest in machine.guests.values():
                guest.xml = guest.xml.replace(BELOW, "")
        return lv.RemoteDomainGetBlockJobInfoRet(int(left[0] >= 0), 1, 0, 5, 10)

    machine.do_domain_block_pull, machine.do_domain_get_block_job_info = pull, info


async def test_an_overlay_takes_in_its_base_while_its_domain_runs(tmp_path):
    async with running(tmp_path) as front:
        stocked, asked = with_overlay(front), []
        with pytest.raises(InvalidOperation, match="no running domain writes to volume 'top'"):
            await ask(front, "flatten", image="top")
        await begin(front, "n1", "web", "top", BELOW)
        pulling(front, "n1", asked, ends_well=False)
        with pytest.raises(InvalidOperation, match="ended before it was done"):
            await ask(front, "flatten", image="top")
        pulling(front, "n1", asked)
        await ask(front, "flatten", image="top")
        assert asked == ["vda", "vda"]
        stocked.shelves["n1"].files["top"].backing = ""
        with pytest.raises(InvalidOperation, match="is no overlay"):
            await ask(front, "flatten", image="top")


# -- verifying


async def verify(front, **args):
    answer = await ask(front, "verify", **args)
    found = [(row["image"], row["node"], row["problem"], row["mended"]) for row in answer["findings"]]
    return answer, found


async def test_copies_that_are_the_same_are_well(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        answer, found = await verify(front)
        assert found == []
        assert (answer["images"], answer["copies_read"]) == (1, 2)
        assert front.world.jobs.rows()[0].kind == "verify"


async def test_a_copy_that_has_changed_is_told_and_left_alone(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        stocked.put("n3", "base")
        await states(stocked, "base")
        stocked.shelves["n2"].files["base"].content = "rot"
        _, found = await verify(front, repair=True, drop=True)
        assert found == [("base", "n2", "differs", "")]
        assert stocked.content("n2", "base") == "rot"


async def test_what_a_domain_writes_to_is_not_compared(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "web")
        await begin(front, "n1", "web", "web")
        answer, found = await verify(front, image="web")
        assert (found, answer["images_busy"], answer["copies_read"]) == ([], 1, 0)


async def test_what_is_left_of_a_copy_is_found_and_removed(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.shelves["n2"].parts["gone"] = MIB
        assert (await verify(front))[1] == [("gone", "n2", "part", "")]
        assert (await verify(front, repair=True))[1] == [("gone", "n2", "part", "removed")]
        assert (await verify(front))[1] == []


async def test_a_part_of_a_copy_that_is_being_made_is_not_told(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.shelves["n2"].parts["base"] = MIB
        async with stocked.volumes.coming.hold(place_key("n2", "/images/base")):
            assert (await verify(front))[1] == []


async def test_a_copy_that_was_not_finished_is_taken_up(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base")
        await stocked.volumes.all(POOL)
        await stocked.volumes.note_copy(POOL, "base", Copy("n2", CopyState.COMING))
        stocked.shelves["n2"].parts["base"] = MIB
        assert (await verify(front))[1] == [("base", "n2", "coming", "")]
        assert (await verify(front, repair=True))[1] == [("base", "n2", "coming", "taken up")]
        assert await states(stocked, "base") == {"n1": "whole", "n2": "whole"}
        assert stocked.shelves["n2"].parts == {}


async def test_a_volume_that_was_not_finished_goes_and_one_whose_upload_was_cut_only_when_asked(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "made")
        stocked.put("n2", "cut", "other")
        await note(stocked, "made", state=INCOMPLETE, reason=f"{MAKING}n1 has not been seen to end")
        await note(stocked, "cut", state=INCOMPLETE, reason="an upload of bytes 0 to 9 to node n2 was cut")
        _, found = await verify(front, repair=True)
        assert found == [("cut", "n2", "incomplete", ""), ("made", "n1", "incomplete", "removed")]
        assert "cut" in stocked.shelves["n2"].files
        assert "made" not in stocked.shelves["n1"].files
        _, found = await verify(front, repair=True, drop=True)
        assert found == [("cut", "n2", "incomplete", "removed")]
        assert (await verify(front))[1] == []


async def test_a_node_that_is_away_is_told(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base")
        await stocked.volumes.all(POOL)
        front.cut("n3")
        assert [found[1:3] for found in (await verify(front))[1]] == [("n3", "unreachable")]


async def test_a_file_with_a_name_that_no_volume_has_is_told(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", ".hidden")
        assert (await verify(front))[1] == [(".hidden", "n1", "no volume", "")]


async def test_an_eviction_goes_on_when_its_client_leaves(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        await two_copies(front, stocked)
        task = asyncio.create_task(ask(front, "evict", image="base", nodes=["n1"]))
        while stocked.volumes.row(POOL, "base").copies[0][1] != "coming":
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if await states(stocked, "base") == {"n2": "whole"}:
                return
        pytest.fail(f"it was left half done: {await states(stocked, 'base')}")


def test_a_row_keeps_the_other_copies_when_one_is_put_back():
    held = Held("x", "x", 1, (Copy("n1", generation=1), Copy("n2", CopyState.COMING, 1)))
    row = row_of(POOL, with_copy(held, Copy("n2", generation=1)))
    assert [copy.state for copy in held_of(row).copies] == [CopyState.WHOLE, CopyState.WHOLE]
