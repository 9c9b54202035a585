"""Lanes paused by hand; indexes for what the console lists.

Dead rows of all kinds of work, as deliveries have one; the events of an endpoint, in their order.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_GAVE_UP = "status = 'FAILED' AND error_code = 'internal_error'"
_DEAD = {
    "jobs": "status = 'dead'",
    "shipments": "status = 'dead'",
    "predictions": _GAVE_UP,
    "model_versions": _GAVE_UP,
}


def upgrade() -> None:
    op.add_column(
        "lanes",
        sa.Column("paused_by_hand", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
    )
    for table, condition in _DEAD.items():
        dead = sa.text(condition)
        op.create_index(
            f"{table}_dead", table, ["account", "id"], postgresql_where=dead, sqlite_where=dead
        )
    op.drop_index("deliveries_endpoint", "deliveries")
    op.create_index("deliveries_endpoint", "deliveries", ["endpoint_id", "event_id"])


def downgrade() -> None:
    op.drop_index("deliveries_endpoint", "deliveries")
    op.create_index("deliveries_endpoint", "deliveries", ["endpoint_id", "id"])
    for table in _DEAD:
        op.drop_index(f"{table}_dead", table)
    op.drop_column("lanes", "paused_by_hand")
