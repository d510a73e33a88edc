"""What the hub does with each message of a connected agent.  Knows no sockets and no libvirt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from clusterhost.control import messages as m
from clusterhost.control.nodelink import FAILURES, NodeLink
from clusterhost.model.errors import NodeUnreachable
from clusterhost.service.ports import Answer, HubHandler

log = logging.getLogger(__name__)


class Inbound:
    """`take` each message; `tell(link, message)` sends one back."""

    def __init__(self, handler: HubHandler, tell: Callable[[NodeLink, m.Message], None]) -> None:
        self._handler = handler
        self._tell = tell
        # Told apart by type in one look-up: most messages are replies.
        self._on: dict[type, Callable[[NodeLink, Any, bytes], None]] = {
            m.Reply: self._on_reply,
            m.Beat: self._on_beat,
            m.Event: self._on_event,
            m.Changed: self._on_changed,
            m.Gone: self._on_gone,
            m.Definition: self._on_definition,
            m.Snapshot: self._on_snapshot,
            m.Failed: self._on_failed,
            m.Done: self._on_done,
            m.Progress: self._on_progress,
            m.Unsupported: self._on_unsupported,
        }

    def take(self, link: NodeLink, message: m.Message, payload: bytes) -> None:
        """Act on a message; what has no meaning on a link that is up (a second Hello) is ignored."""
        if handle := self._on.get(type(message)):
            handle(link, message, payload)

    def _numbered(self, link: NodeLink, seq: int) -> bool:
        """Whether to act on a numbered message; asks for a snapshot when some before it are missing."""
        follows = link.follows(seq)
        if follows is False:
            self._resync(link)
        return follows is not None

    def _resync(self, link: NodeLink) -> None:
        log.warning("node %s: numbers are missing before %d, asking for a snapshot", link.node, link.seq)
        link.resyncing = True
        self._tell(link, m.WantSnapshot())

    def _on_snapshot(self, link: NodeLink, message: m.Snapshot, _: bytes) -> None:
        link.seq, link.resyncing = message.seq, False
        self._handler.on_snapshot(link.node, message)

    def _on_changed(self, link: NodeLink, message: m.Changed, _: bytes) -> None:
        if self._numbered(link, message.seq):
            self._handler.on_report(link.node, message.domain)

    def _on_gone(self, link: NodeLink, message: m.Gone, _: bytes) -> None:
        if self._numbered(link, message.seq):
            self._handler.on_gone(link.node, message.uuid)

    def _on_definition(self, link: NodeLink, message: m.Definition, _: bytes) -> None:
        if self._numbered(link, message.seq):
            self._handler.on_definition(link.node, message.uuid, message.xml)

    def _on_event(self, link: NodeLink, message: m.Event, payload: bytes) -> None:
        if self._numbered(link, message.seq):
            self._handler.on_event(link.node, message.program, message.procedure, payload)

    def _on_beat(self, link: NodeLink, message: m.Beat, _: bytes) -> None:
        if message.seq > link.seq and not link.resyncing:
            self._resync(link)
        self._handler.on_beat(link.node, message)

    def _on_reply(self, link: NodeLink, message: m.Reply, payload: bytes) -> None:
        pending = link.calls.pop(message.id, None)
        if message.report is not None:
            self._handler.on_report(link.node, message.report)
        if pending is None:
            return
        if message.gone and pending.report is not None:
            self._handler.on_gone(link.node, pending.report)
        pending.done(Answer(message.ok, payload, message.report, message.gone, message.replayed))

    def _on_done(self, link: NodeLink, message: m.Done, _: bytes) -> None:
        if pending := link.calls.pop(message.id, None):
            pending.done(message.result)

    def _on_failed(self, link: NodeLink, message: m.Failed, _: bytes) -> None:
        if pending := link.calls.pop(message.id, None):
            pending.done(FAILURES.get(message.kind, NodeUnreachable)(f"node {link.node}: {message.reason}"))

    def _on_unsupported(self, link: NodeLink, message: m.Unsupported, _: bytes) -> None:
        reason = f"its agent does not know {message.what}"
        self._on_failed(link, m.Failed(message.id, "unsupported", reason), b"")

    def _on_progress(self, link: NodeLink, message: m.Progress, _: bytes) -> None:
        pending = link.calls.get(message.id)
        if pending is None:
            return
        pending.deadline = max(pending.deadline, asyncio.get_running_loop().time() + pending.patience)
        if pending.progress is not None:
            pending.progress(message.done, message.total, message.what)
