"""Reading shipments back: one with all its scans, or a page of those that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, func, or_, select

from penstock.storage import Tx
from penstock.storage.tables import shipments as table
from penstock.tracking import shipments, views
from penstock.tracking.carriers.base import Spec
from penstock.tracking.why import why
from penstock.work import lanes

SCAN: Final = 5_000  # shipments looked through for one page when filters reject most
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
) -> tuple[list[dict[str, Any]], str | None]:
    """Up to `limit` shipments, newest first, below the id `before`; and where to go on, if at all.

    Instants are µs. `search` is looked for in number, label and reference, whatever its case.
    Where filters reject most, `SCAN` shipments are looked through at a time: a page may be short,
    or empty, and yet not be the last.
    """
    s = table.c
    near = select(table).where(s.account == account)
    if status is not None:
        near = near.where(s.tracking_status == status)
    if reference is not None:
        near = near.where(s.reference == reference)
    if before is not None:
        near = near.where(s.id < before)
    near = near.order_by(s.id.desc())
    fits = _fits(table, carrier, state, since, until, search)
    if not fits:
        rows = tx.dicts(near.limit(limit + 1))
    else:
        looked = near.limit(SCAN).subquery("n")
        fits = _fits(looked, carrier, state, since, until, search)
        query = select(looked).where(*fits).order_by(looked.c.id.desc())
        rows = tx.dicts(query.limit(limit + 1))
    shown = [views.shipment(row, specs.get(row["carrier"])) for row in rows[:limit]]
    if len(rows) > limit:
        return shown, str(rows[limit - 1]["id"])
    edge = None
    if fits:
        edge = tx.one(near.with_only_columns(s.id).limit(1).offset(SCAN - 1))
    return shown, None if edge is None else str(edge[0])


def _fits(
    rows: FromClause,
    carrier: str | None,
    state: str | None,
    since: int | None,
    until: int | None,
    search: str | None,
) -> list[ColumnElement[bool]]:
    """The conditions that no index answers."""
    s, fits = rows.c, []
    if carrier is not None:
        fits.append(s.carrier == carrier)
    if state is not None:
        fits.append(s.status == _WORK_STATUS[state])
    if since is not None:
        fits.append(s.created_at >= since)
    if until is not None:
        fits.append(s.created_at < until)
    if search is not None:
        text = search.strip().lower()
        number = "".join(text.split()).replace("-", "")
        fits.append(
            or_(
                # Stored in capitals and without spaces, however it is typed.
                func.lower(s.tracking_number).contains(number, autoescape=True),
                func.lower(s.label).contains(text, autoescape=True),
                func.lower(s.reference).contains(text, autoescape=True),
            )
        )
    return fits
