"""What the two databases do differently, as one protocol.  No SQL of ours here."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from clusterhost.model.errors import StoreUnavailable

PATIENCE = 4.0
"""Seconds that one statement may wait for the database; below `writer.DEADLINE`, so that its own words get
out."""


class Backend(Protocol):
    """One kind of database.  All calls block; they are made on the writer's thread or before it starts."""

    where: str
    """How messages name the database, without a password."""

    begin: str
    """What begins a transaction that writes; "" when the driver does it by itself."""

    def prepare(self, wait: float) -> None:
        """Before the first connection; StoreInUse when another front end still has it after `wait`
        seconds."""

    def engine(self, *, reader: bool = False) -> Engine:
        """Connections for writing take the write lock as they begin; readers see one consistent state."""

    def claim(self, connection: Connection, wait: float) -> None:
        """On a new writing connection: make sure that it is whole and ours."""

    def before_change(self) -> None:
        """Before each transaction: StoreUnavailable when writing now would be lost."""

    def before_upgrade(self, revision: str) -> None:
        """Keep a copy of the database as it is at `revision`."""

    def after_commit(self, connection: Connection) -> None:
        """Nothing is under way; the moment for cheap upkeep."""

    def explain(self, error: DBAPIError) -> StoreUnavailable:
        """The same in our words."""

    def damaged(self, found: str) -> StoreUnavailable:
        """The sentence that tells an operator what to do."""

    def lost(self) -> None:
        """The writing connection broke."""

    def release(self) -> None:
        """Let others have it."""
