"""Every kind of network is taken by the kernel, nftables and dnsmasq, and seen again as it was made."""

from __future__ import annotations

import pytest

from netmgr.wanted import WantedDns, WantedGuest, WantedNat, WantedRate, WantedRoute, WantedSrv, WantedSubnet
from tests.cluster.netmgr.lab import Lab, at, member, network, traces

pytestmark = pytest.mark.real

VARIANTS = {
    "plain": {},
    "addresses and ports": {"nat": WantedNat("203.0.113.20", "203.0.113.29", 5000, 6000)},
    "one address": {"nat": WantedNat("203.0.113.20", "203.0.113.20"), "devices": ("out0", "lo")},
    "ipv6": {
        "nat": WantedNat("fd00:9::1", "fd00:9::9", ipv6=True),
        "subnets": (WantedSubnet("192.168.1.1/24", dhcp=True), WantedSubnet("fd00:7::1/64", dhcp=True)),
    },
    "several addresses": {
        "subnets": (WantedSubnet("192.168.1.1/24"), WantedSubnet("10.3.0.1/16", dhcp=True))
    },
    "route": {
        "mode": "route",
        "routes": (WantedRoute("10.9.0.0/16", "192.168.1.9", 50), WantedRoute("10.8.0.0/16", "192.168.1.9")),
    },
    "ipv6 route": {
        "subnets": (WantedSubnet("fd00:7::1/64"),),
        "routes": (WantedRoute("fd00:8::/64", "fd00:7::9"),),
    },
    "open": {"mode": "open", "dns": WantedDns(enable=False)},
    "none": {"mode": "none", "isolated": True},
    "no address": {"mode": "none", "subnets": ()},
    "odd name": {"bridge": "br@1+x", "suppress": False},
    "all but one isolated": {"isolated": True, "guests": (WantedGuest("02:00:00:00:00:01"),)},
    "bandwidth": {"inbound": WantedRate(1000, 2000, 64), "outbound": WantedRate(500)},
    "isolated guest": {"guests": (WantedGuest("02:00:00:00:00:01", isolated=True),)},
    "by client id": {"guests": (WantedGuest(client_id="00:01:02", addresses=("fd00:7::10",)),)},
    "small": {"mtu": 1280, "port": 8472},
    "names": {
        "dns": WantedDns(
            domain="lab.test",
            forward_plain_names=False,
            forwarders=(("", "9.9.9.9"), ("corp.test", "10.0.0.53"), ("no.test", "")),
            hosts=(("192.168.1.7", ("a", "b.c")),),
            srvs=(WantedSrv("x", "tcp"), WantedSrv("y", "udp", "lab.test", "a.lab.test", 1)),
            txts=(("t", ""), ("u.lab.test", "v, w")),
        )
    },
    "boot": {
        "subnets": (
            WantedSubnet(
                "192.168.1.1/24", True, 0, ("option:ntp-server,192.168.1.5",), "pxe", "192.168.1.2", "/", True
            ),
        ),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kernel_and_dnsmasq_take_every_kind_of_network(lab: Lab, variant: str) -> None:
    node = lab.node(1)
    wanted = network(1, **VARIANTS[variant])
    assert node.set(wanted)["steps"]
    assert node.set(wanted)["steps"] == [], "and all of it is seen again"
    node.down()
    node.up()
    assert node.obey("heal")["steps"] == []
    node.set(network(1, serial=2))
    assert node.obey("heal")["steps"] == []
    node.set(network(1, **{**VARIANTS[variant], "serial": 3}))
    assert node.obey("heal")["steps"] == []
    node.obey("remove", uuid=wanted.uuid)
    assert traces(node) == []


def test_an_underlay_of_ipv6_carries_it_too(lab: Lab) -> None:
    nodes = lab.node(1), lab.node(2)
    for node in nodes:
        node("ip", "addr", "add", f"fd00:99::{node.number}/64", "dev", "under", "nodad")
        node.address = f"fd00:99::{node.number}"
    guests = member(1, 10, nodes[0], "web"), member(1, 11, nodes[1], "db")
    made = []
    for node in nodes:
        wanted = at(network(1, local=node.address, guests=guests), node, nodes)
        assert node.set(wanted)["steps"]
        assert node.set(wanted)["steps"] == []
    for guest, node in zip(guests, nodes, strict=True):
        made.append(lab.guest(guest.names[0], node, network(1), guest.mac, mtu=1430))
        made[-1].fixed(f"{guest.addresses[0]}/24")
    assert "mtu 1430" in nodes[0]("ip", "link", "show", "virbr1")
    assert made[0].pings("192.168.1.11", "-M", "do", "-s", str(1430 - 28), count=2)
