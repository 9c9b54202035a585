"""What a claim reads: each shipment with what is known of it, and its credential.

It also sees to it that parcels that are out for delivery go before the others of their lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from penstock.storage import Tx, sql
from penstock.tracking.carriers.base import Query
from penstock.tracking.census import Census
from penstock.tracking.credentials import Credentials, lane_of
from penstock.tracking.intervals import NONE, URGENT, Stretch
from penstock.tracking.status import Scan, State
from penstock.work.kinds import Claim

_LOAD = sql("""
SELECT s.id, s.account, s.carrier, s.tracking_number, s.ship_date, s.postal_code, s.created_at,
  s.tracking_status, s.sub_status, s.carrier_code, s.carrier_text, s.status_at, s.delivered_at,
  s.delivered_offset, s.eta_at, s.eta_offset, s.signed_by, s.service, s.news_at, s.not_found,
  s.lane, c.sealed, c.version
FROM shipments s LEFT JOIN carrier_credentials c
  ON c.account = s.account AND c.carrier = s.carrier
WHERE s.id {in:ids}
""")
_SCANS = sql("""
SELECT shipment_id, at, zone_offset, status, sub_status, code, text, place
FROM scans WHERE shipment_id {in:ids}
""")
# A lane's rows are taken in the order in which they are due. Where a claim leaves some that are
# due, the urgent ones among them become older than all others, so that the next claim takes them.
_OLDEST = sql("""
SELECT due_at, tracking_status FROM shipments
WHERE lane = :lane AND due_at IS NOT NULL AND lease_until IS NULL AND due_at <= {now}
ORDER BY due_at LIMIT 1
""")
_AHEAD = sql("""
UPDATE shipments SET due_at = :due_at WHERE id IN (
  SELECT id FROM shipments WHERE lane = :lane AND tracking_status = 'out_for_delivery'
    AND due_at IS NOT NULL AND lease_until IS NULL AND due_at > :due_at AND due_at <= {now}
  ORDER BY id {lock_skip})
""")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A shipment as its claim read it. Nobody else writes these columns while it is held."""

    id: str
    account: str
    carrier: str
    lane: str
    query: Query
    created_at: int
    state: State
    service: str | None
    news_at: int
    not_found: int
    sealed: str | None
    version: int | None
    known: tuple[Scan, ...]
    stretch: Stretch


def load(
    census: Census, credentials: Credentials, tx: Tx, claims: Sequence[Claim]
) -> Mapping[str, Parcel]:
    """The parcels of these claims, by the ids of their shipments."""
    ids = [claim.id for claim in claims]
    known: dict[str, list[Scan]] = {}
    for shipment_id, *scan in tx.rows(_SCANS, ids=ids):
        known.setdefault(shipment_id, []).append(Scan(*scan))
    parcels: dict[str, Parcel] = {}
    for row in tx.dicts(_LOAD, ids=ids):
        carrier, lane = row["carrier"], row["lane"]
        own = lane == lane_of(carrier, row["account"])
        parcels[row["id"]] = Parcel(
            row["id"],
            row["account"],
            carrier,
            lane,
            _query(row),
            row["created_at"],
            State(
                row["tracking_status"],
                row["sub_status"],
                row["carrier_code"],
                row["carrier_text"],
                row["status_at"],
                row["delivered_at"],
                row["eta_at"],
                row["signed_by"],
                row["delivered_offset"],
                row["eta_offset"],
            ),
            row["service"],
            row["news_at"],
            row["not_found"],
            row["sealed"] if own else None,
            row["version"] if own else None,
            tuple(known.get(row["id"], ())),
            census.stretch(tx, lane, credentials.rows_per_day(carrier))
            if carrier in credentials.specs
            else NONE,
        )
    for lane in sorted({claim.lane for claim in claims}):
        _urgent_first(tx, lane)
    return parcels


def _urgent_first(tx: Tx, lane: str) -> None:
    """Parcels that are out for delivery go before all others that are due."""
    oldest = tx.one(_OLDEST, lane=lane)
    if oldest is None:
        return
    due_at, status = oldest
    # Beside an urgent one that is the oldest, not before it: it has waited longer.
    tx.run(_AHEAD, lane=lane, due_at=due_at if status in URGENT else due_at - 1)


def _query(row: Mapping[str, Any]) -> Query:
    shipped = row["ship_date"]
    return Query(
        row["tracking_number"],
        None if shipped is None else date.fromisoformat(shipped),
        row["postal_code"],
    )
