"""Shown by 4 of networks: what nodes send each other holds no DHCP and nothing of the gateway; one server answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import FRONT
from tests.support.packets import ROUTERS, Dhcp, Frame, Watch, answers, dhcp, encapsulated
from tests.support.realnets import UDHCPC, Guests, Net
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

DUAL = """<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/>
<ip address='{net}.1' netmask='255.255.255.0'><dhcp><range start='{net}.100' end='{net}.149'/></dhcp></ip>
<ip family='ipv6' address='fd00:77::1' prefix='64'/></network>"""
GATEWAYS = {"10.77.1.1", "fd00:77::1"}


def of_gateway(frame: Frame) -> bool:
    """Neighbours asked for or told of, in the gateway's name; a router's words."""
    return (frame.kind == "arp" or frame.nd > 0) and (
        bool(GATEWAYS & {frame.sender, frame.receiver}) or frame.nd in ROUTERS
    )


def once(messages: list[Dhcp]) -> bool:
    """Somebody asked, and every question had one answer."""
    found = answers(messages)
    return bool(found) and all(asked == answered for asked, answered in found.values())


def test_only_guests_talk_across_the_overlay_also_through_moves_and_power_cuts(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue = network("blue", 1, DUAL)
    with Watch(blue.init(FRONT), encapsulated) as overlay:
        with (
            Watch(blue.init("n1"), dhcp, sent=True) as at_n1,
            Watch(blue.init("n2"), dhcp, sent=True) as at_n2,
        ):
            here, there = guests.start("n1", "b1", blue), guests.start("n3", "b3", blue)
            guests.settled("b1", here)
            guests.settled("b3", there)
            assert guests.reaches("b1", there)
            assert guests.reaches("b1", "10.77.1.1")
            cluster.virsh("migrate", "--live", "--p2p", "b1", cluster.view_uri("n2"), seconds=90)
            assert f"lease of {here} obtained" in guests.run("b1", UDHCPC)
            assert guests.reaches("b1", there)
            assert once(at_n1.seen), at_n1.seen
            assert once(at_n2.seen), at_n2.seen
        demo.power_cut(cluster.state, "n3")
        assert f"lease of {here} obtained" in guests.run("b1", UDHCPC)
        demo.power_on(cluster.state, "n3")
        eventually(lambda: blue.whole("n3"), 30, f"networks of n3: {blue.left('n3')}")
        with Watch(blue.init("n3"), dhcp, sent=True) as at_n3:
            eventually(lambda: "b3" in cluster.virsh.names("--all"), 20, "b3 is known again")
            if "b3" not in cluster.virsh.names():
                cluster.virsh("start", "b3")
            guests.settled("b3", there)
            eventually(lambda: guests.reaches("b3", here), 10, "b1 from b3")
            assert once(at_n3.seen), at_n3.seen
        frames = overlay.seen
    print(f"{len(frames)} frames crossed the overlay")
    guests_of = {(frame.sender, frame.receiver) for frame in frames if frame.kind == "ipv4"}
    assert {(here, there), (there, here)} <= guests_of, "what crosses is seen"
    assert [frame for frame in frames if frame.is_dhcp] == []
    assert [frame for frame in frames if of_gateway(frame)] == []
