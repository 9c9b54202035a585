"""Endpoints of other kinds than webhooks: telephone numbers are checked; the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CHECK = "endpoints_sms_target"
_POSTGRES = r"kind <> 'sms' OR target ~ '^\+[1-9][0-9]{6,14}$'"
_SQLITE = (
    "kind <> 'sms' OR (target GLOB '+[1-9]*' AND substr(target, 2) NOT GLOB '*[^0-9]*'"
    " AND length(target) BETWEEN 8 AND 16 AND length(CAST(target AS BLOB)) = length(target))"
)


def upgrade() -> None:
    if _sqlite():
        _rebuild(sa.CheckConstraint(_SQLITE, name=op.f(_CHECK)))
    else:
        op.create_check_constraint(op.f(_CHECK), "endpoints", _POSTGRES)
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("delivery_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("outbox_pkey")),
        sa.ForeignKeyConstraint(
            ["event_id"], ["events.id"], name=op.f("outbox_event_id_fkey"), ondelete="CASCADE"
        ),
    )
    op.create_index("outbox_account", "outbox", ["account", "id"])
    op.create_index("outbox_event", "outbox", ["event_id"])


def downgrade() -> None:
    op.drop_table("outbox")
    if _sqlite():
        _rebuild()
    else:
        op.drop_constraint(op.f(_CHECK), "endpoints", type_="check")


def _sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _rebuild(*checks: sa.CheckConstraint) -> None:
    """Make the table anew: SQLite adds and drops no constraints."""
    with op.batch_alter_table(
        "endpoints", recreate="always", copy_from=_table(), table_args=checks
    ):
        pass


def _table() -> sa.Table:
    """The table without the check. Written out: not every SQLAlchemy reads checks back."""
    return sa.Table(
        "endpoints",
        sa.MetaData(),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("event_types", sa.Text, nullable=False),
        sa.Column("headers", sa.Text),
        sa.Column("timeout", sa.Double, nullable=False),
        sa.Column("schedule", sa.Text),
        sa.Column("on_permanent", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("previous_secret", sa.Text),
        sa.Column("previous_until", sa.BigInteger),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("disabled_reason", sa.Text),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="endpoints_pkey"),
        sa.CheckConstraint("on_permanent IN ('long', 'dead')", name="endpoints_on_permanent"),
        sa.Index("endpoints_account", "account", "id"),
    )
