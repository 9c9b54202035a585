"""Reading shipments back: one with all its scans, or a page of those that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, or_, select

from penstock.storage import Tx
from penstock.storage.tables import shipments as table
from penstock.tracking import shipments, views
from penstock.tracking.carriers.base import Spec
from penstock.tracking.why import why
from penstock.work import lanes

_WORK_STATUS = {state: status for status, state in views.STATES.items()}


def detail(tx: Tx, account: str, shipment_id: str, specs: Mapping[str, Spec]) -> dict[str, Any]:
    """The shipment with its scans, the latest first, and why it was not checked yet."""
    row = shipments.get(tx, account, shipment_id)
    reason = None
    if row["status"] in ("pending", "dead"):
        gate = next(iter(lanes.gates(tx, "shipments", [row["lane"]])), None)
        reason = why(row, gate, tx.now())
    return views.shipment(row, specs.get(row["carrier"])) | {
        "why": reason,
        "scans": [views.scan(scan) for scan in shipments.scans(tx, shipment_id)],
    }


def page(
    tx: Tx,
    account: str,
    specs: Mapping[str, Spec],
    *,
    carrier: str | None = None,
    status: str | None = None,
    state: str | None = None,
    reference: str | None = None,
    since: int | None = None,
    until: int | None = None,
    search: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Up to `limit` shipments, newest first, below the id `before`; instants are µs.

    `search` is looked for in number, label and reference, whatever its case.
    """
    s = table.c
    query = select(table).where(s.account == account)
    if carrier is not None:
        query = query.where(s.carrier == carrier)
    if status is not None:
        query = query.where(s.tracking_status == status)
    if state is not None:
        query = query.where(s.status == _WORK_STATUS[state])
    if reference is not None:
        query = query.where(s.reference == reference)
    if since is not None:
        query = query.where(s.created_at >= since)
    if until is not None:
        query = query.where(s.created_at < until)
    if search is not None:
        text = search.strip().lower()
        number = "".join(text.split()).replace("-", "")
        query = query.where(
            or_(
                # Stored in capitals and without spaces, however it is typed.
                func.lower(s.tracking_number).contains(number, autoescape=True),
                func.lower(s.label).contains(text, autoescape=True),
                func.lower(s.reference).contains(text, autoescape=True),
            )
        )
    if before is not None:
        query = query.where(s.id < before)
    rows = tx.dicts(query.order_by(s.id.desc()).limit(limit))
    return [views.shipment(row, specs.get(row["carrier"])) for row in rows]
