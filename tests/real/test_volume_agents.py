"""An agent dies while its libvirtd works on a volume, and comes back: nothing is half listed, it can be done again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import layout
from clusterhost.demo.processes import machine_init
from tests.real.test_outages import whole_again
from tests.real.test_volumes import (
    HERE,
    MIB,
    Stocked,
    pool,  # noqa: F401 -- a fixture
    random_file,
)
from tests.support.blockservers import run
from tests.support.command import Command

SIZE = 2 * MIB


class Freezer:
    """A pool whose directory on the first node is a file system of its own: while that is frozen, who changes something
    in it waits in the kernel, and reading goes on.  The other nodes have no room for a volume."""

    def __init__(self, stocked: Stocked, where: Path) -> None:
        self.stocked = stocked
        self.node = stocked.cluster.nodes[0]
        self.directory = HERE.format(stocked.name)
        self.command = Command(stocked.cluster.state / "front" / "clusterhost.toml")
        self._image = where / "disk.ext4"

    def _init(self, node: str) -> int:
        paths = layout(self.stocked.cluster.state)
        return machine_init(paths.state, paths.machine(node))

    def inside(self, node: str, *words: str) -> None:
        """Run a command where the node's mounts are."""
        run("nsenter", "-t", str(self._init(node)), "-m", *words)

    def mount(self) -> None:
        run("truncate", "-s", "256M", str(self._image))
        run("mkfs.ext4", "-q", str(self._image))
        self.inside(self.node, "mount", "-o", "loop", str(self._image), self.directory)
        self.inside(self.node, "rmdir", f"{self.directory}/lost+found")
        for node in self.stocked.cluster.nodes[1:]:
            self.inside(node, "mount", "-t", "tmpfs", "-o", "size=512k", "none", self.directory)
        self.stocked.virsh("pool-refresh", self.stocked.name)

    def unmount(self) -> None:
        for node in self.stocked.cluster.nodes:
            self.inside(node, "umount", self.directory)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.inside(self.node, "fsfreeze", "-f", self.directory)
        try:
            yield
        finally:
            self.inside(self.node, "fsfreeze", "-u", self.directory)

    def files(self) -> dict[str, Path]:
        """What the node has of volumes, as this machine sees it."""
        seen = Path(f"/proc/{self._init(self.node)}/root{self.directory}").iterdir()
        return {path.name: path for path in sorted(seen) if not path.name.startswith(".")}


@pytest.fixture
def freezer(pool: Stocked, tmp_path: Path) -> Iterator[Freezer]:  # noqa: F811
    """A pool with a volume `disk` of SIZE random bytes (tmp_path/data)."""
    made = Freezer(pool, tmp_path)
    made.mount()
    pool.create("disk", f"{SIZE}b")
    pool.virsh("vol-upload", "disk", str(random_file(tmp_path, SIZE)), "--pool", pool.name)
    yield made
    made.unmount()


DEEDS = {
    "delete": ("vol-delete", "disk", "--pool"),
    "create": ("vol-create-as", "--name", "new", "--capacity", f"{SIZE}b", "--pool"),
    "clone": ("vol-clone", "disk", "new", "--pool"),
    "resize": ("vol-resize", "disk", "4M", "--pool"),
    "wipe": ("vol-wipe", "disk", "--pool"),
}
"""The pool comes last."""
AT_FIRST = {"delete": [], "create": ["disk"], "clone": ["disk"], "resize": ["disk"], "wipe": []}
"""What is listed afterwards: nothing of which nobody knows what it holds."""
IN_THE_END = {
    "delete": [],
    "create": ["disk", "new"],
    "clone": ["disk", "new"],
    "resize": ["disk"],
    "wipe": ["disk"],
}
FOUND = {
    "create": "its creation at node n1 has not been seen to end",
    "clone": "its creation at node n1 has not been seen to end",
    "wipe": "a wipe of bytes 0 to the end on n1 has not been seen to end",
}


def broken_off(freezer: Freezer, words: tuple[str, ...]) -> None:
    """The agent dies while libvirtd does that, which ends when nobody waits for it any more."""
    stocked = freezer.stocked
    with freezer.frozen():
        caller = subprocess.Popen(
            ["virsh", "-c", stocked.cluster.endpoint, *words, stocked.name], stderr=subprocess.PIPE
        )
        time.sleep(1.5)
        assert caller.poll() is None, "it waits for the file system"
        demo.kill_service(stocked.cluster.state, freezer.node, "agent")
        told = caller.communicate(timeout=30)[1].decode()
    assert caller.returncode == 1
    assert f"error: operation failed: node {freezer.node} is out of reach since" in told
    whole_again(stocked.cluster, 60)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("deed", DEEDS)
def test_what_an_agent_died_in_is_not_half_listed_and_can_be_done_again(
    freezer: Freezer, tmp_path: Path, deed: str
) -> None:
    stocked = freezer.stocked
    broken_off(freezer, DEEDS[deed])
    assert stocked.listed() == AT_FIRST[deed]
    if deed == "delete":
        assert "no storage vol with matching path 'disk'" in stocked.virsh.fails(*DEEDS[deed], stocked.name)
    else:
        stocked.virsh(*DEEDS[deed], stocked.name)
    files = freezer.files()
    assert list(files) == stocked.listed() == IN_THE_END[deed]
    whole, empty = (tmp_path / "data").read_bytes(), bytes(SIZE)
    expected = {
        "disk": {"wipe": empty, "resize": whole + empty}.get(deed, whole),
        "new": whole if deed == "clone" else empty,
    }
    for name, file in files.items():
        assert file.read_bytes() == expected[name], name


@pytest.mark.timeout(120)
@pytest.mark.parametrize("deed", DEEDS)
def test_what_an_agent_died_in_leaves_no_file_after_verify(freezer: Freezer, deed: str) -> None:
    stocked = freezer.stocked
    broken_off(freezer, DEEDS[deed])
    words = ("image", "verify", "--pool", stocked.name, "--repair", "--delete-incomplete")
    findings = freezer.command.json(*words)["findings"]
    assert [(row["text"], row["mended"]) for row in findings] == [
        (FOUND[name], "removed") for name in FOUND if name == deed
    ]
    assert list(freezer.files()) == stocked.listed() == AT_FIRST[deed]
