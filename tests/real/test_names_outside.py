"""Shown by 5 of networks: BIND with TSIG holds exactly our names, whatever guests, networks and it itself do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterhost.demo import cluster as demo
from clusterhost.demo.layout import FRONT, layout
from clusterhost.demo.processes import machine_init
from tests.support.bind import FORWARD, Bind, needs_bind
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = [needs_bind, pytest.mark.timeout(240)]

REVERSE = "78.10.in-addr.arpa."
SETTINGS = """
[names]
server = "127.0.0.1"
port = {port}
key_file = "{key}"
zones = "cluster.test 78.10.in-addr.arpa"
domain = "cluster.test"
resync = 1
"""
NETWORK = """<network><name>named</name><bridge name='br-named'/><ip address='10.78.1.1' netmask='255.255.255.0'>
<dhcp><range start='10.78.1.100' end='10.78.1.149'/></dhcp></ip></network>"""


@pytest.fixture
def bind(cluster: RealCluster, tmp_path: Path) -> Iterator[Bind]:
    """A server on the machine of the front end, which keeps its names there while the test lasts."""
    paths = layout(cluster.state)
    init = machine_init(paths.state, paths.machine(FRONT))
    server = Bind(tmp_path, zones=(FORWARD, REVERSE), inside=("nsenter", "-t", str(init), "-n"))
    config = paths.front / "clusterhost.toml"
    before = config.read_text()
    try:
        server.start()
        config.write_text(before + SETTINGS.format(port=server.port, key=server.key_file))
        demo.restart_front(cluster.state)
        yield server
    finally:
        server.stop()
        config.write_text(before)
        demo.restart_front(cluster.state)


@pytest.fixture
def network(cluster: RealCluster, bind: Bind, tmp_path: Path) -> Iterator[str]:
    """An isolated network of the cluster."""
    path = tmp_path / "named.xml"
    path.write_text(NETWORK)
    cluster.virsh("net-define", str(path))
    cluster.virsh("net-start", "named")
    yield "named"
    for domain in cluster.virsh.names("--all"):
        cluster.remove(domain)
    cluster.virsh.run("net-destroy", "named")
    cluster.virsh.run("net-undefine", "named")


class Names:
    """What the server holds, and what the front end says of it."""

    def __init__(self, cluster: RealCluster, bind: Bind, network: str) -> None:
        self.virsh = cluster.virsh
        self._cluster, self._bind, self._network = cluster, bind, network
        found = re.search(r"<uuid>(.*)</uuid>", self.virsh("capabilities"))
        assert found is not None
        self._owner = found[1]

    def are(self, **addresses: str) -> None:
        """Soon there are these, forward and reverse, and no others."""
        wanted = {f"{name}.{FORWARD}": {f"A {address}"} for name, address in addresses.items()}
        for name, address in addresses.items():
            reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa."
            wanted[reverse] = {f"PTR {name}.{FORWARD}"}
        eventually(lambda: self._bind.ours(self._owner) == wanted, 20, f"{wanted} at the server")

    def address(self, domain: str) -> str:
        """As its MAC encodes it."""
        found = re.search(r"02:00:0a:4e:01:([0-9a-f]{2})", self.virsh("domiflist", domain))
        assert found is not None
        return f"10.78.1.{int(found[1], 16)}"

    def shown(self) -> dict[str, Any]:
        """By `clusterhost network names`."""
        return dict(demo.ask(self._cluster.state, "network.names"))

    def host(self, command: str, address: str, name: str) -> None:
        """Add or delete a host entry of the network."""
        entry = f"<host ip='{address}'><hostname>{name}</hostname></host>"
        self.virsh("net-update", self._network, command, "dns-host", entry, "--live")


@pytest.fixture
def names(cluster: RealCluster, bind: Bind, network: str) -> Names:
    """Of the network."""
    return Names(cluster, bind, network)


def test_names_follow_guests_from_start_to_end(
    cluster: RealCluster, names: Names, network: str, make: Callable[..., str], tmp_path: Path
) -> None:
    virsh, (first, last) = cluster.virsh, cluster.nodes[:2]
    cluster.place(first, "web", tmp_path, network=network)
    virsh("start", "web")
    web = names.address("web")
    names.are(web=web)
    make("db", network=network)
    db = names.address("db")
    names.are(web=web, db=db)
    virsh("migrate", "--live", "--p2p", "web", cluster.view_uri(last), seconds=90)
    assert cluster.running_on("web") == [last]
    names.are(web=web, db=db)
    virsh("domrename", "db", "data")
    names.are(web=web, data=db)
    virsh("destroy", "web")
    virsh("undefine", "web")
    names.are(data=db)
    demo.restart_front(cluster.state)
    virsh("undefine", "data")
    names.are()


def test_while_bind_is_down_names_wait_visibly_and_what_was_changed_by_hand_is_made_right(
    cluster: RealCluster, bind: Bind, names: Names, network: str, make: Callable[..., str]
) -> None:
    make("db", network=network)
    db = names.address("db")
    names.are(db=db)
    bind.stop()
    cluster.virsh("domrename", "db", "data")
    eventually(lambda: "Connection refused" in names.shown()["error"], 20, "the reason is shown")
    assert names.shown()["pending"] == 3  # two names and a reverse one
    names.host("add", "10.78.1.2", "gate")
    bind.start()
    names.are(data=db, gate="10.78.1.2")
    eventually(lambda: (names.shown()["error"], names.shown()["pending"]) == ("", 0), 5, "all is well")
    bind.by_hand(f"update delete gate.{FORWARD}", f"update delete data.{FORWARD} A")
    names.are(data=db, gate="10.78.1.2")
    cluster.virsh("undefine", "data")
    names.are(gate="10.78.1.2")


def test_a_name_of_somebody_else_is_shown_and_left(cluster: RealCluster, names: Names, network: str) -> None:
    names.host("add", "10.78.1.3", "www")
    eventually(lambda: names.shown()["taken"] == [f"www.{FORWARD}"], 20, "it is shown")
    names.are()
    names.host("add", "10.78.1.2", "gate")
    names.are(gate="10.78.1.2")
    cluster.virsh("net-destroy", network)
    names.are()
