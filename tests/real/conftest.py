"""The cluster that the real tests share: three nodes, front end and agents, made once and taken down at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo import guest as demo_guest
from tests.support.command import Command
from tests.support.realnets import guests, network  # noqa: F401 -- fixtures
from tests.support.stock import EventLog, Virsh, eventually


@dataclass(frozen=True)
class RealCluster:
    """A running demo cluster and stock clients for it."""

    state: Path
    endpoint: str
    nodes: tuple[str, ...] = ("n1", "n2", "n3")

    @property
    def virsh(self) -> Virsh:
        """virsh at the endpoint."""
        return Virsh(self.endpoint)

    def view(self, node: str) -> Virsh:
        """virsh at the endpoint's view of one node."""
        return Virsh(self.view_uri(node))

    def view_uri(self, node: str) -> str:
        """The endpoint's URI with ?node=."""
        return f"{self.endpoint}&node={node}" if "?" in self.endpoint else f"{self.endpoint}?node={node}"

    def node_uri(self, node: str) -> str:
        """The node's own socket."""
        return f"qemu+unix:///system?socket={self.state}/nodes/{node}/run/libvirt/libvirt-sock"

    def node(self, node: str) -> Virsh:
        """virsh at the node's own socket."""
        return Virsh(self.node_uri(node))

    def owner(self, name: str) -> str:
        """The node whose own libvirtd has the domain; exactly one must."""
        having = [node for node in self.nodes if name in self.node(node).names("--all")]
        assert len(having) == 1, f"{name} is defined on {having}"
        return having[0]

    def running_on(self, name: str) -> list[str]:
        """Nodes whose own libvirtd runs the domain."""
        return [node for node in self.nodes if name in self.node(node).names()]

    def other(self, node: str) -> str:
        """The first of the other nodes."""
        return next(name for name in self.nodes if name != node)

    def begun(self, name: str, tmp_path: Path, **options: object) -> str:
        """Define a domain and start it; the node that runs it."""
        self.virsh.define(self.xml(name, **options), tmp_path)
        self.virsh("start", name)
        (node,) = self.running_on(name)
        return node

    def xml(self, name: str, **options: object) -> str:
        """A domain that boots the demo's guest."""
        return demo_guest.load(self.state / "guest").domain_xml(name, **options)  # type: ignore[arg-type]

    def image(self, name: str) -> Path:
        """A small disk that every node sees."""
        path = self.state / "shared" / f"{name}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
        return path

    def place(self, node: str, name: str, tmp_path: Path, **options: object) -> str:
        """Define a domain on that node, through the endpoint."""
        self.view(node).define(self.xml(name, **options), tmp_path)
        return name

    def remove(self, name: str) -> None:
        """Take a domain away whatever its state is."""
        self.virsh.run("destroy", name)
        self.virsh.run("undefine", name, "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """Three nodes with an endpoint; CLUSTERHOST_TEST_STATE names a demo that is up already, to save its start."""
    if given := os.environ.get("CLUSTERHOST_TEST_STATE"):
        state = Path(given)
        yield RealCluster(state, f"qemu+unix:///system?socket={state}/front/libvirt-sock")
        return
    state = Path(tempfile.mkdtemp(prefix="ch-"))
    try:
        info = demo.up(state, 3, lambda line: None)
        yield RealCluster(state, info.endpoint)
    finally:
        demo.down(state, lambda line: None)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture
def make(cluster: RealCluster, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """make("web", start=True, ...) defines a domain through the endpoint; it is gone after the test."""
    made: list[str] = []

    def define(name: str, *, start: bool = False, **options: object) -> str:
        made.append(name)
        cluster.virsh.define(cluster.xml(name, **options), tmp_path)
        if start:
            cluster.virsh("start", name)
        return name

    yield define
    for name in made:
        cluster.remove(name)


@pytest.fixture
def gone(cluster: RealCluster) -> Iterator[Callable[[str], str]]:
    """gone("web"): it is taken away after the test."""
    names: list[str] = []

    def keep(name: str) -> str:
        names.append(name)
        return name

    yield keep
    for name in names:
        cluster.virsh.run("destroy", name)
        cluster.virsh.run(
            "undefine", name, "--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram"
        )


@pytest.fixture
def command(cluster: RealCluster) -> Iterator[Command]:
    """The `clusterhost` command; nodes that a test closed are opened after it."""
    found = Command(cluster.state / "front" / "clusterhost.toml")
    yield found
    for row in found.json("node", "list"):
        if row["admin"] != "enabled":
            found("node", "enable", row["name"])


@pytest.fixture
def events(cluster: RealCluster) -> Iterator[Callable[[str], EventLog]]:
    """events(uri) starts `virsh event --all --loop` there; ended after the test."""
    logs: list[EventLog] = []

    def start(uri: str) -> EventLog:
        logs.append(EventLog(uri))
        return logs[-1]

    yield start
    for log in logs:
        log.close()


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test that uses the cluster leaves it as it was: no domain anywhere, every node in reach."""
    yield
    if "cluster" not in request.fixturenames:
        return
    cluster: RealCluster = request.getfixturevalue("cluster")
    eventually(lambda: not cluster.virsh.names("--all"), 10, "no domain left at the endpoint")
    for node in cluster.nodes:
        assert not cluster.node(node).names("--all"), f"a domain was left on {node}"
