"""`clusterhost image distribute` asks it of the cluster: an image comes to many nodes at once; over fake nodes."""

from dataclasses import replace

import pytest

from clusterhost.model.errors import InvalidArgument, InvalidOperation, NodeNotFound
from tests.support.clusters import running
from tests.support.image_calls import ask, begin, states, stocked_in, with_overlay
from tests.support.shelves import POOL

MIB = 1 << 20


async def test_an_image_goes_to_all_nodes_and_each_is_a_source_for_the_others(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base", size=2 * MIB)
        rows = await ask(front, "distribute", image="base")
        assert {row["node"]: (row["ok"], row["received_bytes"]) for row in rows} == {
            "n1": (True, 0),
            "n2": (True, 2 * MIB),
            "n3": (True, 2 * MIB),
        }
        assert stocked.shelves["n2"].sources == [["n1", "n3"]]
        assert stocked.shelves["n3"].sources == [["n1", "n2"]]
        assert await states(stocked, "base") == dict.fromkeys(("n1", "n2", "n3"), "whole")
        (job,) = front.world.jobs.rows()
        assert (job.kind, job.object, job.state, job.text) == (
            "distribute",
            "base",
            "done",
            "3 nodes have base",
        )


async def test_a_node_that_fails_does_not_stop_the_others_and_the_command_again_goes_on(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base")
        stocked.shelves["n2"].refuses = "/images/base: no space left"
        rows = {row["node"]: row for row in await ask(front, "distribute", image="base")}
        assert (rows["n2"]["ok"], rows["n2"]["reason"]) == (False, "/images/base: no space left")
        assert rows["n3"]["ok"]
        assert await states(stocked, "base") == {"n1": "whole", "n3": "whole"}
        (job,) = front.world.jobs.rows()
        assert (job.state, job.text) == ("failed", "2 of 3 nodes have base; n2: /images/base: no space left")
        stocked.shelves["n2"].refuses = ""
        rows = await ask(front, "distribute", image="base", nodes=["n2"])
        assert [row["ok"] for row in rows] == [True]
        assert stocked.shelves["n3"].fetched == ["base"]


async def test_a_node_that_is_away_is_told_and_the_rest_have_the_image(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base")
        await stocked.volumes.all(POOL)
        front.cut("n3")
        rows = {row["node"]: row for row in await ask(front, "distribute", image="base")}
        assert rows["n2"]["ok"]
        assert not rows["n3"]["ok"]
        assert "n3" in rows["n3"]["reason"]


async def test_what_an_image_is_an_overlay_of_goes_first_and_without_it_nothing_goes(tmp_path):
    async with running(tmp_path) as front:
        stocked = with_overlay(front)
        stocked.shelves["n3"].refuses = "no"
        rows = await ask(front, "distribute", image="top")
        assert stocked.shelves["n2"].fetched == ["base", "top"]
        assert [row["image"] for row in rows if row["node"] == "n3"] == ["base"]


async def test_an_image_that_a_domain_writes_to_is_not_distributed(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "web")
        await begin(front, "n1", "web", "web")
        with pytest.raises(InvalidOperation, match="domain 'web' writes to it on node n1"):
            await ask(front, "distribute", image="web")


async def test_what_is_written_while_it_is_copied_is_no_current_copy(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base")

        def meanwhile():
            row = stocked.volumes.row(POOL, "base")
            copies = [["n1", "whole", 1, "", 0, 0], *[copy for copy in row.copies if copy[0] != "n1"]]
            stocked.volumes._take(replace(row, generation=1, copies=copies))

        stocked.shelves["n2"].meanwhile = meanwhile
        (row,) = await ask(front, "distribute", image="base", nodes=["n2"])
        assert "was written on node n1 while it was copied" in row["reason"]
        assert await states(stocked, "base") == {"n1": "whole", "n2": "stale"}


@pytest.mark.parametrize("nodes", [[], "n1", [1]])
async def test_nodes_are_a_list_of_names(tmp_path, nodes):
    async with running(tmp_path) as front:
        stocked_in(front).put("n1", "base")
        with pytest.raises(InvalidArgument, match="must be a list of names"):
            await ask(front, "distribute", image="base", nodes=nodes)


async def test_a_node_that_is_none_is_refused(tmp_path):
    async with running(tmp_path) as front:
        stocked_in(front).put("n1", "base")
        with pytest.raises(NodeNotFound):
            await ask(front, "distribute", image="base", nodes=["n9"])


async def test_nobody_is_asked_for_files_where_no_agent_of_its_own_runs(tmp_path):
    async with running(tmp_path, beside="n1") as front:
        stocked = stocked_in(front)
        stocked.put("n1", "base")
        stocked.put("n1", "alone")
        stocked.put("n2", "base")
        rows = await ask(front, "distribute", image="base")
        assert [row["ok"] for row in rows] == [True, True, True]
        assert stocked.shelves["n3"].sources == [["n2"]]
        with pytest.raises(
            InvalidOperation, match="no volume alone: node n1, which has it: its agent does not run"
        ):
            await ask(front, "distribute", image="alone")
