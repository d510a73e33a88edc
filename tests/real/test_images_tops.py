"""A guest on an overlay moves with what is over its base, or with all of it; each time the cluster's view follows."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.test_images import (
    IMAGES,
    MIB,
    SIZE,
    digest_in_guest,
    file_at,
    holders,
    image,  # noqa: F401 -- fixtures
    on_disk,
    room,
    uploaded,
    volume,  # noqa: F401
    written_in_guest,
)

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster


def backing_of(cluster: RealCluster, name: str) -> str:
    """As clients see it."""
    found = re.search("<backingStore>\\s*<path>(.*)</path>", cluster.virsh("vol-dumpxml", name, "default"))
    return found[1] if found else ""


def image_info(path: Path) -> dict[str, Any]:
    """What the file itself says, also of one in use."""
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output", "json", str(path)], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(told.stdout)
    return found


@pytest.mark.timeout(240)
def test_a_guest_on_a_clone_moves_with_its_own_bytes_or_with_all(
    cluster: RealCluster,
    gone: Callable[[str], str],
    image: Path,  # noqa: F811
    volume: Callable[[str], str],  # noqa: F811
    tmp_path: Path,
) -> None:
    virsh, name = cluster.virsh, gone("tops")
    first = uploaded(cluster, volume("below"), image)
    second, third = [node for node in cluster.nodes if node != first]
    backing = ("--backing-vol", "below", "--backing-vol-format", "raw")
    virsh("vol-create-as", "default", volume("top"), str(SIZE), "--format", "qcow2", *backing)
    disk = on_disk("top").replace("type='raw'", "type='qcow2'")
    assert cluster.begun(name, tmp_path, devices=disk) == first
    expected = written_in_guest(cluster, name, "over the base")

    virsh("migrate", name, cluster.view_uri(second), "--live", "--copy-storage-inc", seconds=120)
    assert cluster.running_on(name) == [second]
    assert (holders(cluster, "top"), holders(cluster, "below")) == ([second], sorted([first, second]))
    assert backing_of(cluster, "top") == f"{IMAGES}/below"
    assert image_info(file_at(cluster, second, "top"))["backing-filename"] == f"{IMAGES}/below"
    assert room(file_at(cluster, second, "top")) < MIB, "what is in the base was copied, too"
    assert digest_in_guest(cluster, name) == expected
    assert "top@" not in virsh("vol-list", "default")

    virsh("migrate", name, cluster.view_uri(third), "--live", "--copy-storage-all", seconds=120)
    assert cluster.running_on(name) == [third]
    assert (holders(cluster, "top"), holders(cluster, "below")) == ([third], sorted([first, second]))
    assert digest_in_guest(cluster, name) == expected
    assert (
        backing_of(cluster, "top"),
        image_info(file_at(cluster, third, "top")).get("backing-filename"),
    ) == (
        "",
        None,
    ), "libvirt makes an image of its own of it"
    virsh("vol-delete", "below", "default")
    virsh("destroy", name)
    virsh("start", name)
    assert digest_in_guest(cluster, name) == expected
