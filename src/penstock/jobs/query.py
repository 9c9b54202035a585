"""Reading jobs back: one, or a page of those that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from penstock.clock import SECOND, to_iso
from penstock.errors import Conflict, NotFound
from penstock.ids import HIGHEST
from penstock.jobs.store import cancel
from penstock.storage import Tx, sql
from penstock.work import lanes
from penstock.work.lanes import Gate

SCAN: Final = 5_000  # jobs looked through for one page when filters reject most

_COLUMNS = """
w.id, w.name, w.key, w.status, w.created_at, w.finished_at, w.due_at, w.lease_until, w.attempts,
w.lapses, w.last_error, w.lane"""
_FITS = """
(CAST(:name AS TEXT) IS NULL OR w.name = :name)
AND (CAST(:status AS TEXT) IS NULL OR w.status = :status)"""
_LIST = sql(f"""
SELECT {_COLUMNS} FROM (SELECT * FROM jobs WHERE account = :account AND id < :before
  ORDER BY id DESC LIMIT :scan) w WHERE {_FITS} ORDER BY w.id DESC LIMIT :limit
""")  # noqa: S608 - no input in it
_DEAD = sql(f"""
SELECT {_COLUMNS} FROM (SELECT * FROM jobs WHERE account = :account AND id < :before
  AND status = 'dead' ORDER BY id DESC LIMIT :scan) w WHERE {_FITS} ORDER BY w.id DESC LIMIT :limit
""")  # noqa: S608
_EDGE = sql("""
SELECT id FROM jobs WHERE account = :account AND id < :before
ORDER BY id DESC LIMIT 1 OFFSET :skip
""")
_DEAD_EDGE = sql("""
SELECT id FROM jobs WHERE account = :account AND id < :before AND status = 'dead'
ORDER BY id DESC LIMIT 1 OFFSET :skip
""")
_ONE = sql(f"""
SELECT {_COLUMNS}, w.args, w.result FROM jobs w WHERE w.id = :id AND w.account = :account
""")  # noqa: S608


def page(
    tx: Tx,
    account: str,
    *,
    name: str | None,
    status: str | None,
    before: str | None,
    limit: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """Up to `limit` jobs below the id `before`, newest first; and where to go on looking."""
    asked = {"account": account, "before": before or HIGHEST}
    listed, edged = (_DEAD, _DEAD_EDGE) if status == "dead" else (_LIST, _EDGE)
    rows = tx.dicts(listed, **asked, name=name, status=status, scan=SCAN, limit=limit + 1)
    now = tx.now()
    if len(rows) > limit:
        return [_view(row, now) for row in rows[:limit]], str(rows[limit - 1]["id"])
    edge = tx.one(edged, **asked, skip=SCAN - 1)
    return [_view(row, now) for row in rows], None if edge is None else str(edge[0])


def detail(tx: Tx, account: str, job_id: str) -> dict[str, Any]:
    """The job with its arguments, its result, and why it has not run yet."""
    row = _row(tx, account, job_id)
    now = tx.now()
    reason = None
    if row["status"] == "pending":
        gate = next(iter(lanes.gates(tx, "jobs", [row["lane"]])), None)
        reason = why(row, gate, now)
    return _view(row, now) | {
        "arguments": json.loads(row["args"]),
        "result": None if row["result"] is None else json.loads(row["result"]),
        "why": reason,
    }


def end(tx: Tx, account: str, job_id: str) -> None:
    """Cancel the job. Conflict if it has ended; NotFound if it is not the account's."""
    row = _row(tx, account, job_id)
    if not cancel(tx, job_id):
        raise Conflict(f"The job has ended: it is {row['status']}.")


def why(row: Mapping[str, Any], gate: Gate | None, now: int) -> dict[str, str]:
    """`code` and `message`: the first thing that stands in the way of a pending job."""
    code, message = _why(row, gate, now)
    return {"code": code, "message": message}


def _why(row: Mapping[str, Any], gate: Gate | None, now: int) -> tuple[str, str]:
    if row["lease_until"] is not None:
        until = to_iso(row["lease_until"])
        return "leased", f"A worker has it in hand; if it dies, the lease ends at {until}."
    if row["due_at"] is not None and row["due_at"] > now:
        when = to_iso(row["due_at"])
        if row["attempts"]:
            return "retry_later", f"Attempt {row['attempts']} failed; the next is due at {when}."
        return "not_due", f"It is not due before {when}."
    if gate is None:
        return "due", "It is due now."
    if gate.paused:
        return "lane_paused", "Its lane is paused. Resume it to go on."
    if gate.opens_in > 0:
        until = to_iso(now + int(gate.opens_in * SECOND))
        return "lane_closed", f"Its lane lets nothing through before {until}."
    if gate.held >= gate.cap:
        return "in_flight_cap", f"{gate.held} jobs of its lane are running, its maximum."
    if gate.tokens < 1:
        return "rate_limited", f"Its lane lets {gate.rate:g} jobs a second through; it waits."
    return "due", "It is due now and will be taken by the next worker that knows its name."


def _row(tx: Tx, account: str, job_id: str) -> dict[str, Any]:
    found = tx.dicts(_ONE, id=job_id, account=account)
    if not found:
        raise NotFound("There is no such job; ended ones are kept for a day.")
    return found[0]


def _view(row: Mapping[str, Any], now: int) -> dict[str, Any]:
    running = row["status"] == "pending" and row["lease_until"] is not None
    return {
        "job_id": row["id"],
        "name": row["name"],
        "key": row["key"],
        "status": "running" if running else row["status"],
        "attempts": row["attempts"],
        "lapses": row["lapses"],
        "lane": row["lane"],
        "last_error": row["last_error"],
        "created_at": to_iso(row["created_at"]),
        "due_at": None if row["due_at"] is None else to_iso(row["due_at"]),
        "finished_at": None if row["finished_at"] is None else to_iso(row["finished_at"]),
    }
