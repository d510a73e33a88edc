"""Revision 0001: leader, meta, nodes, domains, intents, journal."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    _identity()
    _objects()
    op.create_table(
        "intents",
        Column("op", Text, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("uuid", LargeBinary, nullable=False),
        Column("node", Text, nullable=False),
        Column("target", Text, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("data", Text, nullable=False),
        Column("created", Float, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
    op.create_table(
        "journal",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("time", Float, nullable=False),
        Column("kind", Text, nullable=False),
        Column("object", Text, nullable=False),
        Column("who", Text, nullable=False),
        Column("text", Text, nullable=False),
        Column("data", Text, nullable=False),
    )


def _identity() -> None:
    op.create_table(
        "leader",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", BigInteger, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
    op.create_table(
        "meta",
        Column("key", Text, primary_key=True),
        Column("value", Text, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )


def _objects() -> None:
    op.create_table(
        "nodes",
        Column("name", Text, primary_key=True),
        Column("cell", Integer, nullable=False),
        Column("admin", Text, nullable=False),
        Column("public_key", Text, nullable=False),
        Column("join_key", Text, nullable=False),
        Column("uri", Text, nullable=False),
        Column("migration_address", Text, nullable=False),
        Column("map", Text, nullable=False),
        Column("incarnation", BigInteger, nullable=False),
        Column("boot_id", Text, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
    op.create_table(
        "domains",
        Column("uuid", LargeBinary, primary_key=True),
        Column("name", Text, nullable=False),
        Column("node", Text, nullable=False),
        Column("id", BigInteger, nullable=False),
        Column("node_id", BigInteger, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("autostart", Boolean, nullable=False),
        Column("persistent", Boolean, nullable=False),
        Column("state", Integer, nullable=False),
        Column("xml", Text, nullable=False),
        Column("checksum", BigInteger, nullable=False),
    )
