"""What an agent does once only, in what order it tells of it, and what it refuses."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import msgspec
import pytest

from clusterhost.model.errors import StaleGeneration, StoreUnavailable
from compat.libvirt import messages as wire
from tests.support.control import ControlPlane, number
from tests.support.testdomain import REMOTE_LIFECYCLE, UUID_BYTES, define, forget, handle, xml_of

pytestmark = pytest.mark.real


async def test_define_and_undefine_are_answered_with_their_event_and_figures_follow(up: ControlPlane) -> None:
    told = up.handler.told

    def last_of(start: int, event: int) -> tuple[str, Any]:
        heard = [(what, value) for what, _, value in told[start:] if what in ("event", "report", "gone")]
        [place] = [at for at, (what, _) in enumerate(heard) if what == "event"]
        lifecycle = wire.RemoteDomainEventCallbackLifecycleMsg.from_bytes(heard[place][1][2]).msg
        assert (lifecycle.event, lifecycle.dom.uuid) == (event, UUID_BYTES)
        assert place < len(heard) - 1, "the event comes before the answer"
        return heard[-1]

    for turn in range(40):
        start = len(told)
        await define(up, op=f"d-{turn}", domain=UUID_BYTES, generation=turn + 1)
        what, report = last_of(start, 0)
        assert (what, report.state, report.id, report.generation) == ("report", 5, -1, turn + 1)
        if turn % 2:
            await up.handler.until(lambda: up.handler.values("report")[-1].max_memory == 8192)
        start = len(told)
        args = wire.RemoteDomainUndefineFlagsArgs(handle(), 0)
        await up.call("n1", "remote:DOMAIN_UNDEFINE_FLAGS", args, report=UUID_BYTES, op=f"u-{turn}")
        assert last_of(start, 1) == ("gone", UUID_BYTES)
    start = len(told)
    await asyncio.sleep(0.2)
    assert not [value for what, _, value in told[start:] if what == "report"], "it came back"


async def test_a_repeated_operation_is_answered_from_the_table_and_done_once(up: ControlPlane) -> None:
    first = await asyncio.gather(*(define(up, op="op-1", domain=UUID_BYTES, generation=3) for _ in range(3)))
    assert len({found.to_bytes() for found in first}) == 1
    await asyncio.sleep(0.1)
    events = [value for value in up.handler.values("event") if value[:2] == REMOTE_LIFECYCLE]
    assert len(events) == 1
    agent = up.agents[0]
    agent.stop()
    up.handler.told.clear()
    libvirtd_uri = next(arg for arg in agent_uri(agent) if "socket=" in arg)
    up.agent("n1", libvirtd_uri)
    await up.up("n1")
    args = wire.RemoteDomainDefineXmlFlagsArgs(xml_of("d1"), 0).to_bytes()
    again = await up.hub.call(
        "n1", *number("remote:DOMAIN_DEFINE_XML_FLAGS"), args, op="op-1", domain=UUID_BYTES, generation=3
    )
    assert again.replayed
    assert again.payload == first[0].to_bytes()
    assert [value for value in up.handler.values("event") if value[:2] == REMOTE_LIFECYCLE] == []
    await forget(up)


def agent_uri(agent: Any) -> list[str]:
    settings = msgspec.json.decode(agent.process.args[-1])
    return [settings["uri"]]


async def test_an_order_of_a_lower_generation_is_refused(up: ControlPlane) -> None:
    await define(up, op="g-7", domain=UUID_BYTES, generation=7)
    with pytest.raises(StaleGeneration, match="node n1: the order is of generation 6"):
        await define(up, op="g-6", domain=UUID_BYTES, generation=6)
    await define(up, op="g-7b", domain=UUID_BYTES, generation=7)
    assert up.handler.values("report")[-1].generation == 7
    await forget(up)


async def test_an_agent_that_cannot_record_refuses_orders_and_takes_them_again_by_itself(
    up: ControlPlane,
) -> None:
    agent, unlimited = up.agents[0], resource.prlimit(up.agents[0].pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    # What starts nothing is made while it is recorded, so the first one finds out.
    await define(up, op="f-1", domain=UUID_BYTES, generation=1)
    start = wire.RemoteDomainCreateArgs(handle())
    for name, args in (
        ("remote:DOMAIN_DEFINE_XML_FLAGS", wire.RemoteDomainDefineXmlFlagsArgs(xml_of("d1", memory=4096), 0)),
        ("remote:DOMAIN_CREATE", start),
        ("remote:DOMAIN_UNDEFINE_FLAGS", wire.RemoteDomainUndefineFlagsArgs(handle(), 0)),
    ):
        with pytest.raises(StoreUnavailable, match="node n1: the operation cannot be recorded"):
            await up.call("n1", name, args, report=UUID_BYTES, op=name, domain=UUID_BYTES, generation=2)
    info = await up.call("n1", "remote:DOMAIN_GET_INFO", wire.RemoteDomainGetInfoArgs(handle()))
    assert (info.state, info.maxMem) == (5, 8192)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, unlimited)
    options = {"report": UUID_BYTES, "domain": UUID_BYTES, "generation": 3}
    await up.call("n1", "remote:DOMAIN_CREATE", start, op="f-2", **options)
    assert up.handler.values("report")[-1].state == 1
    await forget(up)
