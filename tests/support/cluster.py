"""Real nodes for tests: libvirtd in namespaces, brought up once in a session.  Import its fixtures."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo import machines, processes
from clusterhost.demo.guest import Guest
from clusterhost.demo.layout import Layout

NEEDED = ("libvirtd", "virsh", "qemu-system-x86_64", "busybox", "unshare", "nsenter", "ip", "nft")


def why_not() -> str | None:
    """Return why nodes cannot be brought up here, None when they can."""
    if os.geteuid() != 0:
        return "nodes need root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass
class NodesOnly:
    """N nodes with libvirtd and no front end, from `with` to its end."""

    count: int
    state: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp")))
    lines: list[str] = field(default_factory=list)
    info: demo.DemoInfo | None = None

    def __enter__(self) -> Self:
        try:
            self.info = demo.up(self.state, self.count, self.lines.append, front_end=False)
        except BaseException:
            demo.down(self.state, self.lines.append)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        demo.down(self.state, self.lines.append)

    @property
    def names(self) -> tuple[str, ...]:
        return self._up.nodes

    @property
    def guest(self) -> Guest:
        return self._up.guest

    @property
    def shared(self) -> Path:
        return Layout(self.state).shared

    def socket(self, node: str) -> Path:
        """Return the path of the node's libvirtd socket."""
        return Layout(self.state).node_socket(node)

    def uri(self, node: str) -> str:
        """Return the libvirt URI of the node's own libvirtd."""
        return demo.node_uri(self.state, node)

    def virsh(self, node: str, *words: str, check: bool = True, seconds: float = 50.0) -> str:
        """Run virsh on the node's own socket and return what it printed; fails the test when virsh fails."""
        return virsh(self.uri(node), *words, check=check, seconds=seconds)

    def pid(self, node: str, service: str = "libvirtd") -> int | None:
        """Return the host's pid of a service of the node."""
        return machines.service_pid(Layout(self.state), node, service)

    def init(self, node: str) -> int | None:
        """Return the host's pid of the node's first process, for nsenter; None when it is off."""
        return processes.machine_init(self.state, Layout(self.state).machine(node))

    def power_cut(self, node: str) -> None:
        demo.power_cut(self.state, node)

    def power_on(self, node: str) -> None:
        demo.power_on(self.state, node)

    def partition(self, node: str) -> None:
        demo.partition(self.state, node)

    def heal(self, node: str) -> None:
        demo.heal(self.state, node)

    @property
    def _up(self) -> demo.DemoInfo:
        assert self.info is not None, "used outside its with statement"
        return self.info


def virsh(uri: str, *words: str, check: bool = True, seconds: float = 50.0) -> str:
    """Run virsh and return its output with what it complained; raises AssertionError when it fails."""
    done = subprocess.run(
        ["virsh", "-c", uri, *words], capture_output=True, text=True, timeout=seconds, check=False
    )
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, f"virsh {' '.join(words)}: {output}"
    return output


@pytest.fixture(scope="session")
def nodes() -> Iterator[NodesOnly]:
    """Three real nodes, shared by all tests of the session: leave them as you found them."""
    if reason := why_not():
        pytest.skip(reason)
    with NodesOnly(3) as three:
        yield three


@pytest.fixture(scope="session")
def node_sockets(nodes: NodesOnly) -> dict[str, Path]:
    """The sockets of three real libvirtd by node name."""
    return {name: nodes.socket(name) for name in nodes.names}
