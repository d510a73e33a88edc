"""Names of guests and networks in a DNS server outside: what is wanted of the zones, kept up to date.  Speaks no DNS.

Off unless [names] has a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from clusterhost.config import NamesSection, Settings
from clusterhost.control.discovery import port_of
from clusterhost.control.srv import BULK, CONTROL, ENDPOINT
from netmgr.names.publish import Names, Status
from netmgr.names.records import Naming, Service, names_of
from netmgr.names.update import KeyUnusable, Server, read_key
from netmgr.wanted import WantedNetwork

GATHER_SECONDS = 0.2
"""How long changes are gathered before the server hears of them."""
KEY_SECONDS = 30.0
"""Until a key file that could not be used is read again."""

log = structlog.get_logger("clusterhost.names")


STEP = 10
"""Between the priorities of two machines: room for others."""


def services_of(settings: Settings) -> tuple[Service, ...]:
    """Where clients and agents find the cluster: the first of the machines while it answers, then the next."""
    names, control = settings.names, settings.control
    ports = {ENDPOINT: names.endpoint_port, CONTROL: port_of(control.control), BULK: port_of(control.bulk)}
    return tuple(
        Service(f"{service}.{names.domain}", host, port, priority=STEP * number)
        for number, host in enumerate(dict.fromkeys(names.hosts.split()))
        for service, port in ports.items()
        if port
    )


class OutsideNames:
    """networks: what is wanted of each active network; owner: the cluster's uuid, which marks its names; services: the
    cluster's own."""

    def __init__(
        self,
        settings: NamesSection,
        networks: Callable[[], Iterable[WantedNetwork]],
        owner: str,
        clock: Callable[[], float],
        services: tuple[Service, ...] = (),
    ) -> None:
        self._services = services
        self._settings = settings
        self._networks = networks
        self._owner = owner
        self._clock = clock
        self._naming = Naming.of(settings.zones.split(), settings.domain, settings.ttl)
        self._changed = asyncio.Event()
        self._names: Names | None = None
        self._status = Status()
        self._left_out: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """There is a server."""
        return bool(self._settings.server)

    @property
    def status(self) -> Status:
        """How the names outside are."""
        return self._names.status if self._names is not None else self._status

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names that cannot stand in any of the zones."""
        return self._left_out

    def look(self) -> None:
        """Something changed."""
        self._changed.set()

    async def run(self) -> None:
        """For ever; ends at once where there is no server."""
        if not self.enabled:
            return
        server = await self._server()
        names = Names(server, self._naming.zones, self._owner, self._clock, resync=self._settings.resync)
        self._names = names
        async with asyncio.TaskGroup() as group:
            group.create_task(names.run(), name="names outside")
            while True:
                self._tell(names)
                await self._changed.wait()
                await asyncio.sleep(GATHER_SECONDS)
                self._changed.clear()

    def _tell(self, names: Names) -> None:
        found = names_of(self._networks(), self._naming, self._services)
        if found.left_out != self._left_out:
            self._left_out = found.left_out
            log.warning(
                "names that fit none of the zones", names=", ".join(found.left_out) or "none any more"
            )
        names.changed(found.nodes)

    async def _server(self) -> Server:
        settings = self._settings
        while True:
            try:
                key = await asyncio.to_thread(read_key, settings.key_file)
            except KeyUnusable as error:
                if self._status.error != str(error):
                    log.warning("no names outside", reason=str(error))
                    self._status = Status(error=str(error), since=self._clock())
                await asyncio.sleep(KEY_SECONDS)
            else:
                return Server(settings.server, key, settings.port, settings.timeout)
