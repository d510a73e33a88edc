"""Ports of networks by clients, leases in the view of a node, addresses by each source: as on one host."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.support.realnets import Guests, Net

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

pytestmark = pytest.mark.timeout(120)

PORT = """<networkport><uuid>{port}</uuid><owner><name>{name}</name><uuid>{owner}</uuid></owner>
<mac address='52:54:00:76:00:01'/></networkport>"""
OWN = "<network><name>own</name><bridge name='br-own'/><ip address='10.79.9.1' netmask='255.255.255.0'/></network>"


@pytest.fixture
def own(cluster: RealCluster, tmp_path: Path) -> Iterator[str]:
    """A network that is a node's own affair, for comparison."""
    path = tmp_path / "own.xml"
    path.write_text(OWN)
    node = cluster.node("n3")
    node("net-create", str(path))
    yield cluster.node_uri("n3")
    node("net-destroy", "own")


class Ports:
    """What a client makes of ports, with every error as libvirt-python shows it."""

    def __init__(self, uri: str, name: str) -> None:
        self.network = libvirt.open(uri).networkLookupByName(name)

    def create(self, xml: str, flags: int = 0) -> str | tuple[int, int, str]:
        """The port's document, or code, domain and text of the refusal."""
        try:
            return str(self.network.portCreateXML(xml, flags).XMLDesc())
        except libvirt.libvirtError as error:
            return error.get_error_code(), error.get_error_domain(), str(error)

    def all(self) -> set[str]:
        return {port.UUIDString() for port in self.network.listAllPorts()}

    def delete(self, port: str) -> None:
        self.network.portLookupByUUIDString(port).delete()


def test_a_client_makes_a_port_as_on_one_host(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests, own: str
) -> None:
    blue = network("blue", 1)
    guests.start("n2", "b2", blue)
    owner = cluster.virsh("domuuid", "b2")
    leases = cluster.virsh("net-dhcp-leases", "blue").split()[2:]
    here, there = Ports(cluster.endpoint, "blue"), Ports(own, "own")
    port = str(uuid.uuid4())
    xml = PORT.format(port=port, name="b2", owner=owner)
    made = here.create(xml)
    assert made == str(there.create(xml)).replace("br-own", blue.bridge)
    assert port in Ports(cluster.node_uri("n2"), "blue").all(), "it is where its owner is"
    for bad in (xml, "<networkport/>", "<foo/>", xml.replace("52:54", "zz"), xml.replace("owner>", "o>")):
        assert here.create(bad) == there.create(bad)
    fresh = xml.replace(port, str(uuid.uuid4()))
    for flags in (8, libvirt.VIR_NETWORK_PORT_CREATE_RECLAIM):
        assert here.create(fresh, flags) == there.create(fresh, flags)
    stranger = str(uuid.uuid4())
    assert isinstance(here.create(PORT.format(port=stranger, name="x", owner=uuid.uuid4())), str)
    assert here.all() >= {port, stranger}
    for made_port in (port, stranger):
        here.delete(made_port)
    there.delete(port)
    assert not here.all() & {port, stranger}
    assert cluster.virsh("net-dhcp-leases", "blue").split()[2:] == leases


def test_a_nodes_view_shows_the_leases_of_its_guests(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue = network("blue", 1)
    one, two = guests.start("n1", "b1", blue), guests.start("n2", "b2", blue)
    assert f"{one}/24" in cluster.view("n1")("net-dhcp-leases", "blue")
    assert two not in cluster.view("n1")("net-dhcp-leases", "blue")
    assert f"{two}/24" in cluster.view("n2")("net-dhcp-leases", "blue")
    assert cluster.view("n3")("net-dhcp-leases", "blue").count("ipv4") == 0


def test_addresses_are_answered_from_each_source_in_both_views(
    cluster: RealCluster, network: Callable[..., Net], guests: Guests
) -> None:
    blue = network("blue", 1)
    address = guests.start("n1", "b1", blue)
    for virsh in (cluster.virsh, cluster.view("n1")):
        assert f"{address}/24" in virsh("domifaddr", "b1", "--source", "lease")
        assert f"{address}/0" in virsh("domifaddr", "b1", "--source", "arp")
        # It has no agent: its node's own refusal.
        refused = cluster.node("n1").fails("domifaddr", "b1", "--source", "agent")
        assert virsh.fails("domifaddr", "b1", "--source", "agent") == refused
    cluster.virsh("destroy", "b1")
    for source in ("lease", "arp"):
        refused = cluster.node("n1").fails("domifaddr", "b1", "--source", source)
        assert cluster.virsh.fails("domifaddr", "b1", "--source", source) == refused
