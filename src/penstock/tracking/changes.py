"""What a check's settlement writes: scans, status and event, in one commit with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.storage import Tx, sql
from penstock.tracking import tell
from penstock.tracking.parcels import Parcel
from penstock.tracking.status import Scan, State
from penstock.work.emit import Emit

_ADD_SCAN = sql("""
INSERT INTO scans (shipment_id, fingerprint, at, zone_offset, status, sub_status, code, text,
                   place, seen_at)
VALUES (:shipment_id, :fingerprint, :at, :zone_offset, :status, :sub_status, :code, :text, :place,
        {now})
ON CONFLICT (shipment_id, fingerprint) DO NOTHING
""")
_WRITE = sql("""
UPDATE shipments SET tracking_status = :tracking_status, sub_status = :sub_status,
  carrier_code = :carrier_code, carrier_text = :carrier_text, status_at = :status_at,
  delivered_at = :delivered_at, delivered_offset = :delivered_offset, eta_at = :eta_at,
  eta_offset = :eta_offset, signed_by = :signed_by, service = :service,
  changes = changes + :changed, not_found = :not_found, error_kind = :error_kind,
  consecutive_errors = 0, last_checked_at = {now},
  news_at = CASE WHEN :news = 1 THEN {now} ELSE news_at END,
  updated_at = CASE WHEN :news = 1 THEN {now} ELSE updated_at END
WHERE id = :id RETURNING *
""")
_TROUBLE = sql("""
UPDATE shipments SET error_kind = :error_kind, consecutive_errors = consecutive_errors + 1
WHERE id = :id
""")


@dataclass(frozen=True, slots=True)
class StatusUpdated:
    """A note: a shipment's status changed."""

    shipment_id: str
    account: str
    carrier: str
    status: str
    previous: str


def write(
    parcel: Parcel,
    state: State,
    emit: Emit,
    tx: Tx,
    *,
    new: Sequence[Scan],
    news: bool,
    not_found: int,
    error_kind: str | None,
    service: str | None,
) -> None:
    """The carrier answered about the parcel: `state` is what it is known to be now, `new` are the
    scans that were not known before. `news`: something is new at all."""
    for scan in new:
        tx.run(
            _ADD_SCAN,
            shipment_id=parcel.id,
            fingerprint=scan.fingerprint(),
            at=scan.at,
            zone_offset=scan.offset,
            status=scan.status,
            sub_status=scan.sub_status,
            code=scan.code,
            text=scan.text,
            place=scan.place,
        )
    changed = state.status != parcel.state.status
    (row,) = tx.dicts(
        _WRITE,
        id=parcel.id,
        tracking_status=state.status,
        sub_status=state.sub_status,
        carrier_code=state.code,
        carrier_text=state.text,
        status_at=state.status_at,
        delivered_at=state.delivered_at,
        delivered_offset=state.delivered_offset,
        eta_at=state.eta,
        eta_offset=state.eta_offset,
        signed_by=state.signed_by,
        service=service,
        changed=int(changed),
        news=int(news),
        not_found=not_found,
        error_kind=error_kind,
    )
    if changed:
        previous = parcel.state.status
        tell.changed(tx, emit, row, previous)
        tx.notify(StatusUpdated(parcel.id, parcel.account, parcel.carrier, state.status, previous))


def trouble(parcel: Parcel, error_kind: str, tx: Tx) -> None:
    """The check led to nothing; what is known stays."""
    tx.run(_TROUBLE, id=parcel.id, error_kind=error_kind)
