"""A stream's own connection to the front end (docs/design/008): made when it opens, over when the front end ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from clusterhost.control import messages as m
from clusterhost.control.direct import Direct, NoDirect, dial
from clusterhost.control.tls import HANDSHAKE_SECONDS, Secured

log = logging.getLogger(__name__)

Deliver = Callable[[m.Bulk, bytes | bytearray], None]


class Lines:
    """All of them.  host: of the front end; `deliver` gets what comes, `lost` the id of a stream whose line is no more.

    The front end closes a line when the stream has ended, or its client has gone."""

    def __init__(self, host: Callable[[], str], deliver: Deliver, lost: Callable[[int], None]) -> None:
        self._host = host
        self._deliver = deliver
        self._lost = lost
        self._open: dict[int, Direct] = {}

    async def dial(self, message: m.OpenStream) -> Direct | None:
        """The front end sends and awaits the stream's packets there from now on; None: on bulk."""
        if not message.ticket:
            return None
        try:
            secured = await dial(self._host(), message.direct_port, message.direct_key)
        except NoDirect as error:
            log.warning("stream %d goes by bulk: %s", message.id, error)
            return None
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        direct = self._direct(message.id, secured, taken)
        direct.send(message.ticket, b"")
        try:
            await asyncio.wait([taken], timeout=HANDSHAKE_SECONDS)
        except BaseException:
            direct.close()
            raise
        if not (taken.done() and taken.result()):
            direct.close()
            return None
        self._open[message.id] = direct
        return direct

    def _direct(self, id: int, secured: Secured, taken: asyncio.Future[bool]) -> Direct:
        """taken: true when the front end says so, false when it closes before."""

        def deliver(body: bytes, payload: bytes | bytearray) -> None:
            message = m.decode_bulk(body)
            if message is None:
                log.warning("a message of stream %d was not understood", id)
            elif not isinstance(message, m.Taken):
                self._deliver(message, payload)
            elif not taken.done():
                taken.set_result(True)

        def lost(why: str) -> None:
            log.debug("stream %d: its connection is over: %s", id, why)
            if taken.done():
                self._open.pop(id, None)
                self._lost(id)
            else:
                taken.set_result(False)

        return Direct(asyncio.get_running_loop(), secured, deliver, lost)

    def end(self, id: int) -> None:
        """The stream was not opened."""
        if direct := self._open.pop(id, None):
            direct.close()

    def close(self) -> None:
        """The front end is gone."""
        for id in list(self._open):
            self.end(id)
