"""Which file a path is, told so that two nodes can compare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterhost.agent import files, filesystems

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:45 / /srv/images rw,relatime shared:2 master:7 - nfs4 store:/images rw,vers=4.2
31 22 0:46 / /mnt/with\\040space rw - fuse.glusterfs gv0 rw
broken line
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [((8, 1), "ext4"), ((0, 45), "nfs4"), ((0, 46), "fuse.glusterfs"), ((0, 4), ""), ((8, 11), "")],
)
def test_the_kind_of_a_file_system_is_found_by_its_device(device: tuple[int, int], kind: str) -> None:
    assert filesystems.kind_of(os.makedev(*device), MOUNTS) == kind


def test_two_names_of_a_file_are_one_and_two_files_are_two(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    one.write_text("x")
    other.write_text("x")
    two.symlink_to(one)
    assert filesystems.identity(one) == filesystems.identity(two) != filesystems.identity(other)
    assert filesystems.identity(tmp_path / "none") == ""
    assert filesystems.identity(one / "below") == ""


def test_a_file_of_the_network_is_known_by_its_inode_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_text("x")
    found = path.stat()
    numbers = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    table = tmp_path / "mountinfo"
    table.write_text(f"30 22 {numbers} / /srv rw - nfs4 store:/images rw\n")
    monkeypatch.setattr(filesystems, "MOUNTS", table)
    assert filesystems.identity(path) == f"nfs4:{found.st_ino}"
    assert filesystems.is_shared(path)
    assert not filesystems.is_shared(tmp_path / "none")


def test_a_left_nvram_file_is_removed_only_where_libvirt_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LIB", tmp_path)
    home = tmp_path / "qemu" / "nvram"
    home.mkdir(parents=True)
    left, outside, above = home / "web_VARS.fd", tmp_path / "other.fd", home / ".." / "x.fd"
    for path in (left, outside, above):
        path.write_text("vars")
        files.remove_left_nvram(str(path))
    assert (left.exists(), outside.exists(), above.exists()) == (False, True, True)
    files.remove_left_nvram(str(left))
