"""Revision 0004: storage pools and volumes."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "pools",
        Column("uuid", LargeBinary, primary_key=True),
        Column("name", Text, nullable=False),
        Column("xml", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("autostart", Boolean, nullable=False),
        Column("active", Boolean, nullable=False),
        Column("persistent", Boolean, nullable=False),
        Column("serial", BigInteger, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
    op.create_table(
        "volumes",
        Column("key", Text, primary_key=True),
        Column("pool", LargeBinary, nullable=False),
        Column("name", Text, nullable=False),
        Column("shown", Text, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("state", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("copies", Text, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
