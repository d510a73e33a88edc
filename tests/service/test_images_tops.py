"""Live moves of domains whose disks are overlays, or that name disks: what must be at the target, what is followed."""

from typing import Any

import pytest

from clusterhost.model.errors import InvalidOperation
from compat.libvirt import typedparams
from imagemgr.model import Copy, CopyState
from tests.service.test_images import copies, disks
from tests.service.test_images_moves import prepared
from tests.service.test_migration import LIVE, PERSIST, UNDEFINE, Client
from tests.support.clusters import running
from tests.support.shelves import POOL, stock

COPY_ALL, COPY_INC = 1 << 6, 1 << 7
MOVE = LIVE | PERSIST | UNDEFINE
BASE = "/images/base"
WHOLE = CopyState.WHOLE


class Choosing(Client):
    """virsh migrate --migrate-disks."""

    names: tuple[str, ...] = ()

    def params(self, **more: Any) -> list[Any]:
        chosen = [("migrate_disks", typedparams.STRING, name) for name in self.names]
        return [*super().params(**more), *typedparams.to_params(chosen)]


def two_disks(more=""):
    one = "<disk type='file'><source file='/images/{0}'/><target dev='{1}'/>{2}</disk>"
    return f"<devices>{one.format('a', 'vda', '')}{one.format('b', 'vdb', more)}</devices>"


async def started(front, more=None):
    """A domain that runs on n1 with an overlay there."""
    stocked = stock(front)
    stocked.put("n1", "base", "the base")
    stocked.put("n1", "web", "what is over it", backing=BASE)
    await front.define("web", more=more or disks("web"))
    assert (await front.begin("web")).ok
    return stocked


async def moved(front, flags, *names):
    client = Choosing(front, "web", "n2", MOVE | flags)
    client.names = names
    assert all(answer.ok for answer in await client.all())
    await front.quiet()


async def test_only_the_overlay_is_copied_and_its_base_is_there_before(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        client, answer = await prepared(front, "n2", MOVE | COPY_INC)
        assert answer.ok
        assert stocked.shelves["n2"].fetched == ["base"]
        made = stocked.shelves["n2"].files["web"]
        assert (made.content, made.backing) == ("", BASE)
        assert await copies(stocked, "web") == {"n1": (WHOLE, 0), "n2": (CopyState.COMING, 0)}
        await client.perform()
        stocked.put("n2", "web", "what is over it", backing=BASE)  # libvirt has copied it
        await client.finish()
        await client.confirm()
        await front.quiet()
        assert await copies(stocked, "web") == {"n2": (WHOLE, 1)}
        assert await copies(stocked, "base") == {"n1": (WHOLE, 0), "n2": (WHOLE, 0)}
        assert stocked.content("n1", "web") == ""
        (base,) = [held for held in await stocked.volumes.all(POOL) if held.shown == "base"]
        assert await stocked.volumes.chains.overlays(POOL, base) == ("web",)
        (job,) = [row for row in front.world.jobs.rows() if row.kind == "images"]
        assert (job.object, job.text) == ("web", "1 image is on n2")


async def test_a_base_that_is_there_is_not_copied_again(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        stocked.put("n2", "base", "the base")
        await moved(front, COPY_INC)
        assert stocked.shelves["n2"].fetched == []
        assert stocked.shelves["n2"].files["web"].backing == BASE


async def test_an_older_copy_at_the_target_is_not_what_is_copied_onto(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        await moved(front, COPY_INC)
        stocked.put("n2", "web", "newer", backing=BASE)
        await front.relay("web", "DESTROY")
        stocked.put("n1", "web", "older", backing=BASE)
        await stocked.volumes.note_copy(POOL, "web", Copy("n1", CopyState.STALE))
        assert (await front.begin("web")).ok
        _, answer = await prepared(front, "n1", MOVE | COPY_INC)
        assert answer.ok
        assert stocked.content("n1", "web") == ""


async def test_a_target_that_refuses_keeps_the_base_and_nothing_else(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        front.machines["n2"].refuses = True
        _, answer = await prepared(front, "n2", MOVE | COPY_INC)
        assert not answer.ok
        assert sorted(stocked.shelves["n2"].files) == ["base"]
        assert await copies(stocked, "web") == {"n1": (WHOLE, 0)}


async def test_a_target_without_the_base_and_without_the_room_is_told_before_anything_changes(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        stocked.shelves["n2"].refuses = "404 MiB are missing"
        with pytest.raises(InvalidOperation, match="volume base did not get from node n1 to node n2"):
            await prepared(front, "n2", MOVE | COPY_INC)
        assert await copies(stocked, "web") == {"n1": (WHOLE, 0)}
        assert "web" not in stocked.shelves["n2"].files


async def test_an_image_that_was_made_by_hand_at_the_target_is_left_to_libvirt(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        stocked.put("n2", "base", "the base")
        stocked.put("n2", "web", "made by hand", backing=BASE)
        await moved(front, COPY_INC)
        assert stocked.content("n2", "web") == "made by hand"
        assert stocked.content("n1", "web") == "what is over it"
        assert {held.shown for held in await stocked.volumes.all(POOL)} == {"base", "web", "web@n2"}


async def test_of_disks_that_a_client_names_no_others_are_followed(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        for name in ("a", "b"):
            stocked.put("n1", name, name)
        await front.define("web", more=two_disks())
        assert (await front.begin("web")).ok
        await moved(front, COPY_ALL, "vdb")
        assert (stocked.content("n1", "a"), stocked.content("n1", "b")) == ("a", "")


async def test_what_others_may_have_too_is_not_copied_by_libvirt_and_not_followed(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        for name in ("a", "b"):
            stocked.put("n1", name, name)
        await front.define("web", more=two_disks("<shareable/>"))
        assert (await front.begin("web")).ok
        await moved(front, COPY_ALL)
        assert (stocked.content("n1", "a"), stocked.content("n1", "b")) == ("", "b")


@pytest.mark.parametrize("flags", [0, COPY_ALL])
async def test_what_it_only_reads_is_there_before_it_moves(tmp_path, flags):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "cd.iso", "install")
        await front.define("web", more=disks("cd.iso", more="<readonly/>"))
        assert (await front.begin("web")).ok
        await moved(front, flags)
        assert stocked.content("n1", "cd.iso") == stocked.content("n2", "cd.iso") == "install"
        assert await copies(stocked, "cd.iso") == {"n1": (WHOLE, 0), "n2": (WHOLE, 0)}


async def test_a_front_end_that_dies_before_the_switch_over_takes_the_overlay_away_again(tmp_path):
    async with running(tmp_path) as front:
        stocked = await started(front)
        client, answer = await prepared(front, "n2", MOVE | COPY_INC)
        assert answer.ok
        await front.crash()
        for machine in front.machines.values():
            machine.end_session(client.here.session)
            machine.end_session(client.there.session)
        await front.start()
        stocked = stock(front)
        await front.settled()
        assert front.world.cluster.by_name("web").node == "n1"
        assert sorted(stocked.shelves["n2"].files) == ["base"]
        assert stocked.content("n1", "web") == "what is over it"
        assert await copies(stocked, "web") == {"n1": (WHOLE, 0)}
