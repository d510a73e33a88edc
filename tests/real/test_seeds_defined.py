"""First boot: a definition asks for a seed, and its guest reads it wherever it starts or goes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.test_images import IMAGES, file_at, holders, sha256
from tests.real.test_seeds import boot, in_guest, with_cds
from tests.support.command import Command
from tests.support.realnets import Guests
from tests.support.sshkeys import KEY
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(240)

SEED = """<clusterhost:seed xmlns:clusterhost="urn:clusterhost:seed:1" {}>
  <clusterhost:key>{}</clusterhost:key>
  <clusterhost:user-data><![CDATA[
    #cloud-config
    a: "<b> & c"
      ]]></clusterhost:user-data>
</clusterhost:seed>"""
VOLUME = "web-seed.iso"


def check_told(cluster: RealCluster, found: dict[str, str]) -> None:
    """What the guest reads is what was defined, and the addresses that the cluster says it has."""
    assert found["label"] == "cidata"
    assert found["user-data"] == '#cloud-config\r\na: "<b> & c"'.replace("\r", "")
    uuid = cluster.virsh("domuuid", "web")
    assert json.loads(found["meta-data"]) == {
        "instance-id": uuid,
        "local-hostname": "web.example.org",
        "public-keys": [KEY],
    }
    (eth0,) = json.loads(found["network-config"])["ethernets"].values()
    leases = cluster.virsh("domifaddr", "web", "--source", "lease")
    assert eth0["addresses"] == re.findall(r"ipv[46]\s+(\S+)", leases)


def digest(guests: Guests) -> str:
    """SHA-256 of the CD as the guest reads it, from its node."""
    load = "for file in /cd/*.ko; do insmod $file 2> /dev/null; done; echo 3 > /proc/sys/vm/drop_caches"
    wait = "until [ -b /dev/sr0 ]; do sleep 0.2; done"
    return guests.run("web", f"{load}; {wait}; sha256sum /dev/sr0").split()[0]


def disks(cluster: RealCluster, *options: str) -> list[str]:
    """Files of its disks."""
    return re.findall(r"<source file='([^']*)'", cluster.virsh("dumpxml", "web", *options))


def test_a_guest_reads_its_defined_seed_on_every_node_it_starts_on_or_moves_to(
    cluster: RealCluster, command: Command, guests: Guests, tmp_path: Path
) -> None:
    cd = with_cds(cluster)
    names = [cluster.node(node) for node in cluster.nodes]
    eventually(lambda: all("default" in each("net-list", "--name") for each in names), 30, "its network")
    xml = cluster.xml("web", network="default", metadata=SEED.format('name="web.example.org"', KEY))
    try:
        cluster.view("n1").define(xml.replace("guest/initrd<", f"guest/{cd.name}<"), tmp_path)
        defined = cluster.virsh("dumpxml", "web")
        assert holders(cluster, VOLUME) == []
        cluster.virsh("start", "web")
        assert holders(cluster, VOLUME) == cluster.running_on("web") == ["n1"]
        assert disks(cluster) == [f"{IMAGES}/{VOLUME}"]
        assert cluster.virsh("dumpxml", "web", "--inactive") == defined
        assert VOLUME in cluster.virsh("vol-list", "default")
        assert file_at(cluster, "n1", VOLUME).stat().st_mode & 0o077 == 0, "user-data may be secret"
        boot(guests, "web")
        check_told(cluster, in_guest(guests, "web", "/dev/sr0"))

        cluster.virsh("migrate", "--live", "web", cluster.view_uri("n2"))
        assert cluster.running_on("web") == ["n2"]
        assert holders(cluster, VOLUME) == ["n1", "n2"]
        assert digest(guests) == sha256(file_at(cluster, "n2", VOLUME))
        assert cluster.virsh("dumpxml", "web", "--inactive") == defined

        cluster.virsh("managedsave", "web")
        cluster.virsh("start", "web")
        assert disks(cluster) == [f"{IMAGES}/{VOLUME}"]
        cluster.virsh("destroy", "web")
        assert disks(cluster) == []
        command("domain", "move", "web", "--to", "n3")
        cluster.virsh("start", "web")
        assert cluster.running_on("web") == ["n3"]
        assert holders(cluster, VOLUME) == ["n1", "n2", "n3"]
        boot(guests, "web")
        assert digest(guests) == sha256(file_at(cluster, "n1", VOLUME))
        assert cluster.virsh("vol-list", "default").count(VOLUME + " ") == 1
    finally:
        cluster.remove("web")
        cd.unlink(missing_ok=True)
    eventually(lambda: holders(cluster, VOLUME) == [], 20, "the seed is gone from all nodes")
    assert VOLUME not in cluster.virsh("vol-list", "default")


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ('hostname="x"', "XML error: unexpected attribute 'hostname' of <seed>"),
        ('name="a b"', "XML error: the seed of the domain: 'a b' is no host name"),
        (
            'network="lan"',
            "unsupported configuration: network='lan' of <seed> is not one of auto, dhcp, none",
        ),
    ],
)
def test_a_definition_that_asks_for_what_cannot_be_is_refused(
    cluster: RealCluster, tmp_path: Path, attributes: str, text: str
) -> None:
    path = tmp_path / "web.xml"
    path.write_text(cluster.xml("web", metadata=SEED.format(attributes, KEY)))
    done = cluster.virsh.run("define", str(path))
    assert done.code == 1
    assert text in done.err


def test_a_start_that_fails_leaves_the_definition_as_it_was(
    cluster: RealCluster, make: Callable[..., str], tmp_path: Path
) -> None:
    missing = "<disk type='file' device='disk'><source file='/nowhere/disk'/><target dev='vda' bus='virtio'/></disk>"
    make("web", metadata=SEED.format("", KEY), devices=missing, machine="q35")
    defined = cluster.virsh("dumpxml", "web")
    done = cluster.virsh.run("start", "web")
    assert done.code == 1
    assert "/nowhere/disk" in done.err
    assert cluster.virsh("dumpxml", "web") == cluster.virsh("dumpxml", "web", "--inactive") == defined
    cluster.virsh("undefine", "web")
    make("web", metadata=SEED.format("", KEY), machine="q35", start=True)
    assert re.search(rf"sdf +{IMAGES}/{VOLUME}", cluster.virsh("domblklist", "web"))


def test_the_command_makes_a_seed_a_volume(cluster: RealCluster, command: Command, tmp_path: Path) -> None:
    file, back = tmp_path / "x.iso", tmp_path / "back.iso"
    command("image", "seed", "--name", "x", str(file))
    try:
        assert (
            command("image", "seed", "--name", "x", "--pool", "default", "x.iso")
            == "x.iso is in pool default"
        )
        cluster.virsh("vol-download", "x.iso", str(back), "default")
        assert back.read_bytes() == file.read_bytes()
        code, text = command.fails("image", "seed", "--name", "x", "--pool", "default", "x.iso")
        assert (code, text) == (1, "error: storage volume 'x.iso' exists already")
    finally:
        cluster.virsh("vol-delete", "x.iso", "default")
    assert command.fails("image", "seed", "--name", "x", "--pool", "nowhere", "x.iso")[0] != 0
    assert command.fails("image", "seed", "--name", "x", "--pool", "default", ".x.iso")[0] == 2
