"""Dead work of the kinds that had none to show: fan-outs, replays, imports of shipments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = ("fanouts", "replays", "shipment_imports")


def upgrade() -> None:
    op.add_column("fanouts", sa.Column("ended_at", sa.BigInteger))
    dead = sa.text("status = 'dead'")
    for table in _TABLES:
        op.create_index(
            f"{table}_dead", table, ["account", "id"], postgresql_where=dead, sqlite_where=dead
        )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_index(f"{table}_dead", table)
    op.drop_column("fanouts", "ended_at")
