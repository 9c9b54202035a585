"""Shipments: making them, and what people may do to them.

Storing a shipment is owing its first check: the row is due from the commit that made it. What is
written here of the work is `due_at` and `status` only, never a lease, so nothing here races a
worker: a check that is under way is settled as it was found, and what was asked for stays owed.

A number is followed once by an account and carrier at a time. One that is not followed any more
may come again: carriers use numbers anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from penstock.clock import SECOND
from penstock.errors import Conflict, ConstraintViolated, NotFound
from penstock.ids import new_id
from penstock.storage import Statement, Tx, sql
from penstock.tracking import tell
from penstock.tracking.credentials import CHECK, Credentials
from penstock.tracking.intervals import first_check
from penstock.work import lanes
from penstock.work.emit import Emit

ACTIVE: Final = "pending"  # the work's status while a shipment is followed
AT_ONCE: Final = 10  # new shipments of one lane whose first check is due at once
# Seconds after a carrier's answer in which nobody can have it asked again: whoever refreshes in a
# loop would use up a day's calls, those of other accounts too where a credential is shared.
REFRESH_GAP: Final = 60
SANDBOX: Final = "sandbox"  # it answers by itself: nobody's calls are spent

_INSERT = sql(f"""
INSERT INTO shipments (id, account, carrier, tracking_number, label, reference, ship_date,
                       postal_code, metadata, status, created_at, updated_at, news_at, lane, due_at)
VALUES (:id, :account, :carrier, :tracking_number, :label, :reference, :ship_date, :postal_code,
        :metadata, '{ACTIVE}', {{now}}, {{now}}, {{now}}, :lane, :due_at)
ON CONFLICT (account, carrier, tracking_number) WHERE status = '{ACTIVE}' DO NOTHING
""")  # noqa: S608
_FOLLOWED = sql(f"""
SELECT id FROM shipments WHERE account = :account AND carrier = :carrier
  AND tracking_number = :tracking_number AND status = '{ACTIVE}'
""")  # noqa: S608
# What waits for its first check: whether that is many, and when the last of them is due.
_NEW = f"""
FROM shipments WHERE lane = :lane AND status = '{ACTIVE}' AND last_checked_at IS NULL
  AND error_kind IS NULL
"""
_CROWD = sql(f"SELECT count(*) FROM (SELECT 1 {_NEW} LIMIT {AT_ONCE}) AS crowd")  # noqa: S608
_LAST = sql(f"SELECT max(due_at) {_NEW}")
_ONE = sql("SELECT * FROM shipments WHERE id = :id AND account = :account")
_SCANS = sql("""
SELECT at, zone_offset, status, sub_status, code, text, place, seen_at
FROM scans WHERE shipment_id = :id ORDER BY at DESC, fingerprint DESC
""")
_STATUS = sql("SELECT status FROM shipments WHERE id = :id AND account = :account")
# As soon as may be, and never later than it was due anyway.
_SOON = f"""CASE
  WHEN carrier = '{SANDBOX}' OR last_checked_at IS NULL OR status = 'dead' THEN {{now}}
  WHEN due_at <= last_checked_at + {REFRESH_GAP * SECOND} THEN due_at
  ELSE {{max}}({{now}}, last_checked_at + {REFRESH_GAP * SECOND}) END"""
_REFRESH = sql(f"""
UPDATE shipments SET due_at = {_SOON}, status = '{ACTIVE}', ended_at = NULL
WHERE id = :id AND account = :account AND status IN ('{ACTIVE}', 'dead')
RETURNING lane, due_at - {{now}}
""")  # noqa: S608
_STOP = sql(f"""
UPDATE shipments SET due_at = NULL, status = 'cancelled', ended_at = {{now}}, updated_at = {{now}}
WHERE id = :id AND account = :account AND status IN ('{ACTIVE}', 'dead')
""")  # noqa: S608
_DELETE = sql("DELETE FROM shipments WHERE id = :id AND account = :account")

# What may be changed, and whether the carrier is asked with it.
CHANGEABLE: Final[Mapping[str, bool]] = {
    "label": False,
    "reference": False,
    "metadata": False,
    "ship_date": True,
    "postal_code": True,
}


@dataclass(frozen=True, slots=True)
class NewShipment:
    """A shipment that passed every check. `tracking_number` is normalised, `metadata` JSON text,
    `ship_date` as YYYY-MM-DD."""

    carrier: str
    tracking_number: str
    label: str | None = None
    reference: str | None = None
    ship_date: str | None = None
    postal_code: str | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The shipment that follows the number. `new`: it did not before."""

    id: str
    new: bool


def create(
    tx: Tx, account: str, shipment: NewShipment, *, credentials: Credentials, emit: Emit
) -> Created:
    """Follow a number; answers the shipment that does already, if there is one.

    Refused if there is no such carrier or no credential to ask it with.
    """
    lane = credentials.lane(tx, account, shipment.carrier)
    key = {
        "account": account,
        "carrier": shipment.carrier,
        "tracking_number": shipment.tracking_number,
    }
    due_at = _first_check(tx, lane, credentials.rows_per_day(shipment.carrier))
    for _ in range(3):  # one that is in the way may be stopped just then
        id_ = new_id("shp")
        stored = tx.run(
            _INSERT,
            **key,
            id=id_,
            label=shipment.label,
            reference=shipment.reference,
            ship_date=shipment.ship_date,
            postal_code=shipment.postal_code,
            metadata=shipment.metadata,
            lane=lane,
            due_at=due_at,
        )
        if stored:
            lanes.wake(tx, CHECK, lane, (due_at - tx.now()) / SECOND)
            tell.created(tx, emit, get(tx, account, id_))
            return Created(id_, new=True)
        found = tx.one(_FOLLOWED, **key)
        if found is not None:
            return Created(found[0], new=False)
    raise Conflict("The number is being followed and stopped at the same time; try again.")


def get(tx: Tx, account: str, shipment_id: str) -> dict[str, Any]:
    """Its row, by column. NotFound if it is not the account's."""
    found = tx.dicts(_ONE, id=shipment_id, account=account)
    if not found:
        raise NotFound("There is no such shipment.")
    return found[0]


def scans(tx: Tx, shipment_id: str) -> list[dict[str, Any]]:
    """What happened to the parcel, by column, the latest first."""
    return tx.dicts(_SCANS, id=shipment_id)


def patch(tx: Tx, account: str, shipment_id: str, changes: Mapping[str, str | None]) -> None:
    """Change what `CHANGEABLE` names; None clears it. NotFound if it is not the account's.

    What the carrier is asked with being changed, it is asked again.
    """
    if not changes:
        get(tx, account, shipment_id)
        return
    unknown = sorted(set(changes) - set(CHANGEABLE))
    if unknown:
        raise TypeError(f"not to be changed: {', '.join(unknown)}")
    again = any(CHANGEABLE[name] for name in changes)
    row = tx.one(_update(tuple(sorted(changes)), again), id=shipment_id, account=account, **changes)
    if row is None:
        raise NotFound("There is no such shipment.")
    if again:
        _wake(tx, *row)


def refresh(tx: Tx, account: str, shipment_id: str) -> None:
    """Ask the carrier as soon as its budget and circuit allow, `REFRESH_GAP` after its last answer.

    One that was given up is followed again. Conflict if it was stopped or has reached its end.
    """
    try:
        row = tx.one(_REFRESH, id=shipment_id, account=account)
    except ConstraintViolated:
        raise Conflict("The number is followed by another shipment already.") from None
    if row is None:
        status = get(tx, account, shipment_id)["status"]
        raise Conflict(
            "It was stopped; create it again to follow it anew."
            if status == "cancelled"
            else "It has reached its end; create it again to follow it anew."
        )
    _wake(tx, *row)


def _wake(tx: Tx, lane: str, wait: int | None) -> None:
    """`wait` in microseconds; None where nothing is due, because it has ended or is dead."""
    if wait is not None:
        lanes.wake(tx, CHECK, lane, max(0.0, wait / SECOND))


def stop(tx: Tx, account: str, shipment_id: str) -> None:
    """Follow it no more; what is known of it stays. One that has ended already is left as it is.

    NotFound if it is not the account's.
    """
    if not tx.run(_STOP, id=shipment_id, account=account) and (
        tx.one(_STATUS, id=shipment_id, account=account) is None
    ):
        raise NotFound("There is no such shipment.")


def delete(tx: Tx, account: str, shipment_id: str) -> None:
    """Delete it with its scans; a check under way leads to nothing. NotFound if not there."""
    if not tx.run(_DELETE, id=shipment_id, account=account):
        raise NotFound("There is no such shipment.")


def _first_check(tx: Tx, lane: str, rows_per_day: float) -> int:
    """When a new shipment is checked first: at once, unless many are new.

    Those are spread over half of the budget: parcels that are out for delivery must not wait until
    all of an import was looked up.
    """
    now = tx.now()
    if tx.one(_CROWD, lane=lane) != (AT_ONCE,):
        return now
    last = tx.one(_LAST, lane=lane)
    if last is None or last[0] is None:  # a worker has them all in hand
        return now
    return max(now, int(last[0] + first_check(1, rows_per_day) * SECOND))


@cache
def _update(columns: tuple[str, ...], again: bool) -> Statement:
    assignments = ", ".join(f"{column} = CAST(:{column} AS TEXT)" for column in columns)
    if again:
        assignments += f", due_at = CASE WHEN status = '{ACTIVE}' THEN {_SOON} ELSE due_at END"
    return sql(
        f"UPDATE shipments SET {assignments}, updated_at = {{now}}"  # noqa: S608
        " WHERE id = :id AND account = :account RETURNING lane, due_at - {now}"
    )
