"""Revision 0003: networks and leases."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "networks",
        Column("uuid", LargeBinary, primary_key=True),
        Column("name", Text, nullable=False),
        Column("vni", Integer, nullable=False),
        Column("xml", Text, nullable=False),
        Column("live", Text, nullable=False),
        Column("autostart", Boolean, nullable=False),
        Column("serial", BigInteger, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        Column("key", Text, primary_key=True),
        Column("network", LargeBinary, nullable=False),
        Column("mac", Text, nullable=False),
        Column("family", Integer, nullable=False),
        Column("address", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("since", Float, nullable=False),
        Column("domain", LargeBinary, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
