"""Revision 0002: jobs, and an index that finds the journal of one object."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Float, Text

from clusterhost.store.crash import crash_point

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create table and index."""
    op.create_table(
        "jobs",
        Column("id", Text, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("object", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("done", BigInteger, nullable=False),
        Column("total", BigInteger, nullable=False),
        Column("text", Text, nullable=False),
        Column("started", Float, nullable=False),
        Column("finished", Float, nullable=True),
        Column("checksum", BigInteger, nullable=False),
    )
    crash_point("store.migrate.halfway")
    op.create_index("journal_object", "journal", ["object"])
