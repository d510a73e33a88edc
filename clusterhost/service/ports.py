"""What the use cases need of the world around them, as protocols and values.  Implemented by control.hub, the store
and the front ends; wired together in daemon.py alone.  No I/O here."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from clusterhost.control import messages
from clusterhost.control.messages import DomainReport
from clusterhost.model.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Answer:
    """A node's libvirtd answered.  payload: the ret struct if ok, else its error struct, as it came.
    report: the domain after the call, where one was asked for; gone: it no longer exists on that node."""

    ok: bool
    payload: bytes
    report: DomainReport | None = None
    gone: bool = False
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.  view: name of the only node to be seen, None for the cluster; session: number of the client's
    connection, for what libvirt ties to a connection; who: for the audit line."""

    view: str | None = None
    readonly: bool = False
    session: int = 0
    who: str = ""


Progress = Callable[[int, int, str], None]
"""done, total, what"""


class StreamSink(Protocol):
    """Receives what comes from the node's side of a stream (called on the event loop, never blocks)."""

    def packet(self, packet: messages.StreamPacket, payload: bytes | bytearray) -> None: ...

    def lost(self, error: ClusterError) -> None:
        """The node is gone; the stream is over."""


class NodeStream(Protocol):
    """The front end's end of a stream at a node.  Window: messages.STREAM_WINDOW bytes each way."""

    def send(self, kind: str, payload: bytes | memoryview = b"", length: int = 0, flags: int = 0) -> bool:
        """Send a packet towards the node; False: the window is used up, stop reading the client until `on_room`."""

    def passed_on(self, count: int) -> None:
        """That many bytes from the node went out to the client (gives the node new credit)."""

    on_room: Callable[[], None] | None

    def close(self) -> None:
        """Forget it (abort towards the node when it is not over yet)."""


class Nodes(Protocol):
    """Calls to nodes (control.hub.Hub).  Raises NodeUnreachable (at once when the link is down, and for everything
    under way when it breaks), DeadlinePassed, NodeBusy.  A libvirt error is an Answer with ok False."""

    def submit(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        done: Callable[[Answer | ClusterError], None],
        *,
        readonly: bool = False,
        long: bool = False,
        session: int = 0,
        report: bytes | None = None,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        deadline: float | None = None,
    ) -> None:
        """The hot path: no task, no future.  `done` is called exactly once, on the loop, possibly before this
        returns.  Before it, the report in the reply has been given to `HubHandler.on_report`.  deadline: seconds."""

    def call(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        *,
        readonly: bool = False,
        long: bool = False,
        session: int = 0,
        report: bytes | None = None,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        deadline: float | None = None,
    ) -> Awaitable[Answer]:
        """As `submit`, awaited."""

    async def fan_out(
        self,
        nodes: Sequence[str],
        program: int,
        procedure: int,
        payload: bytes,
        *,
        readonly: bool = False,
        deadline: float,
    ) -> dict[str, Answer | ClusterError]:
        """The same call at many nodes at once, each with its own result."""

    async def operate(
        self,
        node: str,
        kind: str,
        args: bytes,
        *,
        op: str = "",
        domain: bytes | None = None,
        generation: int = 0,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """One of control.operations or imageops; returns its result struct as MessagePack; ClusterError when refused.

        Its deadline begins anew whenever it tells its progress."""

    async def open_stream(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        sink: StreamSink,
        *,
        readonly: bool = False,
        session: int = 0,
        file: str = "",
    ) -> tuple[Answer, NodeStream | None]:
        """Make a call that opens a stream; no stream when the answer is an error.

        file: of the node, whose bytes the stream carries, where that is so."""

    async def open_socket(
        self,
        node: str,
        program: int,
        procedure: int,
        payload: bytes,
        sock: socket.socket,
        *,
        readonly: bool = False,
        deadline: float,
    ) -> Answer:
        """Make a call that gives or takes a descriptor; our connected, non-blocking socket leads to its other end, and
        is closed when that closes or the call fails.  Unsupported when the node's libvirtd is not on a unix socket."""

    def close_session(self, session: int) -> None:
        """That client is gone: every node closes what it keeps for it."""

    def abandon(self, unwanted: Callable[[object], bool]) -> None:
        """Calls whose `done` is `unwanted` need not be made: each is dropped if it still waits at its node.  `done` is
        called all the same."""

    def carry(self, node: str, address: str, sock: socket.socket) -> bool:
        """Carry a connected, non-blocking socket to `tcp:HOST:PORT` or `unix:PATH` on a node; it is closed when
        either end closes.  False, and the socket is left alone, when the node is not there."""

    def subscribe(self, *, monitor_events: bool) -> None:
        """Tell all nodes (also later ones) which costly events somebody wants."""


class HubHandler(Protocol):
    """What the hub tells (service.inventory.Inventory).  All on the loop, in the node's order, never blocking."""

    def on_hello(self, node: str, hello: messages.Hello) -> messages.Welcome:
        """A (new) agent of that node is there; `refused` in the answer turns it away."""

    def on_snapshot(self, node: str, snapshot: messages.Snapshot) -> None: ...

    def on_report(self, node: str, report: DomainReport) -> None:
        """From Changed, and from a Reply before its `done`."""

    def on_gone(self, node: str, uuid: bytes) -> None: ...

    def on_definition(self, node: str, uuid: bytes, xml: str) -> None: ...

    def on_event(self, node: str, program: int, procedure: int, payload: bytes) -> None: ...

    def on_beat(self, node: str, beat: messages.Beat) -> None: ...

    def on_lost(self, node: str, reason: str) -> None:
        """No sign of life (heartbeats stopped or the connection broke)."""

    def on_register(self, node: str, public_key: str) -> None:
        """A one-time join key was used; the hub has already checked it."""


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """An event as clients shall see it.  payload: callback form; bytes 0..4 are a callback id that each session
    overwrites with its own; domain ids are already the cluster's.  node: where it happened (for node views)."""

    program: int
    procedure: int
    payload: bytes
    uuid: bytes
    node: str
