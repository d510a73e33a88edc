"""<bandwidth> with a kernel that has all that libvirt shapes with (Debian's): a network's, by us; of port groups and
interfaces, by the node's libvirtd, from the document that we give it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netmgr import fill, xml
from tests.support import debianguest
from tests.support.debianguest import DebianGuest

pytestmark = pytest.mark.timeout(300)

BRIDGE = "virbr7"
NETWORK = f"""<network><name>own</name><uuid>11111111-2222-3333-4444-555555555507</uuid><forward mode='nat'/>
<bridge name='{BRIDGE}'/><bandwidth><inbound average='1000'/></bandwidth><port isolated='yes'/>
<ip address='10.7.7.1' prefix='24'/>
<portgroup name='slow'><bandwidth><inbound average='100'/></bandwidth></portgroup></network>"""
NICS = """<interface type='network'><source network='own' portgroup='slow'/></interface>
<interface type='network'><source network='own'/>
<bandwidth><inbound average='300'/><outbound average='200'/></bandwidth></interface>"""
DOMAIN = f"""<domain type='qemu'><name>shaped</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{NICS}</devices></domain>"""
MINE = "/run/own"  # not in /tmp: the tree that is tested may be there
MODULES = "sch_htb sch_sfq sch_ingress act_police cls_u32 cls_fw tun bridge veth vxlan"


@pytest.fixture(scope="module")
def guest() -> Iterator[DebianGuest]:
    if lacking := debianguest.why_not():
        pytest.skip(lacking)
    with debianguest.guests(1, 640) as (one,):
        one.check(f"mkdir {MINE} && mount -t tmpfs own {MINE} && modprobe -a {MODULES}")
        yield one


def write(guest: DebianGuest, path: str, text: str) -> None:
    guest.check(["sh", "-c", 'printf %s "$1" > "$2"', "sh", " ".join(text.split()), path])


def test_a_network_has_its_rates_between_namespaces(guest: DebianGuest) -> None:
    guest.check("ip netns add first")  # mounts what the tests' search for leaks would find
    words = (
        f"tests/cluster/netmgr/test_bandwidth.py -k a_node_limits -p no:cacheprovider --basetemp={MINE}/bt"
    )
    assert "1 passed" in guest.check(
        f"AVERAGE=200 .venv/bin/python -m pytest -q {words} --timeout=240", seconds=250
    )


def test_libvirtd_shapes_guests_by_port_group_and_interface(guest: DebianGuest) -> None:
    guest.check("mkdir -p /run/libvirt && virtlogd -d && libvirtd -d")
    guest.check("until virsh version; do sleep 0.5; done > /dev/null 2>&1", seconds=90)
    guest.check(f"ip link add {BRIDGE} type bridge && ip link set {BRIDGE} up")
    write(guest, f"{MINE}/own.xml", fill.shadow(xml.read(NETWORK)))
    write(guest, f"{MINE}/shaped.xml", DOMAIN)
    guest.check(f"virsh net-create {MINE}/own.xml && virsh create --paused {MINE}/shaped.xml", seconds=90)
    assert "rate 800Kbit ceil 800Kbit" in guest.check("tc class show dev vnet0")
    assert "rate 2400Kbit ceil 2400Kbit" in guest.check("tc class show dev vnet1")
    assert "sfq" in guest.check("tc qdisc show dev vnet1")
    assert "rate 1600Kbit burst 200Kb" in guest.check("tc filter show dev vnet1 parent ffff:")
    for tap in ("vnet0", "vnet1"):
        assert "isolated on" in guest.check(f"bridge -d link show dev {tap}")
    guest.check("virsh domiftune shaped vnet0 --inbound 400")
    assert "rate 3200Kbit" in guest.check("tc class show dev vnet0")
    faster = "<portgroup name='slow'><bandwidth><inbound average='500'/></bandwidth></portgroup>"
    write(guest, f"{MINE}/faster.xml", faster)
    guest.check(f"virsh net-update own modify portgroup {MINE}/faster.xml --live")
    write(guest, f"{MINE}/later.xml", DOMAIN.replace("shaped", "later"))
    guest.check(f"virsh create --paused {MINE}/later.xml", seconds=90)
    assert "rate 4Mbit" in guest.check("tc class show dev vnet2")
