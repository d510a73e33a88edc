"""Shown by 3, 6, 7: domains through the endpoint behave as on a node, wherever they were made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cgroups
from tests.support.stock import EventLog, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]


@pytest.mark.timeout(120)
def test_six_domains_spread_over_three_nodes_and_agree_with_them(cluster: RealCluster, make: Make) -> None:
    names = [make(f"spread{number}", start=True) for number in range(6)]
    assert cluster.virsh.names() == set(names)
    assert [len(cluster.node(node).names()) for node in cluster.nodes] == [2, 2, 2]
    ids = {cluster.virsh("domid", name) for name in names}
    assert len(ids) == 6
    for name in names:
        node = cluster.node(cluster.owner(name))
        for command in ("domstate", "domuuid", "vcpucount", "domblklist", "domiflist"):
            assert cluster.virsh(command, name) == node(command, name)
        assert without_id(cluster.virsh("dumpxml", name)) == without_id(node("dumpxml", name))
        assert steady(cluster.virsh("dominfo", name)) == steady(node("dominfo", name))
        assert f"<domain type='qemu' id='{cluster.virsh('domid', name)}'" in cluster.virsh(
            "dumpxml", name
        ).replace("type='kvm'", "type='qemu'")
    stats = cluster.virsh("domstats", "--state")
    assert sorted(re.findall(r"^Domain: '(.*)'$", stats, re.MULTILINE)) == sorted(names)


def without_id(xml: str) -> str:
    """Domain XML without the id, which is the cluster's."""
    return re.sub(r"(<domain [^>]*?) id='\d+'", r"\1", xml)


def steady(info: str) -> list[str]:
    """The lines of dominfo that do not change by themselves and are not the id."""
    return [line for line in info.splitlines() if not line.startswith(("Id:", "CPU time:"))]


@pytest.mark.timeout(120)
def test_vcpuinfo_differs_from_the_node_only_in_the_number_of_cpus(cluster: RealCluster, make: Make) -> None:
    name = make("pinned", start=True)
    ours = cluster.virsh("vcpuinfo", name, "--pretty").replace("0-5 (out of 6)", "0-1 (out of 2)")
    theirs = cluster.node(cluster.owner(name))("vcpuinfo", name, "--pretty")
    unsteady = ("CPU:", "CPU time:")
    assert [line for line in ours.splitlines() if not line.startswith(unsteady)] == [
        line for line in theirs.splitlines() if not line.startswith(unsteady)
    ]


COMMANDS = [
    ("dumpxml", "{}", "--inactive"),
    ("dumpxml", "{}", "--migratable"),
    ("domjobinfo", "{}"),
    ("schedinfo", "{}"),
    ("memtune", "{}"),
    ("numatune", "{}"),
    ("blkiotune", "{}"),
    ("vcpucount", "{}", "--maximum", "--config"),
    ("iothreadinfo", "{}"),
    ("domcontrol", "{}"),
    ("snapshot-list", "{}"),
    ("checkpoint-list", "{}"),
    ("domfsinfo", "{}"),
    ("guestinfo", "{}"),
    ("domdisplay", "{}"),
    ("domhostname", "{}"),
    ("desc", "{}"),
    ("perf", "{}"),
]


@pytest.mark.timeout(120)
def test_read_commands_print_what_the_node_prints(cluster: RealCluster, make: Make) -> None:
    name = make("reads", start=True)
    node = cluster.node(cluster.owner(name))
    differing = []
    for words in COMMANDS:
        command = [word.format(name) for word in words]
        ours, theirs = cluster.virsh.run(*command), node.run(*command)
        if (ours.code, steady(without_id(ours.out)), ours.err) != (
            theirs.code,
            steady(without_id(theirs.out)),
            theirs.err,
        ):
            differing.append((words, ours, theirs))
    assert not differing


@pytest.mark.timeout(120)
def test_changes_go_through_as_on_a_node(cluster: RealCluster, make: Make, tmp_path: Path) -> None:
    name = make("changes", start=True, vcpus=1, max_vcpus=2)
    virsh = cluster.virsh
    virsh("setvcpus", name, "2", "--live")
    assert "2" in virsh("vcpucount", name, "--current", "--live")
    virsh(
        "metadata", name, "urn:example:a", "--key", "a", "--set", "<note>hello</note>", "--config", "--live"
    )
    assert "hello" in virsh("metadata", name, "urn:example:a")
    tune = ("schedinfo", name, "--live", "cpu_shares=512")
    if cgroups.usable():
        virsh(*tune)
        read = cluster.node(cluster.owner(name))("schedinfo", name)
        assert "cpu_shares     : 512" in read
        assert virsh("schedinfo", name) == read
    else:
        assert "cgroup" in virsh.fails(*tune)
    virsh("send-key", name, "KEY_ENTER")
    assert '"status": "running"' in virsh(
        "qemu-monitor-command", name, "--pretty", '{"execute":"query-status"}'
    )
    virsh("suspend", name)
    assert virsh("domstate", name, "--reason") == "paused (user)"
    virsh("resume", name)
    assert virsh("domstate", name) == "running"
    virsh("desc", name, "--title", "--config", "--live", "A title")
    assert virsh("desc", name, "--title") == "A title"
    xml = virsh("dumpxml", name, "--inactive")
    path = tmp_path / "same.xml"
    path.write_text(xml)
    virsh("define", "--validate", str(path))
    assert virsh("dumpxml", name, "--inactive") == xml


@pytest.mark.timeout(120)
def test_rename_undefine_and_clashes_answer_as_libvirt_does(
    cluster: RealCluster, make: Make, tmp_path: Path
) -> None:
    make("first")
    make("second")
    assert "already exists" in cluster.virsh.fails("domrename", "first", "second")
    cluster.virsh("domrename", "first", "third")
    try:
        assert cluster.virsh.names("--all") == {"second", "third"}
        assert "failed to get domain 'first'" in cluster.virsh.fails("domstate", "first")
        path = tmp_path / "clash.xml"
        path.write_text(cluster.xml("third"))
        assert "already exists with uuid" in cluster.virsh.fails("define", str(path))
    finally:
        cluster.virsh("undefine", "third")
    assert cluster.virsh.names("--all") == {"second"}


@pytest.mark.timeout(120)
def test_managed_save_and_save_files_come_back(cluster: RealCluster, make: Make) -> None:
    name = make("sleeper", start=True)
    cluster.virsh("managedsave", name)
    assert cluster.virsh("domstate", name, "--reason") == "shut off (saved)"
    assert "Managed save:   yes" in cluster.virsh("dominfo", name)
    cluster.virsh("start", name)
    assert cluster.virsh("domstate", name) == "running"
    image = cluster.state / "shared" / "sleeper.save"
    cluster.virsh("save", name, str(image))
    assert cluster.virsh("domstate", name) == "shut off"
    cluster.virsh("restore", str(image))
    assert cluster.virsh("domstate", name) == "running"
    image.unlink()


@pytest.mark.timeout(120)
def test_a_domain_made_behind_our_back_appears_within_a_second(
    cluster: RealCluster, events: Callable[[str], EventLog], tmp_path: Path
) -> None:
    log = events(cluster.endpoint)
    node = cluster.node("n2")
    node.define(cluster.xml("stranger"), tmp_path)
    try:
        eventually(lambda: "stranger" in cluster.virsh.names("--all"), 1, "stranger at the endpoint")
        node("start", "stranger")
        eventually(lambda: cluster.virsh.run("domstate", "stranger").out == "running", 1, "stranger runs")
        log.until("domain 'stranger': Started Booted")
        assert any("domain 'stranger': Defined Added" in line for line in log.lines)
    finally:
        node("destroy", "stranger")
        node("undefine", "stranger")
    eventually(lambda: "stranger" not in cluster.virsh.names("--all"), 1, "stranger gone")


@pytest.mark.timeout(120)
def test_create_is_transient_and_autodestroy_ends_with_its_client(
    cluster: RealCluster, tmp_path: Path
) -> None:
    path = tmp_path / "t.xml"
    path.write_text(cluster.xml("brief"))
    cluster.virsh("create", str(path), "--paused")
    assert cluster.virsh("domstate", "brief") == "paused"
    assert "Persistent:     no" in cluster.virsh("dominfo", "brief")
    cluster.virsh("destroy", "brief")
    assert "brief" not in cluster.virsh.names("--all")
    cluster.virsh("create", str(path), "--autodestroy")
    eventually(lambda: "brief" not in cluster.virsh.names("--all"), 10, "autodestroyed with its client")


@pytest.mark.timeout(120)
def test_autostart_is_the_clusters_and_not_the_nodes(cluster: RealCluster, make: Make) -> None:
    name = make("auto")
    cluster.virsh("autostart", name)
    assert "Autostart:      enable" in cluster.virsh("dominfo", name)
    assert name in cluster.virsh.names("--all", "--autostart")
    assert "Autostart:      disable" in cluster.node(cluster.owner(name))("dominfo", name)
    cluster.virsh("autostart", name, "--disable")
    assert "Autostart:      disable" in cluster.virsh("dominfo", name)


@pytest.mark.timeout(180)
def test_snapshots_checkpoints_and_block_copy_work_on_a_disk(cluster: RealCluster, make: Make) -> None:
    import subprocess

    disk = cluster.state / "shared" / "snap.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M"], check=True)
    name = make("snappy", start=True, disk=disk)
    virsh = cluster.virsh
    virsh("snapshot-create-as", name, "one")
    virsh("snapshot-create-as", name, "two")
    assert virsh("snapshot-parent", name, "two") == "one"
    virsh("snapshot-revert", name, "one")
    assert virsh("snapshot-current", name, "--name") == "one"
    virsh("snapshot-delete", name, "two")
    virsh("snapshot-delete", name, "one")
    virsh("checkpoint-create-as", name, "point")
    assert "point" in virsh("checkpoint-list", name, "--name")
    virsh("checkpoint-delete", name, "point")
    copy = cluster.state / "shared" / "copy.qcow2"
    virsh("blockcopy", name, "vda", str(copy), "--wait", "--pivot", "--transient-job", seconds=90)
    assert str(copy) in virsh("domblklist", name)
    cluster.remove(name)
    disk.unlink()
    copy.unlink()
