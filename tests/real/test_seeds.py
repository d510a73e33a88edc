"""First boot: a guest with a seed finds on the CD its own name, MAC and the address that the cluster gave it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterhost.demo import initrd
from tests.support.command import Command
from tests.support.guest import Console
from tests.support.realnets import Guests, Net
from tests.support.sshkeys import KEY

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(180)

USER_DATA = "#!/bin/sh\necho 'first boot'\n"
MODULES = ("isofs", "ata_piix", "sr_mod")
CD = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>"
    "<target dev='sda' bus='{}'/><readonly/></disk>"
)
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>"
    "<target dev='vda' bus='virtio'/><readonly/></disk>"
)
PLUG = "<interface type='network'><source network='{}'/><model type='virtio'/></interface>"
OUTER = "<interface type='user'><mac address='52:54:00:66:00:01'/><model type='virtio'/></interface>"
DUAL = """<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/><domain name='blue.lan'/>
<ip address='{net}.1' netmask='255.255.255.0'><dhcp><range start='{net}.100' end='{net}.149'/></dhcp></ip>
<ip family='ipv6' address='fd00:77::1' prefix='64'><dhcp><range start='fd00:77::100' end='fd00:77::1ff'/></dhcp></ip>
</network>"""
INNER = """<network><name>{name}</name><bridge name='{bridge}'/><mtu size='1300'/><dns enable='no'/>
<ip address='{net}.1' netmask='255.255.255.128'><dhcp><range start='{net}.100' end='{net}.120'/></dhcp></ip>
</network>"""


def with_cds(cluster: RealCluster) -> Path:
    """The demo's guest with modules for CDs, to be loaded by hand."""
    kernel = initrd.newest_kernel()
    order = initrd.load_order(kernel.modules, MODULES)
    entries = [initrd.Entry("cd", 0o040755)]
    for number, path in enumerate(order):
        entries.append(initrd.Entry(f"cd/{number:02}.ko", 0o100644, (kernel.modules / path).read_bytes()))
    made = cluster.state / "guest" / "initrd-cd"
    made.write_bytes((cluster.state / "guest" / "initrd").read_bytes() + initrd.archive(entries))
    return made


LOAD = "for file in /cd/*.ko; do insmod $file 2> /dev/null; done; mkdir -p /mnt; sleep 1"


def in_guest(guests: Guests, name: str, device: str) -> dict[str, str]:
    """The files of a volume as the guest reads them, and its label."""
    guests.run(name, f"{LOAD}; mount -t iso9660 -o ro {device} /mnt")
    names = guests.run(name, "ls /mnt").split()
    found = {file: guests.run(name, f"cat /mnt/{file}") for file in names}
    found["label"] = guests.run(name, f"dd if={device} bs=8 skip=4101 count=4 2> /dev/null")
    guests.run(name, "umount /mnt")
    return found


def boot(guests: Guests, name: str) -> None:
    """Its shell answers."""
    with Console(guests.cluster.endpoint, name, seconds=60) as console:
        console.ready()


def test_a_guest_reads_its_addresses_from_its_seed(
    cluster: RealCluster, command: Command, network: Callable[..., Net], guests: Guests, tmp_path: Path
) -> None:
    blue, inner = network("blue", 1, DUAL), network("inner", 2, INNER)
    seed = cluster.state / "shared" / "seed.iso"
    cd = with_cds(cluster)
    (tmp_path / "key.pub").write_text(KEY + "\n")
    (tmp_path / "user-data").write_text(USER_DATA)
    devices = PLUG.format(blue.name) + PLUG.format(inner.name) + OUTER
    devices += DISK.format(seed) + CD.format(seed, "ide").replace("sda", "hda")
    try:
        cluster.view("n2").define(
            cluster.xml("web", devices=devices).replace("guest/initrd<", f"guest/{cd.name}<"), tmp_path
        )
        words = (
            "--domain",
            "web",
            "--key",
            str(tmp_path / "key.pub"),
            "--user-data",
            str(tmp_path / "user-data"),
        )
        assert command("image", "seed", *words, str(seed)) == f"{seed} is written"
        cluster.virsh("start", "web")
        boot(guests, "web")
        found = in_guest(guests, "web", "/dev/vda")
        assert in_guest(guests, "web", "/dev/sr0") == found, "as a CD, too"
        check_told(cluster, found)
        check_true(guests, json.loads(found["network-config"]))
    finally:
        cluster.remove("web")
        seed.unlink(missing_ok=True)
        cd.unlink(missing_ok=True)


def check_told(cluster: RealCluster, found: dict[str, str]) -> None:
    """What the volume says is what the cluster says."""
    assert set(found) == {"meta-data", "user-data", "network-config", "label"}
    assert found["label"] == "cidata"
    assert found["user-data"] == USER_DATA.strip()
    meta = json.loads(found["meta-data"])
    uuid = cluster.virsh("domuuid", "web")
    assert meta == {"instance-id": uuid, "local-hostname": "web", "public-keys": [KEY]}
    ethernets: dict[str, Any] = json.loads(found["network-config"])["ethernets"]
    macs = re.findall(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", cluster.virsh("domiflist", "web"))
    assert [one["match"]["macaddress"] for one in ethernets.values()] == macs
    leases = cluster.virsh("domifaddr", "web", "--source", "lease")
    told = [address for one in ethernets.values() for address in one.get("addresses", ())]
    assert sorted(told) == sorted(re.findall(r"ipv[46]\s+(\S+)", leases))
    assert len(told) == 3
    first, second, third = ethernets.values()
    assert (first["gateway4"], first["gateway6"]) == ("10.77.1.1", "fd00:77::1")
    assert first["nameservers"] == {"addresses": ["10.77.1.1", "fd00:77::1"], "search": ["blue.lan"]}
    assert first["mtu"] == 1450
    assert second["addresses"][0].endswith("/25")
    assert second["mtu"] == 1300
    assert {"gateway4", "nameservers"}.isdisjoint(second), "an isolated network without names leads nowhere"
    assert third["dhcp4"] is True
    assert "addresses" not in third


def check_true(guests: Guests, config: dict[str, Any]) -> None:
    """A guest that sets its addresses by hand, as the volume says, has what DHCP gives it, and reaches its gateway."""
    first, second = list(config["ethernets"].values())[:2]
    address = first["addresses"][0]
    stop = "killall udhcpc; ip -4 addr flush dev eth0; ip -4 route flush dev eth0"
    guests.run("web", stop)
    commands = [
        f"ip addr add {address} dev eth0",
        f"ip link set eth0 mtu {first['mtu']}",
        f"ip route add default via {first['gateway4']}",
    ]
    guests.run("web", "; ".join(commands))
    assert guests.reaches("web", first["gateway4"])
    answer = guests.run("web", f"nslookup web.blue.lan {first['nameservers']['addresses'][0]}")
    assert f"Address: {address.partition('/')[0]}" in answer
    assert second["addresses"][0].partition("/")[0] in guests.run("web", "ip -4 -o addr show dev eth1")


def test_a_seed_of_a_domain_is_the_same_until_the_domain_is_another(
    cluster: RealCluster, command: Command, make: Callable[..., str], tmp_path: Path
) -> None:
    make("one", network="default")
    first, again, other = (str(tmp_path / name) for name in ("first.iso", "again.iso", "other.iso"))
    command("image", "seed", "--domain", "one", first)
    command("image", "seed", "--domain", "one", "--name", "one", again)
    command("image", "seed", "--domain", "one", "--network", "none", other)
    assert Path(first).read_bytes() == Path(again).read_bytes() != Path(other).read_bytes()
    assert oct(Path(first).stat().st_mode & 0o777) == "0o600"
    command("image", "seed", "--name", "two", first)
    assert Path(first).read_bytes() != Path(again).read_bytes(), "an older seed is replaced"


def test_a_seed_that_cannot_be_made_says_why(cluster: RealCluster, command: Command, tmp_path: Path) -> None:
    target = str(tmp_path / "x.iso")
    assert command.fails("image", "seed", target) == (2, "error: a guest needs a name: --name or --domain")
    assert command.fails("image", "seed", "--domain", "nobody", target) == (
        3,
        "error: no domain with the name, uuid or id 'nobody'",
    )
    code, text = command.fails("image", "seed", "--name", "web", "--network", "auto", target)
    assert (code, text) == (2, "error: --network auto needs --domain, whose addresses it tells")
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True)
    before = disk.read_bytes()
    code, text = command.fails("image", "seed", "--name", "web", str(disk))
    assert (code, text) == (1, f"error: {disk} is there already and is no seed; it is left alone")
    assert disk.read_bytes() == before
    assert not Path(target).exists()


def test_inspect_says_what_qemu_img_says_and_what_is_wrong(command: Command, tmp_path: Path) -> None:
    base, top = str(tmp_path / "base.raw"), str(tmp_path / "top.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", base, "8M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top], check=True)
    found = command.json("image", "inspect", top)
    told = subprocess.run(
        ["qemu-img", "info", "--output", "json", "--backing-chain", top], check=True, capture_output=True
    )
    expected = [
        (one["filename"], one["format"], one["virtual-size"], one["actual-size"])
        for one in json.loads(told.stdout)
    ]
    shown = [
        (one["path"], one["format"], one["virtual_bytes"], one["allocated_bytes"]) for one in found["chain"]
    ]
    assert shown == expected
    assert (found["format"], found["format_by"], found["problems"]) == ("qcow2", "its first bytes", [])
    assert command.json("image", "inspect", "--as", "raw", top)["chain"][0]["backing_file"] == ""
    outcome = command.run("image", "inspect", "--within", str(tmp_path / "pool"), "--format", "json", top)
    assert outcome.code == 1
    (problem,) = json.loads(outcome.out)["problems"]
    assert (problem["problem"], problem["path"]) == ("leaves", top)
    outcome = command.run("image", "inspect", "--as", "vmdk", top)
    assert outcome.code == 1
    assert "said to be vmdk, but begins like qcow2" in outcome.out
