"""Lanes paused by hand; indexes on dead rows of jobs and shipments, as deliveries have one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "shipments")


def upgrade() -> None:
    op.add_column(
        "lanes",
        sa.Column("paused_by_hand", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
    )
    dead = sa.text("status = 'dead'")
    for table in _TABLES:
        op.create_index(
            f"{table}_dead", table, ["account", "id"], postgresql_where=dead, sqlite_where=dead
        )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_index(f"{table}_dead", table)
    op.drop_column("lanes", "paused_by_hand")
