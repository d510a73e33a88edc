"""Shown by 1 and 3 of networks: how guests reach what is outside, and it them, for each forward mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import FRONT, FRONT_ADDRESS, node_address
from tests.support.packets import Frame, Watch, frame
from tests.support.realnets import Guests, Net
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

WAY = """<network><name>{name}</name>FORWARD<bridge name='{bridge}'/>
<ip address='{net}.1' netmask='255.255.255.0'><dhcp><range start='{net}.100' end='{net}.149'/></dhcp></ip></network>"""
RANGE = """<forward mode='nat'><nat><address start='10.111.0.201' end='10.111.0.202'/>
<port start='2000' end='2009'/></nat></forward>"""
OUTSIDE = {FRONT_ADDRESS}


def to_outside(link: str, packet: bytes) -> Frame | None:
    """An IPv4 packet for the machine outside, as a node sends it."""
    found = frame(link, 0, packet)
    return found if found.kind == "ipv4" and found.receiver in OUTSIDE and found.ports[1] != 4789 else None


@contextmanager
def way_back(net: Net, subnet: str, node: str) -> Iterator[None]:
    """The machine outside reaches a subnet by a node, as an operator would have it with these modes."""
    net.inside(FRONT, "ip", "route", "add", subnet, "via", node_address(node))
    try:
        yield
    finally:
        net.inside(FRONT, "ip", "route", "del", subnet)


def came_from(net: Net, guests: Guests, name: str) -> set[tuple[str, int]]:
    """Addresses and ports that the machine outside sees when a guest asks it for a name."""
    with Watch(net.init(FRONT), to_outside) as outside:
        guests.run(name, f"timeout 3 nslookup example.org {FRONT_ADDRESS}")

        def asked() -> set[tuple[str, int]]:
            return {(one.sender, one.ports[0]) for one in outside.seen if one.ports[1] == 53}

        eventually(asked, 5, "a question outside")
        return asked()


def test_guests_of_each_forward_mode_are_reached_and_reach_as_it_says(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    routed = network("routed", 3, WAY.replace("FORWARD", "<forward mode='route'/>"))
    opened = network("opened", 4, WAY.replace("FORWARD", "<forward mode='open'/>"))
    ranged = network("ranged", 5, WAY.replace("FORWARD", RANGE))
    where = {"w3": ("n1", routed), "w4": ("n2", opened), "w5": ("n3", ranged)}
    addresses = {name: guests.start(node, name, net) for name, (node, net) in where.items()}
    for name, address in addresses.items():
        guests.settled(name, address)
    for name, net in (("w3", routed), ("w4", opened)):
        with way_back(net, f"{net.net}.0/24", where[name][0]):
            assert guests.reaches(name, FRONT_ADDRESS)
            assert {address for address, _ in came_from(net, guests, name)} == {addresses[name]}, "as itself"
            net.inside(FRONT, "ping", "-c", "2", "-W", "2", addresses[name])
            # Another node knows where the guest is, whichever way the packets come.
            with way_back(net, f"{addresses[name]}/32", "n3"):
                net.inside(FRONT, "ping", "-c", "2", "-W", "2", addresses[name])
    with way_back(ranged, "10.111.0.201/32", "n3"), way_back(ranged, "10.111.0.202/32", "n3"):
        assert guests.reaches("w5", FRONT_ADDRESS)
        seen = came_from(ranged, guests, "w5")
        assert {address for address, _ in seen} <= {"10.111.0.201", "10.111.0.202"}, seen
        assert all(2000 <= port <= 2009 for _, port in seen), seen
    with way_back(ranged, f"{ranged.net}.0/24", "n3"):
        said = ranged.inside(FRONT, "ping", "-c", "1", "-W", "2", addresses["w5"], check=False)
        assert " 0 received" in said, "nobody outside begins with a guest behind NAT"
