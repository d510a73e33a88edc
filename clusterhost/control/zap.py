"""Judge the CURVE keys of those who dial (ZAP, RFC 27).  Knows keys, not messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import zmq
from zmq.utils import z85

from clusterhost.control.sockets import ZAP_DOMAIN, Channel

NODE, JOIN = "node:", "join:"
"""Prefixes of the User-Id that a connection gets: its key is that of a node, or a join key for it."""


class Authority:
    """Which key belongs to whom.  Felt at the next handshake; live connections are the hub's matter."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}
        self._former: dict[str, str] = {}

    def replace(self, nodes: Mapping[str, str], joins: Mapping[str, str]) -> None:
        """Take these tables: node -> public key, one-time public key -> node."""
        before = self._users
        self._users = {key: JOIN + node for key, node in joins.items()}
        self._users |= {key: NODE + node for node, key in nodes.items()}
        self._former |= {key: user for key, user in before.items() if key not in self._users}

    def use_up(self, join_key: str, node: str, public_key: str) -> None:
        """Trade a join key for the node's own."""
        if user := self._users.pop(join_key, None):
            self._former[join_key] = user
        self._users[public_key] = NODE + node

    def join_key(self, node: str) -> str:
        """The join key that is open for `node`, "" when there is none."""
        return next((key for key, user in self._users.items() if user == JOIN + node), "")

    def nodes(self) -> set[str]:
        """Nodes that have a key or a join key."""
        return {user.partition(":")[2] for user in self._users.values()}

    def why_not(self, public_key: str) -> tuple[str, str]:
        """Whose a key that is not known (any more) was, "" for nobody's, and the sentence about it."""
        user = self._former.get(public_key, "")
        if user.startswith(JOIN):
            return user.removeprefix(JOIN), "its join token was already used or withdrawn"
        return user.removeprefix(NODE), "its key is not valid any more" if user else "its key is not known"

    def user(self, public_key: str) -> str | None:
        """The User-Id for a key, None when it is unknown."""
        return self._users.get(public_key)


class ZapServer:
    """Answers libzmq's questions on inproc://zeromq.zap.01 of one context; `refused(address, key)` hears of
    those who were turned away."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        user: Callable[[str], str | None],
        refused: Callable[[str, str], None],
    ) -> None:
        self._user = user
        self._refused = refused
        # Not REP: one question that is left without an answer would stop all that follow.
        socket = context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind("inproc://zeromq.zap.01")
        self._channel = Channel(loop, socket, self._ask)
        self._channel.start()

    def close(self) -> None:
        """Stop answering: every handshake after this fails."""
        self._channel.close()

    def _ask(self, frames: list[bytes]) -> None:
        peer, empty, version, request, domain, address, _identity, mechanism, *credentials = frames
        user, key = None, ""
        if domain == ZAP_DOMAIN and mechanism == b"CURVE" and len(credentials) == 1:
            key = z85.encode(credentials[0]).decode()
            user = self._user(key)
        if user is None:
            self._refused(address.decode(errors="replace"), key)
            self._channel.send(peer, empty, version, request, b"400", b"unknown key", b"", b"")
        else:
            self._channel.send(peer, empty, version, request, b"200", b"OK", user.encode(), b"")
