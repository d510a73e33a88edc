"""Bad input of networks: an agent that dies while networks change leaves what its next run completes or removes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import layout
from tests.support.realnets import NAT, Net
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

VICTIM = "n2"
SECONDS = (0.04, 0.1)
"""After the command began: before, while and after the node works at it."""
HOST = "<host mac='52:54:00:77:01:{0:02x}' name='h{0}' ip='10.77.1.{0}'/>"


def workers(cluster: RealCluster) -> list[int]:
    """The process that makes networks on the node."""
    ours = str(layout(cluster.state).machine(VICTIM) / "agent").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"netmgr.apply.worker" in words and ours in words:
            found.append(int(path.parent.name))
    return found


def killed_during(cluster: RealCluster, seconds: float, *words: str) -> None:
    """Run a virsh command; the node's agent and its worker are killed meanwhile."""
    command = ["virsh", "-q", "-c", cluster.endpoint, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        time.sleep(seconds)
        for pid in workers(cluster):
            os.kill(pid, signal.SIGKILL)
        demo.kill_service(cluster.state, VICTIM, "agent")
        said, _ = process.communicate(timeout=40)
    assert process.returncode == 0, said


def hosts(cluster: RealCluster, net: Net, node: str) -> dict[str, str]:
    """What a node's DHCP server is told of guests."""
    directory = layout(cluster.state).machine(node) / "agent" / "dnsmasq" / net.uuid / "dhcp.d"
    return {path.name: path.read_text() for path in directory.glob("[!.]*")}


@pytest.mark.timeout(180)
def test_an_agent_killed_while_a_network_changes_completes_or_removes_it(
    cluster: RealCluster, tmp_path: Path
) -> None:
    blue, virsh = Net(cluster, "blue", 1), cluster.virsh
    path = tmp_path / "blue.xml"
    path.write_text(NAT.format(name=blue.name, bridge=blue.bridge, net=blue.net))
    virsh("net-define", str(path))
    blue.uuid = virsh("net-uuid", "blue")
    try:
        for number, seconds in enumerate(SECONDS, 10):
            killed_during(cluster, seconds, "net-start", "blue")
            eventually(lambda: blue.whole(VICTIM), 30, f"blue on {VICTIM}: {blue.left(VICTIM)}")
            entry = HOST.format(number)
            killed_during(
                cluster, seconds, "net-update", "blue", "add", "ip-dhcp-host", entry, "--live", "--config"
            )
            eventually(
                lambda: hosts(cluster, blue, VICTIM) == hosts(cluster, blue, "n1"), 30, "the same hosts"
            )
            assert len(hosts(cluster, blue, "n1")) == number - 9
            assert blue.whole("n1"), "others are not disturbed"
            killed_during(cluster, seconds, "net-destroy", "blue")
            eventually(lambda: blue.lacks(VICTIM), 30, f"nothing on {VICTIM}: {blue.left(VICTIM)}")
    finally:
        virsh.run("net-destroy", "blue")
        virsh.run("net-undefine", "blue")
        eventually(lambda: all(map(blue.lacks, cluster.nodes)), 30, "blue is gone")
