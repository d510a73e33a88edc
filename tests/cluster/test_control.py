"""The control plane alone: hub and link over real ZeroMQ sockets, with an agent that knows no libvirt."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from clusterhost.control import keys as key_files
from clusterhost.control import messages as m
from clusterhost.control.keys import KeyPair, Token, TokenError, make_token, new_pair, read_token
from clusterhost.control.link import Link, Place, Respond
from clusterhost.model.errors import DeadlinePassed, NodeUnreachable, Unsupported
from clusterhost.service.ports import Answer
from tests.support.control import ControlPlane

ONE = bytes(16)


class Echo:
    """A LinkHandler that answers each call with its payload; procedure 0 is never answered."""

    def __init__(self) -> None:
        self.ups: list[m.Welcome] = []
        self.downs: list[str] = []
        self.messages: list[m.ToAgent] = []
        self.calls_by_control = 0
        self.link: Link

    def epoch_seen(self) -> int:
        return 0

    def on_up(self, welcome: m.Welcome) -> None:
        self.ups.append(welcome)

    def on_down(self, reason: str) -> None:
        self.downs.append(reason)

    def on_control(self, message: m.ToAgent, payload: bytes) -> None:
        self.calls_by_control += isinstance(message, m.Relay)
        if isinstance(message, m.Relay) and message.procedure:
            self.link.send(m.Reply(message.id, ok=True), payload)
        else:
            self.messages.append(message)

    def on_direct(self, message: m.Relay, payload: bytes, respond: Respond) -> None:
        if message.procedure:
            respond(m.Reply(message.id, ok=True), payload)
        else:
            self.messages.append(message)

    def on_bulk(self, message: m.Bulk, payload: bytes) -> None:
        raise AssertionError(message)


@pytest_asyncio.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(tmp_path) as plane:
        yield plane


@contextlib.asynccontextmanager
async def dialling(
    plane: ControlPlane, node: str, pair: KeyPair, *, incarnation: int = 1, token: Token | None = None
) -> AsyncIterator[Echo]:
    """An agent without libvirt, connected or trying to be."""
    control, bulk = plane.hub.endpoints
    echo = Echo()
    place = Place(node, control, bulk, plane.keys.public, incarnation, "boot")
    echo.link = Link(place, pair, echo, token, fresh=token is not None)
    task = asyncio.create_task(echo.link.run())
    try:
        yield echo
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def connected(plane: ControlPlane, echo: Echo, node: str = "n1") -> None:
    await plane.handler.until(lambda: echo.ups and plane.hub.connected(node))


async def refused(plane: ControlPlane, echo: Echo) -> None:
    """It tries for a second and gets nowhere."""
    await asyncio.sleep(1.2)
    assert not echo.ups


async def test_a_call_comes_back_with_its_payload(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        big = bytes(range(256)) * 40_000
        assert await plane.hub.call("n1", 1, 2, b"payload") == Answer(ok=True, payload=b"payload")
        assert (await plane.hub.call("n1", 1, 2, big)).payload == big


async def test_a_thousand_calls_at_once_are_all_answered_in_their_own_way(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        answers = await asyncio.gather(*(plane.hub.call("n1", 1, 2, b"%d" % n) for n in range(900)))
        assert [answer.payload for answer in answers] == [b"%d" % n for n in range(900)]


async def test_a_call_to_a_node_that_never_connected_fails_at_once(plane: ControlPlane) -> None:
    with pytest.raises(NodeUnreachable, match="node n9 is out of reach: its agent has not connected yet"):
        await plane.hub.call("n9", 1, 2, b"")


async def test_a_call_that_is_not_answered_fails_at_its_deadline_and_is_cancelled(
    plane: ControlPlane,
) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        start = time.monotonic()
        with pytest.raises(DeadlinePassed, match="n1"):
            await plane.hub.call("n1", 1, 0, b"", deadline=0.3)
        assert time.monotonic() - start < 1.5
        await plane.handler.until(lambda: any(isinstance(message, m.Cancel) for message in echo.messages))


async def test_an_agent_that_goes_ends_the_calls_under_way_with_its_name_and_the_hour(
    plane: ControlPlane,
) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        call = asyncio.ensure_future(plane.hub.call("n1", 1, 0, b""))
        await asyncio.sleep(0.1)
    start = time.monotonic()
    with pytest.raises(
        NodeUnreachable, match=r"node n1 is out of reach since \d\d:\d\d:\d\d: its connection broke"
    ):
        await call
    assert time.monotonic() - start < 1.0
    assert plane.handler.values("lost") == ["its connection broke"]


async def test_fan_out_gives_each_node_its_own_result_within_the_deadline(plane: ControlPlane) -> None:
    async with (
        dialling(plane, "n1", plane.allow("n1")) as one,
        dialling(plane, "n2", plane.allow("n2")) as two,
    ):
        await connected(plane, one)
        await connected(plane, two, "n2")
        found = await plane.hub.fan_out(["n1", "n2", "n3"], 1, 2, b"x", deadline=5.0)
    assert [type(found[node]) for node in ("n1", "n2", "n3")] == [Answer, Answer, NodeUnreachable]


async def test_a_key_that_nobody_knows_is_refused(plane: ControlPlane) -> None:
    plane.allow("n1")
    async with dialling(plane, "n1", new_pair()) as echo:
        await refused(plane, echo)
    assert plane.handler.told == []


async def test_the_key_of_one_node_does_not_speak_for_another(plane: ControlPlane) -> None:
    plane.allow("n2")
    async with dialling(plane, "n2", plane.allow("n1")) as echo:
        await refused(plane, echo)
    assert plane.handler.told == []


async def test_an_agent_does_not_talk_to_a_front_end_with_another_key(plane: ControlPlane) -> None:
    pair = plane.allow("n1")
    plane.keys = new_pair()
    async with dialling(plane, "n1", pair) as echo:
        await refused(plane, echo)


async def test_a_join_token_is_good_for_one_registration_only(plane: ControlPlane) -> None:
    token = read_token(plane.token("n1"))
    first, second = new_pair(), new_pair()
    async with dialling(plane, "n1", first, token=token) as echo:
        await connected(plane, echo)
        assert plane.handler.values("register") == [first.public]
        async with dialling(plane, "n1", second, token=token) as other:
            await refused(plane, other)
    assert plane.handler.values("register") == [first.public]


async def test_a_token_registers_no_other_node_than_its_own(plane: ControlPlane) -> None:
    token = read_token(plane.token("n1"))
    async with dialling(plane, "n2", new_pair(), token=token) as echo:
        await refused(plane, echo)
    assert plane.handler.told == []


async def test_a_key_that_is_withdrawn_ends_the_connection_and_does_not_come_back(
    plane: ControlPlane,
) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        plane.hub.set_keys({}, {})
        assert not plane.hub.connected("n1")
        await plane.handler.until(lambda: echo.downs)
        await asyncio.sleep(0.8)
        assert len(echo.ups) == 1


async def test_a_later_start_of_an_agent_takes_over_and_the_earlier_stays_out(plane: ControlPlane) -> None:
    pair = plane.allow("n1")
    async with dialling(plane, "n1", pair, incarnation=1) as old:
        await connected(plane, old)
        async with dialling(plane, "n1", pair, incarnation=2) as new:
            await plane.handler.until(lambda: new.ups)
            await asyncio.sleep(1.5)
            assert [hello.incarnation for hello in plane.handler.values("hello")] == [1, 2]
            assert plane.handler.values("lost") == []
            assert (await plane.hub.call("n1", 1, 2, b"x")).ok


async def test_a_gap_in_the_numbers_asks_for_a_snapshot_once(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        report = m.DomainReport(ONE, "d")
        echo.link.send(m.Snapshot(5, m.NodeFacts(), [], m.NodeStats()))
        echo.link.send(m.Changed(6, report))
        echo.link.send(m.Changed(8, report))
        echo.link.send(m.Changed(9, report))
        await plane.handler.until(lambda: len(plane.handler.values("report")) == 3)
        wanted = [message for message in echo.messages if isinstance(message, m.WantSnapshot)]
        await plane.handler.until(
            lambda: any(isinstance(message, m.WantSnapshot) for message in echo.messages)
        )
        echo.link.send(m.Snapshot(9, m.NodeFacts(), [], m.NodeStats()))
        echo.link.send(m.Changed(9, report))
        echo.link.send(m.Beat(9, m.NodeStats()))
        await plane.handler.until(lambda: plane.handler.beats)
        wanted = [message for message in echo.messages if isinstance(message, m.WantSnapshot)]
        assert len(wanted) == 1
        # The one with a number that was seen already changed nothing.
        assert len(plane.handler.values("report")) == 3


async def test_a_beat_that_is_ahead_of_the_last_number_asks_for_a_snapshot(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        echo.link.send(m.Snapshot(5, m.NodeFacts(), [], m.NodeStats()))
        echo.link.send(m.Beat(6, m.NodeStats()))
        await plane.handler.until(
            lambda: any(isinstance(message, m.WantSnapshot) for message in echo.messages)
        )


async def test_a_report_in_a_reply_is_told_before_the_caller_hears_the_answer(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)
        call = asyncio.ensure_future(plane.hub.call("n1", 1, 0, b"", report=ONE))
        await plane.handler.until(lambda: echo.messages)
        asked: Any = echo.messages[0]
        echo.link.send(m.Reply(asked.id, ok=True, report=m.DomainReport(ONE, "d")), b"")
        call.add_done_callback(lambda _: plane.handler.told.append(("answered", "n1", None)))
        await call
        await asyncio.sleep(0)
        assert [what for what, _, _ in plane.handler.told][-2:] == ["report", "answered"]


async def test_an_agent_that_says_nothing_is_lost_within_five_seconds(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        # Its ZeroMQ answers heartbeats all the while; the agent behind it does not.
        await connected(plane, echo)
        start = time.monotonic()
        await plane.handler.until(lambda: plane.handler.values("lost"))
        assert 3.5 < time.monotonic() - start < 5.0


async def test_a_message_of_a_later_version_is_answered_unsupported(plane: ControlPlane) -> None:
    async with dialling(plane, "n1", plane.allow("n1")) as echo:
        await connected(plane, echo)

        class Novelty(m.Message, tag="novelty", frozen=True):
            id: int

        echo.link.send(Novelty(7))
        await plane.handler.until(lambda: m.Unsupported(7, "novelty") in echo.messages)
        call = asyncio.ensure_future(plane.hub.operate("n1", "novelty", b""))
        await plane.handler.until(lambda: any(isinstance(x, m.Operation) for x in echo.messages))
        operation: Any = echo.messages[-1]
        echo.link.send(m.Unsupported(operation.id, "novelty"))
        with pytest.raises(Unsupported, match="does not know novelty"):
            await call


def test_a_token_survives_being_copied_and_a_damaged_one_is_refused() -> None:
    pair, server = new_pair(), new_pair()
    token = make_token("n1", "tcp://a:1", "tcp://a:2", server.public, pair.secret)
    assert read_token(f" {token}\n") == Token("n1", "tcp://a:1", "tcp://a:2", server.public, pair.secret)
    assert read_token(token).join_pair == pair
    for damaged in (token[:-3], token[:10] + "A" + token[11:], "", "not a token!"):
        with pytest.raises(TokenError):
            read_token(damaged)


def test_a_key_file_is_its_owners_alone_and_must_hold_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "agent.key"
    pair = key_files.load_or_make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_files.load_or_make(path) == pair
    key_files.save(path, KeyPair(new_pair().public, pair.secret))
    with pytest.raises(key_files.KeyFileError, match="does not belong"):
        key_files.load(path)
    path.write_text("nonsense")
    with pytest.raises(key_files.KeyFileError, match=str(path)):
        key_files.load(path)
