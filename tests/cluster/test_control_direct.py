"""Direct connections: who gets one, what goes by it, and what its loss ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from clusterhost.control import direct as directs
from clusterhost.control.direct import Direct, NoDirect, dial
from clusterhost.control.directserver import DirectServer, Offer
from clusterhost.model.errors import NodeUnreachable
from clusterhost.service.ports import Answer
from tests.cluster.test_control import ONE, connected, dialling
from tests.support.control import ControlPlane


class End:
    """What comes at one end, and why it ended."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, bytes | bytearray]] = []
        self.lost = ""
        self.changed = asyncio.Event()

    def deliver(self, body: bytes, payload: bytes | bytearray) -> None:
        self.got.append((body, payload))
        self.changed.set()

    def ended(self, why: str) -> None:
        self.lost = why
        self.changed.set()

    async def until_got(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.got) < count and not self.lost:
                self.changed.clear()
                await self.changed.wait()

    async def until_lost(self) -> str:
        async with asyncio.timeout(10):
            while not self.lost:
                self.changed.clear()
                await self.changed.wait()
        return self.lost


@pytest_asyncio.fixture
async def server() -> AsyncIterator[DirectServer]:
    server = DirectServer(asyncio.get_running_loop())
    await server.start("127.0.0.1", 0)
    yield server
    await server.stop()


def offered(server: DirectServer, taken: list[Direct]) -> Offer:
    offer = server.offer(taken.append)
    assert offer is not None
    return offer


async def dialled(offer: Offer, end: End, *, pausing: bool = False) -> Direct:
    secured = await dial("127.0.0.1", offer.port, offer.fingerprint)
    return Direct(asyncio.get_running_loop(), secured, end.deliver, end.ended, pausing=pausing)


@contextlib.asynccontextmanager
async def pair(server: DirectServer, *, pausing: bool = False) -> AsyncIterator[tuple[Direct, Direct, End]]:
    """The server's end, the other end (it may pause), and what came at that."""
    taken: list[Direct] = []
    offer, end = offered(server, taken), End()
    theirs = await dialled(offer, end, pausing=pausing)
    theirs.send(offer.ticket, b"")
    async with asyncio.timeout(5):
        while not taken:
            await asyncio.sleep(0.01)
    try:
        yield taken[0], theirs, end
    finally:
        taken[0].close()
        theirs.close()


async def test_messages_of_any_size_arrive_whole_and_in_order(server: DirectServer) -> None:
    sizes = [0, 1, 16375, 16376, 16377, 100_000, 5_000_000, 3]
    async with pair(server) as (ours, theirs, end):
        back = End()
        ours.deliver = back.deliver
        for number, size in enumerate(sizes):
            assert ours.send(b"%d" % number, bytes([number]) * size)
            assert theirs.send(b"%d" % number, bytes([number]) * size)
        await end.until_got(len(sizes))
        await back.until_got(len(sizes))
    wanted = [(b"%d" % number, bytes([number]) * size) for number, size in enumerate(sizes)]
    assert end.got == wanted
    assert back.got == wanted


async def test_a_ticket_is_good_once(server: DirectServer) -> None:
    taken: list[Direct] = []
    offer = offered(server, taken)
    for _ in range(2):
        end = End()
        theirs = await dialled(offer, end)
        theirs.send(offer.ticket, b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await end.until_lost()
    assert len(taken) == 1
    assert end.lost == "it was closed at the other end"
    taken[0].close()


async def test_who_shows_no_ticket_is_turned_away(
    server: DirectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Direct] = []
    offer, wrong = offered(server, taken), End()
    (await dialled(offer, wrong)).send(b"x" * 32, b"")
    assert await wrong.until_lost()
    withdrawn = offered(server, taken)
    server.withdraw(withdrawn.ticket)
    late = End()
    (await dialled(withdrawn, late)).send(withdrawn.ticket, b"")
    assert await late.until_lost()
    assert not taken


async def test_a_stranger_may_send_no_more_than_a_ticket(server: DirectServer) -> None:
    stranger, began = End(), asyncio.get_running_loop().time()
    theirs = await dialled(offered(server, []), stranger)
    theirs._put((33).to_bytes(4, "big") + bytes(4))
    assert await stranger.until_lost()
    assert asyncio.get_running_loop().time() - began < 2


async def test_an_agent_does_not_talk_to_another_certificate(server: DirectServer) -> None:
    offer = offered(server, [])
    with pytest.raises(NoDirect, match="not the front end's certificate"):
        await dial("127.0.0.1", offer.port, bytes(32))


async def test_a_message_beyond_the_limit_ends_the_connection(server: DirectServer) -> None:
    async with pair(server) as (ours, theirs, end):
        # As a peer that keeps no rules would send it.
        theirs._put((2**31).to_bytes(4, "big") + bytes(4))
        back = End()
        ours.lost = back.ended
        assert "are allowed" in await back.until_lost()
        assert await end.until_lost()


@pytest.mark.parametrize(
    "begun", [b"", (3).to_bytes(4, "big") + bytes(2), bytes(4) + (99_999).to_bytes(4, "big") + b"x"]
)
async def test_the_end_of_tls_is_the_end_of_the_connection_wherever_it_comes(
    server: DirectServer, begun: bytes
) -> None:
    async with pair(server) as (ours, theirs, _):
        back = End()
        ours.deliver, ours.lost = back.deliver, back.ended
        if begun:
            theirs._put(begun)
            await asyncio.sleep(0.1)
        with contextlib.suppress(ssl.SSLWantReadError):
            theirs._secured._tls.unwrap()
        theirs._secured.sock.send(theirs._secured.sealed())
        assert await back.until_lost() == "it was closed at the other end"
        assert back.got == []


async def test_an_end_whose_answers_wait_reads_on_only_when_they_are_read(server: DirectServer) -> None:
    async with pair(server, pausing=True) as (ours, theirs, end):
        back = End()
        ours.deliver = back.deliver
        asyncio.get_running_loop().remove_reader(ours._fd)
        for _ in range(20):
            assert theirs.send(b"answer", bytes(1_000_000))
        assert ours.send(b"call", b"")
        await asyncio.sleep(0.3)
        assert end.got == []
        asyncio.get_running_loop().add_reader(ours._fd, ours._readable)
        await back.until_got(20)
        await end.until_got(1)
        assert end.got == [(b"call", b"")]


async def test_a_peer_that_reads_nothing_is_sent_no_more_than_the_limit(server: DirectServer) -> None:
    async with pair(server) as (ours, theirs, _):
        asyncio.get_running_loop().remove_reader(theirs._fd)
        sent = 0
        while ours.send(b"", bytes(8_000_000)):
            sent += 8_000_000
            assert sent < 2 * directs.FULL
        assert sent > directs.FULL


# ---- as the hub and the link use it


@pytest_asyncio.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(tmp_path) as plane:
        yield plane


async def direct_of(plane: ControlPlane, node: str = "n1") -> Direct:
    """The hub's end, once it is there."""
    async with asyncio.timeout(5):
        while (found := plane.hub._links[node].direct) is None:
            await asyncio.sleep(0.01)
    return found


async def test_only_calls_without_order_go_direct(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        await direct_of(plane)
        assert await plane.hub.call("n1", 1, 2, b"direct") == Answer(True, b"direct")
        assert echo.calls_by_control == 0
        for number, options in enumerate(({"report": ONE}, {"op": "o"}, {"session": 4}, {"generation": 2})):
            assert (await plane.hub.call("n1", 1, 2, b"x", **options)).ok
            assert echo.calls_by_control == number + 1


async def test_a_call_on_a_direct_connection_that_breaks_fails_and_the_next_goes_by_control(
    plane: ControlPlane,
) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        direct = await direct_of(plane)
        call = asyncio.ensure_future(plane.hub.call("n1", 1, 0, b""))
        await asyncio.sleep(0.1)
        direct._secured.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(NodeUnreachable, match="node n1: the connection that carried the call broke"):
            await call
        assert plane.hub.connected("n1")
        assert await plane.hub.call("n1", 1, 2, b"again") == Answer(True, b"again")
        assert echo.calls_by_control == 1


async def test_without_a_direct_listener_all_goes_by_control(tmp_path: Path) -> None:
    async with (
        ControlPlane(tmp_path, direct="off") as plane,
        dialling(plane, "n1", plane.allow("n1")) as echo,
    ):
        await connected(plane, echo)
        assert await plane.hub.call("n1", 1, 2, b"x") == Answer(True, b"x")
        assert echo.calls_by_control == 1
