"""Every table, as SQLAlchemy Core metadata: what the migrations must arrive at.

Instants are integers: microseconds since 1970-01-01T00:00:00Z, in columns named
``*_at`` or ``*_until``. One representation for both databases keeps every statement the
same on both and comparisons exact. Durations are seconds. JSON is stored as text, byte for
byte as it was accepted.

The tables of one kind of work carry the seven `work_columns`; see ``work/ledger.py`` for
the rules by which they change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


def work_columns() -> list[Column[Any]]:
    """The columns that turn a table into a work queue."""
    return [
        Column("lane", Text, nullable=False),
        Column("due_at", BigInteger),
        Column("lease_until", BigInteger),
        Column("generation", BigInteger, nullable=False, server_default=text("0")),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("lapses", Integer, nullable=False, server_default=text("0")),
        Column("last_error", Text),
    ]


def work_indexes(table: str) -> list[Index]:
    """The indexes every claim, sweep and look of `table` runs on."""
    due = text("due_at IS NOT NULL AND lease_until IS NULL")
    held = text("lease_until IS NOT NULL")
    return [
        Index(f"{table}_due", "lane", "due_at", postgresql_where=due, sqlite_where=due),
        Index(f"{table}_held", "lane", postgresql_where=held, sqlite_where=held),
        Index(f"{table}_leases", "lease_until", postgresql_where=held, sqlite_where=held),
    ]


def dead_index(table: str) -> Index:
    """What looking after dead work takes (work/care.py)."""
    dead = text("status = 'dead'")
    return Index(f"{table}_dead", "account", "id", postgresql_where=dead, sqlite_where=dead)


def sms_target_checks() -> list[CheckConstraint]:
    """A telephone number is E.164, whoever writes it: a check for each database."""
    postgres = r"kind <> 'sms' OR target ~ '^\+[1-9][0-9]{6,14}$'"
    # length() ends at a NUL character, which GLOB does not see beyond either.
    sqlite = (
        "kind <> 'sms' OR (target GLOB '+[1-9]*' AND substr(target, 2) NOT GLOB '*[^0-9]*'"
        " AND length(target) BETWEEN 8 AND 16 AND length(CAST(target AS BLOB)) = length(target))"
    )
    return [
        CheckConstraint(postgres, name="sms_target").ddl_if(dialect="postgresql"),
        CheckConstraint(sqlite, name="sms_target").ddl_if(dialect="sqlite"),
    ]


accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    # Raised by every change to the account's endpoints: accept reads it to know that its
    # parsed copy of them is current.
    Column("endpoints_version", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of the whole key, hex
    Column("hint", Text, nullable=False),  # its last four characters, to tell keys apart
    Column("scopes", Text, nullable=False),  # space-separated; "*" = all
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
    UniqueConstraint("hash"),
    Index("api_keys_account", "account", "id"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("account", Text, nullable=False),
    # The gate. A lane lets rows through when it is not paused and open_at has passed. `paused` is
    # its service's word, `paused_by_hand` a person's: neither undoes the other.
    Column("paused", Boolean, nullable=False, server_default=text("FALSE")),
    Column("open_at", BigInteger, nullable=False, server_default=text("0")),
    Column("max_in_flight", Integer, nullable=False),
    # Token bucket: `rate` tokens a second up to `burst`; a NULL rate is no limit.
    Column("rate", Double),
    Column("burst", Double, nullable=False, server_default=text("1")),
    Column("tokens", Double, nullable=False, server_default=text("0")),
    Column("tokens_at", BigInteger, nullable=False, server_default=text("0")),
    Column("served_at", BigInteger, nullable=False, server_default=text("0")),
    Column("woken_at", BigInteger, nullable=False, server_default=text("0")),
    # The circuit breaker; trip_after NULL = this lane has none.
    Column("trip_after", Integer),
    Column("circuit", Text, nullable=False, server_default=text("'closed'")),
    Column("circuit_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("window_start_at", BigInteger, nullable=False, server_default=text("0")),
    Column("calls", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("consecutive", Integer, nullable=False, server_default=text("0")),
    Column("trips", Integer, nullable=False, server_default=text("0")),
    Column("override", Text),  # 'open' | 'closed', held until override_until
    Column("override_until", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    # Rows that one token pays for when they are claimed together: what one call can ask for.
    Column("per_call", Integer, nullable=False, server_default=text("1")),
    Column("paused_by_hand", Boolean, nullable=False, server_default=text("FALSE")),
    CheckConstraint("max_in_flight >= 1", name="cap"),
    CheckConstraint("rate IS NULL OR (rate > 0 AND burst >= 1)", name="rate"),
    CheckConstraint("circuit IN ('closed', 'open', 'half_open')", name="circuit"),
    CheckConstraint("(override IS NULL) = (override_until IS NULL)", name="override"),
    Index("lanes_account", "account", "kind"),
    postgresql_with={"fillfactor": "50"},
)

circuit_log = Table(
    "circuit_log",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lane", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # entered: 'closed' | 'open' | 'half_open'
    Column("open_until", BigInteger),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),  # 'circuit' or who overrode it
    Index("circuit_log_lane", "lane", "id"),
)

leaders = Table(
    "leaders",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until_at", BigInteger, nullable=False),
)

crons = Table(
    "crons",
    metadata,
    Column("name", Text, primary_key=True),
    Column("schedule", Text, nullable=False),
    Column("next_at", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("args", Text, nullable=False),
    Column("key", Text),
    # pending -> succeeded | dead | cancelled
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("result", Text),
    Column("traceparent", Text),
    *work_columns(),
    *work_indexes("jobs"),
    Index(
        "jobs_key",
        "account",
        "name",
        "key",
        unique=True,
        postgresql_where=text("key IS NOT NULL AND status = 'pending'"),
        sqlite_where=text("key IS NOT NULL AND status = 'pending'"),
    ),
    Index("jobs_account", "account", "id"),
    Index("jobs_finished", "finished_at"),
    dead_index("jobs"),
    postgresql_with={"fillfactor": "80"},
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("kind", Text, nullable=False),  # 'webhook' | 'email' | 'sms' | 'sqs'
    Column("target", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("event_types", Text, nullable=False),  # JSON list of patterns
    Column("headers", Text),  # JSON object, sealed: headers often carry credentials
    Column("timeout", Double, nullable=False),
    Column("schedule", Text),  # JSON list of seconds; NULL = the default schedule
    Column("on_permanent", Text, nullable=False),  # 'long' | 'dead'
    Column("secret", Text, nullable=False),  # sealed; '' where the kind signs nothing
    Column("previous_secret", Text),  # sealed; signs too until previous_until
    Column("previous_until", BigInteger),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    Column("lane", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # What a dead delivery means for those behind it under the same ordering key.
    Column("on_dead", Text, nullable=False, server_default=text("'continue'")),
    Column("filter", Text),  # JSON; NULL = no conditions
    # Since when every delivery has failed; NULL = the latest one did not.
    Column("failing_since_at", BigInteger),
    CheckConstraint("on_permanent IN ('long', 'dead')", name="on_permanent"),
    *sms_target_checks(),
    Index("endpoints_account", "account", "id"),
)

events = Table(
    "events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("metadata", Text),
    # pending -> delivered | failed; a replay makes it pending again, then replayed | failed
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("deliver_at", BigInteger),
    Column("delivered_at", BigInteger),
    Column("open_deliveries", Integer, nullable=False),
    Column("dead_deliveries", Integer, nullable=False, server_default=text("0")),
    Column("delivery_attempts", Integer, nullable=False, server_default=text("0")),
    Column("source_key", Text),  # set by services that emit: one event per fact
    Column("traceparent", Text),
    Column("ordering_key", Text),
    Column("replays", Integer, nullable=False, server_default=text("0")),
    # Leased by a reader of the inbox: nothing is pushed until then.
    Column("inbox_lease", Text),
    Column("inbox_until_at", BigInteger),
    UniqueConstraint("account", "source_key"),
    Index("events_account", "account", "id"),
    Index("events_account_status", "account", "status", "id"),
    Index("events_account_type", "account", "event_type", "id"),
    Index(
        "events_inbox",
        "account",
        "id",
        postgresql_where=text("status IN ('pending', 'failed')"),
        sqlite_where=text("status IN ('pending', 'failed')"),
    ),
    postgresql_with={"fillfactor": "80"},
)

# An event that matches many endpoints is spread over them by work of its own, in chunks;
# `cursor` is the last endpoint that was given its delivery.
fanouts = Table(
    "fanouts",
    metadata,
    Column("id", Text, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("account", Text, nullable=False),
    Column("status", Text, nullable=False),  # pending -> done | dead | cancelled
    Column("cursor", Text, nullable=False, server_default=text("''")),
    *work_columns(),
    *work_indexes("fanouts"),
    Column("ended_at", BigInteger),
    dead_index("fanouts"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("event_id", Text, ForeignKey("events.id", ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", Text, nullable=False),
    # pending -> delivered | dead | cancelled
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    # Position in the endpoint's schedule: the gap that the next failure waits. Apart from
    # `attempts`, because a permanent answer skips gaps and a redrive starts the schedule anew.
    Column("step", Integer, nullable=False, server_default=text("0")),
    *work_columns(),
    *work_indexes("deliveries"),
    Column("ordering_key", Text),
    Column("order_seq", BigInteger),  # the place behind the key; see order_heads
    Column("replay_id", Text),  # the replay that made it pending again, or made it
    Column("former", Text),  # its status before it was made pending again
    UniqueConstraint("event_id", "endpoint_id"),
    Index(
        "deliveries_order",
        "endpoint_id",
        "ordering_key",
        "order_seq",
        postgresql_where=text("ordering_key IS NOT NULL AND status = 'pending'"),
        sqlite_where=text("ordering_key IS NOT NULL AND status = 'pending'"),
    ),
    Index(
        "deliveries_replay",
        "replay_id",
        "status",
        postgresql_where=text("replay_id IS NOT NULL"),
        sqlite_where=text("replay_id IS NOT NULL"),
    ),
    Index("deliveries_endpoint", "endpoint_id", "event_id"),
    dead_index("deliveries"),
    postgresql_with={"fillfactor": "80"},
)

# Whose turn it is behind a key at an endpoint; see events/ordering.py.
order_heads = Table(
    "order_heads",
    metadata,
    Column("endpoint_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("head", Text),  # a delivery; NULL = nobody waits
    Column("last_seq", BigInteger, nullable=False),
    Column("halted", Boolean, nullable=False, server_default=text("FALSE")),
)

replays = Table(
    "replays",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("filter", Text, nullable=False),  # JSON: what was asked for
    # pending -> done | cancelled | dead
    Column("status", Text, nullable=False),
    Column("cursor", Text, nullable=False, server_default=text("''")),  # the last event looked at
    # JSON: cursors of endpoints that could not keep up with it.
    Column("behind", Text, nullable=False, server_default=text("'{}'")),
    Column("exhausted", Boolean, nullable=False, server_default=text("FALSE")),
    Column("estimate", Integer),  # events to look at; NULL = more than are counted
    Column("looked_at", Integer, nullable=False, server_default=text("0")),  # events
    Column("replayed", Integer, nullable=False, server_default=text("0")),  # deliveries
    Column("delivered", Integer, nullable=False, server_default=text("0")),
    Column("dead", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    *work_columns(),
    *work_indexes("replays"),
    Index("replays_account", "account", "id"),
    dead_index("replays"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", Text, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    Column("duration", Double, nullable=False),
    Column("status_code", Integer),
    Column("error_kind", Text),
    Column("error", Text),
    Column("address", Text),
    Column("response", LargeBinary),
)

# E-mails and texts that were kept instead of being sent.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("kind", Text, nullable=False),  # 'email' | 'sms'
    Column("target", Text, nullable=False),
    Column("subject", Text),
    Column("body", Text, nullable=False),
    Column("event_id", Text, ForeignKey("events.id", ondelete="CASCADE"), nullable=False),
    Column("delivery_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("outbox_account", "account", "id"),
    Index("outbox_event", "event_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("idempotency_keys_age", "created_at"),
)

# `status` is the work's: pending while the shipment is followed, then done, cancelled or dead.
# What is known of the parcel is `tracking_status` and the columns after it.
_URGENT = "tracking_status = 'out_for_delivery' AND due_at IS NOT NULL AND lease_until IS NULL"

shipments = Table(
    "shipments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("carrier", Text, nullable=False),
    Column("tracking_number", Text, nullable=False),
    Column("label", Text),
    Column("reference", Text),
    Column("ship_date", Text),  # YYYY-MM-DD
    Column("postal_code", Text),
    Column("metadata", Text),  # JSON object
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),  # since when it is followed no more
    Column("tracking_status", Text, nullable=False, server_default=text("'pending'")),
    Column("sub_status", Text),
    Column("carrier_code", Text),
    Column("carrier_text", Text, nullable=False, server_default=text("''")),
    Column("status_at", BigInteger),
    Column("delivered_at", BigInteger),
    Column("delivered_offset", Integer),  # minutes east of UTC; NULL = the carrier gave no zone
    Column("eta_at", BigInteger),
    Column("eta_offset", Integer),
    Column("signed_by", Text),
    Column("service", Text),
    # How often the status changed: what makes the name of each change's event.
    Column("changes", Integer, nullable=False, server_default=text("0")),
    Column("news_at", BigInteger, nullable=False),  # when something new was last heard
    Column("last_checked_at", BigInteger),  # when the carrier last answered
    # The latest check's trouble; NULL = it had none. Never a status.
    Column("error_kind", Text),
    Column("consecutive_errors", Integer, nullable=False, server_default=text("0")),
    # In a row, since the carrier knew the number; it is asked ever less often.
    Column("not_found", Integer, nullable=False, server_default=text("0")),
    *work_columns(),
    *work_indexes("shipments"),
    Index(
        "shipments_active",
        "account",
        "carrier",
        "tracking_number",
        unique=True,
        postgresql_where=text("status = 'pending'"),
        sqlite_where=text("status = 'pending'"),
    ),
    # How many of each status a lane has, by which their checks are spaced.
    Index(
        "shipments_census",
        "lane",
        "tracking_status",
        postgresql_where=text("status = 'pending'"),
        sqlite_where=text("status = 'pending'"),
    ),
    # Those that wait for their first check.
    Index(
        "shipments_new",
        "lane",
        "due_at",
        postgresql_where=text(
            "status = 'pending' AND last_checked_at IS NULL AND error_kind IS NULL"
        ),
        sqlite_where=text("status = 'pending' AND last_checked_at IS NULL AND error_kind IS NULL"),
    ),
    # Those out for delivery, which go before the others of their lane.
    Index(
        "shipments_urgent",
        "lane",
        "due_at",
        postgresql_where=text(_URGENT),
        sqlite_where=text(_URGENT),
    ),
    Index("shipments_account", "account", "id"),
    Index("shipments_account_status", "account", "tracking_status", "id"),
    Index("shipments_account_number", "account", "tracking_number", "id"),
    Index(
        "shipments_account_reference",
        "account",
        "reference",
        "id",
        postgresql_where=text("reference IS NOT NULL"),
        sqlite_where=text("reference IS NOT NULL"),
    ),
    Index("shipments_ended", "ended_at"),
    dead_index("shipments"),
    postgresql_with={"fillfactor": "80"},
)

scans = Table(
    "scans",
    metadata,
    Column("shipment_id", Text, ForeignKey("shipments.id", ondelete="CASCADE"), primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("zone_offset", Integer),  # minutes east of UTC; NULL = the carrier gave no zone
    Column("status", Text),
    Column("sub_status", Text),
    Column("code", Text),
    Column("text", Text, nullable=False),
    Column("place", Text),
    Column("seen_at", BigInteger, nullable=False),
)

carrier_credentials = Table(
    "carrier_credentials",
    metadata,
    Column("account", Text, primary_key=True),
    Column("carrier", Text, primary_key=True),
    Column("sealed", Text, nullable=False),  # JSON object of its values
    Column("version", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# A CSV whose rows become shipments. `cursor`, `row` and `inside` are where reading goes on.
shipment_imports = Table(
    "shipment_imports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    # receiving -> pending -> done | dead | cancelled
    Column("status", Text, nullable=False),
    Column("options", Text, nullable=False),  # JSON: how to read it, and its file's name
    Column("size", BigInteger, nullable=False, server_default=text("0")),  # bytes, all of them
    Column("cursor", BigInteger, nullable=False, server_default=text("0")),  # bytes worked off
    Column("row", Integer, nullable=False, server_default=text("1")),  # the next one's number
    Column("inside", Boolean, nullable=False, server_default=text("FALSE")),  # an overlong row
    Column("created", Integer, nullable=False, server_default=text("0")),
    Column("existing", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    *work_columns(),
    *work_indexes("shipment_imports"),
    Index("shipment_imports_account", "account", "id"),
    Index("shipment_imports_created", "created_at"),
    dead_index("shipment_imports"),
)

# The CSV itself, until it is worked off: all parts but the last are of one size.
shipment_import_parts = Table(
    "shipment_import_parts",
    metadata,
    Column(
        "import_id", Text, ForeignKey("shipment_imports.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

shipment_import_errors = Table(
    "shipment_import_errors",
    metadata,
    Column(
        "import_id", Text, ForeignKey("shipment_imports.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("row", Integer, primary_key=True),  # in the file, from 1
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("field", Text),
)

# A CSV that was uploaded, to be scored or to be learned from. Its bytes are an object.
uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("folder", Text, nullable=False),  # the key of its objects
    # receiving -> ready
    Column("status", Text, nullable=False),
    Column("filename", Text),  # as it was called; for people only
    Column("size", BigInteger, nullable=False),  # bytes
    Column("sha256", Text, nullable=False),
    Column("given", Text, nullable=False),  # JSON: what its owner said of how to read it
    Column("layout", Text),  # JSON; NULL = it has to be asked how to read it
    Column("facts", Text, nullable=False),  # JSON: samples, notes, rows; or the question
    Column("created_at", BigInteger, nullable=False),
    Index("uploads_account", "account", "id"),
    Index("uploads_created", "created_at"),
)

models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("live", Integer),  # the number of the version that is used by the model's name
    Column("latest", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("account", "name"),
    Index("models_account", "account", "id"),
)

_GAVE_UP = "status = 'FAILED' AND error_code = 'internal_error'"

# A version is work while it is trained, and never changes once it is ready.
model_versions = Table(
    "model_versions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model_id", Text, ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("account", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("number", Integer, nullable=False),
    # TRAINING -> READY | FAILED | CANCELLED
    Column("status", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("options", Text, nullable=False),  # JSON: what the training was told
    Column("promote", Boolean, nullable=False),  # make it live when it is ready
    Column("sha256", Text),  # of the model file
    Column("summary", Text),  # JSON: what lists show of its card
    Column("error_code", Text),
    Column("error", Text),
    Column("question", Text),  # the option that answers it
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    *work_columns(),
    *work_indexes("model_versions"),
    UniqueConstraint("model_id", "number"),
    Index("model_versions_account", "account", "id"),
    Index(
        "model_versions_dead",
        "account",
        "id",
        postgresql_where=text(_GAVE_UP),
        sqlite_where=text(_GAVE_UP),
    ),
)

# Which version was live from when on, so that a promotion can be taken back.
model_promotions = Table(
    "model_promotions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model_id", Text, ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("previous", Integer),
    Column("how", Text, nullable=False),  # 'trained' | 'promoted' | 'rolled back'
    Column("at", BigInteger, nullable=False),
    Index("model_promotions_model", "model_id", "id"),
)

# What an account said of a header once, for one model.
column_mappings = Table(
    "column_mappings",
    metadata,
    Column("account", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("header", Text, primary_key=True),  # SHA-256 of the columns' names
    Column("mapping", Text, nullable=False),  # JSON: the model's names to positions
    Column("updated_at", BigInteger, nullable=False),
)

# `next_byte`, `next_row` and `next_line` are where scoring goes on; `options` holds all else that
# a chunk's bytes depend on.
predictions = Table(
    "predictions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("folder", Text, nullable=False),
    # QUEUED -> RUNNING -> COMPLETED | FAILED | CANCELLED; between tries QUEUED
    Column("status", Text, nullable=False),
    # Of content, model and options, as long as asking for the same answers this row.
    Column("fingerprint", Text),
    Column("upload_id", Text, nullable=False),
    Column("filename", Text),
    Column("size", BigInteger, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_id", Text),  # NULL = the starter model
    Column("model_number", Integer),
    Column("model_sha256", Text, nullable=False),
    Column("demo", Boolean, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    Column("next_byte", BigInteger, nullable=False),
    Column("next_row", BigInteger, nullable=False),
    Column("next_line", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False, server_default=text("0")),
    Column("rows_scored", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_set_aside", BigInteger, nullable=False, server_default=text("0")),
    Column("first_error", Text),
    Column("result", Text),  # JSON: files with size and SHA-256, and what they say
    Column("error_code", Text),
    Column("error", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    *work_columns(),
    *work_indexes("predictions"),
    UniqueConstraint("account", "fingerprint"),
    Index("predictions_account", "account", "id"),
    Index("predictions_upload", "upload_id"),
    Index("predictions_model", "model_id"),
    Index("predictions_ended", "ended_at"),
    Index(
        "predictions_dead",
        "account",
        "id",
        postgresql_where=text(_GAVE_UP),
        sqlite_where=text(_GAVE_UP),
    ),
    postgresql_with={"fillfactor": "80"},
)

# What was scored: each chunk is an object of its own until all are put together.
prediction_chunks = Table(
    "prediction_chunks",
    metadata,
    Column(
        "prediction_id", Text, ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("number", Integer, primary_key=True),
    Column("start_byte", BigInteger, nullable=False),
    Column("end_byte", BigInteger, nullable=False),
    Column("first_row", BigInteger, nullable=False),
    Column("rows_scored", Integer, nullable=False),
    Column("rows_set_aside", Integer, nullable=False),
    Column("sizes", Text, nullable=False),  # JSON: of the object's sections, in bytes
    Column("sha256", Text, nullable=False),  # of the object
    Column("at", BigInteger, nullable=False),
)

# What really became of customers who were scored. `score` is in millionths.
prediction_outcomes = Table(
    "prediction_outcomes",
    metadata,
    Column(
        "prediction_id", Text, ForeignKey("predictions.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("customer_id", Text, primary_key=True),
    Column("score", Integer, nullable=False),
    Column("churned", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# Objects that nothing refers to any more, until they are deleted too.
doomed_objects = Table(
    "doomed_objects",
    metadata,
    Column("prefix", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Index("doomed_objects_at", "at"),
)
