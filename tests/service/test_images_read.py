"""What a running domain only reads gets to the node that it moves to, over fake nodes and a real store."""

import pytest

from clusterhost.model.errors import InvalidOperation
from imagemgr.model import CopyState
from tests.service.test_images import copies, disks
from tests.service.test_migration import LIVE, PERSIST, UNDEFINE, Client
from tests.support.clusters import running
from tests.support.shelves import stock

FLAGS = LIVE | PERSIST | UNDEFINE


async def prepared(front):
    client = Client(front, "web", "n2", FLAGS)
    await client.begin()
    return await client.prepare()


async def reading(front, stocked):
    """A domain that runs on n1 with a CD there."""
    stocked.put("n1", "cd.iso", "the bytes")
    await front.define("web", more=disks("cd.iso", more="<readonly/>"))
    assert (await front.begin("web")).ok


async def test_install_media_are_at_the_target_before_it_is_prepared(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        await reading(front, stocked)
        assert (await prepared(front)).ok
        assert stocked.content("n2", "cd.iso") == "the bytes"
        whole = (CopyState.WHOLE, 0)
        assert await copies(stocked, "cd.iso") == {"n1": whole, "n2": whole}


async def test_where_they_cannot_come_it_does_not_go(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        await reading(front, stocked)
        stocked.pools.stopped.add("n2")
        with pytest.raises(InvalidOperation, match=r"it has no volume cd\.iso, and its pool default"):
            await prepared(front)
        assert stocked.content("n2", "cd.iso") == ""


async def test_what_is_written_does_not_come_with_it(tmp_path):
    async with running(tmp_path) as front:
        stocked = stock(front)
        stocked.put("n1", "web", "the bytes")
        await front.define("web", more=disks("web"))
        assert (await front.begin("web")).ok
        assert (await prepared(front)).ok
        assert stocked.content("n2", "web") == ""
