"""Order by key, the inbox's leases, replays, filters, auto-disable."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BUSY = {
    "fillfactor": "80",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
}


def _added() -> dict[str, list[sa.Column[Any]]]:
    return {
        "endpoints": [
            sa.Column("on_dead", sa.Text, nullable=False, server_default=sa.text("'continue'")),
            sa.Column("filter", sa.Text),
            sa.Column("failing_since_at", sa.BigInteger),
        ],
        "events": [
            sa.Column("ordering_key", sa.Text),
            sa.Column("replays", sa.Integer, nullable=False, server_default=sa.text("0")),
            sa.Column("inbox_lease", sa.Text),
            sa.Column("inbox_until_at", sa.BigInteger),
        ],
        "deliveries": [
            sa.Column("ordering_key", sa.Text),
            sa.Column("order_seq", sa.BigInteger),
            sa.Column("replay_id", sa.Text),
            sa.Column("former", sa.Text),
        ],
    }


_INDEXES = [
    ("events_inbox", "events", ["account", "id"], "status IN ('pending', 'failed')"),
    (
        "deliveries_order",
        "deliveries",
        ["endpoint_id", "ordering_key", "order_seq"],
        "ordering_key IS NOT NULL AND status = 'pending'",
    ),
    ("deliveries_replay", "deliveries", ["replay_id", "status"], "replay_id IS NOT NULL"),
]
_DUE = "due_at IS NOT NULL AND lease_until IS NULL"
_HELD = "lease_until IS NOT NULL"
_REPLAY_INDEXES = [
    ("replays_due", "replays", ["lane", "due_at"], _DUE),
    ("replays_held", "replays", ["lane"], _HELD),
    ("replays_leases", "replays", ["lease_until"], _HELD),
]


def upgrade() -> None:
    for table, columns in _added().items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "order_heads",
        sa.Column("endpoint_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("head", sa.Text),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("halted", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        sa.PrimaryKeyConstraint("endpoint_id", "key", name=op.f("order_heads_pkey")),
        postgresql_with=_BUSY,
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("cursor", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("behind", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("exhausted", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        sa.Column("estimate", sa.Integer),
        *(
            sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0"))
            for name in ("looked_at", "replayed", "delivered", "dead")
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("generation", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("lapses", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("replays_pkey")),
    )
    op.create_index("replays_account", "replays", ["account", "id"])
    for name, table, indexed, condition in [*_INDEXES, *_REPLAY_INDEXES]:
        where = sa.text(condition)
        op.create_index(name, table, indexed, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    op.drop_table("replays")
    op.drop_table("order_heads")
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
    for table, columns in _added().items():
        for column in columns:
            op.drop_column(table, column.name)
