"""Control groups (version 1) of the demo's nodes, in which their libvirtd makes those of domains.  Knows no libvirt."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WANTED = frozenset(("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory"))
_INHERITED = ("cpuset.cpus", "cpuset.mems")
_REMOVE_SECONDS = 5.0


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree.  options: as mount(8) takes them, such as cpu,cpuacct; own: this process's group in it."""

    options: str
    mount: Path
    own: Path


def usable() -> list[Hierarchy]:
    """Return the trees in which groups can be made; none on a machine that has version 2 alone."""
    trees = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    return [tree for tree in trees if os.access(tree.own, os.W_OK)]


def hierarchies(mountinfo: str, groups: str) -> list[Hierarchy]:
    """Join what is mounted (proc(5), mountinfo) with where a process is (cgroups(7), /proc/PID/cgroup)."""
    places = {}
    for line in groups.splitlines():
        _, names, path = line.split(":", 2)
        places[names] = path
    trees: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, after = (part.split() for part in line.split(" - ", 1))
        kind, held = after[0], set(after[-1].split(",")) & WANTED
        names = next((names for names in places if held and held <= set(names.split(","))), "")
        if kind != "cgroup" or not names or names in trees:
            continue
        root, mount = before[3], Path(before[4])
        if Path(places[names]).is_relative_to(root):
            trees[names] = Hierarchy(names, mount, mount / Path(places[names]).relative_to(root))
    return list(trees.values())


def make(state: Path, name: str) -> list[Path]:
    """Make a machine's empty groups, below those of this process; return the files that a pid is written to."""
    remove(state, name)
    files = []
    for tree in usable():
        outer = tree.own / _group(state)
        for directory in (outer, outer / name):
            directory.mkdir(exist_ok=True)
            for part in _INHERITED:
                # A new cpuset is empty, and nothing can run in it.
                if (directory / part).exists():
                    (directory / part).write_text((directory.parent / part).read_text())
        files.append(outer / name / "cgroup.procs")
    return files


def remove(state: Path, name: str = "") -> None:
    """Remove the groups of a machine, or of the whole demo; nothing may run in them any more."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    for top in list(found(state)):
        for directory, _, _ in os.walk(top / name, topdown=False):
            _rmdir(Path(directory), deadline)


def found(state: Path) -> Iterator[Path]:
    """Yield the demo's group in each tree, whoever made it: `up` may have run in another group than we do."""
    for tree in usable():
        for directory, inner, _ in os.walk(tree.mount):
            if _group(state) in inner:
                yield Path(directory) / _group(state)


def _group(state: Path) -> str:
    return "clusterhost-demo-" + hashlib.sha256(str(state).encode()).hexdigest()[:12]


def _rmdir(directory: Path, deadline: float) -> None:
    """A killed process leaves its group a moment after it can no longer be seen."""
    while True:
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
