"""virt-install, virt-xml and virt-clone at the endpoint as at a node: what they say, and what they make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.guest import Console
from tests.support.stock import Outcome, Virsh

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("virt-install") is None, reason="the package virtinst is not installed"),
]
CHANGES = (
    ("--edit", "--memory", "144,maxmemory=144", "--define"),
    ("--edit", "--metadata", "title=Made by virt-xml"),
    ("--add-device", "--rng", "/dev/urandom", "--update"),
    ("--edit", "--vcpus", "2"),
    ("--edit", "--nothing", "x"),
    ("--remove-device", "--rng", "all", "--update"),
)


def run(tmp_path: Path, *words: str) -> Outcome:
    """A command of virtinst with a home of its own."""
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": str(tmp_path), "LC_ALL": "C"},
    )
    return Outcome(done.returncode, normal(done.stdout), normal(done.stderr))


def normal(text: str) -> str:
    """Without what differs from run to run: uuids, progress bars, the URI."""
    text = re.sub(r"qemu\+unix:\S+", "URI", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"\|.*?\r?\n", "|\n", text)
    return re.sub(r" +$", "", text, flags=re.MULTILINE).strip()


def definition(virsh: Virsh, name: str) -> str:
    return normal(virsh("dumpxml", "--inactive", name))


def install(cluster: RealCluster, uri: str, *more: str) -> list[str]:
    """virt-install of the demo's guest: no disk, no network, its kernel."""
    guest = cluster.state / "guest"
    words = ["virt-install", "--connect", uri, "--name", "installed", "--memory", "128", "--vcpus", "1"]
    words += ["--virt-type", "qemu", "--import", "--disk", "none", "--network", "none", "--graphics", "vnc"]
    words += ["--osinfo", "detect=on,require=off", "--noautoconsole", "--console", "pty"]
    boot = (
        f"kernel={guest}/vmlinuz,initrd={guest}/initrd,kernel_args=console=ttyS0 quiet panic=1 net.ifnames=0"
    )
    return [*words, "--boot", boot, *more]


@pytest.fixture
def sides(cluster: RealCluster) -> Iterator[tuple[Virsh, Virsh]]:
    """A node's own socket, the endpoint; what was made is gone after the test."""
    node, endpoint = cluster.node("n1"), cluster.virsh
    yield node, endpoint
    for virsh in (endpoint, node):
        for name in ("installed", "cloned"):
            virsh.run("destroy", name)
            virsh.run("undefine", name)


def test_a_guest_is_installed_changed_and_cloned_as_on_a_node(
    cluster: RealCluster, sides: tuple[Virsh, Virsh], tmp_path: Path
) -> None:
    told = []
    for virsh in sides:
        said = [run(tmp_path, *install(cluster, virsh.uri))]
        assert virsh("domstate", "installed") == "running"
        with Console(virsh.uri, "installed") as console:
            assert console.count() >= 0
        said += [run(tmp_path, "virt-xml", "--connect", virsh.uri, "installed", *words) for words in CHANGES]
        clone = (
            "virt-clone",
            "--connect",
            virsh.uri,
            "--original",
            "installed",
            "--auto-clone",
            "--name",
            "cloned",
        )
        said.append(run(tmp_path, *clone))
        virsh("destroy", "installed")
        said.append(run(tmp_path, *clone))
        said.append(run(tmp_path, *clone))
        said.append(run(tmp_path, *install(cluster, virsh.uri)))
        told.append((said, definition(virsh, "installed"), definition(virsh, "cloned")))
        virsh("undefine", "installed")
        virsh("undefine", "cloned")
    assert told[0][1:] == told[1][1:]
    assert told[0][0] == told[1][0]
    assert [outcome.code for outcome in told[1][0]] == [0, 0, 0, 0, 0, 2, 0, 1, 0, 1, 1]
    assert "<title>Made by virt-xml</title>" in told[1][1]


def test_a_transient_guest_and_what_would_be_made_are_as_on_a_node(
    cluster: RealCluster, sides: tuple[Virsh, Virsh], tmp_path: Path
) -> None:
    told = []
    for virsh in sides:
        said = [run(tmp_path, *install(cluster, virsh.uri, "--print-xml")) for _ in range(2)]
        said.append(run(tmp_path, *install(cluster, virsh.uri, "--transient", "--noreboot")))
        assert virsh("domstate", "installed") == "running"
        assert "installed" not in virsh.names("--persistent")
        virsh("destroy", "installed")
        told.append(said)
    assert told[0] == told[1]
    assert [outcome.code for outcome in told[1]] == [0, 0, 0]
