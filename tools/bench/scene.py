"""The cluster that is measured: a demo of three nodes with a hundred domains on the first, and running guests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt

from clusterhost.demo import cluster, processes
from clusterhost.demo.guest import Guest
from clusterhost.demo.layout import layout
from tools.bench.measure import Size

NODES = 3
DOMAINS = 100
RUNNING = "bench-running"
PER_NODE = 2
WAIT = 60.0
FRONT_END_MB, AGENT_MB = 120.0, 60.0

CHANNEL = "bench.0"

VIRTIO_PORTS = (
    "<console type='pty'><target type='virtio' port='1'/></console>"
    f"<channel type='unix'><target type='virtio' name='{CHANNEL}'/></channel>"
)


class SceneFailed(Exception):
    """The cluster did not get into the state that is to be measured."""


@dataclass(frozen=True)
class Scene:
    """Where to measure: a connection to the first node's own libvirtd and one to the cluster."""

    state: Path
    guest: Guest
    node_uris: tuple[str, ...]
    endpoint: str
    direct: libvirt.virConnect
    cluster: libvirt.virConnect

    @property
    def sides(self) -> tuple[tuple[str, libvirt.virConnect], tuple[str, libvirt.virConnect]]:
        """URI and connection, the node's and the cluster's."""
        return (self.node_uris[0], self.direct), (self.endpoint, self.cluster)

    def xml(self, name: str, **more: object) -> str:
        """A small domain."""
        return self.guest.domain_xml(name, memory_mib=96, **more)  # type: ignore[arg-type]


def build(state: Path, say: Callable[[str], None]) -> Scene:
    """Bring the demo up and fill it; SceneFailed."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    info = cluster.up(state, NODES, say)
    if info.endpoint is None:
        raise SceneFailed("the demo has no front end")
    uris = tuple(fact.uri for fact in cluster.status(state))
    scene = Scene(
        info.state, info.guest, uris, info.endpoint, libvirt.open(uris[0]), libvirt.open(info.endpoint)
    )
    say(f"defining {DOMAINS} domains")
    for number in range(DOMAINS - 1):
        scene.direct.defineXML(scene.xml(f"bench-{number:03}"))
    disk = layout(state).shared / "bench.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
    scene.direct.defineXML(scene.xml(RUNNING, disk=disk, devices=VIRTIO_PORTS)).create()
    until(lambda: len(scene.cluster.listAllDomains()) == DOMAINS, "the cluster sees all domains")
    time.sleep(8)  # the guest boots
    return scene


def fill_nodes(scene: Scene) -> None:
    """Let every node run the same number of guests."""
    for number, uri in enumerate(scene.node_uris):
        connection = libvirt.open(uri)
        for index in range(PER_NODE - (number == 0)):
            connection.defineXML(scene.xml(f"bench-n{number + 1}-{index}")).create()
        connection.close()
    wanted = PER_NODE * len(scene.node_uris)
    until(
        lambda: len(scene.cluster.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)) == wanted,
        "all run",
    )
    time.sleep(8)  # the guests boot


def sizes(scene: Scene) -> list[Size]:
    """Resident memory of the front end and of each agent."""
    found = []
    for pid in processes.marked(scene.state):
        words = _read(pid, "cmdline").split("\0")
        if "serve" in words:
            found.append(Size("front end", _resident_mb(pid), FRONT_END_MB))
        elif "agent" in words:
            found.append(Size("agent", _resident_mb(pid), AGENT_MB))
    return sorted(found, key=lambda size: (size.process != "front end", size.mb))


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for it; SceneFailed."""
    deadline = time.monotonic() + WAIT
    while not true():
        if time.monotonic() > deadline:
            raise SceneFailed(f"did not come true within {WAIT:g} s: {what}")
        time.sleep(0.1)


def _resident_mb(pid: int) -> float:
    for line in _read(pid, "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""
