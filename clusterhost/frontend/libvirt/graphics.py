"""Displays of domains at the endpoint: live XML shows a port of ours, which leads to the node that runs the domain
now.  Knows nothing of what is said on a display (VNC, SPICE: bytes)."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from clusterhost.config import GraphicsSection
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, DomainNotFound
from clusterhost.service.ports import Nodes
from compat.libvirt import messages, schema
from compat.libvirt.errors import XdrError

log = logging.getLogger(__name__)

XML_DESC = schema.BY_NAME["remote:DOMAIN_GET_XML_DESC"]
ELEMENT = re.compile(rb"<graphics type='(?:vnc|spice|rdp)'[^>]*?(?:/>|>.*?</graphics>)", re.DOTALL)
PORT = re.compile(rb"\s(port|tlsPort|websocket)='(\d+)'")
ADDRESS = re.compile(rb"(\slisten=|\saddress=)'([^']*)'")
ANYWHERE = frozenset({"", "0.0.0.0", "::"})
SWEEP = 30.0
"""Seconds between looks for ports of domains that run no more."""
DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Display:
    """One port of one <graphics>: its place among the domain's, and the attribute that names the port."""

    uuid: bytes
    index: int
    attribute: str


class Graphics:
    """Ports of the endpoint, made when a client is first shown them, closed when the run is over."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        settings: GraphicsSection,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._settings = settings
        self._loop = loop
        self._spawn = spawn
        self._open: dict[Display, socket.socket] = {}
        self._swept = loop.time()

    def shown(self, uuid: bytes, xml: bytes) -> bytes:
        """Live XML with each display's port and address replaced by the endpoint's.  Unchanged when the domain is
        not running, its node's agent runs elsewhere, or no port is free."""
        devices = xml.find(b"<devices>")
        if devices < 0 or b"<graphics " not in xml:
            return xml
        domain = self._cluster.get(uuid)
        if domain is None or not domain.active or not self._cluster.node(domain.node).host.has_files:
            return xml
        self._sweep()
        index = -1

        def element(found: re.Match[bytes]) -> bytes:
            nonlocal index
            index += 1
            return self._element(uuid, index, found.group())

        return xml[:devices] + ELEMENT.sub(element, xml[devices:])

    def stop(self) -> None:
        """Close every port."""
        for display in list(self._open):
            self._close(display)

    def _element(self, uuid: bytes, index: int, text: bytes) -> bytes:
        if not PORT.search(text):
            return text  # a socket on the node

        def port(found: re.Match[bytes]) -> bytes:
            name = found.group(1)
            try:
                number = self._port(Display(uuid, index, name.decode()))
            except OSError as error:
                log.warning("no port for a display: %s", error)
                return found.group()
            return b" %s='%d'" % (name, number)

        text = PORT.sub(port, text)
        address = self._settings.listen.encode()
        return ADDRESS.sub(lambda found: found.group(1) + b"'" + address + b"'", text)

    def _port(self, display: Display) -> int:
        sock = self._open.get(display)
        if sock is None:
            sock = self._open[display] = self._listen()
            self._loop.add_reader(sock, self._accept, display, sock)
        return int(sock.getsockname()[1])

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._settings.listen else socket.AF_INET
        taken = {sock.getsockname()[1] for sock in self._open.values()}
        for number in range(self._settings.port_min, self._settings.port_max + 1):
            if number in taken:
                continue
            sock = socket.socket(family)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((self._settings.listen, number))
                sock.listen(8)
            except OSError:
                sock.close()
                continue
            sock.setblocking(False)
            return sock
        raise OSError(f"ports {self._settings.port_min} to {self._settings.port_max} are all taken")

    def _accept(self, display: Display, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._spawn(self._serve(display, sock))

    async def _serve(self, display: Display, sock: socket.socket) -> None:
        """To wherever the domain is now: it may have moved since its XML was shown."""
        carried = False
        try:
            domain = self._cluster.by_uuid(display.uuid)
            address = await self._address(domain, display)
            carried = address is not None and self._nodes.carry(domain.node, address, sock)
        except (ClusterError, XdrError) as error:
            log.info("a display could not be reached: %s", error)
        finally:
            if not carried:
                sock.close()

    async def _address(self, domain: Domain, display: Display) -> str | None:
        """Where that display listens on its node; None when it has gone."""
        handle = messages.RemoteNonnullDomain(domain.name, domain.uuid, domain.node_id)
        args = messages.RemoteDomainGetXmlDescArgs(handle, 0).to_bytes()
        answer = await self._nodes.call(
            domain.node, XML_DESC.program_id, XML_DESC.number, args, readonly=True, deadline=DEADLINE
        )
        if not answer.ok:
            raise DomainNotFound(f"node {domain.node} has no live XML of domain '{domain.name}'")
        xml = messages.RemoteDomainGetXmlDescRet.from_bytes(answer.payload).xml.encode()
        found = ELEMENT.findall(xml, max(0, xml.find(b"<devices>")))
        if display.index >= len(found):
            return None
        ports = {name.decode(): int(number) for name, number in PORT.findall(found[display.index])}
        hosts = [address.decode() for _, address in ADDRESS.findall(found[display.index])]
        port = ports.get(display.attribute)
        if port is None:
            return None
        host = hosts[0] if hosts and hosts[0] not in ANYWHERE else "127.0.0.1"
        return f"tcp:{host}:{port}"

    def _sweep(self) -> None:
        """Ports of domains that are off are given back."""
        now = self._loop.time()
        if now - self._swept < SWEEP:
            return
        self._swept = now
        for display in list(self._open):
            domain = self._cluster.get(display.uuid)
            if domain is None or not domain.active:
                self._close(display)

    def _close(self, display: Display) -> None:
        sock = self._open.pop(display)
        self._loop.remove_reader(sock)
        sock.close()
