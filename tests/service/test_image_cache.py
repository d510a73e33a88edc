"""Copies that a node could do without: kept below a limit, the least recently used go first; over fake nodes."""

import pytest

from clusterhost.model.errors import InvalidArgument, InvalidOperation, NoPlacement
from clusterhost.service.admin import METHODS
from clusterhost.service.image_evict import last_use
from clusterhost.service.image_limits import set_limit
from clusterhost.service.ports import Caller
from clusterhost.service.volume_rows import held_of
from imagemgr.model import Copy, Kind, Volume, VolumeTarget
from tests.support.clusters import running
from tests.support.image_calls import DISK, ask, begin, states, stocked_in
from tests.support.shelves import DIRECTORY, POOL

MIB = 1 << 20
ME = Caller(who="test")
READ = "<readonly/>"


async def stocked_with(front, *names, size=2 * MIB):
    """Images that n1 and n2 both have; they were used one after the other, the first one longest ago."""
    stocked = stocked_in(front)
    for name in names:
        for node in ("n1", "n2"):
            stocked.put(node, name, f"content of {name}", size=size)
    await stocked.volumes.all(POOL)
    for name in names:
        use(front, stocked, name)
    return stocked


def use(front, stocked, *names):
    for name in names:
        front.now += 100
        for node in ("n1", "n2"):
            stocked.volumes.note_used(POOL, name, node)


async def limit(front, stocked, text):
    await set_limit(front.world.context, ME, stocked.pools.entry, text)


async def comes(front, stocked, name, size=2 * MIB):
    """A new image gets to n2, which is over its limit then, or is not."""
    front.now += 100
    stocked.put("n1", name, f"content of {name}", size=size)
    (row,) = await ask(front, "distribute", image=name, nodes=["n2"])
    assert row["ok"]
    await front.quiet()
    return sorted(stocked.shelves["n2"].files)


def evictions(front):
    return [job for job in front.world.jobs.rows() if job.kind == "evict"]


# -- a limit


async def test_above_the_limit_the_least_recently_used_copies_go_and_it_can_be_seen(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "b", "a", "c")
        await limit(front, stocked, "5MiB")
        assert await comes(front, stocked, "d") == ["c", "d"]
        assert sorted(stocked.shelves["n1"].files) == ["a", "b", "c", "d"]
        assert await states(stocked, "a") == {"n1": "whole"}
        (job,) = evictions(front)
        assert (job.object, job.state) == ("default", "done")
        assert job.text == "b, a (4.0 MiB) from node n2: the limit is 5MiB"
        await front.world.ledger.commit()  # all that was noted before is written then
        (line,) = (await ask(front, "show", image="a"))["journal"]
        assert (line["kind"], line["who"]) == ("evict image", "cache")
        assert line["text"] == "from node n2, 2.0 MiB: the limit is 5MiB"


async def test_without_a_limit_nothing_goes(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        assert await comes(front, stocked, "c") == ["a", "b", "c"]


async def test_a_limit_may_be_a_share_of_what_the_pool_can_hold_on_the_node(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        stocked.shelves["n2"].free = 20 * MIB
        await limit(front, stocked, "20%")
        assert await comes(front, stocked, "c") == ["b", "c"]


async def test_the_configuration_says_it_where_nobody_has_of_the_pool(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        images = front.settings.images.model_copy(update={"cache_limit": "4MiB"})
        front.world.context.settings = front.settings.model_copy(update={"images": images})
        await limit(front, stocked, "none")
        assert await comes(front, stocked, "c") == ["a", "b", "c"]
        await limit(front, stocked, "default")
        assert await comes(front, stocked, "d") == ["c", "d"]


async def test_what_has_just_come_stays_though_it_is_too_large_alone(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        await limit(front, stocked, "1MiB")
        assert await comes(front, stocked, "large") == ["large"]
        assert await comes(front, stocked, "next") == ["next"]


async def test_the_last_newest_copy_is_no_cache(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        stocked.put("n2", "only", "here", size=50 * MIB)
        await limit(front, stocked, "1MiB")
        assert await comes(front, stocked, "b") == ["b", "only"]
        front.cut("n1")
        assert await comes_of_n3(front, stocked, "c") == ["b", "c", "only"]


async def comes_of_n3(front, stocked, name):
    stocked.put("n3", name, name)
    await ask(front, "distribute", image=name, nodes=["n2"])
    await front.quiet()
    return sorted(stocked.shelves["n2"].files)


async def test_an_older_copy_goes_like_any_other(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        await begin(front, "n1", "web", "a")
        await front.relay("web", "DESTROY")
        assert (await states(stocked, "a"))["n2"] == "stale"
        await limit(front, stocked, "2MiB")
        assert await comes(front, stocked, "b") == ["b"]


async def test_what_a_running_domain_has_neither_goes_nor_counts(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b", "c")
        await begin(front, "n2", "web", "a", READ)
        use(front, stocked, "b", "c")
        below = "<backingStore type='file'><format type='qcow2'/><source file='/images/b'/></backingStore>"
        await begin(front, "n2", "two", "elsewhere", below)
        await limit(front, stocked, "4MiB")
        assert await comes(front, stocked, "d") == ["a", "b", "c", "d"]
        assert await comes(front, stocked, "e") == ["a", "b", "d", "e"]


async def test_the_end_of_a_domain_is_a_use_and_what_it_had_may_go_then(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        await begin(front, "n2", "web", "a", READ)
        use(front, stocked, "b")
        await limit(front, stocked, "2MiB")
        front.now += 100
        await front.relay("web", "DESTROY")
        await front.quiet()
        assert sorted(stocked.shelves["n2"].files) == ["a"]
        copy = held_of(stocked.volumes.row(POOL, "a")).at("n2")
        assert copy.used == front.now


async def test_the_base_of_an_overlay_stays_where_that_is(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "base", "b")
        stocked.put("n2", "top", "top", backing="/images/base")
        await limit(front, stocked, "2MiB")
        assert await comes(front, stocked, "c") == ["base", "c", "top"]


async def test_a_domain_that_is_just_being_started_keeps_its_copy(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        await front.define("web", more=DISK.format("a", READ))
        await limit(front, stocked, "2MiB")
        async with front.world.context.locks.hold(front.world.cluster.by_name("web").uuid):
            assert await comes(front, stocked, "c") == ["a", "c"]


async def test_what_is_copied_from_or_counted_on_stays(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        await limit(front, stocked, "2MiB")
        with stocked.volumes.claims.hold("n2", [(POOL, "a")]):
            assert await comes(front, stocked, "c") == ["a", "c"]
            with pytest.raises(InvalidOperation, match="'a' is in use on node n2: a domain is being started"):
                await ask(front, "evict", image="a", nodes=["n2"])
        assert (await ask(front, "evict", image="a", nodes=["n2"]))[0]["evicted"]


async def test_the_source_of_a_copy_stays_until_it_is_copied(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        seen = []
        stocked.shelves["n3"].meanwhile = lambda: seen.append(stocked.volumes.claims.held(POOL, "a", "n1"))
        await ask(front, "distribute", image="a", nodes=["n3"])
        assert seen == [True]
        assert not stocked.volumes.claims.held(POOL, "a", "n1")


async def test_a_node_that_is_to_have_an_image_which_it_has_has_used_it(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        stocked.put("n1", "a")
        front.now += 100
        await ask(front, "distribute", image="a")
        used = {copy["node"]: copy["last_used"] for copy in await ask(front, "copies", image="a")}
        assert used == dict.fromkeys(("n1", "n2", "n3"), front.now)


async def test_what_a_node_said_of_an_earlier_volume_of_the_name_is_forgotten(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b")
        await limit(front, stocked, "3MiB")
        assert await comes(front, stocked, "c") == ["c"]
        for node in ("n1", "n2"):
            del stocked.shelves[node].files["c"]
        await states(stocked, "a")
        assert await comes(front, stocked, "c", size=4 * MIB) == ["c"]
        use(front, stocked, "c")
        assert await comes(front, stocked, "d", size=MIB) == ["d"]


async def test_a_limit_is_a_limit_of_a_local_pool_of_files(tmp_path):
    async with running(tmp_path) as front:
        stocked = stocked_in(front)
        with pytest.raises(InvalidArgument, match="'20GB' is no limit"):
            await limit(front, stocked, "20GB")
        object.__setattr__(stocked.pools.entry, "kind", Kind.SHARED)
        with pytest.raises(InvalidOperation, match="has each volume once"):
            await limit(front, stocked, "20GiB")


async def test_limits_pins_and_last_uses_outlive_the_front_end(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "b", "a", "c")
        await limit(front, stocked, "5MiB")
        await ask(front, "pin", image="b", nodes=["n2"])
        await front.quiet()
        await front.world.ledger.commit()
        await front.crash()
        await front.start()
        stocked = stocked_in(front)
        assert await comes(front, stocked, "d") == ["b", "c", "d"]


# -- pins


async def unpin(front, **args):
    return await ask(front, "pin", on=False, **args)


async def test_a_pinned_image_stays_until_it_is_unpinned(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a", "b", "c")
        assert (await ask(front, "pin", image="a"))["pinned"] == ["all"]
        assert (await ask(front, "pin", image="b", nodes=["n1"]))["pinned"] == ["n1"]
        await limit(front, stocked, "2MiB")
        assert await comes(front, stocked, "d") == ["a", "d"]
        assert (await ask(front, "show", image="b"))["pinned"] == ["n1"]
        assert [copy["pinned"] for copy in await ask(front, "copies", image="a")] == [True, True]
        await unpin(front, image="a")
        assert await comes(front, stocked, "e") == ["e"]


async def test_evict_refuses_what_is_pinned_unless_it_is_forced(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        await ask(front, "pin", image="a", nodes=["n2"])
        with pytest.raises(
            InvalidOperation, match="'a' is pinned on node n2: unpin it first, or use --force"
        ):
            await ask(front, "evict", image="a", nodes=["n2"])
        front.now += 1000
        (row,) = await ask(front, "evict", older_than=10)
        assert row["node"] == "n1"
        await stocked.volumes.all(POOL)
        with pytest.raises(InvalidOperation, match="last newest copy"):
            await ask(front, "evict", image="a", nodes=["n2"], force=True)
        await ask(front, "distribute", image="a", nodes=["n1"])
        assert (await ask(front, "evict", image="a", nodes=["n2"], force=True))[0]["evicted"]


async def test_a_pin_is_taken_back_where_it_was_given(tmp_path):
    async with running(tmp_path) as front:
        await stocked_with(front, "a")
        await ask(front, "pin", image="a", nodes=["n1", "n2"])
        assert (await unpin(front, image="a", nodes=["n1"]))["pinned"] == ["n2"]
        with pytest.raises(InvalidOperation, match="'a' is not pinned on node n1"):
            await unpin(front, image="a", nodes=["n1"])
        await ask(front, "pin", image="a")
        with pytest.raises(InvalidOperation, match="pinned on all nodes"):
            await unpin(front, image="a", nodes=["n1"])
        assert (await unpin(front, image="a"))["pinned"] == []


async def test_another_volume_of_the_same_name_is_not_pinned(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        await ask(front, "pin", image="a")
        row = stocked.volumes.row(POOL, "a")
        await stocked.volumes.drop(row)
        assert not stocked.volumes.pins.pinned(POOL, "a", "n1")


# -- room for a start


async def full(front, *names):
    """n2 has 5 MiB left; web's image of 8 MiB is on n1, where web must not be."""
    stocked = await stocked_with(front, *names)
    stocked.put("n1", "web", "web", size=8 * MIB)
    await front.define("web", caller=Caller(view="n1"), more=DISK.format("web", ""))
    stocked.shelves["n2"].free = 5 * MIB
    stocked.shelves["n3"].free = 0
    return stocked


async def move(front):
    return await METHODS["domain.move"](front.world, {"domain": "web", "to": ""}, lambda *_: None)


async def test_a_start_has_room_made_for_its_images_and_only_as_much_as_it_needs(tmp_path):
    async with running(tmp_path) as front:
        stocked = await full(front, "a", "b", "c")
        told = await METHODS["placement.explain"](front.world, {"domain": "web"}, lambda *_: None)
        texts = {row["node"]: row["text"] for row in told["reasons"]}
        assert texts["n2"].endswith(
            "8 MiB of its images must come, 4 MiB of copies that are not in use would go for them"
        )
        assert sorted(stocked.shelves["n2"].files) == ["a", "b", "c"]
        assert (await move(front))["node"] == "n2"
        assert sorted(stocked.shelves["n2"].files) == ["c", "web"]
        (job,) = evictions(front)
        assert job.text == "a, b (4.0 MiB) from node n2: room for web"


async def test_nothing_goes_where_it_would_not_be_enough(tmp_path):
    async with running(tmp_path) as front:
        stocked = await full(front, "a")
        with pytest.raises(
            NoPlacement, match="n2: has 5 MiB left in the pool, the images that must come need 8 MiB"
        ):
            await move(front)
        assert sorted(stocked.shelves["n2"].files) == ["a"]


async def test_room_is_not_made_of_what_is_pinned_or_in_use(tmp_path):
    async with running(tmp_path) as front:
        stocked = await full(front, "a", "b", "c")
        await ask(front, "pin", image="a")
        await begin(front, "n2", "reader", "b", READ)
        with pytest.raises(NoPlacement):
            await move(front)
        assert sorted(stocked.shelves["n2"].files) == ["a", "b", "c"]


async def test_a_node_with_room_is_taken_before_one_where_room_must_be_made(tmp_path):
    async with running(tmp_path) as front:
        stocked = await full(front, "a", "b", "c")
        stocked.shelves["n3"].free = 1 << 30
        assert (await move(front))["node"] == "n3"
        assert evictions(front) == []


# -- by digest


async def test_a_file_of_the_same_bytes_under_another_name_is_taken_instead_of_the_network(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        stocked.put("n1", "again", "content of a", size=2 * MIB)
        (row,) = await ask(front, "distribute", image="again", nodes=["n2"])
        assert (row["ok"], row["received_bytes"]) == (True, 0)
        (row,) = await ask(front, "distribute", image="again", nodes=["n3"])
        assert row["received_bytes"] == 2 * MIB


async def test_a_start_takes_it_from_there_too(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "a")
        stocked.put("n1", "again", "content of a")
        seen, fetch = [], stocked.shelves["n2"].fetch

        def noting(name, order):
            seen.append(order.local)
            return fetch(name, order)

        stocked.shelves["n2"].fetch = noting
        await begin(front, "n2", "web", "again")
        assert seen == [(f"{DIRECTORY}/a",)]


# -- overlays


async def test_an_older_overlay_goes_and_its_base_after_it(tmp_path):
    async with running(tmp_path) as front:
        stocked = await stocked_with(front, "base")
        for node in ("n1", "n2"):
            stocked.put(node, "web", "web", size=4 * MIB, backing="/images/base")
        await begin(front, "n2", "web", "web")
        front.now += 100
        await front.relay("web", "DESTROY")
        await move_to(front, "n1")
        await front.begin("web")
        await front.quiet()
        assert (await states(stocked, "web"))["n2"] == "stale"
        await limit(front, stocked, "2MiB")
        front.now += 100
        assert await comes(front, stocked, "b") == ["b"]
        assert sorted(stocked.shelves["n1"].files) == ["b", "base", "web"]


async def move_to(front, node):
    await METHODS["domain.move"](front.world, {"domain": "web", "to": node}, lambda *_: None)


async def test_the_base_of_an_overlay_that_is_still_coming_stays(tmp_path):
    async with running(tmp_path) as front:
        stocked, seen = await stocked_with(front, "base"), []
        stocked.put("n1", "top", "top", backing="/images/base")

        def meanwhile():
            claims = stocked.volumes.claims
            seen.append([claims.held(POOL, name, "n2") for name in ("base", "top")])

        stocked.shelves["n2"].meanwhile = meanwhile
        await begin(front, "n2", "web", "top")
        assert seen == [[True, True]]
        assert not stocked.volumes.claims.held(POOL, "base", "n2")


@pytest.mark.parametrize(
    ("noted", "times", "used"),
    [
        (50.0, {"atime": 90.0, "mtime": 40.0, "ctime": 95.0}, 50.0),
        (50.0, {"mtime": 60.0}, 60.0),
        (0.0, {"atime": 90.0, "mtime": 40.0, "ctime": 45.0}, 45.0),
        (0.0, {"atime": 90.0}, 90.0),
        (0.0, {}, None),
    ],
)
def test_that_a_file_was_read_is_no_use_where_more_is_known(noted, times, used):
    target = VolumeTarget(timestamps=tuple((key, str(value)) for key, value in times.items()))
    assert last_use(Copy("n1", used=noted), Volume("a", target=target)) == used
