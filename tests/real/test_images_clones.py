"""Clones that are overlays: their guests read the base's bytes on any node, and nobody changes a base under them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.test_images import (
    IMAGES,
    SIZE,
    bound,
    digest_in_guest,
    file_at,
    holders,
    image,  # noqa: F401
    job_of,
    on_disk,
    sha256,
    volume,  # noqa: F401
)
from tests.support.command import Command
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

FROZEN = "Requested operation is not valid: volume '{}' is the base of '{}', so it cannot be {}"


@pytest.fixture
def linked(command: Command) -> Iterator[None]:
    """Clones in the pool `default` are overlays."""
    command("pool", "set", "default", "--linked-clones")
    yield
    command("pool", "set", "default", "--full-clones")


@pytest.fixture
def base(cluster: RealCluster, image: Path, volume: Callable[[str], str], tmp_path: Path) -> str:  # noqa: F811
    """The node of `base`, a qcow2 volume with the image's bytes."""
    made = tmp_path / "base.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, made], check=True)
    cluster.virsh("vol-create-as", "default", volume("base"), str(SIZE), "--format", "qcow2")
    cluster.virsh("vol-upload", "base", str(made), "default")
    (node,) = holders(cluster, "base")
    return node


def on_qcow2(name: str) -> str:
    return on_disk(name).replace("type='raw'", "type='qcow2'")


def backing(path: Path) -> str:
    """Of an image that may be in use."""
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output", "json", path], check=True, capture_output=True
    ).stdout
    return str(json.loads(told).get("backing-filename", ""))


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("linked")
def test_a_clone_is_an_overlay_and_starts_elsewhere_with_its_base_which_stays_there(
    cluster: RealCluster,
    command: Command,
    gone: Callable[[str], str],
    image: Path,  # noqa: F811
    volume: Callable[[str], str],  # noqa: F811
    base: str,
    tmp_path: Path,
) -> None:
    virsh = cluster.virsh
    for name in ("one", "two"):
        virsh("vol-clone", "base", volume(name), "--pool", "default")
        assert holders(cluster, name) == [base]
        assert backing(file_at(cluster, base, name)) == f"{IMAGES}/base"
        assert file_at(cluster, base, name).stat().st_size < 1 << 20
    xml = virsh("vol-dumpxml", "one", "default")
    assert "<format type='qcow2'/>" in xml
    assert re.search(rf"<backingStore>\s*<path>{IMAGES}/base</path>\s*<format type='qcow2'/>", xml)
    target = next(node for node in cluster.nodes if node != base)
    for name, images in (("one", "2 images are"), ("two", "1 image is")):
        guest = gone(f"linked-{name}")
        virsh.define(bound(cluster, cluster.xml(guest, devices=on_qcow2(name)), target), tmp_path)
        virsh("start", guest)
        assert cluster.running_on(guest) == [target]
        assert digest_in_guest(cluster, guest) == sha256(image)
        assert job_of(command, guest)["text"] == f"{images} on {target}"
        assert holders(cluster, "base") == sorted([base, target])
    for name in ("one", "two"):
        virsh("destroy", f"linked-{name}")


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("linked")
def test_a_base_is_frozen_until_its_overlays_are_gone_or_need_it_no_more(
    cluster: RealCluster,
    gone: Callable[[str], str],
    image: Path,  # noqa: F811
    volume: Callable[[str], str],  # noqa: F811
    base: str,
    tmp_path: Path,
) -> None:
    virsh = cluster.virsh
    virsh("vol-clone", "base", volume("web"), "default")
    refusals = {
        "deleted": ("vol-delete", "base", "default"),
        "wiped": ("vol-wipe", "base", "default"),
        "resized": ("vol-resize", "base", "64M", "default"),
        "written to": ("vol-upload", "base", str(image), "default"),
    }
    for what, command_ in refusals.items():
        assert FROZEN.format("base", "web", what) in virsh.run(*command_).err, what
    template, web = gone("template"), gone("web-linked")
    virsh.define(cluster.xml(template, devices=on_qcow2("base")), tmp_path)
    refused = virsh.run("start", template)
    assert FROZEN.format("base", "web", "written to by a domain") in refused.err
    virsh.define(cluster.xml(web, devices=on_qcow2("web")), tmp_path)
    virsh("start", web)
    (node,) = cluster.running_on(web)
    refused = virsh.run("vol-clone", "web", volume("again"), "default")
    assert f"volume web is in use: domain '{web}' writes to it on node {node}" in refused.err
    virsh("blockpull", web, "vda", "--wait")
    assert backing(file_at(cluster, node, "web")) == ""
    virsh("start", template)
    assert digest_in_guest(cluster, web) == sha256(image)
    for name in (web, template):
        virsh("destroy", name)
    virsh("vol-delete", "base", "default")
    assert "backingStore" not in virsh("vol-dumpxml", "web", "default")


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("linked")
def test_nothing_is_committed_to_a_base_that_another_overlay_needs(
    cluster: RealCluster,
    gone: Callable[[str], str],
    volume: Callable[[str], str],  # noqa: F811
    base: str,
    tmp_path: Path,
) -> None:
    virsh, name = cluster.virsh, gone("committing")
    for each in ("mine", "other"):
        virsh("vol-clone", "base", volume(each), "default")
    virsh.define(cluster.xml(name, devices=on_qcow2("mine")), tmp_path)
    virsh("start", name)
    (node,) = cluster.running_on(name)
    before = sha256(file_at(cluster, node, "base"))
    refused = virsh.run("blockcommit", name, "vda", "--active", "--pivot", "--wait")
    assert "volume 'base' is the base of 'other', so nothing can be committed to it" in refused.err
    assert sha256(file_at(cluster, node, "base")) == before
    virsh("vol-delete", "other", "default")
    virsh("blockcommit", name, "vda", "--active", "--pivot", "--wait")
    eventually(lambda: f"{IMAGES}/base'" in virsh("dumpxml", name), 10, "the base is the disk")
    virsh("destroy", name)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("linked")
def test_of_a_raw_volume_an_overlay_is_made_where_the_document_says_no_format(
    cluster: RealCluster,
    volume: Callable[[str], str],  # noqa: F811
    tmp_path: Path,
) -> None:
    virsh, document = cluster.virsh, tmp_path / "over.xml"
    virsh("vol-create-as", "default", volume("flat"), "1M", "--format", "raw")
    (node,) = holders(cluster, "flat")
    document.write_text(f"<volume><name>{volume('over')}</name><capacity unit='MiB'>2</capacity></volume>")
    virsh("vol-create-from", "default", str(document), "flat", "--inputpool", "default")
    assert backing(file_at(cluster, node, "over")) == f"{IMAGES}/flat"
    shown = virsh("vol-dumpxml", "over", "default")
    assert re.search(rf"<backingStore>\s*<path>{IMAGES}/flat</path>\s*<format type='raw'/>", shown)
    assert "Capacity:       2.00 MiB" in virsh("vol-info", "over", "default")


@pytest.mark.timeout(120)
def test_a_clone_is_full_where_nobody_says_that_clones_are_linked_or_the_client_wants_one(
    cluster: RealCluster,
    command: Command,
    volume: Callable[[str], str],  # noqa: F811
    base: str,
) -> None:
    virsh = cluster.virsh
    virsh("vol-clone", "base", volume("copy"), "default")
    assert backing(file_at(cluster, base, "copy")) == ""
    virsh("vol-upload", "base", str(file_at(cluster, base, "copy")), "default")
    command("pool", "set", "default", "--linked-clones")
    try:
        shown = command.json("pool", "show", "default")
        virsh("vol-create-as", "default", volume("flat"), "1M", "--format", "raw")
        virsh("vol-clone", "flat", volume("flat-copy"), "default")
        virsh("vol-clone", "base", volume("own"), "default", "--prealloc-metadata")
    finally:
        command("pool", "set", "default", "--full-clones")
    assert shown["clones"] == "linked"
    assert "<format type='raw'/>" in virsh("vol-dumpxml", "flat-copy", "default")
    assert backing(file_at(cluster, base, "own")) == ""
