"""Networks on VLANs of a device: two machines with Debian's kernel (this one's bridge may have no VLANs), a wire
between them, our keeper on each, and namespaces for guests."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import pytest

from netmgr import fill, vlan, xml
from netmgr.wanted import WantedGuest, WantedNetwork, WantedTag, WantedTrunk
from tests.support import debianguest
from tests.support.debianguest import DebianGuest, Ran

T = TypeVar("T")
R = TypeVar("R")

pytestmark = pytest.mark.timeout(180)

UUID = "11111111-2222-3333-4444-5555555555{:02x}"
TRUNK = vlan.trunk_name("eth0")
STATE = "/run/keeper"
HEAL_SECONDS = 30.0
"""10 are promised; emulated machines on a busy one are slow."""
ACCESS = {tag: (WantedTag(tag, native=True, untagged=True),) for tag in (10, 20)}
TAGGED = (WantedTag(10, native=True, untagged=True), WantedTag(20))


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


class Machine:
    """One with a keeper that looks after its networks, and guests that are namespaces."""

    def __init__(self, guest: DebianGuest) -> None:
        self.guest = guest
        self.orders = 0
        self.wanted: set[str] = set()
        self.check("modprobe -a 8021q veth bridge; mkfifo /run/in; sleep 100000 > /run/in & true")
        program = f".venv/bin/python -m tests.cluster.netmgr.node {STATE} 10.99.0.1"
        self.check(f"RUN=1 {program} < /run/in > /run/out 2> /run/errors & true")

    def check(self, command: str, seconds: float = 60.0) -> str:
        return self.guest.check(command, seconds)

    def run(self, command: str) -> Ran:
        return self.guest.run(command)

    def order(self, what: str, **rest: Any) -> dict[str, Any]:
        """Its answer's result."""
        self.orders += 1
        text = json.dumps({"do": what, **rest})
        wait = f"until [ $(wc -l < /run/out) -gt {self.orders} ]; do sleep 0.05; done; tail -n 1 /run/out"
        answer = json.loads(self.check(f"echo '{text}' > /run/in; {wait}"))
        assert "result" in answer, (answer, self.check("cat /run/errors"))
        result: dict[str, Any] = answer["result"]
        return result

    def have(self, wanted: WantedNetwork) -> str:
        """The reason why it cannot be had, "" when it is there."""
        self.wanted.add(wanted.uuid)
        return str(self.order("set", wanted=msgspec.to_builtins(wanted))["reason"])

    def remove(self, wanted: WantedNetwork) -> None:
        self.wanted.discard(wanted.uuid)
        assert self.order("remove", uuid=wanted.uuid)["reason"] == ""

    def tidy(self) -> None:
        """As it was at first."""
        for uuid in sorted(self.wanted):
            self.order("remove", uuid=uuid)
        self.wanted.clear()
        self.check("ip -all netns del; ip addr flush dev eth0; ip link set eth0 nomaster; true")

    def plug(self, name: str, number: int, bridge: str, address: str, tag: int = 0) -> None:
        """A guest, as libvirt plugs it: its MAC, and the same with fe for the link at the host.  tag: it sends in that
        VLAN by itself."""
        device = "e0" if not tag else f"e0.{tag}"
        self.check(
            f"ip netns add {name}; ip link add {name} address fe{mac(number)[2:]} type veth "
            f"peer name e0 address {mac(number)} netns {name}; ip link set {name} up master {bridge}; "
            f"ip -n {name} link set e0 up"
        )
        if tag:
            self.check(f"ip -n {name} link add link e0 name {device} type vlan id {tag}")
        self.check(f"ip -n {name} link set {device} up; ip -n {name} addr add {address}/24 dev {device}")

    def pings(self, name: str, address: str, patience: float = 0.0) -> bool:
        deadline = time.monotonic() + patience
        while self.run(f"ip netns exec {name} ping -n -c 1 -W 1 {address}").code:
            if time.monotonic() > deadline:
                return False
        return True

    def vlans(self, port: str) -> set[int]:
        """Of a port; none when it is not there, or no port."""
        found = json.loads(self.run(f"bridge -j vlan show dev {port} 2> /dev/null").output or "[]")
        return {tag["vlan"] for entry in found for tag in entry["vlans"]}

    def links(self) -> dict[str, dict[str, Any]]:
        return {link["ifname"]: link for link in json.loads(self.check("ip -j link"))}


def until(holds: Callable[[], object], what: str, seconds: float = HEAL_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def everywhere(machines: Sequence[T], do: Callable[[T], R]) -> list[R]:
    """At the same time: a machine is one processor."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(do, machines))


@pytest.fixture(scope="module")
def booted() -> Iterator[tuple[Machine, Machine]]:
    if why := debianguest.why_not():
        pytest.skip(why)
    with debianguest.guests(2, memory_mib=512) as (one, two):
        first, second = everywhere((one, two), Machine)
        yield first, second


@pytest.fixture
def machines(booted: tuple[Machine, Machine]) -> Iterator[tuple[Machine, Machine]]:
    yield booted
    everywhere(booted, Machine.tidy)


def network(number: int, *tags: int, single: bool = False, **values: Any) -> WantedNetwork:
    bridge = vlan.single_name("eth0", tags[0]) if single else TRUNK
    return WantedNetwork(
        uuid=UUID.format(number),
        name=f"v{number}",
        serial=values.pop("serial", 1),
        vni=number,
        bridge=bridge,
        mac="",
        mode="bridge",
        trunk=WantedTrunk("eth0", tags, single),
        **values,
    )


def guests(*which: tuple[int, tuple[WantedTag, ...]]) -> tuple[WantedGuest, ...]:
    return tuple(WantedGuest(mac(number), vlans=tags) for number, tags in which)


TEN = network(10, 10, guests=guests((1, ACCESS[10]), (2, ACCESS[10])))
TWENTY = network(20, 20, guests=guests((3, ACCESS[20]), (4, ACCESS[20])))
BOTH = network(30, 10, 20, guests=guests((5, TAGGED)))


def test_guests_of_one_vlan_meet_across_machines_and_those_of_two_do_not(
    machines: tuple[Machine, Machine],
) -> None:
    one, two = machines
    reasons = everywhere(machines, lambda machine: [machine.have(each) for each in (TEN, TWENTY, BOTH)])
    assert reasons == [["", "", ""]] * 2
    assert one.vlans("eth0") == {10, 20}
    one.plug("a1", 1, TRUNK, "10.0.0.1")
    two.plug("a2", 2, TRUNK, "10.0.0.2")
    one.plug("b1", 3, TRUNK, "10.0.0.3")
    two.plug("b2", 4, TRUNK, "10.0.0.4")
    # A trunk: VLAN 10 without a tag, VLAN 20 with it.
    two.plug("t2", 5, TRUNK, "10.0.0.5")
    two.check(
        "ip -n t2 link add link e0 name e0.20 type vlan id 20; ip -n t2 addr add 10.0.20.5/24 dev e0.20"
    )
    two.check("ip -n t2 link set e0.20 up")
    one.check("ip -n b1 addr add 10.0.20.3/24 dev e0")
    # A stranger, of whom nobody told: it is in no VLAN.
    two.plug("x2", 9, TRUNK, "10.0.0.9")

    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
    assert one.pings("b1", "10.0.0.4", HEAL_SECONDS)
    assert one.pings("a1", "10.0.0.5", HEAL_SECONDS)
    assert one.pings("b1", "10.0.20.5", HEAL_SECONDS)
    assert not one.pings("a1", "10.0.0.3"), "on one machine"
    assert not one.pings("a1", "10.0.0.4"), "across machines"
    assert not one.pings("b1", "10.0.0.5"), "the trunk's other VLAN"
    assert not one.pings("a1", "10.0.0.9"), "a stranger"
    assert [one.vlans("a1"), two.vlans("t2"), two.vlans("x2")] == [{10}, {10, 20}, set()]


def test_what_nobody_tagged_does_not_pass_a_trunk(machines: tuple[Machine, Machine]) -> None:
    one, two = machines
    assert one.have(TEN) == ""
    one.plug("a1", 1, TRUNK, "10.0.0.1")
    # The other machine is a plain one: without tags, then with the one that is right, then with another.
    two.check("ip link set eth0 up; ip addr add 10.0.0.2/24 dev eth0")
    assert not one.pings("a1", "10.0.0.2")
    two.check("ip addr flush dev eth0; ip link add link eth0 name eth0.10 type vlan id 10")
    two.check("ip link set eth0.10 up; ip addr add 10.0.0.2/24 dev eth0.10")
    try:
        assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
        two.check(
            "ip link set eth0.10 down; ip link del eth0.10; ip link add link eth0 name eth0.10 type vlan id 11"
        )
        two.check("ip link set eth0.10 up; ip addr add 10.0.0.2/24 dev eth0.10")
        assert not one.pings("a1", "10.0.0.2")
    finally:
        two.check("ip link del eth0.10")


def test_a_trunk_that_is_lost_is_back_with_its_guests(machines: tuple[Machine, Machine]) -> None:
    one, two = machines
    reasons = everywhere(machines, lambda machine: [machine.have(each) for each in (TEN, TWENTY)])
    assert reasons == [["", ""]] * 2
    one.plug("a1", 1, TRUNK, "10.0.0.1")
    one.plug("b1", 3, TRUNK, "10.0.0.3")
    two.plug("a2", 2, TRUNK, "10.0.0.2")
    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
    until(lambda: one.vlans("b1") == {20}, "the guest is tagged")

    one.check(f"ip link del {TRUNK}")
    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
    until(lambda: (one.vlans("a1"), one.vlans("b1")) == ({10}, {20}), "guests are back in their VLANs")
    one.check("bridge vlan del dev eth0 vid 10; bridge vlan add dev a1 vid 20 pvid untagged")
    until(lambda: (one.vlans("eth0"), one.vlans("a1")) == ({10, 20}, {10}), "VLANs are as wanted")
    one.check(f"ip link set {TRUNK} type bridge vlan_filtering 0")
    until(lambda: "vlan_filtering 1" in one.check(f"ip -d link show {TRUNK}"), "the bridge filters again")
    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)


def test_a_trunk_carries_what_networks_use_and_goes_with_the_last(machines: tuple[Machine, Machine]) -> None:
    one, _ = machines
    assert [one.have(each) for each in (TEN, TWENTY)] == ["", ""]
    one.plug("b1", 3, TRUNK, "10.0.0.3")
    until(lambda: one.vlans("b1") == {20}, "the guest is tagged")
    one.remove(TWENTY)
    until(lambda: one.vlans("eth0") == {10}, "the tag is off the device")
    until(lambda: one.vlans("b1") == set(), "a guest that was left is in no VLAN")
    one.remove(TEN)
    links = one.links()
    assert TRUNK not in links
    assert "master" not in links["eth0"]


def test_a_network_has_a_link_of_its_own_where_that_is_asked_for(machines: tuple[Machine, Machine]) -> None:
    one, two = machines
    alone = network(40, 40, single=True, guests=guests((1, ()), (2, ())))
    bridge = alone.bridge
    reasons = everywhere(machines, lambda machine: [machine.have(each) for each in (alone, TWENTY)])
    assert reasons == [["", ""]] * 2
    assert one.links()["eth0.40"]["master"] == bridge
    one.plug("a1", 1, bridge, "10.0.0.1")
    two.plug("a2", 2, bridge, "10.0.0.2")
    two.plug("b2", 4, TRUNK, "10.0.0.4")
    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
    assert not one.pings("a1", "10.0.0.4")
    one.check("ip link del eth0.40")
    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
    one.check(f"ip link del {bridge}")
    assert one.pings("a1", "10.0.0.2", HEAL_SECONDS)
    one.remove(alone)
    assert not {"eth0.40", bridge} & one.links().keys()


def test_a_device_that_is_not_free_is_refused_and_taken_when_it_is(machines: tuple[Machine, Machine]) -> None:
    one, _ = machines
    one.check("ip link add br9 type bridge; ip link set eth0 master br9")
    try:
        assert one.have(TEN) == "eth0 is a port of br9 on the node already, it can be of one bridge only"
    finally:
        one.check("ip link del br9")
    one.check("ip addr add 192.0.2.1/24 dev eth0")
    assert one.have(TEN).startswith("eth0 has the node's address 192.0.2.1, which it would lose")
    assert TRUNK not in one.links()
    one.check("ip addr flush dev eth0")
    until(lambda: one.vlans("eth0") == {10}, "nothing is in the way", seconds=60)  # failures make pauses


LAN = f"""<network><name>lan</name><uuid>{UUID.format(50)}</uuid><forward mode="bridge" dev="eth0"/>
<vlan><tag id="10"/></vlan><portgroup name="all"><vlan trunk="yes"><tag id="10" nativeMode="untagged"/>
<tag id="20"/></vlan></portgroup></network>"""
NIC = "<interface type='network'><mac address='{}'/><source network='lan'{}/></interface>"
DOMAIN = """<domain type='qemu'><name>g1</name><memory unit='MiB'>16</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{}{}<memballoon model='none'/></devices></domain>"""


@pytest.mark.timeout(300)
def test_a_libvirtd_plugs_its_guests_into_the_trunk_and_they_are_tagged(
    machines: tuple[Machine, Machine],
) -> None:
    one, _ = machines
    assert one.have(network(50, 10, 20, guests=guests((1, ACCESS[10]), (2, TAGGED)))) == ""
    one.check("modprobe tun; mkdir -p /run/libvirt; virtlogd -d; libvirtd -d; sleep 1")
    domain = DOMAIN.format(NIC.format(mac(1), ""), NIC.format(mac(2), " portgroup='all'"))
    for name, text in (("lan", fill.shadow(xml.read(LAN))), ("g1", domain)):
        one.check(f"echo {shlex.quote(' '.join(text.split()))} > /run/{name}.xml")
    virsh = "virsh -q -c qemu:///system"
    one.check(f"{virsh} net-define /run/lan.xml && {virsh} net-start lan")
    # It need not run: what matters is plugged in before it does.
    one.check(f"{virsh} create --paused /run/g1.xml", seconds=150)
    try:
        until(lambda: (one.vlans("vnet0"), one.vlans("vnet1")) == ({10}, {10, 20}), "its taps are tagged")
    finally:
        one.check(f"{virsh} destroy g1; {virsh} net-destroy lan; kill $(cat /run/libvirtd.pid); true")
