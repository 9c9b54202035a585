"""Shipments, their scans, carriers' credentials, imports; a lane's rows for each token."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
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
    op.add_column(
        "lanes", sa.Column("per_call", sa.Integer, nullable=False, server_default=sa.text("1"))
    )
    op.create_table(
        "shipments",
        _text("id"),
        _text("account"),
        _text("carrier"),
        _text("tracking_number"),
        *(
            sa.Column(name, sa.Text)
            for name in ("label", "reference", "ship_date", "postal_code", "metadata")
        ),
        _text("status"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        _text("tracking_status", default="'pending'"),
        sa.Column("sub_status", sa.Text),
        sa.Column("carrier_code", sa.Text),
        _text("carrier_text", default="''"),
        sa.Column("status_at", sa.BigInteger),
        sa.Column("delivered_at", sa.BigInteger),
        sa.Column("delivered_offset", sa.Integer),
        sa.Column("eta_at", sa.BigInteger),
        sa.Column("eta_offset", sa.Integer),
        sa.Column("signed_by", sa.Text),
        sa.Column("service", sa.Text),
        _count("changes"),
        sa.Column("news_at", sa.BigInteger, nullable=False),
        sa.Column("last_checked_at", sa.BigInteger),
        sa.Column("error_kind", sa.Text),
        _count("consecutive_errors"),
        _count("not_found"),
        *_work(),
        sa.PrimaryKeyConstraint("id", name=op.f("shipments_pkey")),
        postgresql_with=_BUSY,
    )
    _work_indexes("shipments")
    active = sa.text("status = 'pending'")
    op.create_index(
        "shipments_active",
        "shipments",
        ["account", "carrier", "tracking_number"],
        unique=True,
        postgresql_where=active,
        sqlite_where=active,
    )
    _partial("shipments_census", "shipments", ["lane", "tracking_status"], "status = 'pending'")
    _partial(
        "shipments_new",
        "shipments",
        ["lane", "due_at"],
        "status = 'pending' AND last_checked_at IS NULL AND error_kind IS NULL",
    )
    _partial(
        "shipments_urgent",
        "shipments",
        ["lane", "due_at"],
        f"tracking_status = 'out_for_delivery' AND {_DUE}",
    )
    op.create_index("shipments_account", "shipments", ["account", "id"])
    op.create_index("shipments_account_status", "shipments", ["account", "tracking_status", "id"])
    op.create_index("shipments_account_number", "shipments", ["account", "tracking_number", "id"])
    _partial(
        "shipments_account_reference",
        "shipments",
        ["account", "reference", "id"],
        "reference IS NOT NULL",
    )
    op.create_index("shipments_ended", "shipments", ["ended_at"])
    op.create_table(
        "scans",
        _text("shipment_id"),
        _text("fingerprint"),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("zone_offset", sa.Integer),
        sa.Column("status", sa.Text),
        sa.Column("sub_status", sa.Text),
        sa.Column("code", sa.Text),
        _text("text"),
        sa.Column("place", sa.Text),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("shipment_id", "fingerprint", name=op.f("scans_pkey")),
        sa.ForeignKeyConstraint(
            ["shipment_id"],
            ["shipments.id"],
            name=op.f("scans_shipment_id_fkey"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "carrier_credentials",
        _text("account"),
        _text("carrier"),
        _text("sealed"),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account", "carrier", name=op.f("carrier_credentials_pkey")),
    )
    op.create_table(
        "shipment_imports",
        _text("id"),
        _text("account"),
        _text("status"),
        _text("options"),
        sa.Column("size", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("cursor", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("row", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("inside", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        _count("created"),
        _count("existing"),
        _count("failed"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        *_work(),
        sa.PrimaryKeyConstraint("id", name=op.f("shipment_imports_pkey")),
    )
    _work_indexes("shipment_imports")
    op.create_index("shipment_imports_account", "shipment_imports", ["account", "id"])
    op.create_index("shipment_imports_created", "shipment_imports", ["created_at"])
    _of_import(
        "shipment_import_parts",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    _of_import(
        "shipment_import_errors",
        sa.Column("row", sa.Integer, nullable=False),
        _text("code"),
        _text("message"),
        sa.Column("field", sa.Text),
    )


def downgrade() -> None:
    for table in (
        "shipment_import_errors",
        "shipment_import_parts",
        "shipment_imports",
        "carrier_credentials",
        "scans",
        "shipments",
    ):
        op.drop_table(table)
    op.drop_column("lanes", "per_call")


def _text(name: str, default: str | None = None) -> sa.Column[Any]:
    server_default = None if default is None else sa.text(default)
    return sa.Column(name, sa.Text, nullable=False, server_default=server_default)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0"))


def _of_import(table: str, key: sa.Column[Any], *columns: sa.Column[Any]) -> None:
    op.create_table(
        table,
        _text("import_id"),
        key,
        *columns,
        sa.PrimaryKeyConstraint("import_id", key.name, name=op.f(f"{table}_pkey")),
        sa.ForeignKeyConstraint(
            ["import_id"],
            ["shipment_imports.id"],
            name=op.f(f"{table}_import_id_fkey"),
            ondelete="CASCADE",
        ),
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
