"""Checking shipments: the kind of work that asks carriers and settles what they answered.

What an answer means:

=====================  =============================================================  ===========
answer                 the shipment                                                   the circuit
=====================  =============================================================  ===========
Found                  its scans, status and event are one commit; next check by      well
                       ``intervals``, none after its end
NotFound, Invalid,     asked again ever less often; no attempt failed                 well
Forbidden (one number)
Malformed              asked again later; this one parcel could not be read           nothing
RateLimited            due again when the lane opens; nothing is counted              nothing: the
                                                                                      lane pauses
Unavailable,           asked again later, for ever                                    in trouble
Forbidden (all)
=====================  =============================================================  ===========

None but Found says anything of the parcel: whatever else happens, the last known status stays.
Exceptions, be they bugs of ours or the database's, are retried and say nothing of the carrier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Final

from penstock.clock import Clock
from penstock.errors import SecretBoxError
from penstock.storage import Tx, sql
from penstock.telemetry import CARRIER_CREDENTIAL_REFUSED, log
from penstock.tracking import tell
from penstock.tracking.carriers.base import (
    Answer,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    RateLimited,
    Unavailable,
)
from penstock.tracking.census import Census
from penstock.tracking.clients import Clients
from penstock.tracking.credentials import CHECK, REFUSED, Credentials, lane_of
from penstock.tracking.grouper import Grouper
from penstock.tracking.intervals import URGENT, Facts, Stretch, is_expired, next_check
from penstock.tracking.status import Scan, State, expired, fold
from penstock.work.backoff import exponential
from penstock.work.circuit import Changed, OnChange
from penstock.work.emit import Emit
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Done, Health, Outcome, Postpone, Retry

FIRST_RETRY: Final = 60.0  # seconds after a failed check, doubling
LONGEST_RETRY: Final = 6 * 3600.0
PATIENCE: Final = 60.0  # seconds that a carrier is left alone if it does not say how long
NO_CREDENTIAL: Final = 300.0  # seconds until it is looked whether there is one
SAME_NUMBER: Final = 5.0  # seconds until the other of two shipments with one number is asked for
MOST_SCANS: Final = 500  # of one shipment that are kept; real ones have some dozens
SLOTS: Final = 256  # checks at once in one process

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
_ACCOUNT = sql("SELECT account FROM lanes WHERE id = :lane")


@dataclass(frozen=True, slots=True)
class StatusUpdated:
    """A note: a shipment's status changed."""

    shipment_id: str
    account: str
    carrier: str
    status: str
    previous: str


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


def check_kind(
    *,
    credentials: Credentials,
    clients: Clients,
    grouper: Grouper,
    census: Census,
    clock: Clock,
    emit: Emit,
    on_circuit: OnChange,
    lease: float,
) -> Kind[Parcel]:
    """The kind of work that checks shipments."""

    async def handle(task: Task[Parcel]) -> Outcome:
        parcel = task.data
        try:
            client = clients.get(
                parcel.lane, parcel.account, parcel.carrier, parcel.sealed, parcel.version
            )
        except SecretBoxError as exc:
            return Postpone(NO_CREDENTIAL, f"the credential cannot be opened: {exc}")
        if client is None:
            return Postpone(NO_CREDENTIAL, "there is no credential to ask the carrier with")
        fetched = await grouper.fetch(client, parcel.query)
        if fetched.answer is None:
            return Postpone(SAME_NUMBER, "another shipment with this number was asked for")
        speed = credentials.specs[parcel.carrier].speed(parcel.query.number)
        return judge(parcel, fetched.answer, fetched.health, clock.now(), emit, speed=speed)

    return Kind(
        name=CHECK,
        table="shipments",
        load=partial(_load, census, credentials),
        handle=handle,
        terminal=frozenset({"done", "dead", "cancelled"}),
        ended="ended_at",
        lease=lease,
        timeout=90.0,
        slots=SLOTS,
        backoff=_for_ever,
        on_circuit=on_circuit,
    )


_doubling = exponential(FIRST_RETRY, LONGEST_RETRY, attempts=2**31)


def _for_ever(attempt: int) -> float | None:
    return _doubling(attempt)


# --------------------------------------------------------------------------- what a claim reads


def _load(
    census: Census, credentials: Credentials, tx: Tx, claims: Sequence[Claim]
) -> Mapping[str, Parcel]:
    ids = [claim.id for claim in claims]
    known: dict[str, list[Scan]] = {}
    for shipment_id, *scan in tx.rows(_SCANS, ids=ids):
        known.setdefault(shipment_id, []).append(Scan(*scan))
    parcels: dict[str, Parcel] = {}
    for row in tx.dicts(_LOAD, ids=ids):
        carrier, lane = row["carrier"], row["lane"]
        if carrier not in credentials.specs:
            continue  # a carrier that this version does not have any more
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
            census.stretch(tx, lane, credentials.rows_per_day(carrier)),
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


# --------------------------------------------------------------------------- what an answer means


def judge(
    parcel: Parcel,
    answer: Answer,
    health: Health | None,
    now: int,
    emit: Emit,
    *,
    speed: float = 1.0,
) -> Outcome:
    """What becomes of the row. `health` is the whole call's, if this row speaks for it."""
    match answer:
        case Found():
            state = fold(parcel.state, answer, parcel.known, now=now)
            return _known(parcel, state, answer, health, now, emit, speed)
        case NotFound() | Invalid() | Forbidden(number=str()):
            return _unknown(parcel, answer, health, now, emit, speed)
        case RateLimited(retry_after=wait):
            pause = PATIENCE if wait is None else max(wait, 1.0)
            # Due at once: it is the lane that waits, and opens for all of them.
            return Postpone(0.0, "the carrier asked for a pause", health=health, pause=pause)
        case Malformed(reason=reason):
            return _trouble(parcel, "malformed", f"the answer cannot be read: {reason}", health)
        case Forbidden(text=text):
            if health is not None:  # once for a call
                log(
                    CARRIER_CREDENTIAL_REFUSED,
                    carrier=parcel.carrier,
                    lane=parcel.lane,
                    error=text,
                )
            return _trouble(parcel, REFUSED, text, health)
        case Unavailable(reason=reason, kind=kind):
            return _trouble(parcel, kind, f"the carrier did not answer: {reason}", health)


def _known(
    parcel: Parcel,
    state: State,
    found: Found,
    health: Health | None,
    now: int,
    emit: Emit,
    speed: float,
) -> Outcome:
    before = {scan.fingerprint() for scan in parcel.known}
    room = MOST_SCANS - len(before)
    new = [scan for scan in found.scans if scan.fingerprint() not in before][: max(room, 0)]
    news = bool(new) or state != parcel.state
    facts = _facts(parcel, state, parcel.not_found and 0, now if news else parcel.news_at, speed)
    if is_expired(facts, now):
        state = expired(state, now)
        facts = _facts(parcel, state, 0, facts.news_at, speed)
        news = True
    apply = partial(
        _write,
        parcel,
        state,
        emit,
        new=new,
        news=news,
        not_found=0,
        error_kind=None,
        service=found.service or parcel.service,
    )
    return Done(next_check(facts, now, parcel.stretch), apply, health)


def _unknown(
    parcel: Parcel,
    answer: NotFound | Invalid | Forbidden,
    health: Health | None,
    now: int,
    emit: Emit,
    speed: float,
) -> Outcome:
    state, times = parcel.state, parcel.not_found + 1
    facts = _facts(parcel, state, times, parcel.news_at, speed)
    news = False
    if is_expired(facts, now):
        state, news = expired(state, now), True
        facts = _facts(parcel, state, times, parcel.news_at, speed)
    error_kind = {NotFound: "not_found", Invalid: "invalid"}.get(type(answer), "forbidden")
    apply = partial(
        _write,
        parcel,
        state,
        emit,
        new=[],
        news=news,
        not_found=times,
        error_kind=error_kind,
        service=parcel.service,
    )
    return Done(next_check(facts, now, parcel.stretch), apply, health)


def _facts(parcel: Parcel, state: State, not_found: int, news_at: int, speed: float) -> Facts:
    return Facts(
        state.status,
        state.sub_status,
        parcel.created_at,
        news_at,
        status_at=state.status_at,
        eta=state.eta,
        not_found=not_found,
        confirmed=parcel.state.terminal,
        speed=speed,
    )


def _trouble(parcel: Parcel, kind: str, reason: str, health: Health | None) -> Outcome:
    def apply(tx: Tx) -> None:
        tx.run(_TROUBLE, id=parcel.id, error_kind=kind)

    return Retry(reason=reason, apply=apply, health=health)


# --------------------------------------------------------------------------- in the settlement


def _write(
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


def circuits(emit: Emit, operator: str) -> Callable[[Tx, Changed], None]:
    """Tells of carriers' circuits: the account whose credential it is, for the deployment's own
    credential the account `operator`."""

    def changed(tx: Tx, change: Changed) -> None:
        if change.reopened or change.state == "half_open":
            return
        row = tx.one(_ACCOUNT, lane=change.lane)
        if row is not None:
            tell.circuit(tx, emit, row[0] or operator, change)

    return changed
