"""Calls with file descriptors, by libvirt-python: a display is opened as on a node, a file is refused as there."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import libvirt_qemu
import pytest

from clusterhost.demo import cluster as demo
from tests.support.stock import eventually

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

Make = Callable[..., str]
VNC = "<graphics type='vnc' port='-1' autoport='yes'/><video><model type='vga' vram='16384'/></video>"
SKIP_AUTH = 1


def said(call: Callable[[], Any]) -> Any:
    """A call's result, or all of its error."""
    try:
        return call()
    except libvirt.libvirtError as error:
        return error.get_error_code(), error.get_error_domain(), error.get_error_message(), error.get_str1()


def greeting(sock: socket.socket) -> bytes:
    """What a VNC server says first."""
    with sock:
        sock.settimeout(10)
        return sock.recv(12)


def opened_fd(domain: libvirt.virDomain, index: int = 0, flags: int = 0) -> bytes:
    """virDomainOpenGraphicsFD."""
    return greeting(socket.socket(fileno=domain.openGraphicsFD(index, flags)))


def opened(domain: libvirt.virDomain, index: int = 0, flags: int = 0) -> bytes:
    """virDomainOpenGraphics with a pair of our own."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            domain.openGraphics(index, theirs.fileno(), flags)
        except libvirt.libvirtError:
            ours.close()
            raise
    return greeting(ours)


def exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, f"the display ended after {len(data)} of {count} bytes"
        data += more
    return data


def picture(sock: socket.socket) -> int:
    """Speak VNC until one whole picture has come: its bytes."""
    sock.settimeout(20)
    exactly(sock, 12)
    sock.sendall(b"RFB 003.008\n")
    exactly(sock, exactly(sock, 1)[0])
    sock.sendall(b"\x01")
    assert exactly(sock, 4) == bytes(4)
    sock.sendall(b"\x01")
    width, height, *_ = struct.unpack(">HH16sI", head := exactly(sock, 24))
    exactly(sock, struct.unpack_from(">I", head, 20)[0])
    sock.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    rectangles = struct.unpack(">BxH", exactly(sock, 4))[1]
    got = 0
    for _ in range(rectangles):
        _, _, wide, high, encoding = struct.unpack(">HHHHi", exactly(sock, 12))
        assert encoding == 0  # raw, as nothing else was agreed on
        got += len(exactly(sock, wide * high * 4))
    return got


def outcomes(domain: libvirt.virDomain) -> list[Any]:
    """Everything a client may try."""
    tries: list[Callable[[], Any]] = [
        lambda: opened_fd(domain),
        lambda: opened_fd(domain, 0, SKIP_AUTH),
        lambda: opened_fd(domain, 1),
        lambda: opened_fd(domain, 0, 8),
        lambda: opened(domain),
        lambda: opened(domain, 0, SKIP_AUTH),
        lambda: opened(domain, 7),
        lambda: opened(domain, 0, 8),
    ]
    return [said(call) for call in tries]


def open_files(cluster: RealCluster) -> list[int]:
    """How many descriptors the front end and the agents have."""
    pids = [demo.service_pid(cluster.state, "front", "front-end")]
    pids += [demo.service_pid(cluster.state, node, "agent") for node in cluster.nodes]
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]


@pytest.mark.timeout(120)
def test_a_display_is_opened_by_descriptor_as_on_a_node(cluster: RealCluster, make: Make) -> None:
    name = make("byfd", start=True, devices=VNC)
    node = cluster.owner(name)
    uris = [cluster.node_uri(node), cluster.endpoint, cluster.view_uri(node)]
    connections = [libvirt.open(uri) for uri in uris]
    told = [outcomes(connection.lookupByName(name)) for connection in connections]
    assert told[0] == told[1] == told[2]
    assert told[1][0] == told[1][4] == b"RFB 003.008\n"
    before = open_files(cluster)
    for _ in range(10):
        opened_fd(connections[1].lookupByName(name))
        opened(connections[1].lookupByName(name))
    eventually(
        lambda: all(now <= then + 2 for now, then in zip(open_files(cluster), before, strict=True)),
        10,
        f"no descriptor is left: {before}",
    )
    reading = libvirt.openReadOnly(cluster.endpoint).lookupByName(name)
    assert said(lambda: opened_fd(reading)) == said(
        lambda: opened_fd(libvirt.openReadOnly(uris[0]).lookupByName(name))
    )


@pytest.mark.timeout(120)
def test_whole_pictures_come_by_descriptor(cluster: RealCluster, make: Make) -> None:
    name = make("pictures", start=True, devices=VNC)
    domain = libvirt.open(cluster.endpoint).lookupByName(name)
    with socket.socket(fileno=domain.openGraphicsFD(0, SKIP_AUTH)) as sock:
        assert picture(sock) > 1000000  # the guest's firmware may change the size meanwhile


@pytest.mark.timeout(120)
def test_a_display_ends_with_its_domain(cluster: RealCluster, make: Make) -> None:
    name = make("fdends", start=True, devices=VNC)
    domain = libvirt.open(cluster.endpoint).lookupByName(name)
    with socket.socket(fileno=domain.openGraphicsFD(0, SKIP_AUTH)) as sock:
        sock.settimeout(10)
        assert exactly(sock, 12) == b"RFB 003.008\n"
        domain.destroy()
        assert sock.recv(1) == b""


def test_domains_with_descriptors_of_files_are_refused_as_on_a_node(
    cluster: RealCluster, make: Make, tmp_path: Path
) -> None:
    name = make("filefds")
    xml = cluster.xml("filefds2")
    for uri in (cluster.node_uri(cluster.owner(name)), cluster.endpoint):
        connection = libvirt.open(uri)
        with (tmp_path / "file").open("w") as file:
            assert said(lambda: connection.createXMLWithFiles(xml, [file.fileno()], 0))[0] == 3  # noqa: B023
            domain = connection.lookupByName(name)
            assert said(lambda: domain.createWithFiles([file.fileno()], 0))[0] == 3  # noqa: B023


@pytest.mark.parametrize("command", ["query-status", "query-name", "nothing"])
def test_a_monitor_command_that_passes_no_files_is_answered_as_on_a_node(
    cluster: RealCluster, make: Make, command: str
) -> None:
    name = make("monitored", start=True)
    told = []
    for uri in (cluster.node_uri(cluster.owner(name)), cluster.endpoint):
        domain = libvirt.open(uri).lookupByName(name)
        text, files = libvirt_qemu.qemuMonitorCommandWithFiles(domain, f'{{"execute":"{command}"}}', [], 0)
        told.append((re.sub(r'"id":"libvirt-\d+"', "", text), files))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"user-name": "somebody", "process-id": 1},
        {"bogus": "x"},
        {"sasl-user-name": "x", "unix-user-id": 0},
    ],
)
def test_an_identity_is_taken_as_on_a_node(cluster: RealCluster, params: dict[str, Any]) -> None:
    node, endpoint = (
        [said(lambda: libvirt.open(uri).setIdentity(params, flags)) for flags in (0, 4)]  # noqa: B023
        for uri in (cluster.node_uri("n1"), cluster.endpoint)
    )
    assert node == endpoint
