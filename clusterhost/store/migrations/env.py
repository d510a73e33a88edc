"""How alembic runs: on the connection and inside the transaction that clusterhost.store.schema gives it."""

from __future__ import annotations

from typing import Any

from alembic import context

from clusterhost.store.crash import crash_point
from clusterhost.store.tables import METADATA


def _applied(*_: Any, **__: Any) -> None:
    crash_point("store.migrate.step")


context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, on_version_apply=_applied
)
context.run_migrations()
