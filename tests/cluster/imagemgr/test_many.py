"""Several receivers of one image pass on what they have; who dies in the middle holds up nobody."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest

from imagemgr.chunks import CHUNK
from imagemgr.transfer import orders
from tests.cluster.imagemgr.conftest import Make
from tests.cluster.imagemgr.lab import MIB, Worker, image, same

SIZE = 16 * CHUNK
RATE = 16 * MIB


def distribute(sender: Worker, receivers: list[Worker]) -> tuple[orders.Offered, list[Future[Any]]]:
    """As a front end would: everybody offers what is coming first, then all fetch from all."""
    offered = sender.offer(sender.images / "x")
    coming = {
        worker.name: worker.source(
            worker.offer(worker.images / "x", digest=offered.digest, size=offered.size)
        )
        for worker in receivers
    }
    running = []
    for worker in receivers:
        others = [source for name, source in coming.items() if name != worker.name]
        running.append(worker.fetch("x", offered, sender.source(offered), *others))
    return offered, running


def test_three_receivers_cost_the_first_sender_little_more_than_one(node: Make):
    a = node("a", SENDING=RATE)
    receivers = [node(name) for name in "bcd"]
    path = image(a.images / "x", {0: SIZE}, SIZE)
    before, began = a.sent(), time.monotonic()
    _, running = distribute(a, receivers)
    for each in running:
        each.result(50)
    sent, seconds = a.sent() - before, time.monotonic() - began
    assert all(same(path, worker.images / "x") for worker in receivers)
    print(f"sent {sent / SIZE:.2f} images in {seconds:.1f} s, one takes {SIZE / RATE:.1f} s")
    assert sent < 1.7 * SIZE
    assert seconds < 2.5 * SIZE / RATE, "three of them one by one would take 3"


def test_a_receiver_that_is_killed_holds_up_nobody_and_goes_on_when_it_is_back(node: Make):
    a = node("a", SENDING=RATE)
    receivers = b, c, d = [node(name) for name in "bcd"]
    path = image(a.images / "x", {0: SIZE}, SIZE)
    offered, running = distribute(a, receivers)
    time.sleep(2)
    b.kill()
    for each in running[1:]:
        each.result(50)
    assert same(path, c.images / "x")
    assert same(path, d.images / "x")
    with pytest.raises(EOFError):
        running[0].result(1)
    b.up()
    [part] = b.parts()
    again = [worker.source(worker.offer(worker.images / "x")) for worker in (c, d)]
    fetched = b.fetch("x", offered, *again).result(40)
    assert part.done > 0
    assert fetched["received"] <= SIZE - part.done + 64 * 1024
    assert same(path, b.images / "x")


def test_the_first_sender_may_go_once_the_others_have_all_of_it_between_them(node: Make):
    a, b, c = node("a"), node("b"), node("c")
    path = image(a.images / "x", {0: SIZE}, SIZE)
    offered = a.offer(path)
    coming = b.source(b.offer(b.images / "x", digest=offered.digest, size=SIZE))
    b.fetch("x", offered, a.source(offered)).result(40)
    a.kill()
    gone = msgspec.structs.replace(a.source(offered), node="a")
    c.fetch("x", offered, gone, coming).result(40)
    assert same(path, c.images / "x")
