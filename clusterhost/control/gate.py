"""Who is let in, and who was turned away lately.  Decides on keys, names and versions; knows no sockets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from clusterhost.control import messages as m
from clusterhost.control.zap import JOIN, NODE, Authority

log = logging.getLogger(__name__)

KEPT = 8
"""Refusals of a node that are remembered."""


class Gate:
    """Judges keys (for ZAP), registrations and greetings; `clock` gives wall time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._authority = Authority()
        self._clock = clock
        self._refusals: dict[str, list[str]] = {}

    def user(self, public_key: str) -> str | None:
        """The User-Id for a key, None when it is unknown."""
        return self._authority.user(public_key)

    def replace(self, nodes: Mapping[str, str], joins: Mapping[str, str]) -> None:
        """Take these tables: node -> public key, one-time public key -> node."""
        self._authority.replace(nodes, joins)

    def use_up(self, node: str, public_key: str) -> None:
        """A node trades its join key for its own."""
        self._authority.use_up(self._authority.join_key(node), node, public_key)

    def why_not_register(self, user: str, message: m.Register) -> str:
        """Why the holder of a key may not register as that node; "" when it may."""
        if user == JOIN + message.node:
            return ""
        return self._turned_away(
            message.node, f"its key is for node {_owner(user)}, not for node {message.node}"
        )

    def why_not_greet(self, user: str, hello: m.Hello, newest: int) -> str:
        """Why an agent may not work for that node; newest: incarnation of the one that does, or 0."""
        reason = ""
        if user != NODE + hello.node:
            reason = f"its key is that of node {_owner(user)}, not of node {hello.node}"
        elif hello.lowest > m.PROTOCOL or hello.highest < m.PROTOCOL - 1:
            spoken = f"{hello.lowest} to {hello.highest}"
            reason = f"the agent speaks versions {spoken}, the front end {m.PROTOCOL}"
        elif hello.incarnation < newest:
            reason = f"another agent of node {hello.node} started later and is connected"
        return self._turned_away(hello.node, reason) if reason else ""

    def stranger(self, address: str, public_key: str) -> None:
        """A connection was refused for its key."""
        node, reason = self._authority.why_not(public_key)
        self._note(node, f"a connection from {address}: {reason}")

    def refusals(self, node: str) -> list[str]:
        """Time and reason of those that were turned away as `node`, oldest first; "": as nobody we know."""
        return list(self._refusals.get(node, ()))

    def _turned_away(self, node: str, reason: str) -> str:
        self._note(node, f"an agent that calls itself {node}: {reason}")
        return reason

    def _note(self, node: str, text: str) -> None:
        """Who tries again and again is logged once."""
        told = self._refusals.setdefault(node if node in self._authority.nodes() else "", [])
        others = [line for line in told if not line.endswith(f" {text}")]
        if len(others) == len(told):
            log.warning("refused %s", text)
        hour = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        told[:] = [*others[1 - KEPT :], f"{hour} {text}"]


def _owner(user: str) -> str:
    return user.removeprefix(JOIN).removeprefix(NODE) or "nobody"
