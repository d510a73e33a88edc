"""Notice that links, addresses or our rules changed in this network namespace.  Does not look at how."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from netmgr.nft import PREFIX

_NETFILTER = 12
_RTNETLINK_GROUPS = (1, 5, 9)
"""RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR of linux/rtnetlink.h."""
_NFTABLES_GROUPS = (7,)
"""NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h."""
_ADD_MEMBERSHIP = 1
_SOL_NETLINK = 270


class Watch:
    """Netlink sockets in the running loop; close it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._sockets = [
            self._listen(socket.NETLINK_ROUTE, _RTNETLINK_GROUPS, b""),
            # Others may change their rules all day: only messages that name a table of ours count.
            self._listen(_NETFILTER, _NFTABLES_GROUPS, PREFIX.encode()),
        ]

    async def wait(self, seconds: float) -> bool:
        """Until something changed, or time is up; whether something did."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        changed = self._changed.is_set()
        self._changed.clear()
        return changed

    def close(self) -> None:
        """Listen no more."""
        for connection in self._sockets:
            self._loop.remove_reader(connection)
            connection.close()

    def _listen(self, protocol: int, groups: tuple[int, ...], word: bytes) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        connection = socket.socket(socket.AF_NETLINK, kind, protocol)
        connection.bind((0, 0))
        for group in groups:
            connection.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._loop.add_reader(connection, self._drain, connection, word)
        return connection

    def _drain(self, connection: socket.socket, word: bytes) -> None:
        while True:
            try:
                if word in connection.recv(65536):
                    self._changed.set()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._changed.set()  # more happened than fits
