"""Files outside of pools: a start goes to the node that has the medium, and a kernel comes to where it is needed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.test_images import bound
from tests.support.command import Command

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

ISO = "/var/lib/libvirt/media/a.iso"
KERNEL = "/var/lib/libvirt/boot/vmlinuz-of-one"
MEDIUM = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
    f"<source file='{ISO}'/><target dev='hdc' bus='ide'/><readonly/></disk>"
)


def at(cluster: RealCluster, node: str, path: str) -> Path:
    """Where this machine has a node's file."""
    return cluster.state / "nodes" / node / "lib" / path.removeprefix("/var/lib/libvirt/")


@pytest.fixture
def clean(cluster: RealCluster) -> Iterator[None]:
    yield
    for node in cluster.nodes:
        at(cluster, node, KERNEL).unlink(missing_ok=True)
        shutil.rmtree(at(cluster, node, ISO).parent, ignore_errors=True)


@pytest.mark.timeout(120)
def test_a_start_goes_where_the_medium_is_and_the_kernel_comes_along(
    cluster: RealCluster, command: Command, gone: Callable[[str], str], clean: None, tmp_path: Path
) -> None:
    name = gone("media")
    iso = at(cluster, "n3", ISO)
    iso.parent.mkdir()
    iso.write_bytes(bytes(1 << 20))
    xml = cluster.xml(name, devices=MEDIUM)
    (kernel,) = re.findall("<kernel>(.*)</kernel>", xml)
    for node in cluster.nodes:
        at(cluster, node, KERNEL).parent.mkdir(exist_ok=True)
    shutil.copy(kernel, at(cluster, "n1", KERNEL))
    cluster.view("n1").define(xml.replace(kernel, KERNEL), tmp_path)
    cluster.virsh("start", name)
    assert cluster.running_on(name) == ["n3"]
    assert at(cluster, "n3", KERNEL).read_bytes() == Path(kernel).read_bytes()
    assert not at(cluster, "n2", KERNEL).exists()
    told = {row["node"]: row["text"] for row in command.json("placement", "explain", name)["reasons"]}
    assert told["n1"] == f"has no file {ISO}"
    job = next(row for row in command.json("job", "list") if row["object"] == name)
    assert (job["kind"], job["state"], job["text"]) == ("images", "done", "1 file is on n3")

    cluster.virsh("destroy", name)
    cluster.virsh("undefine", name)
    cluster.virsh.define(bound(cluster, xml.replace(kernel, KERNEL), "n2"), tmp_path)
    refused = cluster.virsh.run("start", name)
    assert f"n2: has no file {ISO}" in refused.err, refused.err


@pytest.mark.timeout(120)
def test_a_saved_domain_is_restored_where_its_file_is(
    cluster: RealCluster, gone: Callable[[str], str], tmp_path: Path
) -> None:
    name, path = gone("saved"), "/var/lib/libvirt/saved.save"
    cluster.place("n2", name, tmp_path)
    cluster.virsh("start", name)
    cluster.virsh("save", name, path, seconds=60)
    try:
        assert [node for node in cluster.nodes if at(cluster, node, path).exists()] == ["n2"]
        assert f"<name>{name}</name>" in cluster.virsh("save-image-dumpxml", path)
        cluster.virsh("restore", path, seconds=60)
        assert cluster.running_on(name) == ["n2"]
    finally:
        at(cluster, "n2", path).unlink(missing_ok=True)
