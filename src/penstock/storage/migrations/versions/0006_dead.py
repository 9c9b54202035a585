"""Indexes on dead rows of jobs, shipments, predictions and trainings, as deliveries have one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_FAILED = "status = 'FAILED' AND error_code = 'internal_error'"
_TABLES = {
    "jobs": "status = 'dead'",
    "shipments": "status = 'dead'",
    "predictions": _FAILED,
    "model_versions": _FAILED,
}


def upgrade() -> None:
    for table, condition in _TABLES.items():
        dead = sa.text(condition)
        op.create_index(
            f"{table}_dead", table, ["account", "id"], postgresql_where=dead, sqlite_where=dead
        )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_index(f"{table}_dead", table)
