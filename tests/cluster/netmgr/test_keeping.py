"""What a node has of a network comes back when it is lost, survives crashes, and goes without a trace."""

from __future__ import annotations

import os
import pwd
import re
import signal
import time
from pathlib import Path

import msgspec
import pytest

from netmgr.wanted import (
    GuestGone,
    WantedGuest,
    WantedNetwork,
    WantedSubnet,
)
from tests.cluster.netmgr.lab import OUTSIDE, Guest, Lab, Node, at, member, network, traces, until

pytestmark = pytest.mark.real


def one_node(lab: Lab, *, run: bool = False) -> tuple[Node, WantedNetwork, Guest]:
    """A node with a network and a guest that has its address."""
    node = lab.node(1, run=run)
    far = member(1, 11, node, "far", place="10.99.0.2")
    wanted = network(1, guests=(member(1, 10, node, "web"), far))
    node.set(at(wanted, node, (node,)))
    web = lab.guest("web", node, wanted, "02:00:c0:a8:01:0a")
    web.fixed("192.168.1.10/24", gateway="192.168.1.1")
    assert web.pings(OUTSIDE)
    return node, wanted, web


def healthy(node: Node, wanted: WantedNetwork, web: Guest) -> bool:
    """All of it is there and works."""
    fdb = node("bridge", "fdb", "show", "dev", wanted.overlay, check=False)
    return (
        fdb.count("02:00:c0:a8:01:0b") == 2
        and bool(node.dnsmasq(wanted.uuid))
        and "clusterhost-virbr1" in node("nft", "list", "tables")
        and web.pings(OUTSIDE)
        and "192.168.1.11" in web.asks("far", "192.168.1.1")
    )


def picture(node: Node, wanted: WantedNetwork) -> str:
    """What the kernel has of a network, without the numbers of links and of frames."""
    commands = (
        ("ip", "-d", "link", "show", wanted.bridge),
        ("ip", "-d", "link", "show", wanted.overlay),
        ("ip", "-o", "addr", "show", wanted.bridge),
        ("bridge", "fdb", "show", "dev", wanted.overlay),
        ("ip", "neigh", "show", "dev", wanted.bridge, "nud", "permanent"),
        ("nft", "-s", "list", "ruleset"),
        ("sysctl", "net.ipv4.ip_forward"),
    )
    text = "\n".join(node(*command, check=False) for command in commands)
    text = re.sub(rf"(?m)^\d+: |{MAC} master virbr1 permanent|link/ether {MAC} brd.*", "", text)
    return re.sub(
        r"(_timer|promiscuity|allmulti|port_no|port_id|designated_port) +\S+|config_pending.*", "", text
    )


MAC = "(?:[0-9a-f]{2}:){5}[0-9a-f]{2}"
LOSSES = {
    "bridge": ("ip", "link", "del", "virbr1"),
    "overlay": ("ip", "link", "del", "ch101"),
    "tables": ("nft", "delete table inet clusterhost-virbr1; delete table bridge clusterhost-virbr1"),
    "filter": ("nft", "flush chain bridge clusterhost-virbr1 out"),
    "nat": ("nft", "delete chain inet clusterhost-virbr1 postrouting"),
    "address": ("ip", "addr", "flush", "dev", "virbr1"),
    "bridge is down": ("ip", "link", "set", "virbr1", "down"),
    "overlay left its bridge": ("ip", "link", "set", "ch101", "nomaster"),
    "learning": ("bridge", "link", "set", "dev", "ch101", "learning", "on"),
    "entry": ("bridge", "fdb", "del", "02:00:c0:a8:01:0b", "dev", "ch101", "self"),
    "neighbours": ("ip", "neigh", "flush", "nud", "permanent", "dev", "virbr1"),
    "forwarding": ("sysctl", "-qw", "net.ipv4.ip_forward=0"),
    "wrong MAC": ("ip", "link", "set", "virbr1", "address", "02:00:00:00:00:01"),
    "wrong MTU": ("ip", "link", "set", "virbr1", "mtu", "1400"),
}


@pytest.mark.parametrize("loss", [*LOSSES, "server"])
def test_what_is_lost_is_back_within_ten_seconds(lab: Lab, loss: str) -> None:
    node, wanted, web = one_node(lab, run=True)
    before = picture(node, wanted)
    pid = node.dnsmasq(wanted.uuid)
    assert node.order("heal")["steps"] == [], "a network that is well needs no step"
    with node.asleep():
        if loss == "server":
            os.kill(pid, signal.SIGKILL)
            until(lambda: not node.dnsmasq(wanted.uuid), 5, "it is dead")
        else:
            node(*LOSSES[loss])
            assert picture(node, wanted) != before or loss == "wrong MAC"
    took = until(lambda: healthy(node, wanted, web), 10, f"the network is well again without its {loss}")
    until(lambda: picture(node, wanted) == before, 10 - took, "it is what it was")
    until(lambda: not node.order("heal")["steps"], 2, "the Keeper has noted the last step that we saw done")
    assert node.order("heal")["steps"] == []
    assert f"link/ether {wanted.mac}" in node("ip", "link", "show", wanted.bridge)
    print(f"{loss}: back after {took:.1f} s")


def test_links_that_the_hook_names_are_ports_again_after_a_restart(lab: Lab) -> None:
    node, wanted, web = one_node(lab)
    node.down()
    node("ip", "link", "del", wanted.bridge)
    node.up()
    node.obey("ports", ports=[web.tap, "vm-none"])
    node.obey("heal")
    assert healthy(node, wanted, web)


def test_ports_are_remembered_beyond_the_keepers_end(lab: Lab) -> None:
    node, wanted, web = one_node(lab)
    node.obey("heal")
    node.down()
    node("ip", "link", "del", wanted.bridge)
    node.up()
    node.obey("heal")
    assert healthy(node, wanted, web)


def test_guests_stay_plugged_in_when_the_bridge_gets_another_name_however_often_it_is_broken_off(
    lab: Lab,
) -> None:
    node, wanted, web = one_node(lab)
    names = ["virbr8", "virbr9"] * 30
    for serial, after in enumerate(range(1, 60), 2):
        other = msgspec.structs.replace(wanted, serial=serial, bridge=names[serial])
        answer = node.order("set", wanted=other, break_off=after)
        assert "error" not in answer
        node.obey("heal")
        assert f"master {other.bridge}" in node("ip", "link", "show", web.tap), after
        if "broken_off" not in answer:
            break
    assert after > 10
    assert web.pings(OUTSIDE)


def test_the_server_outlives_the_keeper_and_is_found_again(lab: Lab) -> None:
    node, wanted, web = one_node(lab)
    pid = node.dnsmasq(wanted.uuid)
    node.down()
    assert web.dhcp()["ip"] == "192.168.1.10", "guests are served while nobody keeps the node"
    assert node.up() == [wanted.uuid]
    assert node.obey("heal")["steps"] == []
    assert node.dnsmasq(wanted.uuid) == pid


def test_a_network_that_is_removed_leaves_no_trace(lab: Lab) -> None:
    node, wanted, _ = one_node(lab)
    assert traces(node)
    node.obey("remove", uuid=wanted.uuid)
    assert traces(node) == []
    node.obey("remove", uuid=wanted.uuid)
    assert node.order("guest", uuid=wanted.uuid, guest=member(1, 9, node))["error"].startswith(
        "UnknownNetwork"
    )


def test_a_set_that_is_broken_off_after_any_step_is_completed(lab: Lab) -> None:
    node = lab.node(1)
    wanted = network(1, guests=(member(1, 11, node, "far", place="10.99.0.2"),), peers=("10.99.0.2",))
    for _ in range(2):  # what the first one sets for the whole kernel stays
        count = len(node.set(wanted)["steps"])
        node.obey("remove", uuid=wanted.uuid)
    assert count > 10
    for after in range(1, count + 1):
        assert node.order("set", wanted=wanted, break_off=after) == {"broken_off": True}, after
        node.obey("heal")
        assert node.obey("heal")["steps"] == [], after
        assert node.dnsmasq(wanted.uuid)
        node.obey("remove", uuid=wanted.uuid)
        assert traces(node) == [], after


def test_a_crash_after_any_step_of_a_removal_is_completed(lab: Lab) -> None:
    node = lab.node(1)
    wanted = network(1)
    node.set(wanted)
    count = len(node.obey("remove", uuid=wanted.uuid)["steps"])
    for after in range(1, count + 1):
        node.set(wanted)
        node.down()
        node.up(crash_after=after)
        assert node.order("remove", uuid=wanted.uuid) == {"crashed": True}, after
        assert node.up() == []
        node.obey("heal")
        assert traces(node) == [], after


@pytest.mark.parametrize("name", ["virbr1", "ch101"])
def test_a_foreign_link_of_that_name_is_refused_and_left_alone(lab: Lab, name: str) -> None:
    node = lab.node(1)
    node("ip", "link", "add", name, "type", "bridge")
    before = node("ip", "-o", "link"), node("nft", "list", "ruleset")
    answer = node.order("set", wanted=network(1))
    assert f"a link {name} is on the node already, without our mark" in answer["result"]["reason"]
    assert answer["steps"] == []
    assert (node("ip", "-o", "link"), node("nft", "list", "ruleset")) == before
    node("ip", "link", "del", name)
    node.obey("heal")
    node.obey("remove", uuid=network(1).uuid)
    node("ip", "link", "add", name, "type", "bridge")
    node.obey("remove", uuid=network(1).uuid)
    assert name in node("ip", "-o", "link")


def test_a_refused_network_can_be_removed_and_the_foreign_bridge_stays(lab: Lab) -> None:
    node = lab.node(1)
    node("ip", "link", "add", "virbr1", "type", "bridge")
    assert node.order("set", wanted=network(1))["result"]["reason"]
    node.obey("remove", uuid=network(1).uuid)
    assert "virbr1" in node("ip", "-o", "link")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"local": "10.77.0.1"}, "no link of this node has the underlay's address 10.77.0.1"),
        ({"options": ("no-such-option",)}, "dnsmasq did not start"),
    ],
)
def test_what_cannot_be_done_is_said(lab: Lab, changes: dict[str, object], reason: str) -> None:
    node = lab.node(1)
    assert reason in node.order("set", wanted=network(1, **changes))["result"]["reason"]
    node.set(network(1, serial=2))


def test_a_vni_that_another_link_has_is_said(lab: Lab) -> None:
    node = lab.node(1)
    node("ip", "link", "add", "other", "type", "vxlan", "id", str(0x101), "dstport", "4789")
    assert "VNI 257 on UDP port 4789 is in use" in node.order("set", wanted=network(1))["result"]["reason"]


def test_older_serials_are_refused_and_repeats_are_not(lab: Lab) -> None:
    node = lab.node(1)
    node.set(network(1, serial=5))
    assert node.order("set", wanted=network(1, serial=4))["error"].startswith("StaleOrder")
    assert node.set(network(1, serial=5))["steps"] == []
    guest = member(1, 20, node, "new", place="", serial=7)
    node.guest(network(1).uuid, guest)
    node.guest(network(1).uuid, guest)
    older = member(1, 20, node, "old", place="", serial=6)
    assert node.order("guest", uuid=network(1).uuid, guest=older)["error"].startswith("StaleOrder")
    assert node.order("set", wanted=network(1, serial=6))["error"].startswith("StaleOrder")
    node.down()
    node.up()
    assert node.order("set", wanted=network(1, serial=6))["error"].startswith("StaleOrder")


def test_a_second_network_with_the_same_bridge_is_refused(lab: Lab) -> None:
    node = lab.node(1)
    node.set(network(1))
    assert "has bridge virbr1 already" in node.order("set", wanted=network(2, bridge="virbr1"))["error"]
    assert "has VNI 257 already" in node.order("set", wanted=network(2, vni=257))["error"]
    assert node.up if node.process is None else True
    node.down()
    assert node.up() == [network(1).uuid], "what was refused is not kept"


def test_a_changed_network_is_made_over(lab: Lab) -> None:
    node, wanted, _ = one_node(lab)
    other = network(
        1, serial=2, bridge="virbr9", vni=0x999, subnets=(WantedSubnet("10.7.0.1/16", dhcp=True),)
    )
    node.set(other)
    links = node("ip", "-o", "link")
    assert "ch999" in links
    assert "virbr9" in links
    assert wanted.overlay not in links
    assert "virbr1" not in links
    assert "virbr1" not in node("nft", "list", "tables")
    assert "10.7.0.1/16" in node("ip", "addr")
    node.obey("remove", uuid=wanted.uuid)
    assert traces(node) == []


def test_an_address_changes_hands_at_once(lab: Lab) -> None:
    node, wanted, web = one_node(lab)
    assert web.dhcp()["ip"] == "192.168.1.10"
    web.end()
    heir = WantedGuest("02:00:00:00:00:42", ("192.168.1.10",), ("heir",), serial=3)
    node.guest(wanted.uuid, GuestGone("02:00:c0:a8:01:0a", serial=2))
    node.guest(wanted.uuid, heir)
    assert lab.guest("heir", node, wanted, heir.mac).dhcp()["ip"] == "192.168.1.10"


def test_a_guest_that_is_gone_gets_no_answer_and_has_no_name(lab: Lab) -> None:
    node, wanted, web = one_node(lab)
    pid = node.dnsmasq(wanted.uuid)
    assert "192.168.1.11" in web.asks("far", "192.168.1.1")
    node.guest(wanted.uuid, GuestGone("02:00:c0:a8:01:0b", serial=2))
    until(lambda: "192.168.1.11" not in web.asks("far", "192.168.1.1"), 3, "the name is gone")
    assert "02:00:c0:a8:01:0b" not in node("bridge", "fdb")
    assert "192.168.1.11" not in node("ip", "neigh")
    renamed = member(1, 10, node, "renamed", place="", serial=3, addresses=("192.168.1.50",))
    node.guest(wanted.uuid, renamed)
    until(lambda: "192.168.1.50" in web.asks("renamed", "192.168.1.1"), 3, "the new name")
    assert "192.168.1.10" not in web.asks("web", "192.168.1.1")
    assert web.dhcp()["ip"] == "192.168.1.50"
    assert node.dnsmasq(wanted.uuid) == pid


def test_odd_names_of_guests_cost_nobody_an_address(lab: Lab) -> None:
    node = lab.node(1)
    names = ("my vm", "10m", "a,b", "_x", "4", "grün")
    guests = tuple(member(1, 20 + n, node, name, place="") for n, name in enumerate(names))
    wanted = network(1, guests=guests)
    node.set(wanted)
    for number, guest in enumerate(guests):
        answer = lab.guest(f"o{number}", node, wanted, guest.mac).dhcp()
        assert (answer["ip"], answer["lease"]) == (guest.addresses[0], "3600"), guest


@pytest.mark.parametrize(("mode", "user"), [(0o711, "dnsmasq nobody"), (0o700, "root")])
def test_the_server_is_root_only_where_nobody_else_may_read_its_files(lab: Lab, mode: int, user: str) -> None:
    state = lab.directory / "n1"  # as a unit's StateDirectory= makes it
    state.mkdir()
    state.chmod(mode)
    before = os.umask(0o077)
    try:
        node = lab.node(1)
    finally:
        os.umask(before)
    wanted = network(1)
    node.set(wanted)
    uid = Path(f"/proc/{node.dnsmasq(wanted.uuid)}").stat().st_uid
    assert pwd.getpwuid(uid).pw_name in user.split()
    node.guest(wanted.uuid, member(1, 30, node, "late", place="", serial=2))
    assert lab.guest("late", node, wanted, "02:00:c0:a8:01:1e").dhcp()["ip"] == "192.168.1.30"


def test_an_older_removal_is_refused(lab: Lab) -> None:
    node = lab.node(1)
    wanted = network(1, serial=5)
    node.set(wanted)
    assert node.order("remove", uuid=wanted.uuid, serial=4)["error"].startswith("StaleOrder")
    node.obey("remove", uuid=wanted.uuid, serial=5)
    assert traces(node) == []


def test_one_change_among_a_thousand_guests_is_a_small_one(lab: Lab) -> None:
    node = lab.node(1)
    guests = tuple(
        WantedGuest(
            f"02:00:0a:07:{number >> 8:02x}:{number & 255:02x}",
            (f"10.7.{number >> 8}.{number & 255}",),
            (f"g{number}",),
            place="10.99.0.2" if number % 2 else "",
        )
        for number in range(2, 1002)
    )
    wanted = network(1, subnets=(WantedSubnet("10.7.0.1/16", dhcp=True),), guests=guests)
    began = time.perf_counter()
    node.set(wanted)
    whole = time.perf_counter() - began
    pid = node.dnsmasq(wanted.uuid)
    new = WantedGuest("02:00:0a:07:40:01", ("10.7.64.1",), ("new",), place="10.99.0.2", serial=2)
    began = time.perf_counter()
    came = node.guest(wanted.uuid, new)["steps"]
    one = time.perf_counter() - began
    began = time.perf_counter()
    moved = node.guest(wanted.uuid, WantedGuest(new.mac, new.addresses, new.names, serial=3))["steps"]
    move = time.perf_counter() - began
    assert came == ["SetEntries", "WriteFile", "WriteFile"]
    assert moved == ["SetEntries"]
    began = time.perf_counter()
    assert node.obey("heal")["steps"] == []
    heal = time.perf_counter() - began
    assert node.dnsmasq(wanted.uuid) == pid
    guest = lab.guest("new", node, wanted, new.mac)
    assert guest.dhcp()["ip"] == "10.7.64.1"
    assert "10.7.3.232" in guest.asks("g1000", "10.7.0.1")
    node.guest(wanted.uuid, GuestGone(guests[0].key, serial=4))
    assert node.dnsmasq(wanted.uuid) == pid
    print(
        f"1,000 guests: set {whole:.2f} s, one comes {one * 1e3:.1f} ms, moves {move * 1e3:.1f} ms, heal {heal:.2f} s"
    )
    assert one < whole / 5


def test_a_keeper_that_looks_often_keeps_no_files_open(lab: Lab) -> None:
    node, wanted, _ = one_node(lab)
    assert node.process is not None
    files = Path(f"/proc/{node.process.pid}/fd")
    before = len(list(files.iterdir()))
    for serial in range(2, 32):
        node.obey("heal")
        node.guest(wanted.uuid, member(1, 50, node, place=f"10.99.0.{2 + serial % 2}", serial=serial))
    assert len(list(files.iterdir())) <= before + 2


def test_what_failed_is_tried_again_by_itself(lab: Lab) -> None:
    node = lab.node(1, run=True)
    node("ip", "link", "add", "virbr1", "type", "bridge")
    assert node.order("set", wanted=network(1))["result"]["reason"]
    node("ip", "link", "del", "virbr1")
    until(
        lambda: not node.order("results")["result"][0]["reason"], 15, "the network came once there was room"
    )
    assert node.dnsmasq(network(1).uuid)
