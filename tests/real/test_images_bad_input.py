"""What is no image, has no room or leaves its pool: refused with the reason, and nothing half of it is anywhere."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import layout
from clusterhost.demo.processes import machine_init
from tests.real import test_volumes
from tests.real.test_images import bound
from tests.real.test_images_broken_off import files, findings
from tests.real.test_volume_crashes import refused
from tests.real.test_volumes import HERE, MIB, Stocked, random_file
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pool = test_volumes.pool
DISK = (
    "<disk type='volume'><driver name='qemu' type='qcow2'/><source pool='{}' volume='{}'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
CIRCLE = "the backing files of volume {} are a circle"
REFUSED = {
    "link": ("link is a symbolic link, allowed are files", "is a symbolic link, allowed are files"),
    "outside": ("its backing path '/etc/hostname' leaves the pool's directory",) * 2,
    "one": (CIRCLE.format("one"), "volume 'one' is the base of 'two'"),
    "two": (CIRCLE.format("two"), "volume 'two' is the base of 'one'"),
}
"""What stands in the way of a copy, and of a start on a node that does not have it."""
ROOM = 16 * MIB
"""Of the pool on a node that is nearly full."""


def made(pool: Stocked, node: str, name: str, *options: str) -> None:
    """A qcow2 file appears in a node's directory, with whatever below it."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(pool.file(node, name)), "1M"]
    subprocess.run(words, check=True)


@pytest.fixture
def small(pool: Stocked) -> Iterator[Path]:
    """The pool's directory on n1 is a small disk of its own."""
    paths, target = layout(pool.cluster.state), HERE.format(pool.name)
    init = machine_init(paths.state, paths.machine("n1"))

    def inside(*words: str) -> None:
        subprocess.run(["nsenter", "-t", str(init), "-m", "-p", *words], check=True)

    inside("mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", target)
    try:
        yield Path(f"/proc/{init}/root{target}")
    finally:
        inside("umount", "-l", target)


def strangers(pool: Stocked) -> None:
    """What somebody puts into the directory of n1."""
    directory = HERE.format(pool.name)
    pool.file("n1", "link").symlink_to("/etc/hostname")
    made(pool, "n1", "outside", "-u", "-b", "/etc/hostname", "-F", "raw")
    made(pool, "n1", "one", "-u", "-b", f"{directory}/two", "-F", "qcow2")
    made(pool, "n1", "two", "-u", "-b", f"{directory}/one", "-F", "qcow2")
    made(pool, "n1", "plain")
    pool.file("n1", "short").write_bytes(pool.file("n1", "plain").read_bytes()[:100])


@pytest.mark.timeout(120)
def test_an_image_that_leads_out_of_its_pool_or_nowhere_is_copied_to_no_node(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], pool: Stocked, tmp_path: Path
) -> None:
    strangers(pool)
    pool.virsh("pool-refresh", pool.name)
    before = files(pool)
    for name, (copied, started) in REFUSED.items():
        code, text = command.fails("image", "distribute", name, "--all", "--pool", pool.name)
        assert (code, copied in text) == (1, True), text
        disk = DISK.format(pool.name, name)
        domain = gone(f"on-{name}")
        pool.virsh.define(bound(cluster, cluster.xml(domain, devices=disk), "n2"), tmp_path)
        assert started in pool.virsh.fails("start", domain)
    assert files(pool) == before
    assert pool.listed() == sorted([*REFUSED, "plain", "short"])
    assert findings(command, pool) == []


@pytest.mark.timeout(120)
def test_a_full_disk_ends_an_upload_a_clone_and_a_copy_and_nothing_of_them_is_listed(
    command: Command, pool: Stocked, small: Path, tmp_path: Path
) -> None:
    pool.virsh("pool-refresh", pool.name)
    data, part = random_file(tmp_path, 24 * MIB), random_file(tmp_path, 10 * MIB, "part")

    def at_n1(name: str, size: str) -> None:
        """It has least room, so only its own view puts something there."""
        pool.cluster.view("n1")("vol-create-as", pool.name, name, size, "--allocation", "0")

    at_n1("disk", "24M")
    full = f"Unable to write {HERE.format(pool.name)}/disk: No space left on device"
    assert full in pool.virsh.fails("vol-upload", "disk", str(data), "--pool", pool.name)
    assert pool.listed() == []
    said = refused(pool, tmp_path)
    assert "an upload of bytes 0 to the end to node n1 was cut after " in said
    assert f" of {24 * MIB} bytes: {full}" in said
    assert findings(command, pool) == [("disk", "n1", "incomplete", "")]
    pool.virsh("vol-delete", "disk", "--pool", pool.name)

    at_n1("disk", "10M")
    pool.virsh("vol-upload", "disk", str(part), "--pool", pool.name)
    assert "No space left on device" in pool.virsh.fails("vol-clone", "disk", "copy", "--pool", pool.name)
    assert pool.listed() == ["disk"]
    assert [path.name for path in small.iterdir()] == ["disk"]

    pool.create("large", "24M", "--allocation", "0")
    pool.virsh("vol-upload", "large", str(data), "--pool", pool.name)
    outcome = command.run("image", "distribute", "large", "--all", "--pool", pool.name, "--format", "json")
    assert outcome.code == 1
    rows = {row["node"]: row for row in json.loads(outcome.out)}
    assert {node: row["ok"] for node, row in rows.items()} == {"n1": False, "n2": True, "n3": True}
    assert re.search(r"node n1: .*/large needs 24 MiB, .* are free: .* are missing$", rows["n1"]["reason"])
    assert [path.name for path in small.iterdir()] == ["disk"]
    assert findings(command, pool) == []
