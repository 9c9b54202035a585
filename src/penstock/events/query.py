"""Reading events back: one, many, and what became of each delivery."""

from __future__ import annotations

import base64
import codecs
import json
from functools import cache
from typing import Any, Final

from penstock.errors import NotFound
from penstock.events import span, views
from penstock.events.views import iso
from penstock.events.why import Waiting, why
from penstock.ids import HIGHEST
from penstock.storage import Statement, Tx, sql
from penstock.work import lanes

MOST_DELIVERIES: Final = 100  # shown with one event
MOST_ATTEMPTS: Final = 20  # shown with one delivery, the latest
SCAN: Final = 5_000  # events looked through for one page when filters reject most

_EVENT = sql("""
SELECT e.id, e.event_type, e.status, e.created_at, e.deliver_at, e.delivered_at,
       e.delivery_attempts, e.open_deliveries, e.dead_deliveries, e.payload, e.metadata,
       CASE WHEN f.status = 'pending' THEN 1 ELSE 0 END,
       CASE WHEN e.inbox_until_at > {now} THEN e.inbox_lease END,
       CASE WHEN e.inbox_until_at > {now} THEN e.inbox_until_at END, e.ordering_key
FROM events e LEFT JOIN fanouts f ON f.id = e.id WHERE e.id = :id AND e.account = :account
""")

_UNTRIED = sql("""
SELECT 1 FROM deliveries WHERE event_id = :id AND status = 'pending' AND attempts = 0 LIMIT 1
""")

_DELIVERIES = sql("""
SELECT d.id, d.endpoint_id, d.status, d.attempts, d.due_at, d.lease_until, d.created_at,
       d.expires_at, d.finished_at, d.last_error, d.lane, p.id AS known, p.enabled,
       p.disabled_reason, d.ordering_key, h.head, h.halted
FROM deliveries d LEFT JOIN endpoints p ON p.id = d.endpoint_id
  LEFT JOIN order_heads h ON h.endpoint_id = d.endpoint_id AND h.key = d.ordering_key
WHERE d.event_id = :id ORDER BY d.endpoint_id LIMIT :limit
""")

_HOW_MANY = sql("SELECT count(*) FROM deliveries WHERE event_id = :id")

_ATTEMPTS = sql("""
SELECT delivery_id, number, started_at, duration, status_code, error_kind, error, address,
       response
FROM (SELECT a.*, row_number() OVER (PARTITION BY delivery_id ORDER BY number DESC) AS latest
      FROM attempts a WHERE delivery_id {in:ids}) AS n
WHERE latest <= :limit ORDER BY delivery_id, number
""")


def summary(tx: Tx, account: str, event_id: str) -> tuple[dict[str, Any], bool]:
    """The event as accept answers it, and whether every delivery was tried at least once."""
    row = tx.one(_EVENT, id=event_id, account=account)
    if row is None:
        raise NotFound("There is no such event.")
    shown = [
        views.delivery(id_, endpoint_id, status, attempts, due_at)
        for id_, endpoint_id, status, attempts, due_at, *_ in tx.rows(
            _DELIVERIES, id=event_id, limit=MOST_DELIVERIES
        )
    ]
    spreading = bool(row[11])
    tried = row[2] != "pending" or (not spreading and tx.one(_UNTRIED, id=event_id) is None)
    return _event(row, shown), tried


def detail(tx: Tx, account: str, event_id: str) -> dict[str, Any]:
    """The event with its contents, its deliveries and their attempts."""
    row = tx.one(_EVENT, id=event_id, account=account)
    if row is None:
        raise NotFound("There is no such event.")
    found = tx.dicts(_DELIVERIES, id=event_id, limit=MOST_DELIVERIES)
    attempts: dict[str, list[dict[str, Any]]] = {}
    for tried, *attempt in tx.rows(_ATTEMPTS, ids=[d["id"] for d in found], limit=MOST_ATTEMPTS):
        attempts.setdefault(tried, []).append(_attempt(*attempt))
    pending_lanes = {d["lane"] for d in found if d["status"] == "pending"}
    gates = {gate.id: gate for gate in lanes.gates(tx, "deliveries", sorted(pending_lanes))}
    now = tx.now()
    shown = [
        _delivery(d, attempts.get(d["id"], []), gates.get(d["lane"]), now, row[13]) for d in found
    ]
    total = len(found)
    if total == MOST_DELIVERIES:
        count = tx.one(_HOW_MANY, id=event_id)
        total = count[0] if count else total
    return _event(row, shown) | {
        "deliver_at": iso(row[4]),
        "ordering_key": row[14],
        "payload": json.loads(row[9]),
        "metadata": None if row[10] is None else json.loads(row[10]),
        "open_deliveries": row[7],
        "dead_deliveries": row[8],
        "deliveries_total": total,
        "inbox_lease_id": row[12],
        "inbox_leased_until": iso(row[13]),
    }


# The events that may fit, by an index: of an endpoint, of a status, of a type, or all of them.
_DRIVERS: Final = {
    "endpoint": "SELECT event_id AS id FROM deliveries WHERE endpoint_id = :endpoint"
    " AND event_id > :above AND event_id < :below ORDER BY event_id DESC",
    "status": "SELECT id FROM events WHERE account = :account AND status = :status"
    " AND id > :above AND id < :below ORDER BY id DESC",
    "type": "SELECT id FROM events WHERE account = :account AND event_type = :event_type"
    " AND id > :above AND id < :below ORDER BY id DESC",
    "all": "SELECT id FROM events WHERE account = :account"
    " AND id > :above AND id < :below ORDER BY id DESC",
}


@cache
def _page(driver: str) -> Statement:
    # The order of the tables is said (SQLite keeps to that of a CROSS JOIN): the other way round
    # every event of the account would be looked at.
    return sql(f"""
SELECT e.id, e.event_type, e.status, e.created_at, e.deliver_at, e.delivered_at,
  e.delivery_attempts, e.open_deliveries, e.dead_deliveries, e.inbox_lease, e.inbox_until_at
FROM ({_DRIVERS[driver]} LIMIT :scan) c CROSS JOIN events e
WHERE e.id = c.id AND e.account = :account
  AND (CAST(:event_type AS TEXT) IS NULL OR e.event_type = :event_type)
  AND (CAST(:status AS TEXT) IS NULL OR e.status = :status)
  AND e.created_at >= :since AND e.created_at < :until
ORDER BY e.id DESC LIMIT :limit
""")  # noqa: S608 - no input in it


@cache
def _edge(driver: str) -> Statement:
    return sql(f"{_DRIVERS[driver]} LIMIT 1 OFFSET :skip")


def page(
    tx: Tx,
    account: str,
    *,
    event_type: str | None = None,
    status: str | None = None,
    since: int | None = None,
    until: int | None = None,
    endpoint: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> tuple[list[dict[str, Any]], str | None]:
    """Up to `limit` events, newest first, below the id `before`; and where to go on, if anywhere.

    Instants are µs. Where filters reject most, `SCAN` events are looked through at a time: a page
    may be short, or empty, and yet not be the last.
    """
    driver = _driver(event_type, status, endpoint)
    above, below = "", before or HIGHEST
    if since is not None or until is not None:
        above, upto = span.bounds(tx, account, since, until)
        below = min(below, f"{upto}~")
    fits = {"account": account, "event_type": event_type, "status": status, "endpoint": endpoint}
    asked = {**fits, "above": above, "below": below}
    # All that the index gives is shown, unless there is something else to fit.
    others = {"endpoint", "status", "event_type"} - {"event_type" if driver == "type" else driver}
    exact = since is None and until is None and all(fits[name] is None for name in others)
    scan = limit + 1 if exact else SCAN
    rows = tx.rows(
        _page(driver),
        **asked,
        since=-(2**62) if since is None else since,
        until=2**62 if until is None else until,
        scan=scan,
        limit=limit + 1,
    )
    now = tx.now()
    shown = [_listed(row, now) for row in rows[:limit]]
    if len(rows) > limit:
        return shown, str(rows[limit - 1][0])
    edge = None if exact else tx.one(_edge(driver), **asked, skip=SCAN - 1)
    return shown, None if edge is None else str(edge[0])


def _driver(event_type: str | None, status: str | None, endpoint: str | None) -> str:
    """The filter that probably leaves the fewest: most events were delivered."""
    if endpoint is not None:
        return "endpoint"
    if status is not None and (event_type is None or status != "delivered"):
        return "status"
    return "all" if event_type is None else "type"


def _listed(row: tuple[Any, ...], now: int) -> dict[str, Any]:
    id_, type_, state, created_at, deliver_at, delivered_at, attempts, open_, dead, *lease = row
    holder, until = lease
    leased = until is not None and until > now
    return {
        "event_id": id_,
        "event_type": type_,
        "status": state,
        "created_at": iso(created_at),
        "deliver_at": iso(deliver_at),
        "delivered_at": iso(delivered_at),
        "delivery_attempts": attempts,
        "message": views.message(state, open_, dead, deliver_at),
        "open_deliveries": open_,
        "dead_deliveries": dead,
        "inbox_lease_id": holder if leased else None,
        "inbox_leased_until": iso(until) if leased else None,
    }


def _event(row: tuple[Any, ...], shown: list[dict[str, Any]]) -> dict[str, Any]:
    id_, type_, status, created_at, deliver_at, delivered_at, attempts, open_, dead = row[:9]
    if row[11]:
        text = "Accepted: still being spread over its endpoints."
    else:
        text = views.message(status, open_, dead, deliver_at)
    return views.event(id_, type_, status, created_at, delivered_at, attempts, text, shown)


def _delivery(
    d: dict[str, Any],
    attempts: list[dict[str, Any]],
    gate: lanes.Gate | None,
    now: int,
    inbox_until: int | None,
) -> dict[str, Any]:
    reason = None
    if d["status"] == "pending":
        enabled = None if d["known"] is None else bool(d["enabled"])
        reason = why(
            Waiting(
                d["due_at"],
                d["lease_until"],
                d["attempts"],
                enabled,
                d["disabled_reason"],
                None if d["head"] == d["id"] else d["head"],
                bool(d["halted"]),
                inbox_until,
            ),
            gate,
            now,
        )
    brief = views.delivery(d["id"], d["endpoint_id"], d["status"], d["attempts"], d["due_at"])
    return brief | {
        "created_at": iso(d["created_at"]),
        "expires_at": iso(d["expires_at"]),
        "finished_at": iso(d["finished_at"]),
        "last_error": d["last_error"],
        "why": reason,
        "attempt_log": attempts,
    }


def _attempt(
    number: int,
    started_at: int,
    duration: float,
    status_code: int | None,
    error_kind: str | None,
    error: str | None,
    address: str | None,
    response: bytes | None,
) -> dict[str, Any]:
    text, encoded = excerpt(None if response is None else bytes(response))
    return {
        "number": number,
        "started_at": iso(started_at),
        "duration": duration,
        "status_code": status_code,
        "error_kind": error_kind,
        "error": error,
        "address": address,
        "response": text,
        "response_base64": encoded,
    }


def excerpt(response: bytes | None) -> tuple[str | None, str | None]:
    """The stored beginning of a response as text, and in base64 if it is not UTF-8.

    The cut may have gone through a character; that alone does not make it binary.
    """
    if response is None:
        return None, None
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(response), None
    except UnicodeDecodeError:
        return response.decode("utf-8", "replace"), base64.b64encode(response).decode()
