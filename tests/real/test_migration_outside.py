"""Shown by 5: migration into the cluster from an outside libvirt, out of it, and with its disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from tests.support.guest import Console
from tests.support.stock import EventLog, Virsh

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]
OUTSIDE = "n9"


@pytest.fixture(scope="module")
def outside(cluster: RealCluster) -> Iterator[Virsh]:
    """A libvirt host that is in no cluster, on the same wire as the nodes."""
    demo.add_bare_node(cluster.state, OUTSIDE)
    yield cluster.node(OUTSIDE)
    demo.remove_node(cluster.state, OUTSIDE)


@pytest.mark.timeout(180)
def test_a_domain_comes_in_from_outside_and_leaves_again(
    cluster: RealCluster, outside: Virsh, events: Callable[[str], EventLog], tmp_path: Path
) -> None:
    outside.define(cluster.xml("guest"), tmp_path)
    outside("start", "guest")
    log = events(cluster.endpoint)
    try:
        outside(
            "migrate", "--live", "guest", cluster.endpoint, "--persistent", "--undefinesource", seconds=90
        )
        assert "guest" not in outside.names("--all")
        assert len(cluster.running_on("guest")) == 1
        assert cluster.virsh("domstate", "guest") == "running"
        assert "Persistent:     yes" in cluster.virsh("dominfo", "guest")
        assert int(cluster.virsh("domid", "guest")) > 0
        log.until("'guest': Resumed Migrated")
        cluster.virsh(
            "migrate", "--live", "guest", outside.uri, "--persistent", "--undefinesource", seconds=90
        )
        assert "guest" not in cluster.virsh.names("--all")
        assert outside("domstate", "guest") == "running"
        log.until("'guest': Stopped Migrated")
    finally:
        cluster.remove("guest")
        outside.run("destroy", "guest")
        outside.run("undefine", "guest")


@pytest.mark.timeout(180)
def test_a_tunnel_leads_in_across_and_out(
    cluster: RealCluster, outside: Virsh, events: Callable[[str], EventLog], tmp_path: Path
) -> None:
    tunnel = ("migrate", "--live", "--p2p", "--tunnelled", "deep")
    outside.define(cluster.xml("deep"), tmp_path)
    outside("start", "deep")
    log = events(cluster.endpoint)
    try:
        with Console(outside.uri, "deep") as console:
            before = console.count()
        outside(*tunnel, cluster.view_uri("n1"), "--persistent", "--undefinesource", seconds=90)
        assert (outside.names("--all"), cluster.running_on("deep")) == (set(), ["n1"])
        log.until("'deep': Resumed Migrated")
        number = cluster.virsh("domid", "deep")
        cluster.virsh(*tunnel, cluster.view_uri("n2"), "--persistent", "--undefinesource", seconds=90)
        assert cluster.running_on("deep") == ["n2"]
        assert cluster.owner("deep") == "n2"
        assert cluster.virsh("domid", "deep") == number
        cluster.virsh(*tunnel, cluster.endpoint, seconds=90)
        assert cluster.running_on("deep") in (["n1"], ["n3"])
        cluster.virsh(*tunnel, outside.uri, "--persistent", "--undefinesource", seconds=90)
        assert "deep" not in cluster.virsh.names("--all")
        log.until("'deep': Stopped Migrated")
        outside(*tunnel, cluster.endpoint, "--undefinesource", "--persistent", seconds=90)
        with Console(cluster.endpoint, "deep") as console:
            assert console.count() > before
    finally:
        cluster.remove("deep")
        outside.run("destroy", "deep")
        outside.run("undefine", "deep")


@pytest.mark.timeout(180)
def test_a_refused_arrival_leaves_the_domain_where_it_was(
    cluster: RealCluster, outside: Virsh, make: Make, tmp_path: Path
) -> None:
    make("taken")
    outside.define(cluster.xml("taken"), tmp_path)
    outside("start", "taken")
    try:
        assert "already exists" in outside.fails("migrate", "--live", "taken", cluster.endpoint, seconds=90)
        assert outside("domstate", "taken") == "running"
        assert cluster.virsh("domstate", "taken") == "shut off"
    finally:
        outside("destroy", "taken")
        outside("undefine", "taken")


@pytest.mark.timeout(240)
def test_a_local_disk_travels_with_copy_storage_all(cluster: RealCluster, make: Make) -> None:
    for node in cluster.nodes:
        disk = cluster.state / "nodes" / node / "lib" / "own" / "own.qcow2"
        disk.parent.mkdir(exist_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "8M"], check=True)
    name = make("carrier", start=True, disk=Path("/var/lib/libvirt/own/own.qcow2"))
    source = cluster.owner(name)
    target = next(node for node in cluster.nodes if node != source)
    cluster.view(source)(
        "migrate", "--live", "--copy-storage-all", name, cluster.view_uri(target), "--persistent", seconds=90
    )
    assert cluster.running_on(name) == [target]
    assert cluster.owner(name) == target
    for node in cluster.nodes:
        (cluster.state / "nodes" / node / "lib" / "own" / "own.qcow2").unlink()


@pytest.mark.timeout(120)
def test_a_migration_is_refused_as_unsafe_where_libvirt_does(cluster: RealCluster, make: Make) -> None:
    disk = cluster.state / "shared" / "cached.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "8M"], check=True)
    name = make("unsafe", disk=disk)
    xml = cluster.virsh("dumpxml", name, "--inactive").replace("cache='none'", "cache='writeback'")
    path = cluster.state / "shared" / "unsafe.xml"
    path.write_text(xml)
    cluster.virsh("define", str(path))
    cluster.virsh("start", name)
    target = next(node for node in cluster.nodes if node != cluster.owner(name))
    assert "Unsafe migration" in cluster.virsh.fails("migrate", "--live", name, cluster.view_uri(target))
    assert cluster.virsh("domstate", name) == "running"
    cluster.remove(name)
    path.unlink()
    disk.unlink()
