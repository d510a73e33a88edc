"""An agent dies while its libvirtd works on a volume, and comes back: nothing is half listed, it can be done again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from tests.support.blockservers import lacking, run
from tests.support.command import Command

SIZE = 2 * MIB


@dataclass(frozen=True)
class Deed:
    """words: for virsh, the pool comes last; at_first: what is listed when the agent died in it, nothing of which
    nobody knows what it holds; in_the_end: when it was done again; found: by `image verify`."""

    words: tuple[str, ...]
    at_first: list[str]
    in_the_end: list[str]
    found: str = ""


MADE = "its creation at node n1 has not been seen to end"
DEEDS = {
    "delete": Deed(("vol-delete", "disk", "--pool"), [], []),
    "create": Deed(
        ("vol-create-as", "--name", "new", "--capacity", f"{SIZE}b", "--pool"),
        ["disk"],
        ["disk", "new"],
        MADE,
    ),
    "clone": Deed(("vol-clone", "disk", "new", "--pool"), ["disk"], ["disk", "new"], MADE),
    "resize": Deed(("vol-resize", "disk", "4M", "--pool"), ["disk"], ["disk"]),
    "wipe": Deed(
        ("vol-wipe", "disk", "--pool"),
        [],
        ["disk"],
        "a wipe of bytes 0 to the end on n1 has not been seen to end",
    ),
}


class Freezer:
    """A pool whose directory on n1 is a file system of its own: while that is frozen, who changes something in it waits
    in the kernel, and reading goes on.  The other nodes have no room for a volume."""

    node = "n1"

    def __init__(self, stocked: Stocked) -> None:
        self.stocked = stocked
        self.directory = HERE.format(stocked.name)
        self.command = Command(stocked.cluster.state / "front" / "clusterhost.toml")

    def _init(self, node: str) -> int:
        paths = layout(self.stocked.cluster.state)
        init = machine_init(paths.state, paths.machine(node))
        assert init is not None, f"{node} is off"
        return init

    def _inside(self, node: str, *words: str) -> None:
        """Run a command where the node's mounts are."""
        run("nsenter", "-t", str(self._init(node)), "-m", *words)

    @contextmanager
    def mounted(self, image: Path) -> Iterator[None]:
        run("truncate", "-s", "256M", str(image))
        run("mkfs.ext4", "-q", str(image))
        with ExitStack() as undo:
            for node in self.stocked.cluster.nodes:
                small = ("-t", "tmpfs", "-o", "size=512k", "none")
                source = ("-o", "loop", str(image)) if node == self.node else small
                self._inside(node, "mount", *source, self.directory)
                undo.callback(self._inside, node, "umount", self.directory)
            self._inside(self.node, "rmdir", f"{self.directory}/lost+found")
            self.stocked.virsh("pool-refresh", self.stocked.name)
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self._inside(self.node, "fsfreeze", "-f", self.directory)
        try:
            yield
        finally:
            self._inside(self.node, "fsfreeze", "-u", self.directory)

    def files(self) -> dict[str, Path]:
        """What the node has of volumes, as this machine sees it."""
        seen = Path(f"/proc/{self._init(self.node)}/root{self.directory}").iterdir()
        return {path.name: path for path in sorted(seen) if not path.name.startswith(".")}

    def agent_dies_in(self, deed: Deed) -> None:
        """It dies while libvirtd does that, which ends when nobody waits for it any more."""
        cluster = self.stocked.cluster
        with self.frozen():
            command = ["virsh", "-c", cluster.endpoint, *deed.words, self.stocked.name]
            caller = subprocess.Popen(command, stderr=subprocess.PIPE)
            time.sleep(1.5)
            assert caller.poll() is None, "it waits for the file system"
            demo.kill_service(cluster.state, self.node, "agent")
            told = caller.communicate(timeout=30)[1].decode()
        assert caller.returncode == 1
        assert f"error: operation failed: node {self.node} is out of reach since" in told
        whole_again(cluster, 60)


@pytest.fixture
def freezer(pool: Stocked, tmp_path: Path) -> Iterator[Freezer]:  # noqa: F811
    """A pool with a volume `disk` of SIZE random bytes (tmp_path/data)."""
    if why := lacking("mkfs.ext4", "fsfreeze"):
        pytest.skip(why)
    made = Freezer(pool)
    with made.mounted(tmp_path / "disk.ext4"):
        pool.create("disk", f"{SIZE}b")
        pool.virsh("vol-upload", "disk", str(random_file(tmp_path, SIZE)), "--pool", pool.name)
        yield made


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", DEEDS)
def test_what_an_agent_died_in_is_not_half_listed_and_can_be_done_again(
    freezer: Freezer, tmp_path: Path, name: str
) -> None:
    stocked, deed = freezer.stocked, DEEDS[name]
    freezer.agent_dies_in(deed)
    assert stocked.listed() == deed.at_first
    if name == "delete":
        assert "no storage vol with matching path 'disk'" in stocked.virsh.fails(*deed.words, stocked.name)
    else:
        stocked.virsh(*deed.words, stocked.name)
    files = freezer.files()
    assert list(files) == stocked.listed() == deed.in_the_end
    whole, empty = (tmp_path / "data").read_bytes(), bytes(SIZE)
    expected = {
        "disk": {"wipe": empty, "resize": whole + empty}.get(name, whole),
        "new": whole if name == "clone" else empty,
    }
    for volume, file in files.items():
        assert file.read_bytes() == expected[volume], volume


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", DEEDS)
def test_what_an_agent_died_in_leaves_no_file_after_verify(freezer: Freezer, name: str) -> None:
    stocked, deed = freezer.stocked, DEEDS[name]
    freezer.agent_dies_in(deed)
    words = ("image", "verify", "--pool", stocked.name, "--repair", "--delete-incomplete")
    findings = freezer.command.json(*words)["findings"]
    expected = [(deed.found, "removed")] if deed.found else []
    assert [(row["text"], row["mended"]) for row in findings] == expected
    assert list(freezer.files()) == stocked.listed() == deed.at_first
