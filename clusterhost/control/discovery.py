"""Where an agent finds the front end: as configured, or by what DNS says at each dial.  Knows no sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from clusterhost.control import srv
from clusterhost.control.srv import LookupFailed, Offer

SCHEME = "srv:"
LookUp = Callable[[str, str, str], list[Offer]]
Addresses = tuple[str, str]
"""ZeroMQ endpoints: control, bulk."""


class Finder:
    """control: an endpoint, or `srv:DOMAIN`, which is looked up; then bulk is of no meaning.

    Those that DNS names are tried one after the other; it is asked again when the last of them did not answer, and
    after the loss of a connection."""

    def __init__(
        self,
        control: str,
        bulk: str,
        nameserver: str = "",
        *,
        look_up: LookUp = srv.look_up,
        draw: Callable[[int], int] = lambda most: random.randint(0, most),
    ) -> None:
        self._given = (control, bulk)
        self._nameserver = nameserver
        self._look_up = look_up
        self._draw = draw
        self._left: list[Addresses] = []
        self.last = "" if self.looks_up else control
        """What was dialled last (control)."""

    @property
    def looks_up(self) -> bool:
        """DNS is asked."""
        return self._given[0].startswith(SCHEME)

    async def next(self) -> Addresses:
        """Whom to dial now.  LookupFailed."""
        if not self.looks_up:
            return self._given
        if not self._left:
            self._left = await asyncio.to_thread(self._found)
        found = self._left.pop(0)
        self.last = found[0]
        return found

    def connected(self) -> None:
        """It answered: after the end of that connection everything may be otherwise."""
        self._left = []

    def _found(self) -> list[Addresses]:
        domain = self._given[0].removeprefix(SCHEME)
        offers = srv.ordered(self._look_up(srv.CONTROL, domain, self._nameserver), self._draw)
        bulks = {offer.target: offer.port for offer in self._look_up(srv.BULK, domain, self._nameserver)}
        found = [
            pair for offer in offers if offer.target in bulks for pair in _dialled(offer, bulks[offer.target])
        ]
        if not found:
            raise LookupFailed(f"no machine offers both {srv.CONTROL}.{domain} and {srv.BULK}.{domain}")
        return found


def _dialled(offer: Offer, bulk: int) -> Iterator[Addresses]:
    """Each address of a machine; its name where DNS told none (a hosts file may)."""
    for address in offer.addresses or (offer.target.rstrip("."),):
        host = f"[{address}]" if ":" in address else address
        yield f"tcp://{host}:{offer.port}", f"tcp://{host}:{bulk}"


def port_of(endpoint: str) -> int:
    """Of a ZeroMQ endpoint; 0 for one that nobody reaches by a name."""
    url = urlsplit(endpoint)
    return (url.port or 0) if url.scheme == "tcp" else 0
