"""The displays in a domain's XML: what is replaced, and what is none of our business."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from clusterhost.config import GraphicsSection
from clusterhost.frontend.libvirt.graphics import Graphics
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from clusterhost.model.node import Host, Link, Node

UUID = bytes(range(16))


def document(devices: str, before: str = "") -> bytes:
    """Live XML of a domain."""
    return f"<domain type='qemu' id='4'>{before}<devices>{devices}</devices></domain>".encode()


@pytest.fixture
def cluster() -> Cluster:
    """One node with one running domain."""
    made = Cluster(bytes(16), "test", "front")
    made.put_node(Node("n1", 0, link=Link.UP, host=Host(has_files=True)))
    made.put(Domain(UUID, "web", "n1", id=4, node_id=1, state=1))
    return made


@pytest.fixture
async def graphics(cluster: Cluster) -> Iterator[Graphics]:
    """Ports from 47900 up; what is accepted goes nowhere in these tests."""
    settings = GraphicsSection(port_min=47900, port_max=47999)
    made = Graphics(cluster, None, settings, asyncio.get_running_loop(), lambda work: work.close())  # type: ignore[arg-type]
    yield made
    made.stop()


async def test_every_port_and_address_of_a_display_is_replaced(graphics: Graphics) -> None:
    spice = "<graphics type='spice' port='5901' tlsPort='5902' autoport='yes' listen='10.0.0.1'>"
    xml = document(spice + "<listen type='address' address='10.0.0.1'/></graphics>")
    shown = graphics.shown(UUID, xml).decode()
    assert (
        shown
        == document(
            "<graphics type='spice' port='47900' tlsPort='47901' autoport='yes' listen='127.0.0.1'>"
            "<listen type='address' address='127.0.0.1'/></graphics>"
        ).decode()
    )
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", 47900))


async def test_a_display_keeps_its_port_and_two_never_share_one(graphics: Graphics) -> None:
    vnc = "<graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'/>"
    first = graphics.shown(UUID, document(vnc + vnc))
    assert first == graphics.shown(UUID, document(vnc + vnc))
    assert b"port='47900'" in first
    assert b"port='47901'" in first


@pytest.mark.parametrize(
    "xml",
    [
        document("<graphics type='vnc' socket='/run/x'><listen type='socket' socket='/run/x'/></graphics>"),
        document("", before="<metadata><graphics type='vnc' port='5900'/></metadata>"),
        document("<graphics type='sdl' display=':0'/>"),
        document("<graphics type='egl-headless'/>"),
        b"<domain type='qemu' id='4'/>",
        b"",
    ],
)
async def test_what_is_no_port_of_a_display_stays_as_it_is(graphics: Graphics, xml: bytes) -> None:
    assert graphics.shown(UUID, xml) == xml


async def test_a_domain_that_is_off_has_no_display(graphics: Graphics, cluster: Cluster) -> None:
    cluster.put(cluster.by_uuid(UUID).with_(id=-1, state=5))
    xml = document("<graphics type='vnc' port='5900' listen='127.0.0.1'/>")
    assert graphics.shown(UUID, xml) == xml


async def test_no_free_port_leaves_the_nodes_own(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 47899)):
        settings = GraphicsSection(port_min=47899, port_max=47899)
        made = Graphics(cluster, None, settings, asyncio.get_running_loop(), lambda work: work.close())  # type: ignore[arg-type]
        xml = document("<graphics type='vnc' port='5900' listen='0.0.0.0'/>")
        assert b"port='5900'" in made.shown(UUID, xml)
        made.stop()
