"""Which file a path is, told so that two nodes can compare.  Reads the mount table; knows no libvirtd."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
BOOT = Path("/proc/sys/kernel/random/boot_id")
SHARED = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "quobyte",
        "smb3",
        "smbfs",
        "virtiofs",
    }
)
"""File systems, as the kernel names them, that several machines see at once."""


def identity(path: Path) -> str:
    """The same text on two nodes for one file, and for no others; "" when it is not there.

    A file system of the network: its kind and the inode.  A local one: also the kernel and the device, for nodes
    that are namespaces of one machine."""
    try:
        found = path.stat()
    except OSError:
        return ""
    kind = kind_of(found.st_dev, MOUNTS.read_text())
    if kind in SHARED:
        return f"{kind}:{found.st_ino}"
    return f"{BOOT.read_text().strip()}:{found.st_dev}:{found.st_ino}"


def is_shared(path: Path) -> bool:
    """Other machines may see the file: whether they use it is not known here."""
    try:
        device = path.stat().st_dev
    except OSError:
        return False
    return kind_of(device, MOUNTS.read_text()) in SHARED


def kind_of(device: int, mounts: str) -> str:
    """The kind of the file system of a device, from the text of proc(5)'s mountinfo; "" when it has none of its own
    (a subvolume)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted] and after:
            return after.split()[0]
    return ""
