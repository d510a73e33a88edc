"""The hub's side of direct connections: which agent may make one, and what comes by it.  Knows no libvirt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from clusterhost.control import messages as m
from clusterhost.control.direct import Direct, NoDirect
from clusterhost.control.directserver import DirectServer, Offer
from clusterhost.control.hubstreams import HubStream
from clusterhost.control.nodelink import NodeLink

log = logging.getLogger(__name__)

_LINGER = 0.3


class Directs:
    """`take(link, message, payload)` gets the answers.  Without a listener everything goes by control."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take: Callable[[NodeLink, m.Message, bytes], None]
    ) -> None:
        self._loop = loop
        self._take = take
        self._server = DirectServer(loop)

    async def start(self, asked: str, control: str, bulk: str) -> None:
        """Listen where `asked` says, a ZeroMQ endpoint; "": beside those of `control` and `bulk`; "off": nowhere."""
        if asked == "off":
            return
        try:
            host, port = _split(asked) if asked else (_split(control)[0], _next(bulk))
            await self._server.start(host, port)
        except (OSError, ValueError, NoDirect) as error:
            log.warning("no direct connections, calls go by %s: %s", control, error)

    async def stop(self) -> None:
        """Listen no more."""
        await self._server.stop()

    def invited(self, link: NodeLink, welcome: m.Welcome) -> m.Welcome:
        """The welcome with what the agent needs to dial."""
        offer = self._server.offer(lambda direct: self._taken(link, direct))
        if offer is None:
            return welcome
        link.ticket = offer.ticket
        return _with(offer, welcome)

    def carried(self, link: NodeLink, stream: HubStream, message: m.OpenStream) -> m.OpenStream:
        """The call with what the agent needs to make a connection for that stream, if it is one of a file.

        Where the agent's calls do not come direct there may be a wall between: the stream does not wait to find out."""
        offer = self._server.offer(stream.taken) if message.file and link.direct else None
        if offer is None:
            return message
        stream.on_end = partial(self._server.withdraw, offer.ticket)
        return _with(offer, message)

    def forget(self, link: NodeLink) -> None:
        """The agent is gone."""
        self._server.withdraw(link.ticket)
        direct, link.direct = link.direct, None
        if direct is not None:
            direct.close()

    def _taken(self, link: NodeLink, direct: Direct) -> None:
        def deliver(body: bytes, payload: bytes | bytearray) -> None:
            try:
                message = m.decode_answer(body)
            except msgspec.DecodeError:
                log.warning("node %s: a direct message was not understood", link.node)
                return
            self._take(link, message, bytes(payload))

        def lost(why: str) -> None:
            log.info("node %s: its direct connection broke: %s", link.node, why)
            link.direct = None
            # When the agent itself is gone, that is found meanwhile, and said to those who wait.
            self._loop.call_later(_LINGER, link.direct_lost, why)

        direct.deliver, direct.lost = deliver, lost
        link.direct = direct


Invitation = TypeVar("Invitation", m.Welcome, m.OpenStream)


def _with(offer: Offer, message: Invitation) -> Invitation:
    return msgspec.structs.replace(
        message, direct_port=offer.port, direct_key=offer.fingerprint, ticket=offer.ticket
    )


def _split(endpoint: str) -> tuple[str, int]:
    """ValueError."""
    host = urlsplit(endpoint).hostname
    if not host:
        raise ValueError("it has no host")
    port = endpoint.rpartition(":")[2]
    return host, 0 if port == "*" else int(port)


def _next(endpoint: str) -> int:
    """The port after that of an endpoint, any when it may have any."""
    port = endpoint.rpartition(":")[2]
    return 0 if port == "*" else int(port) + 1
