"""Uploads, models, predictions with their ledger of chunks, outcomes; objects to be deleted."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BUSY = {
    "fillfactor": "80",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
}
_DUE = "due_at IS NOT NULL AND lease_until IS NULL"
_HELD = "lease_until IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "uploads",
        *_owned(),
        _text("folder"),
        _text("status"),
        sa.Column("filename", sa.Text),
        _big("size"),
        _text("sha256"),
        _text("given"),
        sa.Column("layout", sa.Text),
        _text("facts"),
        _big("created_at"),
        _key("uploads", "id"),
    )
    op.create_index("uploads_account", "uploads", ["account", "id"])
    op.create_index("uploads_created", "uploads", ["created_at"])
    op.create_table(
        "models",
        *_owned(),
        _text("name"),
        sa.Column("live", sa.Integer),
        _count("latest"),
        _big("created_at"),
        _key("models", "id"),
        sa.UniqueConstraint("account", "name", name=op.f("models_account_name_key")),
    )
    op.create_index("models_account", "models", ["account", "id"])
    op.create_table(
        "model_versions",
        _text("id"),
        _text("model_id"),
        _text("account"),
        _text("folder"),
        sa.Column("number", sa.Integer, nullable=False),
        _text("status"),
        _text("upload_id"),
        _text("options"),
        sa.Column("promote", sa.Boolean, nullable=False),
        *(
            sa.Column(name, sa.Text)
            for name in ("sha256", "summary", "error_code", "error", "question")
        ),
        _big("created_at"),
        sa.Column("ended_at", sa.BigInteger),
        *_work(),
        _key("model_versions", "id"),
        _of("model_versions", "model_id", "models"),
        sa.UniqueConstraint("model_id", "number", name=op.f("model_versions_model_id_number_key")),
    )
    _work_indexes("model_versions")
    op.create_index("model_versions_account", "model_versions", ["account", "id"])
    op.create_table(
        "model_promotions",
        _text("id"),
        _text("model_id"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("previous", sa.Integer),
        _text("how"),
        _big("at"),
        _key("model_promotions", "id"),
        _of("model_promotions", "model_id", "models"),
    )
    op.create_index("model_promotions_model", "model_promotions", ["model_id", "id"])
    op.create_table(
        "column_mappings",
        _text("account"),
        _text("model"),
        _text("header"),
        _text("mapping"),
        _big("updated_at"),
        _key("column_mappings", "account", "model", "header"),
    )
    op.create_table(
        "predictions",
        *_owned(),
        _text("folder"),
        _text("status"),
        sa.Column("fingerprint", sa.Text),
        _text("upload_id"),
        sa.Column("filename", sa.Text),
        _big("size"),
        _text("model_name"),
        sa.Column("model_id", sa.Text),
        sa.Column("model_number", sa.Integer),
        _text("model_sha256"),
        sa.Column("demo", sa.Boolean, nullable=False),
        _text("options"),
        _big("next_byte"),
        _big("next_row"),
        _big("next_line"),
        _count("chunks"),
        _big("rows_scored", default="0"),
        _big("rows_set_aside", default="0"),
        *(sa.Column(name, sa.Text) for name in ("first_error", "result", "error_code", "error")),
        _big("created_at"),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        *_work(),
        _key("predictions", "id"),
        sa.UniqueConstraint(
            "account", "fingerprint", name=op.f("predictions_account_fingerprint_key")
        ),
        postgresql_with=_BUSY,
    )
    _work_indexes("predictions")
    op.create_index("predictions_account", "predictions", ["account", "id"])
    op.create_index("predictions_upload", "predictions", ["upload_id"])
    op.create_index("predictions_model", "predictions", ["model_id"])
    op.create_index("predictions_ended", "predictions", ["ended_at"])
    op.create_table(
        "prediction_chunks",
        _text("prediction_id"),
        sa.Column("number", sa.Integer, nullable=False),
        _big("start_byte"),
        _big("end_byte"),
        _big("first_row"),
        sa.Column("rows_scored", sa.Integer, nullable=False),
        sa.Column("rows_set_aside", sa.Integer, nullable=False),
        _text("sizes"),
        _text("sha256"),
        _big("at"),
        _key("prediction_chunks", "prediction_id", "number"),
        _of("prediction_chunks", "prediction_id", "predictions"),
    )
    op.create_table(
        "prediction_outcomes",
        _text("prediction_id"),
        _text("customer_id"),
        sa.Column("score", sa.Integer, nullable=False),
        sa.Column("churned", sa.Boolean, nullable=False),
        _big("at"),
        _key("prediction_outcomes", "prediction_id", "customer_id"),
        _of("prediction_outcomes", "prediction_id", "predictions"),
    )
    op.create_table("doomed_objects", _text("prefix"), _big("at"), _key("doomed_objects", "prefix"))
    op.create_index("doomed_objects_at", "doomed_objects", ["at"])


def downgrade() -> None:
    for table in (
        "doomed_objects",
        "prediction_outcomes",
        "prediction_chunks",
        "predictions",
        "column_mappings",
        "model_promotions",
        "model_versions",
        "models",
        "uploads",
    ):
        op.drop_table(table)


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False)


def _owned() -> list[sa.Column[Any]]:
    return [_text("id"), _text("account")]


def _big(name: str, default: str | None = None) -> sa.Column[Any]:
    server_default = None if default is None else sa.text(default)
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=server_default)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0"))


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"{table}_pkey"))


def _of(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{parent}.id"], name=op.f(f"{table}_{column}_fkey"), ondelete="CASCADE"
    )


def _work() -> list[sa.Column[Any]]:
    return [
        _text("lane"),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("generation", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        _count("attempts"),
        _count("lapses"),
        sa.Column("last_error", sa.Text),
    ]


def _work_indexes(table: str) -> None:
    _partial(f"{table}_due", table, ["lane", "due_at"], _DUE)
    _partial(f"{table}_held", table, ["lane"], _HELD)
    _partial(f"{table}_leases", table, ["lease_until"], _HELD)


def _partial(name: str, table: str, indexed: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, indexed, postgresql_where=where, sqlite_where=where)
