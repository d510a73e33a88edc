"""The namespace of a pool and what is done to its volumes, over nodes in memory and a real store."""

import asyncio

import pytest

from clusterhost.model.errors import (
    CloneExists,
    InvalidOperation,
    InvalidXml,
    NodeError,
    NodeUnreachable,
    StoreUnavailable,
    VolumeExists,
    VolumeNotFound,
)
from clusterhost.service.volume_rows import key_of, row_of
from imagemgr.model import Copy, CopyState, Held, Kind
from tests.support.clusters import ANYONE
from tests.support.fakestorage import POOL
from tests.support.storehouse import NODES, XML, stocked


async def test_files_of_all_nodes_are_one_namespace(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"b": b"2"}, n3={".hidden": b"", "c": b""}) as here:
        assert await here.shown() == ["a", "b", "c"]
        assert await here.volumes.node_for(POOL, await here.volumes.by_name(POOL, "b")) == "n2"


async def test_nodes_are_asked_once_for_many_questions_and_again_after_a_change(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}) as here:
        await asyncio.gather(*(here.volumes.listed(POOL) for _ in range(20)))
        await here.volumes.by_name(POOL, "a")
        assert here.storage.count("STORAGE_POOL_LIST_ALL_VOLUMES") == len(NODES)
        here.volumes.listings.forget(POOL, "n1")
        await here.volumes.listed(POOL)
        assert here.storage.count("STORAGE_POOL_LIST_ALL_VOLUMES") == len(NODES) + 1


async def test_who_asks_for_a_name_that_is_not_known_has_nodes_asked_anew(tmp_path):
    async with stocked(tmp_path) as here:
        assert await here.volumes.listed(POOL) == ()
        here.storage.files["n2"]["late"] = b""
        assert (await here.volumes.by_name(POOL, "late")).copies[0].node == "n2"
        with pytest.raises(VolumeNotFound, match="no storage vol with matching name 'never'"):
            await here.volumes.by_name(POOL, "never")


async def test_a_node_that_does_not_answer_does_not_hold_up_a_list(tmp_path, monkeypatch):
    monkeypatch.setattr("clusterhost.service.volume_listings.PATIENCE", 0.1)
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"b": b"2"}) as here:
        assert await here.shown() == ["a", "b"]
        here.storage.silent.add("n2")
        here.storage.files["n1"]["new"] = b""
        assert await here.shown() == ["a", "b", "new"], "what it said before stands"
        here.lose("n2")
        with pytest.raises(NodeUnreachable, match="node n2 alone has volume 'b'"):
            await here.volumes.by_name(POOL, "b")


async def test_a_node_that_falls_silent_right_after_a_creation_does_not_unmake_it(tmp_path, monkeypatch):
    monkeypatch.setattr("clusterhost.service.volume_listings.PATIENCE", 0.1)
    async with stocked(tmp_path) as here:
        await here.shown()
        await here.create("a")
        here.storage.silent.add("n1")
        assert await here.shown() == ["a"]
        here.lose("n1")
        assert await here.shown() == []
        with pytest.raises(NodeUnreachable, match="node n1 alone has volume 'a'"):
            await here.volumes.by_name(POOL, "a")


async def test_equal_files_of_one_name_are_copies_and_others_another_volume(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}, n3={"a": b"3"}) as here:
        assert await here.shown() == ["a", "a@n3"]
        assert await here.states("a") == {"n1": "whole", "n2": "whole"}
        asked = here.storage.count("image-digest")
        await here.shown()
        assert here.storage.count("image-digest") == asked, "nobody reads files twice"


async def test_what_is_no_file_does_not_keep_files_from_being_read(tmp_path):
    both = {"a": b"1", "directory": b""}
    async with stocked(tmp_path, n1=dict(both), n2=dict(both)) as here:
        assert await here.shown() == ["a", "directory", "directory@n2"]


async def test_files_that_no_agent_can_read_are_taken_for_different_ones(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}) as here:
        here.storage.hidden = set(NODES)
        assert await here.shown() == ["a", "a@n2"]


async def test_a_file_that_is_still_being_read_is_not_shown_under_a_name_that_it_may_lose(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("clusterhost.service.volumes.PATIENCE", 0.05)
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}, n3={"a": b"3"}) as here:
        here.storage.reading.clear()
        assert await here.shown() == ["a"]
        here.storage.reading.set()
        await asyncio.sleep(0.05)
        assert await here.shown() == ["a", "a@n3"]


async def test_what_is_made_while_nodes_read_is_not_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("clusterhost.service.volumes.PATIENCE", 0.3)
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}) as here:
        here.storage.reading.clear()
        listing = asyncio.create_task(here.volumes.listed(POOL))
        await asyncio.sleep(0.05)
        here.storage.files["n3"]["new"] = b""
        await here.volumes.put(row_of(POOL, Held("new", "new", 7, (Copy("n3", generation=7),))))
        here.volumes.listings.forget(POOL, "n3")
        assert [held.shown for held in await listing] == ["a", "new"]
        assert here.context.ledger.volumes[key_of(POOL, "new")].generation == 7


async def test_names_stay_with_their_files_over_a_restart_whoever_is_away(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"2"}) as here:
        assert await here.shown() == ["a", "a@n2"]
        here.again()
        here.lose("n1")
        assert await here.shown() == ["a@n2"]
        with pytest.raises(NodeUnreachable, match="n1"):
            await here.volumes.by_name(POOL, "a")
        here.regain("n1")
        assert await here.shown() == ["a", "a@n2"]


async def test_keys_and_paths_find_their_volume(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"2"}) as here:
        for held in await here.volumes.listed(POOL):
            key = await here.volumes.key(POOL, held)
            assert key == f"/pool/{held.shown}"
            assert await here.volumes.by_key(key) == (POOL, held)
        assert (await here.volumes.by_path("/pool//a/"))[1].shown == "a"
        with pytest.raises(VolumeNotFound, match=r"with matching path '/other/\.\./pool/a'"):
            await here.volumes.by_path("/other/../pool/a")
        with pytest.raises(VolumeNotFound, match="no storage vol with matching key no"):
            await here.volumes.by_key("no")


async def test_a_new_volume_goes_where_there_is_most_room(tmp_path):
    async with stocked(tmp_path) as here:
        here.storage.room = {"n1": 5, "n2": 9, "n3": 7}
        vol = await here.create("a")
        assert (vol.pool, vol.name, vol.key) == ("p", "a", "/pool/a")
        assert "a" in here.storage.files["n2"]
        assert await here.shown() == ["a"]


async def test_an_overlay_goes_where_its_base_is(tmp_path):
    async with stocked(tmp_path, n3={"base": b"1"}) as here:
        here.storage.room = {"n1": 9, "n2": 9, "n3": 1}
        await here.create("a", "<backingStore><path>/pool/base</path></backingStore>")
        assert "a" in here.storage.files["n3"]


async def test_a_name_is_refused_that_exists_anywhere_or_could_be_no_volumes(tmp_path):
    async with stocked(tmp_path, n3={"a": b"1"}) as here:
        with pytest.raises(VolumeExists, match="'a'"):
            await here.create("a")
        here.lose("n3")
        with pytest.raises(VolumeExists):
            await here.create("a<!-- as libvirt reads it -->")
        for name in (".a", "a/b", "a&#10;b", "x" * 256):
            with pytest.raises(InvalidOperation, match="volume name"):
                await here.create(name)
        with pytest.raises(InvalidXml, match="document type"):
            await here.work.create(ANYONE, POOL, f"<!DOCTYPE volume>{XML.format('b', '')}", 0)
        assert not here.storage.files["n1"]
        assert not here.storage.files["n2"]


async def test_one_name_asked_for_twice_at_once_is_made_once(tmp_path):
    async with stocked(tmp_path) as here:
        results = await asyncio.gather(*(here.create("a") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(result, VolumeExists) for result in results) == 4
        assert here.storage.count("STORAGE_VOL_CREATE_XML") == 1


async def test_what_a_node_refuses_leaves_nothing(tmp_path):
    async with stocked(tmp_path) as here:
        for document in (XML.format("a", "bad"), "<volume", "<other/>", "<volume/>"):
            with pytest.raises(NodeError):
                await here.work.create(ANYONE, POOL, document, 0)
        assert not here.context.ledger.volumes
        await here.create("a")


async def test_a_creation_that_nobody_saw_the_end_of_is_not_listed_and_may_be_asked_for_again(tmp_path):
    async with stocked(tmp_path) as here:
        here.storage.broken = {(node, "STORAGE_VOL_CREATE_XML") for node in NODES}
        with pytest.raises(NodeUnreachable):
            await here.create("a")
        here.again()
        assert await here.shown() == []
        with pytest.raises(InvalidOperation, match="its creation at node n1 has not been seen to end"):
            await here.volumes.node_for(POOL, await here.volumes.by_name(POOL, "a"))
        here.storage.broken = set()
        await here.create("a")
        assert await here.shown() == ["a"]
        assert sum("a" in files for files in here.storage.files.values()) == 1


async def test_a_creation_that_never_began_is_forgotten(tmp_path):
    async with stocked(tmp_path) as here:
        here.storage.broken = {(node, "STORAGE_VOL_CREATE_XML") for node in NODES}
        with pytest.raises(NodeUnreachable):
            await here.create("a")
        here.storage.files["n1"].clear()
        assert await here.shown() == []
        assert not here.context.ledger.volumes


async def test_a_clone_is_made_at_its_source(tmp_path):
    async with stocked(tmp_path, n2={"a": b"text"}) as here:
        here.storage.room = {"n1": 9}
        await here.work.clone(ANYONE, POOL, XML.format("b", ""), (POOL, "a"), 0)
        assert here.storage.files["n2"]["b"] == b"text"
        with pytest.raises(CloneExists, match=r"storage volume name 'b' already in use\."):
            await here.work.clone(ANYONE, POOL, XML.format("b", ""), (POOL, "a"), 0)


async def test_all_copies_are_deleted_or_none(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}) as here:
        await here.shown()
        here.lose("n2")
        with pytest.raises(NodeUnreachable, match="node n2 has a copy of volume 'a'"):
            await here.delete("a")
        assert "a" in here.storage.files["n1"]
        here.regain("n2")
        await here.delete("a")
        assert not any(here.storage.files.values())
        assert await here.shown() == []
        assert not here.context.ledger.volumes


async def test_of_two_volumes_of_one_name_the_other_stays(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"2"}) as here:
        await here.shown()
        await here.delete("a@n2")
        assert (await here.shown(), here.storage.files["n1"]) == (["a"], {"a": b"1"})


async def test_all_copies_are_wiped_and_one_is_resized(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}) as here:
        await here.shown()
        await here.wipe("a")
        assert here.storage.files["n1"]["a"] == here.storage.files["n2"]["a"] == b"\0"
        await here.work.resize(ANYONE, POOL, "a", 3, 0)
        states = await here.states("a")
        assert sorted(states.values()) == ["stale", "whole"]
        (current,) = [node for node, state in states.items() if state == "whole"]
        assert len(here.storage.files[current]["a"]) == 3
        here.lose(current)
        with pytest.raises(NodeUnreachable, match=f"node {current} alone has volume 'a'"):
            await here.volumes.by_name(POOL, "a")


async def test_an_upload_is_incomplete_until_its_end_and_makes_other_copies_older(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}) as here:
        await here.shown()
        upload = await here.upload("a")
        assert await here.shown() == []
        with pytest.raises(InvalidOperation, match=r"volume 'a' is still in use\."):
            await here.upload("a")
        with pytest.raises(InvalidOperation, match=r"volume 'a' is still in use\."):
            await here.delete("a")
        await upload.finished()
        assert await here.shown() == ["a"]
        assert await here.states("a") == {"n1": "whole", "n2": "stale"}


async def test_an_upload_that_its_node_refuses_changes_nothing(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}, n2={"a": b"1"}) as here:
        await here.shown()
        before = dict(here.context.ledger.volumes)
        await (await here.upload("a")).refused()
        assert here.context.ledger.volumes == before


async def test_an_upload_that_the_store_cannot_note_is_not_begun_and_the_volume_stays_whole(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}) as here:
        await here.shown()
        database, aside = tmp_path / "clusterhost.db", tmp_path / "aside.db"
        database.rename(aside)
        with pytest.raises(StoreUnavailable):
            await here.upload("a")
        aside.rename(database)
        assert await here.shown() == ["a"]
        assert await here.states("a") == {"n1": "whole"}
        await (await here.upload("a")).finished()


async def test_a_cut_upload_says_what_is_missing_until_one_fills_it(tmp_path):
    async with stocked(tmp_path, n1={"a": b"0123456789"}) as here:
        upload = await here.upload("a", 2, 6)
        upload.passed(3)
        upload.cut("the client went away")
        upload.cut("a second reason")
        await asyncio.sleep(0.05)
        here.again()
        assert await here.shown() == []
        with pytest.raises(InvalidOperation) as refused:
            await here.volumes.node_for(POOL, await here.volumes.by_name(POOL, "a"))
        assert "bytes 2 to 8 to node n1 was cut after 3 of 6 bytes: the client went away" in str(
            refused.value
        )
        await (await here.upload("a", 0, 4)).finished()
        assert await here.shown() == [], "bytes 4 to 8 are not there"
        await (await here.upload("a", 2, 6)).finished()
        assert await here.shown() == ["a"]


async def test_a_cut_upload_is_made_good_by_a_wipe(tmp_path):
    async with stocked(tmp_path, n1={"a": b"0123456789"}) as here:
        (await here.upload("a")).cut("the client went away")
        assert await here.shown() == []
        await here.wipe("a")
        assert await here.shown() == ["a"]
        assert await here.volumes.node_for(POOL, await here.volumes.by_name(POOL, "a")) == "n1"


async def test_a_front_end_that_ends_in_an_upload_leaves_the_volume_incomplete(tmp_path):
    async with stocked(tmp_path, n1={"a": b"0123456789"}) as here:
        await here.upload("a")
        here.again()
        assert await here.shown() == []
        with pytest.raises(InvalidOperation, match="has not been seen to end"):
            await here.volumes.node_for(POOL, await here.volumes.by_name(POOL, "a"))


async def test_a_copy_that_came_is_known_at_its_node_and_one_that_comes_is_not_shown_twice(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}) as here:
        await here.shown()
        await here.volumes.note_copy(POOL, "a", Copy("n2", CopyState.COMING, 0))
        here.storage.known["n2"] = set()
        here.storage.files["n2"]["a"] = b"1"
        assert await here.shown() == ["a"]
        await here.volumes.note_copy(POOL, "a", Copy("n2", CopyState.WHOLE, 0, b"1"))
        assert await here.states("a") == {"n1": "whole", "n2": "whole"}
        await here.volumes.raise_generation(POOL, "a", "n2")
        assert await here.states("a") == {"n1": "stale", "n2": "whole"}
        here.storage.files["n1"].pop("a")
        await here.volumes.drop_copy(POOL, "a", "n1")
        assert await here.states("a") == {"n2": "whole"}


async def test_a_volume_of_a_shared_pool_is_one_whichever_node_is_asked(tmp_path):
    same = {"a": b"1"}
    async with stocked(tmp_path, Kind.SHARED, n1=same, n2=same, n3=same) as here:
        assert await here.shown() == ["a"]
        assert await here.states("a") == {"": "whole"}
        await here.create("b")
        assert here.storage.count("STORAGE_POOL_REFRESH") == 2, "the others look"
        await here.delete("a")
        assert await here.shown() == ["b"]
        assert here.storage.count("image-digest") == 0


async def test_a_pool_that_is_gone_takes_what_was_known_of_its_volumes_with_it(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}) as here:
        await here.shown()
        here.volumes.forget_pool(POOL)
        assert not here.context.ledger.volumes
