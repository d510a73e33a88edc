"""Networks of a real cluster, and guests on them: fixtures `network` and `guests` for tests/real/conftest.py."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterhost.demo.layout import FRONT, layout
from clusterhost.demo.processes import machine_init
from tests.support.guest import Console
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

UDHCPC = "udhcpc -n -q -i eth0 -s /etc/udhcpc.script"
NAT = """<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}'/>
<domain name='{name}.example' localOnly='yes'/><ip address='{net}.1' netmask='255.255.255.0'>
<dhcp><range start='{net}.100' end='{net}.149'/></dhcp></ip></network>"""
ISOLATED = NAT.replace("<forward mode='nat'/>", "")


class Net:
    """A network of the cluster while a test lasts, and what nodes have of it."""

    def __init__(self, cluster: RealCluster, name: str, number: int) -> None:
        self.cluster = cluster
        self.name = name
        self.bridge = f"br-{name}"
        self.net = f"10.77.{number}"

    def inside(self, node: str, *words: str, check: bool = True) -> str:
        """Run a command in the node's network."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.init(node)), "-n", *words], capture_output=True, text=True, timeout=20
        )
        assert not check or done.returncode == 0, f"{words} on {node}: {done.stderr}"
        return done.stdout

    def servers(self, node: str) -> list[int]:
        """Pids of the DHCP servers of this network on the node."""
        ours = str(layout(self.cluster.state).machine(node) / "agent" / "dnsmasq" / self.uuid)
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = path.read_bytes()
            except OSError:
                continue
            if text.startswith(b"dnsmasq") and ours.encode() in text:
                found.append(int(path.parent.name))
        return found

    def left(self, node: str) -> list[str]:
        """What a node has of it."""
        links = self.inside(node, "ip", "-br", "link").splitlines()
        found = [
            line for line in links if line.startswith((self.bridge, f"ch{self.vni:x} ", f"ch{self.vni:x}@"))
        ]
        found += [
            line for line in self.inside(node, "nft", "list", "tables").splitlines() if self.bridge in line
        ]
        found += [f"dnsmasq {pid}" for pid in self.servers(node)]
        names = self.cluster.node(node)("net-list", "--all", "--name").split()
        return found + [name for name in names if name == self.name]

    def link(self, node: str) -> str:
        """Its bridge there."""
        return self.inside(node, "ip", "-o", "link", "show", self.bridge)

    def lacks(self, node: str) -> bool:
        """The node has nothing of it."""
        return not self.left(node)

    def whole(self, node: str) -> bool:
        """The node has all of it: bridge, two tables, one server, the name at its libvirtd."""
        left = self.left(node)
        return len(left) == 6 and self.name in left

    @property
    def vni(self) -> int:
        """The number in the name of its VXLAN link."""
        ports = self.inside("n1", "ip", "-br", "link", "show", "master", self.bridge, check=False)
        if found := re.search(r"^ch([0-9a-f]+)\b", ports, re.M):
            self._vni = int(found[1], 16)
        return self._vni

    def init(self, node: str) -> int:
        """Pid of the node's first process."""
        paths = layout(self.cluster.state)
        found = machine_init(paths.state, paths.machine(node))
        assert found is not None, f"{node} is off"
        return found

    _vni = 0
    uuid = ""


@pytest.fixture
def network(cluster: RealCluster, tmp_path: Path) -> Iterator[Callable[..., Net]]:
    """network("blue", 1) is active; gone after the test, from every node."""
    made: list[Net] = []

    def define(name: str, number: int, document: str = NAT) -> Net:
        net = Net(cluster, name, number)
        made.append(net)
        path = tmp_path / f"{name}.xml"
        path.write_text(document.format(name=name, bridge=net.bridge, net=net.net))
        cluster.virsh("net-define", str(path))
        cluster.virsh("net-start", name)
        cluster.virsh("net-autostart", name)
        net.uuid = cluster.virsh("net-uuid", name)
        eventually(lambda: all(map(net.whole, cluster.nodes)), 10, f"{name} on all nodes")
        return net

    yield define
    for net in made:
        for domain in cluster.virsh.names("--all"):
            cluster.remove(domain)
        cluster.virsh.run("net-destroy", net.name)
        cluster.virsh.run("net-undefine", net.name)
    for net, node in itertools.product(made, cluster.nodes):
        eventually(partial(net.lacks, node), 10, f"{net.name} gone from {node}: {net.left(node)}")


class Guests:
    """Guests by name, each started on a node of the test's choice."""

    def __init__(self, cluster: RealCluster, tmp_path: Path) -> None:
        self.cluster = cluster
        self._tmp_path = tmp_path

    def start(self, node: str, name: str, net: Net, devices: str = "") -> str:
        """Define and start; returns its address as the MAC encodes it.  devices: instead of a plain interface."""
        options = {"devices": devices} if devices else {"network": net.name}
        self.cluster.place(node, name, self._tmp_path, **options)
        self.cluster.virsh("start", name)
        assert self.cluster.running_on(name) == [node]
        return self.address(name)

    def address(self, name: str) -> str:
        """What the MAC of its first interface says."""
        mac = re.search(r"02:00:((?:[0-9a-f]{2}:?){4})", self.cluster.virsh("domiflist", name))
        assert mac is not None, self.cluster.virsh("domiflist", name)
        return str(ip_address(bytes.fromhex(mac[1].replace(":", ""))))

    def run(self, name: str, command: str, seconds: float = 40) -> str:
        """In its shell."""
        with Console(self.cluster.endpoint, name, seconds=seconds) as console:
            return console.run(command)

    def settled(self, name: str, address: str) -> None:
        """It is up, and has its address from DHCP."""
        with Console(self.cluster.endpoint, name, seconds=60) as console:
            console.ready()
        eventually(
            lambda: f"inet {address}/" in self.run(name, "ip -4 -o addr show dev eth0"),
            40,
            f"{address} of {name}",
        )

    def reaches(self, name: str, address: str, *, count: int = 2) -> bool:
        """Pings come back."""
        return f" {count} packets received" in self.run(name, f"ping -c {count} -W 2 {address}")


@pytest.fixture
def guests(cluster: RealCluster, tmp_path: Path) -> Guests:
    """Guests of the test; they go with the network."""
    return Guests(cluster, tmp_path)


@contextmanager
def web_server(net: Net, where: Path, text: str) -> Iterator[None]:
    """A tiny web server on the machine of the front end, which is outside of all networks."""
    (where / "index.html").write_text(text)
    command = [
        "nsenter",
        "-t",
        str(net.init(FRONT)),
        "-n",
        "busybox",
        "httpd",
        "-f",
        "-p",
        "8123",
        "-h",
        str(where),
    ]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


def pings_lost(said: str) -> int:
    """Of a summary of ping."""
    sent, received = re.findall(r"(\d+) packets", said)
    return int(sent) - int(received)
