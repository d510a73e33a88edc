"""The ledger: what is promised is durable, what is noted gets there in order, numbers are never given twice."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterhost.model.errors import StoreUnavailable
from clusterhost.service.ledger import BLOCK, Counter, Ledger
from clusterhost.service.locks import Locks, Tasks
from clusterhost.store.errors import Superseded
from clusterhost.store.rows import (
    DomainRow,
    DropDomain,
    DropNode,
    Intent,
    NodeRow,
    PutDomain,
    PutIntent,
    PutNode,
    Saved,
    SetMeta,
)
from clusterhost.store.store import Store

ROW = DomainRow(b"u" * 16, "web", "n1")


class Ailing:
    """A store whose disk is full while `error` is set; it keeps what it was given otherwise."""

    def __init__(self):
        self.error = None
        self.batches = []
        self.epoch = 1

    async def load(self):
        return Saved({}, [], [], [], [])

    async def write(self, *changes):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.batches.append(changes)


async def opened(store):
    ledger = Ledger(store, lambda: 0.0)
    await ledger.open()
    return ledger


async def test_what_is_committed_is_there_after_a_crash_and_what_is_noted_after_a_moment(tmp_path):
    url = f"sqlite:///{tmp_path / 'c.db'}"
    store = await Store.open(url)
    ledger = await opened(store)
    await ledger.commit(PutDomain(ROW))
    ledger.note(SetMeta("noted", "yes"))
    await asyncio.sleep(0.3)
    ledger._writer.cancel()
    await asyncio.gather(ledger._writer, return_exceptions=True)
    await store.close()
    again = await Store.open(url)
    saved = await again.load()
    await again.close()
    assert saved.domains == [ROW]
    assert saved.meta["noted"] == "yes"


async def test_while_the_store_is_down_promises_fail_reads_go_on_and_notes_are_written_later():
    store = Ailing()
    ledger = await opened(store)
    store.error = StoreUnavailable("disk full")
    with pytest.raises(StoreUnavailable):
        await ledger.commit(PutDomain(ROW))
    with pytest.raises(StoreUnavailable):
        await ledger.intend(Intent("op", "define", ROW.uuid, "n1"))
    assert ledger.domains[ROW.uuid] == ROW
    assert not ledger.intents, "an intent that was not recorded must not be acted on"
    store.error = None
    await ledger.close()
    written = [change for batch in store.batches for change in batch]
    assert PutDomain(ROW) in written
    assert not any(isinstance(change, PutIntent) for change in written)


async def test_the_last_word_about_a_row_wins_also_when_an_earlier_write_failed():
    store = Ailing()
    ledger = await opened(store)
    store.error = StoreUnavailable("disk full")
    with pytest.raises(StoreUnavailable):
        await ledger.commit(PutDomain(ROW))
    ledger.note(DropDomain(ROW.uuid))
    store.error = None
    await ledger.commit(SetMeta("a", "b"))
    await ledger.close()
    about = [
        change for batch in store.batches for change in batch if isinstance(change, PutDomain | DropDomain)
    ]
    assert about == [DropDomain(ROW.uuid)]


async def test_what_waits_goes_out_as_one_transaction():
    store = Ailing()
    ledger = await opened(store)
    await asyncio.gather(*(ledger.commit(SetMeta(str(number), "x")) for number in range(50)))
    await ledger.close()
    assert len(store.batches) <= 4


async def test_a_front_end_that_was_superseded_knows_it():
    store = Ailing()
    ledger = await opened(store)
    store.error = Superseded("epoch 2")
    with pytest.raises(StoreUnavailable):
        await ledger.commit(SetMeta("a", "b"))
    assert ledger.superseded.is_set()
    store.error = None
    await ledger.close()


@given(st.lists(st.integers(1, 3 * BLOCK), max_size=6))
def test_numbers_are_never_given_twice_whatever_crashes(lives):
    saved = {}

    def note(change):
        saved[change.key] = int(change.value)

    given_before = -1
    for count in lives:
        counter = Counter("n", saved.get("n", 0), note)
        for _ in range(count):
            number = counter.take()
            assert number > given_before
            given_before = number
            assert saved["n"] > number, "reserved in the store before it is given"


async def test_a_node_that_comes_back_has_its_cell_and_no_other_ever_gets_it(tmp_path):
    url = f"sqlite:///{tmp_path / 'c.db'}"
    store = await Store.open(url)
    ledger = await opened(store)
    for name in ("n1", "n2"):
        await ledger.commit(PutNode(NodeRow(name, ledger.cell_for(name))))
    await ledger.commit(DropNode("n1"), ledger.cell_kept("n1"))
    await ledger.close()
    await store.close()
    store = await Store.open(url)
    ledger = await opened(store)
    assert [ledger.cell_for(name) for name in ("n3", "n1", "n4")] == [2, 0, 3]
    await ledger.close()
    await store.close()


async def test_locks_let_one_in_and_forget_keys_that_nobody_wants():
    locks, inside = Locks(), []

    async def work(number):
        async with locks.hold(b"u", "web", "mail"):
            inside.append(number)
            assert len(inside) == 1
            await asyncio.sleep(0)
            inside.remove(number)

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not locks._locks


async def test_a_background_failure_is_logged_and_does_not_end_the_rest():
    tasks = Tasks()

    async def fails():
        raise StoreUnavailable("no")

    tasks.spawn(fails(), "a thing")
    await asyncio.sleep(0.01)
    assert not tasks._tasks
    with pytest.raises(StoreUnavailable):
        await tasks.finish(fails(), "another")
    await tasks.close()
