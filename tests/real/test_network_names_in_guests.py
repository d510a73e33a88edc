"""Shown by 1 and 2 of networks: what guests get by DHCP, DNS and router advertisements, both versions of IP."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.cluster import kill_service
from tests.support.guestfiles import DHCLIENT, DHCLIENT_SCRIPT, extended
from tests.support.realnets import NAT, Guests, Net
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

RICH = """<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
<name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/><mtu size='1400'/>
<domain name='{name}.example' localOnly='yes'/>
<dns><txt name='word.{name}.example' value='hello there'/>
<host ip='{net}.9'><hostname>gate</hostname></host>
<srv service='http' protocol='tcp' domain='{name}.example' target='gate.{name}.example' port='80' priority='5'
 weight='7'/></dns>
<ip address='{net}.1' netmask='255.255.255.0' localPtr='yes'><tftp root='TFTP'/>
<dhcp><range start='{net}.100' end='{net}.149'/><bootp file='boot.me'/></dhcp></ip>
<dnsmasq:options><dnsmasq:option value='dhcp-option-force=option:ntp-server,{net}.7'/></dnsmasq:options></network>"""
SIX = """<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/><domain name='{name}.example'/>
<ip address='{net}.1' netmask='255.255.255.0'><dhcp><range start='{net}.100' end='{net}.149'/></dhcp></ip>
<ip family='ipv6' address='fd00:77::1' prefix='64'><dhcp><range start='fd00:77::100' end='fd00:77::1ff'/>
<host id='0:3:0:1:52:54:0:77:6:2' name='s2' ip='fd00:77::42'/></dhcp></ip></network>"""
SLAAC = """<network><name>{name}</name><bridge name='{bridge}'/>
<ip family='ipv6' address='fd00:78::1' prefix='64'/></network>"""
SOLICIT = "/sbin/dhclient -6 -1 -v -D LL -cf /dev/null -sf /etc/dhclient.script -lf /tmp/lease6 -pf /tmp/pid6 eth0 2>&1"


def said(guests: Guests, name: str, commands: dict[str, str]) -> None:
    """Each command prints what it has to."""
    for command, expected in commands.items():
        found = guests.run(name, command)
        assert expected in found, f"{command}: {found}"


def test_guests_learn_names_boot_files_options_and_the_mtu(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    files = cluster.state / "shared" / "tftp"
    files.mkdir(exist_ok=True)
    (files / "boot.me").write_text("boot this\n")
    try:
        blue = network("blue", 1, RICH.replace("TFTP", str(files)))
        one, two = guests.start("n1", "b1", blue), guests.start("n2", "b2", blue)
        guests.settled("b1", one)
        guests.settled("b2", two)
        keep = "printf '#!/bin/sh\\nenv > /tmp/got.$1\\n' > /tmp/keep; chmod +x /tmp/keep"
        asked = "udhcpc -n -q -i eth0 -s /tmp/keep; cat /tmp/got.bound"
        got = guests.run("b1", f"{keep}; {asked}")
        expected = {"boot_file=boot.me", "ntpsrv=10.77.1.7", "domain=blue.example", "mtu=1400", "hostname=b1"}
        expected |= {f"ip={one}", "router=10.77.1.1", "dns=10.77.1.1", "siaddr=10.77.1.1", "lease=3600"}
        assert expected <= set(got.splitlines()), got
        said(
            guests,
            "b1",
            {
                "nslookup -type=srv _http._tcp.blue.example": "service = 5 7 80 gate.blue.example",
                "nslookup -type=txt word.blue.example": 'text = "hello there"',
                "nslookup gate": "Address: 10.77.1.9",
                "nslookup 10.77.1.9": "name = gate.blue.example",
                f"nslookup {two}": "name = b2.blue.example",
                "nslookup nobody.blue.example": "NXDOMAIN",
                "nslookup 10.77.1.77": "NXDOMAIN",
                "tftp -g -l - -r boot.me 10.77.1.1": "boot this",
                "cat /sys/class/net/eth0/mtu": "1400",
                # 1372 and two headers fill the link; the kernel sends it whole.
                "ping -c 2 -W 2 -s 1372 b2": " 2 packets received",
                "ping -c 2 -W 2 -s 3000 b2": " 2 packets received",
            },
        )
    finally:
        shutil.rmtree(files)


def plug(network: str) -> str:
    """An interface that gets its MAC from the cluster."""
    return f"<interface type='network'><source network='{network}'/><model type='virtio'/></interface>"


def nic(network: str, mac: str) -> str:
    """An interface of that MAC."""
    source = f"<mac address='{mac}'/><source network='{network}'/><model type='virtio'/>"
    return f"<interface type='network'>{source}</interface>"


def solicit(guests: Guests, name: str) -> str:
    """An address by DHCPv6; the server's identity."""
    found = guests.run(name, SOLICIT)
    assert "Bound to lease" in found, found
    return guests.run(name, "grep -o 'server-id .*' /tmp/lease6 | tail -1")


@pytest.mark.skipif(not DHCLIENT.exists(), reason="isc-dhcp-client is not installed")
def test_guests_have_their_ipv6_addresses_and_keep_them(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, tmp_path: Path
) -> None:
    programs = {"etc/dhclient.script": DHCLIENT_SCRIPT}
    initrd = cluster.state / "guest" / "initrd-dhcp6"
    initrd.write_bytes(extended(cluster.state / "guest" / "initrd", (DHCLIENT,), programs))
    six, plain = network("six", 6, SIX), network("slaac", 7, SLAAC)
    macs = {"s1": "02:00:0a:4d:06:70", "s2": "52:54:00:77:06:02"}
    for node, (name, mac) in zip(("n1", "n2"), macs.items(), strict=True):
        xml = cluster.xml(name, devices=nic(six.name, mac) + nic(plain.name, mac[:-2] + "ff"))
        cluster.view(node).define(xml.replace("guest/initrd<", "guest/initrd-dhcp6<"), tmp_path)
        cluster.virsh("start", name)
    shown = cluster.virsh("domifaddr", "s1").split()
    assert {"10.77.6.112/24", "fd00:77::100/64"} <= set(shown), "what its MAC encodes is in the range of one"
    assert "fd00:77::42/64" in cluster.virsh("net-dhcp-leases", "six", "--mac", macs["s2"])
    guests.settled("s1", "10.77.6.112")
    guests.settled("s2", "10.77.6.100")
    servers = {solicit(guests, name) for name in macs}
    (server,) = servers
    assert "server-id" in server, "a guest that moved renews with the server that it knows"
    assert "inet6 fd00:77::100/" in guests.run("s1", "ip -6 -o addr show dev eth0")
    assert "inet6 fd00:77::42/" in guests.run("s2", "ip -6 -o addr show dev eth0")
    eventually(lambda: "2 packets received" in guests.run("s1", "ping -6 -c 2 -W 2 s2"), 10, "s2 by its name")
    assert "name = s2.six.example" in guests.run("s1", "nslookup fd00:77::42")
    cluster.virsh("migrate", "--live", "--p2p", "s1", cluster.view_uri("n3"), seconds=90)
    assert "2 packets received" in guests.run("s1", "ping -6 -c 2 -W 2 s2")
    assert "2 packets received" in guests.run("s2", "ping -6 -c 2 -W 2 fd00:77::100")
    guests.run("s1", "rm -f /tmp/lease6; kill $(cat /tmp/pid6)")
    assert solicit(guests, "s1") == server
    assert "inet6 fd00:77::100/" in guests.run("s1", "ip -6 -o addr show dev eth0")
    own = guests.run("s2", "ip -6 -o addr show dev eth1")
    (made,) = re.findall(r"inet6 (fd00:78::[0-9a-f:]+)/64", own)
    assert made == "fd00:78::5054:ff:fe77:6ff", own
    assert "2 packets received" in guests.run("s1", f"ping -6 -c 2 -W 2 {made}")
    routes = guests.run("s1", "ip -6 route")
    assert re.search(r"^default via fe80::\S+ dev eth0", routes, re.M), routes
    assert not re.search(r"^default via fe80::\S+ dev eth1", routes, re.M), (
        "an isolated network leads nowhere"
    )
    assert cluster.virsh("net-dhcp-leases", "slaac") == ""


def test_guests_have_an_mtu_that_every_nodes_underlay_carries(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue = network("blue", 1)
    large = network("large", 2, NAT.replace("<domain", "<mtu size='1500'/><domain"))
    try:
        blue.inside("n2", "ip", "link", "set", "eth0", "mtu", "1400")
        kill_service(cluster.state, "n2", "agent")  # it says so when it comes back
        for node in cluster.nodes:
            eventually(lambda node=node: " mtu 1350 " in blue.link(node), 20, f"the MTU at {node}")
            assert " mtu 1500 " in large.link(node)
        both = plug(blue.name) + plug(large.name)
        one, two = guests.start("n1", "b1", blue, both), guests.start("n2", "b2", blue, both)
        guests.settled("b1", one)
        guests.settled("b2", two)
        guests.run("b2", "head -c 1000000 /dev/zero > /tmp/file; httpd -h /tmp")
        other = two.replace("10.77.1.", "10.77.2.")
        said(
            guests,
            "b1",
            {
                "cat /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu | xargs": "1350 1500",
                f"ping -c 2 -W 2 -s 1322 {two}": " 2 packets received",
                # The overlay itself tells guests what does not fit, by what the node knows of the way.
                f"wget -q -O - http://{two}/file | wc -c": "1000000",
                f"wget -q -O - http://{other}/file | wc -c": "1000000",
            },
        )
    finally:
        blue.inside("n2", "ip", "link", "set", "eth0", "mtu", "1500")
        kill_service(cluster.state, "n2", "agent")
    eventually(lambda: " mtu 1450 " in blue.link("n1"), 20, "the MTU of before")
