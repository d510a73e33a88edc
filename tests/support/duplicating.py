"""A front end whose control messages all arrive twice, both ways: `python -m tests.support.duplicating serve ...`.

The control plane is encrypted, so a proxy between two machines could not do it.
"""

from __future__ import annotations

from typing import Any

from clusterhost.cli.main import main
from clusterhost.control import hub
from clusterhost.control.sockets import RouterChannel


class Twice(RouterChannel):
    """Sends twice; hands out twice what it gets.  Streams' data (the bulk socket) stays as it is."""

    def __init__(self, loop: Any, socket: Any, deliver: Any, *rest: Any) -> None:
        self._doubled = deliver.__name__ == "_control_message"

        def twice(*message: Any) -> None:
            deliver(*message)
            deliver(*message)

        super().__init__(loop, socket, twice if self._doubled else deliver, *rest)

    def send(self, *message: Any) -> bool:
        sent = super().send(*message)
        if sent and self._doubled:
            super().send(*message)
        return sent


if __name__ == "__main__":
    hub.RouterChannel = Twice  # type: ignore[misc]
    main()
