"""Pools that need more of a kernel than this machine's: logical volumes, iSCSI.  A machine with Debian's kernel is the
node n4 of the cluster; its libvirtd is reached from beside the front end, so all is seen through the endpoint."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import FRONT_ADDRESS as ADDRESS
from tests.support import blockservers, debianguest
from tests.support.command import Command
from tests.support.debianguest import DebianGuest, Forward
from tests.support.stock import Virsh, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(300)

MIB = 1 << 20
PORT = 16517
NODE = f"qemu+tcp://{ADDRESS}:{PORT}/system"
MINE = "/run/own"
TARGET = "iqn.2026-11.test:kernel"
CONF = 'listen_tls = 0\\nlisten_tcp = 1\\nauth_tcp = "none"\\nauth_unix_rw = "none"\\n'
MODULES = "loop dm-mod dm-snapshot iscsi_tcp sd_mod"
LOGICAL, KERNEL = "logical", "kernel"
KERNEL_XML = f"""<pool type='iscsi'><name>{KERNEL}</name><source><host name='127.0.0.1'/><device path='{TARGET}'/>
</source><target><path>/dev/disk/by-path</path></target></pool>"""
DOMAIN = """<domain type='qemu'><name>{}</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{}</devices></domain>"""


@pytest.fixture(scope="module")
def machine(cluster: RealCluster) -> Iterator[DebianGuest]:
    """It has two empty disks, and a target with one unit, and is the node n4."""
    missing = debianguest.why_not() or blockservers.lacking("pvcreate", "tgtd", "iscsiadm", "iscsid")
    if missing:
        pytest.skip(missing)
    way = Forward(ADDRESS, PORT, 16509, blockservers.entered(cluster.state))
    command = Command(cluster.state / "front" / "clusterhost.toml")
    with debianguest.guests(1, 896, way) as (one,):
        one.check(f"mkdir {MINE} && mount -t tmpfs own {MINE} && modprobe -a {MODULES}")
        one.check(f"ip link set eth0 up && ip address add {debianguest.INSIDE} dev eth0")
        one.check(f"ip route add default via {debianguest.GATEWAY}")
        one.check(f"cd {MINE} && truncate -s 64M a b && losetup /dev/loop0 a && losetup /dev/loop1 b")
        one.check("mkdir -p /run/libvirt /run/lock && /lib/systemd/systemd-udevd --daemon")
        one.check(f"printf '{CONF}' > {MINE}/conf && virtlogd -d && libvirtd -d -l -f {MINE}/conf")
        one.check("until virsh version; do sleep 0.5; done > /dev/null 2>&1", seconds=90)
        command("node", "add", "n4", "--uri", NODE)
        try:
            eventually(lambda: command.node("n4")["link"] == "up", 60, "the node is in reach")
            yield one
        finally:
            command("node", "remove", "n4")


def same(virsh: Virsh, machine: DebianGuest, *commands: str) -> None:
    """The endpoint says what the node's own socket does."""
    line = "; ".join(commands)
    assert virsh(line).split() == machine.check(["virsh", "-q", line]).split()


def test_logical_volumes_are_on_their_node_and_so_is_the_domain_that_has_one(
    cluster: RealCluster, command: Command, machine: DebianGuest, gone: Callable[[str], str], tmp_path: Path
) -> None:
    virsh = cluster.virsh
    virsh("pool-define-as", LOGICAL, "logical", "--source-dev", "/dev/loop0", "--source-name", "group")
    try:
        virsh("pool-build", LOGICAL, "--overwrite")
        virsh("pool-start", LOGICAL)
        (row,) = [row for row in command.json("pool", "list") if row["name"] == LOGICAL]
        assert (row["kind"], row["nodes_ok"]) == ("local", 1)
        virsh("vol-create-as", LOGICAL, "one", "16M")
        image = tmp_path / "image"
        image.write_bytes(random.Random(1).randbytes(2 * MIB))
        virsh("vol-upload", "one", str(image), LOGICAL)
        virsh("vol-download", "one", str(tmp_path / "back"), LOGICAL, "--length", str(2 * MIB))
        assert (tmp_path / "back").read_bytes() == image.read_bytes()
        same(
            *(virsh, machine),
            f"vol-list {LOGICAL} --details",
            f"pool-info {LOGICAL}",
            f"vol-info one {LOGICAL}",
            f"vol-dumpxml one {LOGICAL}",
            f"vol-key one {LOGICAL}",
        )
        key = virsh("vol-key", "one", LOGICAL)
        assert virsh("vol-name", key) == virsh("vol-name", "/dev/group/one") == "one"
        name = gone("onlogical")
        disk = "<disk type='block' device='disk'><source dev='/dev/group/one'/><target dev='vda'/></disk>"
        virsh.define(DOMAIN.format(name, disk), tmp_path)
        explained = command("placement", "explain", name)
        assert f"{name} is on n4" in explained, explained
        assert explained.count("has no volume one") == 3, explained
        machine.check("(exec 3< /dev/group/one; exec sleep 600) > /dev/null 2>&1 & echo $! > /run/busy")
        assert "in use" in virsh.fails("vol-delete", "one", LOGICAL)
        assert "one" in virsh("vol-list", LOGICAL)
        machine.check("kill $(cat /run/busy)")
        virsh("vol-delete", "one", LOGICAL)
        assert virsh("vol-list", LOGICAL) == ""
    finally:
        virsh.run("pool-destroy", LOGICAL)
        virsh.run("pool-undefine", LOGICAL)


def test_an_iscsi_target_of_the_kernel_is_one_place(
    cluster: RealCluster, command: Command, machine: DebianGuest, tmp_path: Path
) -> None:
    virsh = cluster.virsh
    machine.check("(tgtd; iscsid) > /dev/null 2>&1; until tgtadm --mode sys --op show; do sleep 0.2; done")
    for words in (
        f"--mode target --op new --tid 1 -T {TARGET}",
        f"--mode logicalunit --op new --tid 1 --lun 1 -b {MINE}/b",
        "--mode target --op bind --tid 1 -I ALL",
    ):
        machine.check(f"tgtadm --lld iscsi {words}")
    path = tmp_path / "pool.xml"
    path.write_text(KERNEL_XML)
    virsh("pool-define", str(path))
    try:
        virsh("pool-start", KERNEL, seconds=90)
        (row,) = [row for row in command.json("pool", "list") if row["name"] == KERNEL]
        assert (row["kind"], row["nodes_ok"]) == ("shared", 1)
        same(
            virsh,
            machine,
            f"vol-list {KERNEL} --details",
            f"pool-info {KERNEL}",
            f"vol-dumpxml unit:0:0:1 {KERNEL}",
        )
        volume, where = virsh("vol-list", KERNEL).split()
        assert where.startswith("/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-")
        assert virsh("vol-name", where) == virsh("vol-name", virsh("vol-key", volume, KERNEL)) == volume
    finally:
        virsh.run("pool-destroy", KERNEL)
        virsh.run("pool-undefine", KERNEL)
