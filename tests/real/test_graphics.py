"""Displays: live XML shows a port of the endpoint, which leads to the node that runs the domain now."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo import cluster as demo

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]
VNC = "<graphics type='vnc' port='-1' autoport='yes' listen='0.0.0.0'/><video><model type='vga' vram='4096'/></video>"
GREET = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as client:
    client.settimeout(10)
    print(client.recv(12).decode().strip())
"""


def greeting(cluster: RealCluster, port: str) -> str:
    """What answers at a port of the front end's machine (a namespace of its own in the demo)."""
    pid = demo.service_pid(cluster.state, "front", "front-end")
    command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", GREET, port]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


def port_of(xml: str) -> str:
    """The port that a domain's XML shows."""
    found = re.search(r"<graphics type='vnc' port='(-?\d+)'", xml)
    assert found
    return found.group(1)


@pytest.mark.timeout(180)
def test_displays_are_at_the_endpoint_and_follow_their_domain(cluster: RealCluster, make: Make) -> None:
    names = [make(f"screen{number}", start=True, devices=VNC) for number in range(2)]
    live = {name: cluster.virsh("dumpxml", name) for name in names}
    ports = {name: port_of(xml) for name, xml in live.items()}
    assert len(set(ports.values())) == 2  # on their nodes both are 5900
    assert all("listen='127.0.0.1'" in xml for xml in live.values())
    assert port_of(cluster.virsh("dumpxml", names[0], "--inactive")) == "-1"
    display = int(ports[names[0]]) - 5900
    assert cluster.virsh("domdisplay", names[0]) == f"vnc://127.0.0.1:{display}"
    assert cluster.virsh("vncdisplay", names[0]) == f"127.0.0.1:{display}"
    assert greeting(cluster, ports[names[0]]).startswith("RFB 003")
    source = cluster.owner(names[0])
    target = next(node for node in cluster.nodes if node != source)
    cluster.virsh("migrate", "--live", names[0], cluster.view_uri(target), seconds=90)
    assert port_of(cluster.virsh("dumpxml", names[0])) == ports[names[0]]
    assert greeting(cluster, ports[names[0]]).startswith("RFB 003")
    cluster.virsh("destroy", names[0])
    assert greeting(cluster, ports[names[0]]) == ""


@pytest.mark.timeout(120)
def test_a_screenshot_is_the_picture_of_the_display(cluster: RealCluster, make: Make) -> None:
    name = make("picture", start=True, devices=VNC)
    path = cluster.state / "shared" / "picture.png"
    cluster.virsh("screenshot", name, str(path))
    assert path.read_bytes()[:4] in (b"\x89PNG", b"P6\n7")
    path.unlink()
