"""The network that stands for ours at a real libvirtd, which plugs guests by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from netmgr import fill, xml
from netmgr.apply import shadow
from netmgr.plan import Refused
from tests.cluster.netmgr.lab import Node, until
from tests.cluster.netmgr.lab import network as a_network
from tests.support.libvirtd import PrivateLibvirtd, child_of, domain_xml

pytestmark = pytest.mark.real

SLOW = "<portgroup name='slow'/>"
UUID = "11111111-2222-3333-4444-555555555501"


def ours(bridge: str = "virbr77", name: str = "net1", uuid: str = UUID, groups: str = SLOW) -> shadow.Shadow:
    text = f"<network><name>{name}</name><uuid>{uuid}</uuid><bridge name='{bridge}'/>"
    network = xml.read(f"{text}{groups}</network>")
    return shadow.Shadow(uuid, name, fill.shadow(network))


OURS = ours()
FOREIGN = "<network><name>{}</name><uuid>{}</uuid><forward mode='bridge'/><bridge name='br0'/></network>"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateLibvirtd]:
    made = PrivateLibvirtd(tmp_path_factory.mktemp("shadow"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def connection(daemon: PrivateLibvirtd) -> Iterator[libvirt.virConnect]:
    made = libvirt.open(f"qemu+unix:///system?socket={daemon.socket}")
    yield made
    for network in made.listAllNetworks():
        if network.isActive():
            network.destroy()
        if network.isPersistent():
            network.undefine()
    made.close()


def test_it_is_defined_and_started_once(connection: libvirt.virConnect) -> None:
    assert shadow.ensure(connection, OURS)
    network = connection.networkLookupByUUIDString(UUID)
    assert (network.name(), network.isActive(), network.isPersistent(), network.autostart()) == (
        "net1",
        1,
        1,
        0,
    )
    assert network.bridgeName() == "virbr77"
    text = network.XMLDesc()
    assert "<forward mode='bridge'/>" in text
    assert "<portgroup name='slow'" in text
    assert not shadow.ensure(connection, OURS)
    assert shadow.ours(connection) == {UUID: "net1"}


def test_it_is_started_again_and_follows_changes(connection: libvirt.virConnect) -> None:
    shadow.ensure(connection, OURS)
    connection.networkLookupByName("net1").destroy()
    assert shadow.ensure(connection, OURS)
    assert connection.networkLookupByName("net1").isActive()
    assert shadow.ensure(connection, ours("virbr78", "renamed"))
    assert connection.networkLookupByUUIDString(UUID).bridgeName() == "virbr78"
    assert [network.name() for network in connection.listAllNetworks()] == ["renamed"]


@pytest.mark.parametrize("same", ["name", "uuid"])
def test_a_network_of_the_nodes_own_is_never_touched(connection: libvirt.virConnect, same: str) -> None:
    name, uuid = ("net1", UUID.replace("1", "9")) if same == "name" else ("theirs", UUID)
    theirs = connection.networkDefineXML(FOREIGN.format(name, uuid))
    before = theirs.XMLDesc()
    with pytest.raises(Refused, match=f"the node has a network {name}"):
        shadow.ensure(connection, OURS)
    assert not shadow.remove(connection, UUID, "net1")
    assert connection.networkLookupByUUIDString(uuid).XMLDesc() == before
    assert shadow.ours(connection) == {}


def test_it_goes_without_a_trace(connection: libvirt.virConnect, daemon: PrivateLibvirtd) -> None:
    shadow.ensure(connection, OURS)
    assert shadow.remove(connection, UUID, "net1")
    assert not shadow.remove(connection, UUID, "net1")
    assert connection.listAllNetworks() == []
    assert not list(Path(daemon.directory).rglob("net1*"))


class Machine(Node):
    """The namespace of a libvirtd as a node."""

    def __init__(self, daemon: PrivateLibvirtd, state: Path) -> None:
        assert daemon.process is not None
        self.pid = child_of(daemon.process.pid)
        self.state, self.address, self.process = state, "10.99.0.1", None
        self("ip", "link", "add", "under", "type", "veth", "peer", "other")
        self("ip", "link", "set", "under", "up")
        self("ip", "addr", "add", "10.99.0.1/24", "dev", "under")

    @property
    def enter(self) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.pid), "-n")


def test_libvirt_plugs_guests_into_our_bridge_and_they_are_plugged_in_again(
    connection: libvirt.virConnect, daemon: PrivateLibvirtd, tmp_path: Path
) -> None:
    machine = Machine(daemon, tmp_path)
    machine.up(run=True)
    try:
        wanted = a_network(1, mtu=1400)
        machine.set(wanted)
        shadow.ensure(connection, ours(wanted.bridge, wanted.name, wanted.uuid))
        nic = (
            "<interface type='network'><mac address='02:00:c0:a8:01:0a'/><source network='net1'/></interface>"
        )
        domain = connection.createXML(domain_xml("web", nic))
        try:
            network = connection.networkLookupByName("net1")
            [port] = network.listAllPorts()
            more = f"{SLOW}<portgroup name='fast' default='yes'/>"
            assert shadow.ensure(connection, ours(wanted.bridge, wanted.name, wanted.uuid, more))
            assert "<portgroup name='fast' default='yes'>" in network.XMLDesc()
            assert [kept.UUIDString() for kept in network.listAllPorts()] == [port.UUIDString()]
            assert not shadow.ensure(connection, ours(wanted.bridge, wanted.name, wanted.uuid, more))
            assert f"bridge='{wanted.bridge}'" in domain.XMLDesc()
            tap = domain.XMLDesc().split("<target dev='")[1].split("'")[0]
            port = machine("ip", "link", "show", tap)
            assert f"master {wanted.bridge}" in port
            assert "mtu 1400" in port
            machine("ip", "link", "del", wanted.bridge)
            until(
                lambda: f"master {wanted.bridge}" in machine("ip", "link", "show", tap),
                10,
                "the tap is a port again",
            )
        finally:
            domain.destroy()
        machine.obey("remove", uuid=wanted.uuid)
    finally:
        machine.down()
