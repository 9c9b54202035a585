"""A database with years of work in it, written past the services: rows as they would be left.

Of `scale` events one in ten is dead, so a million events leave 100,000 dead deliveries. They came
in over the last day, spread over a few endpoints, one of which hardly gets any. Beside them stand a
tenth as many shipments and jobs, and a thousandth as many files that were scored.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

DAY: Final = 86_400_000_000  # µs
DEAD: Final = 10  # one in so many
PENDING: Final = 20
RARE: Final = 1000  # one event in so many is of a type, or for an endpoint, that is hardly used
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_BATCH: Final = 20_000

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Filled:
    """What there is to ask for."""

    events: int
    busy: str  # an endpoint
    rare: str  # one that hardly gets any events
    dead: str  # an event with a dead delivery
    delivered: str
    shipment: str
    job: str
    prediction: str
    hour: tuple[str, str]  # an hour in the middle, ISO 8601


def id_at(prefix: str, instant: int, number: int) -> str:
    """An id as if made at `instant` (µs)."""
    value = (instant // 1000) << 80 | 7 << 76 | number & ((1 << 62) - 1)
    return f"{prefix}_" + "".join(_DIGITS[value >> shift & 31] for shift in range(125, -1, -5))


def tables(scale: int, now: int | None = None) -> tuple[Filled, Iterator[tuple[str, str, Any]]]:
    """Table, columns and rows, in the order in which they can be written."""
    now = time.time_ns() // 1000 if now is None else now
    step = DAY // scale
    began = now - DAY
    busy, rare = id_at("end", began, 1), id_at("end", began, 2)

    def at(number: int) -> int:
        return began + number * step

    def event(number: int) -> str:
        return id_at("evt", at(number), number)

    def state(number: int) -> str:
        if number % DEAD == 0:
            return "dead"
        return "pending" if number % PENDING == 1 else "delivered"

    def events() -> Iterator[Row]:
        names = {"dead": "failed", "pending": "pending", "delivered": "delivered"}
        for n in range(scale):
            status = names[state(n)]
            done = at(n) + 40_000 if status == "delivered" else None
            kind = "rare.type" if n % RARE == 7 else "order.paid" if n % 3 else "order.created"
            yield (event(n), "default", kind, '{"order":1}', status, at(n), done,
                   int(status == "pending"), int(status == "failed"), 1)  # fmt: skip

    def deliveries() -> Iterator[Row]:
        for n in range(scale):
            status, endpoint = state(n), rare if n % RARE == 8 else busy
            why = "HTTP 503 Service Unavailable" if status == "dead" else None
            yield (id_at("dlv", at(n), n), "default", event(n), endpoint, status, at(n),
                   at(n) + DAY, None if status == "pending" else at(n) + 40_000,
                   f"delivery:{endpoint}", at(n) if status == "pending" else None,
                   8 if status == "dead" else 1, why)  # fmt: skip

    def attempts() -> Iterator[Row]:
        for n in range(0, scale, DEAD):
            yield (id_at("dlv", at(n), n), 1, at(n), 0.04, 503, "status", "HTTP 503")

    def jobs() -> Iterator[Row]:
        for n in range(scale // 10):
            status = "dead" if n % DEAD == 0 else "succeeded"
            yield (id_at("job", at(n * 10), n), "default", "work", "[]", status, at(n * 10),
                   at(n * 10), "job:default:work", 3, "ValueError")  # fmt: skip

    def shipments() -> Iterator[Row]:
        for n in range(scale // 10):
            status = "dead" if n % DEAD == 0 else "done"
            known = "delivered" if n % 4 else "in_transit"
            yield (id_at("shp", at(n * 10), n), "default", "sandbox", f"SBX{n:09}", status,
                   at(n * 10), at(n), at(n), known, at(n), "trk:sandbox:settings", 1)  # fmt: skip

    def predictions() -> Iterator[Row]:
        options = json.dumps(
            {"layout": {"start": 0, "row": 2, "line": 2}, "rows_about": 1, "reject": False,
             "as_of": None}
        )  # fmt: skip
        for n in range(max(20, scale // 1000)):
            id_ = id_at("prd", at(n), n)
            yield (id_, "default", f"accounts/default/predictions/{id_}", "CANCELLED",
                   id_at("upl", at(n), n), "today.csv", 1000, "starter", "0" * 64, False, options,
                   0, 2, 2, at(n), at(n), "prediction:default")  # fmt: skip

    def uploads() -> Iterator[Row]:
        for n in range(max(20, scale // 1000)):
            id_ = id_at("upl", at(n), n)
            yield (id_, "default", f"accounts/default/uploads/{id_}", "ready", "today.csv", 1000,
                   "0" * 64, "{}", None, '{"rows_about":1}', at(n))  # fmt: skip

    endpoints = [
        (id_, "default", "webhook", "http://127.0.0.1:9/", '["*"]', 20.0, "long", "", False,
         "the receiver is moving", f"delivery:{id_}", 1, began, began)
        for id_ in (busy, rare, *(id_at("end", began, n) for n in range(3, 60)))
    ]  # fmt: skip
    lanes = [
        *((row[10], "delivery", "default", True, 8, began) for row in endpoints),
        ("job:default:work", "job", "default", True, 8, began),
        ("trk:sandbox:settings", "shipment_check", "", True, 8, began),
        ("prediction:default", "prediction", "default", True, 4, began),
    ]
    filled = Filled(
        scale,
        busy,
        rare,
        event(scale // 2 // DEAD * DEAD),
        event(scale // 2 // DEAD * DEAD + 2),
        id_at("shp", at(10), 1),
        id_at("job", at(0), 0),
        id_at("prd", at(0), 0),
        (_iso(began + DAY // 2), _iso(began + DAY // 2 + DAY // 24)),
    )
    return filled, iter(
        (
            ("lanes", "id, kind, account, paused, max_in_flight, created_at", lanes),
            ("endpoints", "id, account, kind, target, event_types, timeout, on_permanent, secret, "
             "enabled, disabled_reason, lane, version, created_at, updated_at", endpoints),
            ("events", "id, account, event_type, payload, status, created_at, delivered_at, "
             "open_deliveries, dead_deliveries, delivery_attempts", events()),
            ("deliveries", "id, account, event_id, endpoint_id, status, created_at, expires_at, "
             "finished_at, lane, due_at, attempts, last_error", deliveries()),
            ("attempts", "delivery_id, number, started_at, duration, status_code, error_kind, "
             "error", attempts()),
            ("jobs", "id, account, name, args, status, created_at, finished_at, lane, attempts, "
             "last_error", jobs()),
            ("shipments", "id, account, carrier, tracking_number, status, created_at, updated_at, "
             "ended_at, tracking_status, news_at, lane, attempts", shipments()),
            ("uploads", "id, account, folder, status, filename, size, sha256, given, layout, "
             "facts, created_at", uploads()),
            ("predictions", "id, account, folder, status, upload_id, filename, size, model_name, "
             "model_sha256, demo, options, next_byte, next_row, next_line, created_at, ended_at, "
             "lane", predictions()),
        )
    )  # fmt: skip


def fill_sqlite(path: Path, scale: int) -> Filled:
    """Fill a database that was migrated and that nobody has open."""
    filled, found = tables(scale)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for table, columns, rows in found:
            marks = ", ".join("?" * (columns.count(",") + 1))
            connection.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})",
                rows,
            )
        connection.execute("COMMIT")
    finally:
        connection.close()
    return filled


def fill_postgres(url: str, scale: int) -> Filled:
    """The same on PostgreSQL, vacuumed, which autovacuum would otherwise do during the figures."""
    import psycopg

    filled, found = tables(scale)
    with psycopg.connect(url, autocommit=True) as connection:
        for table, columns, rows in found:
            with connection.cursor() as cursor:
                for batch in _batches(rows):
                    with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:  # type: ignore[arg-type]
                        for row in batch:
                            copy.write_row(row)
        connection.execute("VACUUM ANALYZE")
    return filled


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _iso(instant: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M", time.gmtime(instant // 1_000_000))
