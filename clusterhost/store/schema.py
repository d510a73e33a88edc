"""Bring the database to the schema of this version, in one transaction, so that a kill half-way changes
nothing."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from clusterhost.model.errors import StoreUnavailable
from clusterhost.store.backend import Backend
from clusterhost.store.crash import crash_point

REVISIONS = ("0001", "0002", "0003", "0004")
"""Oldest first; the last is this version's."""


def ensure(connection: Connection, backend: Backend, target: str = REVISIONS[-1]) -> None:
    """Create or upgrade the tables; StoreUnavailable when a newer version wrote them."""
    found = revision(connection)
    if found == target:
        return
    if found is not None and found not in REVISIONS:
        raise StoreUnavailable(
            f"the database {backend.where} has schema '{found}', this version knows {', '.join(REVISIONS)}:"
            " start the newer clusterhost, or restore a backup made by this one"
        )
    if found is not None:
        backend.before_upgrade(found)
    with connection.begin():
        _upgrade(connection, target)
        crash_point("store.migrate.before_commit")


def revision(connection: Connection) -> str | None:
    """The schema the database has, None when it has none."""
    with connection.begin():
        if not connection.dialect.has_table(connection, "alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _upgrade(connection: Connection, target: str) -> None:
    # Imported here: alembic costs 20 MB and 0.2 s, and nearly every start finds nothing to do.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)
