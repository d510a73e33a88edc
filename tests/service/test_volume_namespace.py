"""A namespace that is brought up to a change is the one that would be made of all anew, and costs what has changed."""

import random
import time
from dataclasses import replace

import pytest

from clusterhost.service.volume_rows import held_of, row_of, with_copy, without_copy, written
from clusterhost.service.volumes import Volumes
from imagemgr.model import Copy, CopyState, Held, Kind, PoolType
from tests.support.fakestorage import POOL
from tests.support.storehouse import NODES, stocked

NAMES = ["a", "b", "a@n2", "a@n2@n2", ".hidden", "c", "d", "e"]


class Doings:
    """What may happen to a pool, by chance."""

    def __init__(self, here, seed):
        self.here, self.dice = here, random.Random(seed)

    async def next(self):
        deeds = [
            self.file,
            self.file,
            self.gone,
            self.away,
            self.row,
            self.row,
            self.copy,
            self.used,
            self.half,
        ]
        await self.dice.choice(deeds)()

    def _row(self):
        rows = list(self.here.context.ledger.volumes.values())
        return self.dice.choice(rows) if rows else None

    async def file(self):
        """It appears at a node."""
        node = self.dice.choice(NODES)
        self.here.storage.files[node][self.dice.choice(NAMES)] = self.dice.choice([b"1", b"2"])
        self.here.volumes.listings.forget(POOL, node)

    async def gone(self):
        """It disappears."""
        node = self.dice.choice(NODES)
        if names := sorted(self.here.storage.files[node]):
            del self.here.storage.files[node][self.dice.choice(names)]
            self.here.volumes.listings.forget(POOL, node)

    async def away(self):
        """A node goes, or all are there again."""
        if self.here.storage.away:
            self.here.regain(next(iter(self.here.storage.away)))
        else:
            self.here.lose(self.dice.choice(NODES))

    async def row(self):
        """A volume is written to."""
        if (row := self._row()) is not None and (held := held_of(row)).copies:
            await self.here.volumes.put(row_of(POOL, written(held, self.dice.choice(held.copies).node), row))

    async def copy(self):
        """A copy comes, or goes while the node still lists its file."""
        if (row := self._row()) is None:
            return
        held, node = held_of(row), self.dice.choice(["", *NODES] if len(row.copies) > 1 else NODES)
        if node and held.at(node) is None:
            await self.here.volumes.put(
                row_of(POOL, with_copy(held, Copy(node, CopyState.COMING, held.generation)))
            )
        elif len(held.copies) > 1:
            await self.here.volumes.put(row_of(POOL, without_copy(held, held.copies[0].node), row))
        else:
            await self.here.volumes.drop(row)

    async def used(self):
        """A domain was started with it."""
        if (row := self._row()) is not None and row.copies:
            self.here.volumes.note_used(POOL, row.shown, row.copies[0][0])

    async def half(self):
        """A creation is broken off: nobody will come back to it."""
        node, name = self.dice.choice(NODES), self.dice.choice("xy")
        row = row_of(POOL, Held(name, name, 0, (Copy(node, CopyState.COMING),)))
        await self.here.volumes.put(replace(row, state="incomplete", reason="its creation"))


class Unheard:
    """A ledger as it is now: what is put into it is nobody's affair."""

    def __init__(self, ledger):
        self.volumes, self.meta = dict(ledger.volumes), dict(ledger.meta)

    def note(self, *changes):
        pass


async def anew(here):
    """As a front end sees it that has just started."""
    fresh = Volumes(replace(here.context, ledger=Unheard(here.context.ledger)), here.pools)
    fresh.load()
    fresh.chains.look = lambda *_: None
    return list(await fresh.all(POOL))


POOLS = [(Kind.LOCAL, PoolType.DIR), (Kind.SHARED, PoolType.DIR), (Kind.LOCAL, PoolType.LOGICAL)]


@pytest.mark.parametrize(("kind", "type"), POOLS)
@pytest.mark.parametrize("seed", range(6))
async def test_it_is_what_would_be_made_anew_whatever_has_happened(tmp_path, kind, type, seed):
    async with stocked(tmp_path, kind, type) as here:
        doings = Doings(here, seed)
        for _ in range(60):
            for _ in range(doings.dice.choice([1, 1, 2, 4])):
                await doings.next()
            expected = await anew(here)
            assert list(await here.volumes.all(POOL)) == expected
            assert expected == sorted(expected, key=lambda held: held.shown)
            for name in NAMES:
                assert await here.volumes.named(POOL, name) == [one for one in expected if one.name == name]


async def test_what_nobody_works_on_any_more_goes_with_the_next_change_of_another(tmp_path):
    async with stocked(tmp_path, n1={"a": b"1"}) as here:
        half = row_of(POOL, Held("x", "x", 0, (Copy("n1", CopyState.COMING),)))
        half = replace(half, state="incomplete", reason="its creation")
        here.volumes.in_hand.add(half.key)
        await here.volumes.put(half)
        assert [held.shown for held in await here.volumes.all(POOL)] == ["a", "x"]
        here.volumes.in_hand.discard(half.key)
        row = here.volumes.row(POOL, "a")
        await here.volumes.put(row_of(POOL, written(held_of(row), "n1"), row))
        assert [held.shown for held in await here.volumes.all(POOL)] == ["a"]


async def test_a_change_of_one_volume_looks_at_that_one_and_not_at_all_of_the_pool(tmp_path):
    async with stocked(tmp_path, n1={f"v{number}": b"1" for number in range(3000)}) as here:
        here.volumes.chains.look = lambda *_: None  # nobody waits for it, and it takes its turns between
        began = time.perf_counter()
        await here.volumes.all(POOL)
        whole = time.perf_counter() - began
        row = here.volumes.row(POOL, "v7")
        changes = []
        for _ in range(5):
            row = row_of(POOL, written(held_of(row), "n1"), row)
            here.volumes.note(row)
            began = time.perf_counter()
            assert (await here.volumes.by_name(POOL, "v7")).generation == row.generation
            changes.append(time.perf_counter() - began)
        assert min(changes) < whole / 20
