"""Accounts, keys, lanes, jobs, events and their deliveries."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Rows of work are rewritten two or three times each within minutes: vacuum by a small share
# of the table, never held back by the cost limit, so that claims do not walk dead rows.
_BUSY = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
}
_WORK = {"fillfactor": "80", **_BUSY}
# Few rows, each written with every batch: room for the new version on the same page.
_LANES = {"fillfactor": "50", **_BUSY, "autovacuum_vacuum_scale_factor": "0.1"}


def upgrade() -> None:
    op.create_table(
        "accounts",
        _text("id"),
        _instant("endpoints_version", default="0"),
        _instant("created_at"),
        _key("accounts", "id"),
    )
    op.create_table(
        "api_keys",
        _text("id"),
        _text("account"),
        _text("name"),
        _text("hash"),
        _text("hint"),
        _text("scopes"),
        _instant("created_at"),
        _instant("expires_at", null=True),
        _instant("last_used_at", null=True),
        _instant("revoked_at", null=True),
        _key("api_keys", "id"),
        sa.UniqueConstraint("hash", name=op.f("api_keys_hash_key")),
    )
    op.create_index("api_keys_account", "api_keys", ["account", "id"])

    op.create_table(
        "lanes",
        _text("id"),
        _text("kind"),
        _text("account"),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        _instant("open_at", default="0"),
        _count("max_in_flight"),
        sa.Column("rate", sa.Double),
        sa.Column("burst", sa.Double, nullable=False, server_default=sa.text("1")),
        sa.Column("tokens", sa.Double, nullable=False, server_default=sa.text("0")),
        _instant("tokens_at", default="0"),
        _instant("served_at", default="0"),
        _instant("woken_at", default="0"),
        sa.Column("trip_after", sa.Integer),
        _text("circuit", default="'closed'"),
        _instant("circuit_generation", default="0"),
        _instant("window_start_at", default="0"),
        _count("calls", default="0"),
        _count("failures", default="0"),
        _count("consecutive", default="0"),
        _count("trips", default="0"),
        _text("override", null=True),
        _instant("override_until", null=True),
        _instant("created_at"),
        _key("lanes", "id"),
        _check("lanes_cap", "max_in_flight >= 1"),
        _check("lanes_rate", "rate IS NULL OR (rate > 0 AND burst >= 1)"),
        _check("lanes_circuit", "circuit IN ('closed', 'open', 'half_open')"),
        _check("lanes_override", "(override IS NULL) = (override_until IS NULL)"),
        postgresql_with=_LANES,
    )
    op.create_index("lanes_account", "lanes", ["account", "kind"])

    op.create_table(
        "circuit_log",
        _text("id"),
        _text("lane"),
        _instant("at"),
        _text("state"),
        _instant("open_until", null=True),
        _text("reason"),
        _text("actor"),
        _key("circuit_log", "id"),
    )
    op.create_index("circuit_log_lane", "circuit_log", ["lane", "id"])

    op.create_table(
        "leaders", _text("name"), _text("holder"), _instant("until_at"), _key("leaders", "name")
    )
    op.create_table(
        "crons", _text("name"), _text("schedule"), _instant("next_at"), _key("crons", "name")
    )

    op.create_table(
        "jobs",
        _text("id"),
        _text("account"),
        _text("name"),
        _text("args"),
        _text("key", null=True),
        _text("status"),
        _instant("created_at"),
        _instant("finished_at", null=True),
        _text("result", null=True),
        _text("traceparent", null=True),
        *_work_columns(),
        _key("jobs", "id"),
        postgresql_with=_WORK,
    )
    _work_indexes("jobs")
    _partial_index(
        "jobs_key",
        "jobs",
        ["account", "name", "key"],
        "key IS NOT NULL AND status = 'pending'",
        unique=True,
    )
    op.create_index("jobs_account", "jobs", ["account", "id"])
    op.create_index("jobs_finished", "jobs", ["finished_at"])

    op.create_table(
        "endpoints",
        _text("id"),
        _text("account"),
        _text("kind"),
        _text("target"),
        _text("description", default="''"),
        _text("event_types"),
        _text("headers", null=True),
        sa.Column("timeout", sa.Double, nullable=False),
        _text("schedule", null=True),
        _text("on_permanent"),
        _text("secret"),
        _text("previous_secret", null=True),
        _instant("previous_until", null=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        _text("disabled_reason", null=True),
        _text("lane"),
        _instant("version"),
        _instant("created_at"),
        _instant("updated_at"),
        _key("endpoints", "id"),
        _check("endpoints_on_permanent", "on_permanent IN ('long', 'dead')"),
    )
    op.create_index("endpoints_account", "endpoints", ["account", "id"])

    op.create_table(
        "events",
        _text("id"),
        _text("account"),
        _text("event_type"),
        _text("payload"),
        _text("metadata", null=True),
        _text("status"),
        _instant("created_at"),
        _instant("deliver_at", null=True),
        _instant("delivered_at", null=True),
        _count("open_deliveries"),
        _count("dead_deliveries", default="0"),
        _count("delivery_attempts", default="0"),
        _text("source_key", null=True),
        _text("traceparent", null=True),
        _key("events", "id"),
        sa.UniqueConstraint("account", "source_key", name=op.f("events_account_source_key_key")),
        postgresql_with=_WORK,
    )
    op.create_index("events_account", "events", ["account", "id"])
    op.create_index("events_account_status", "events", ["account", "status", "id"])
    op.create_index("events_account_type", "events", ["account", "event_type", "id"])

    op.create_table(
        "fanouts",
        _text("id"),
        _text("account"),
        _text("status"),
        _text("cursor", default="''"),
        *_work_columns(),
        _key("fanouts", "id"),
        _belongs_to("fanouts", "id", "events.id"),
        postgresql_with=_WORK,
    )
    _work_indexes("fanouts")

    op.create_table(
        "deliveries",
        _text("id"),
        _text("account"),
        _text("event_id"),
        _text("endpoint_id"),
        _text("status"),
        _instant("created_at"),
        _instant("expires_at"),
        _instant("finished_at", null=True),
        _count("step", default="0"),
        *_work_columns(),
        _key("deliveries", "id"),
        _belongs_to("deliveries", "event_id", "events.id"),
        sa.UniqueConstraint(
            "event_id", "endpoint_id", name=op.f("deliveries_event_id_endpoint_id_key")
        ),
        postgresql_with=_WORK,
    )
    _work_indexes("deliveries")
    op.create_index("deliveries_endpoint", "deliveries", ["endpoint_id", "id"])
    _partial_index("deliveries_dead", "deliveries", ["account", "id"], "status = 'dead'")

    op.create_table(
        "attempts",
        _text("delivery_id"),
        _count("number"),
        _instant("started_at"),
        sa.Column("duration", sa.Double, nullable=False),
        sa.Column("status_code", sa.Integer),
        _text("error_kind", null=True),
        _text("error", null=True),
        _text("address", null=True),
        sa.Column("response", sa.LargeBinary),
        _key("attempts", "delivery_id", "number"),
        _belongs_to("attempts", "delivery_id", "deliveries.id"),
    )

    op.create_table(
        "idempotency_keys",
        _text("account"),
        _text("key"),
        _text("fingerprint"),
        _text("event_id"),
        _text("response"),
        _instant("created_at"),
        _key("idempotency_keys", "account", "key"),
    )
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    for table in (
        "idempotency_keys",
        "attempts",
        "deliveries",
        "fanouts",
        "events",
        "endpoints",
        "jobs",
        "crons",
        "leaders",
        "circuit_log",
        "lanes",
        "api_keys",
        "accounts",
    ):
        op.drop_table(table)


def _column(name: str, type_: Any, null: bool, default: str | None) -> sa.Column[Any]:
    server_default = None if default is None else sa.text(default)
    return sa.Column(name, type_, nullable=null, server_default=server_default)


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    return _column(name, sa.Text, null, default)


def _instant(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    """Microseconds since the epoch, or another number that outgrows 32 bits."""
    return _column(name, sa.BigInteger, null, default)


def _count(name: str, *, default: str | None = None) -> sa.Column[Any]:
    return _column(name, sa.Integer, False, default)


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"{table}_pkey"))


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))


def _belongs_to(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [parent], name=op.f(f"{table}_{column}_fkey"), ondelete="CASCADE"
    )


def _work_columns() -> list[sa.Column[Any]]:
    return [
        _text("lane"),
        _instant("due_at", null=True),
        _instant("lease_until", null=True),
        _instant("generation", default="0"),
        _count("attempts", default="0"),
        _count("lapses", default="0"),
        _text("last_error", null=True),
    ]


def _work_indexes(table: str) -> None:
    due = "due_at IS NOT NULL AND lease_until IS NULL"
    held = "lease_until IS NOT NULL"
    _partial_index(f"{table}_due", table, ["lane", "due_at"], due)
    _partial_index(f"{table}_held", table, ["lane"], held)
    _partial_index(f"{table}_leases", table, ["lease_until"], held)


def _partial_index(
    name: str, table: str, columns: list[str], condition: str, *, unique: bool = False
) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, postgresql_where=where, sqlite_where=where)
