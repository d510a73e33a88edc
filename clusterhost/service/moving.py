"""Moves of domains that are under way, and which of their events clients shall see.  No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from clusterhost.model.states import (
    EV_DEFINED,
    EV_RESUMED,
    EV_SHUTDOWN,
    EV_STARTED,
    EV_STOPPED,
    EV_SUSPENDED,
    EV_UNDEFINED,
    SHUTDOWN_HOST,
    STOPPED_MIGRATED,
)
from clusterhost.service.image_stock import Volume


class Phase(StrEnum):
    """How far a move is.  UNKNOWN: the target was told to run it and did not answer."""

    BEGUN = "begun"
    PREPARED = "prepared"
    PERFORMED = "performed"
    FINISHING = "finishing"
    FINISHED = "finished"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Move:
    """One move.  source None: it comes from outside; target None: not known yet, or it leaves the cluster.
    op: of its intent, "" before there is one.  volumes: what libvirt copies along;
    disks: see image_stock.Copying.  touched: clock of the last step (seconds)."""

    uuid: bytes
    name: str
    source: str | None
    target: str | None = None
    arrives_as: str = ""
    phase: Phase = Phase.BEGUN
    op: str = ""
    generation: int = 0
    flags: int = 0
    disks: frozenset[str] | None = None
    persistent: bool = False
    xml: str = ""
    session: int = 0
    steps_running: int = 0
    touched: float = 0.0
    resumed: bool = False
    why: str = ""
    volumes: tuple[Volume, ...] = ()
    messages: list[str] = field(default_factory=list)

    @property
    def inside(self) -> bool:
        """Both ends are ours: clients see one domain that goes on."""
        return self.source is not None and self.target is not None

    @property
    def owner(self) -> str | None:
        """The node that speaks for the domain now; None: whoever reports it."""
        if self.source is None:
            return None
        return self.target if self.phase is Phase.FINISHED and self.target else self.source

    def leaving(self, active: bool, node_id: int) -> bool:
        """The source says that a run which clients see (`active`) is over there, before the target was said to
        have it: it is peer-to-peer, where the source's libvirtd hears of the end before we do, or we came back late."""
        return self.inside and self.phase in (Phase.FINISHING, Phase.UNKNOWN) and active and node_id == -1


class Moves:
    """Moves under way by uuid."""

    def __init__(self) -> None:
        self._moves: dict[bytes, Move] = {}

    def __iter__(self) -> Iterator[Move]:
        return iter(list(self._moves.values()))

    def get(self, uuid: bytes) -> Move | None:
        """The move of that domain, if one is under way."""
        return self._moves.get(uuid)

    def put(self, move: Move) -> None:
        """A move begins (or replaces one that was given up)."""
        self._moves[move.uuid] = move

    def end(self, uuid: bytes) -> None:
        """It is over."""
        self._moves.pop(uuid, None)

    def arriving(self, name: str, target: str | None) -> Move | None:
        """The move whose domain will have that name at that target (None: at whichever)."""
        for move in self._moves.values():
            if name in (move.arrives_as, move.name) and move.target and target in (None, move.target):
                return move
        return None


_OF_SOURCE = {(EV_STOPPED, STOPPED_MIGRATED), (EV_SHUTDOWN, SHUTDOWN_HOST)}
_OF_TARGET = {EV_STARTED, EV_DEFINED, EV_STOPPED, EV_UNDEFINED, EV_SHUTDOWN, EV_SUSPENDED}
PAUSE_FLAG = 1 << 5
"""VIR_MIGRATE_PAUSED: it shall arrive paused, so its SUSPENDED is news."""


def shown(move: Move | None, owner: str | None, node: str, event: int, detail: int) -> bool:
    """Whether clients see a lifecycle event of `node`.  owner: the node that speaks for the domain (None:
    nobody yet).

    A move inside the cluster shows SUSPENDED (migrated) and RESUMED (migrated) once; what only tells that a
    copy came to be or went away is not news.
    """
    if move is None or not move.inside:
        return owner is None or node == owner
    if node == move.source:
        if move.phase is Phase.FINISHED:
            return False
        return event != EV_UNDEFINED and (event, detail) not in _OF_SOURCE
    if node == move.target:
        return _shown_of_target(move, event)
    return False


def _shown_of_target(move: Move, event: int) -> bool:
    if event == EV_RESUMED and not move.resumed:
        move.resumed = True
        return True
    if event == EV_SUSPENDED and move.flags & PAUSE_FLAG:
        return True
    return event != EV_RESUMED and event not in _OF_TARGET
