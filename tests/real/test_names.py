"""One name for two domains: what clients are told, and what is not a clash because it was resolved just now."""

from __future__ import annotations

import re
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.support.stock import EventLog, eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]
Events = Callable[[str], EventLog]
ROUNDS = 12


@pytest.fixture
def namesakes(cluster: RealCluster, make: Make) -> Iterator[tuple[str, str]]:
    """One "twin" defined at the endpoint, another on a node's own socket: that node, and the name it is shown by."""
    make("twin")
    node = next(node for node in cluster.nodes if node != cluster.owner("twin"))
    own = libvirt.open(cluster.node_uri(node))
    other = own.defineXML(cluster.xml("twin"))
    shown = f"twin@{node}"
    eventually(lambda: shown in cluster.virsh.names("--all"), 5, f"{shown} is listed")
    yield node, shown
    if other.isActive():
        other.destroy()
    other.undefine()
    own.close()
    eventually(lambda: shown not in cluster.virsh.names("--all"), 5, f"{shown} is gone")


@pytest.mark.timeout(120)
def test_a_namesake_has_its_own_name_in_replies_and_events(
    cluster: RealCluster, namesakes: tuple[str, str], events: Events
) -> None:
    node, shown = namesakes
    log = events(cluster.endpoint)
    cluster.virsh("start", shown)
    cluster.virsh("suspend", shown)
    cluster.virsh("resume", shown)
    assert cluster.node(node).names() == {"twin"}
    connection = libvirt.open(cluster.endpoint)
    stats = {domain.name() for domain, _ in connection.getAllDomainStats(0, 0)}
    assert stats == {"twin", shown}
    domain = connection.lookupByName(shown)
    redefined = connection.defineXML(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert redefined.name() == shown
    restarted = connection.lookupByName(shown)
    restarted.destroy()
    lines = log.until("Stopped Destroyed")
    told = {found.group(1) for line in lines if (found := re.search(r"for domain '([^']+)'", line))}
    assert told == {shown}
    connection.close()


@pytest.mark.timeout(120)
def test_a_name_that_was_given_up_on_a_node_just_now_is_free(cluster: RealCluster, tmp_path: Path) -> None:
    endpoint = libvirt.open(cluster.endpoint)
    direct = [libvirt.open(cluster.node_uri(node)) for node in cluster.nodes]
    xml = cluster.xml("again")
    xml = re.sub(r"<uuid>.*?</uuid>", "", xml)
    for number in range(ROUNDS):
        defined = endpoint.defineXML(with_uuid(xml))
        node = cluster.nodes.index(cluster.owner("again"))
        direct[node].lookupByName("again").undefine()
        if number % 2:
            anew = endpoint.defineXML(with_uuid(xml))
        else:
            other = endpoint.defineXML(with_uuid(xml).replace(">again<", ">other<"))
            eventually(lambda: "other" in cluster.virsh.names("--all"), 5, "it is listed")
            other.rename("again")
            anew = endpoint.lookupByName("again")
        assert anew.UUIDString() != defined.UUIDString()
        anew.undefine()
    endpoint.close()


def with_uuid(xml: str) -> str:
    """The definition with a uuid that nobody has."""
    return xml.replace("</name>", f"</name><uuid>{uuids.uuid4()}</uuid>", 1)


def test_a_name_that_somebody_has_is_refused(cluster: RealCluster, make: Make, tmp_path: Path) -> None:
    make("taken")
    endpoint = libvirt.open(cluster.endpoint)
    with pytest.raises(libvirt.libvirtError, match="domain 'taken' already exists with uuid"):
        endpoint.defineXML(with_uuid(re.sub(r"<uuid>.*?</uuid>", "", cluster.xml("taken"))))
    endpoint.close()
