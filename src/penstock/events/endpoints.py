"""Endpoints: where events are pushed to, and every change to them.

An endpoint is a row here and a lane of the engine: what concerns pace (rate, deliveries in
flight, being disabled) is a property of the lane, so changing it touches no waiting delivery.
Every change raises the account's `endpoints_version` in its own transaction; that is how
accept, in whatever process, knows that its parsed copy is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.clock import SECOND
from penstock.errors import NotFound
from penstock.events import ordering, settled, sign
from penstock.events.accept import DELIVERY
from penstock.events.matching import Subscriber
from penstock.events.views import iso
from penstock.ids import HIGHEST, new_id
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.work import lanes

TRIP_AFTER: Final = 10  # failures in a row that open the circuit
CANCEL_CHUNK: Final = 500  # deliveries cancelled in one transaction

# Versions are instants where they can be, not mere counts: a version that was seen in a
# transaction whose commit then failed must not come back with another content.
_RAISE = sql("""
INSERT INTO accounts (id, endpoints_version, created_at) VALUES (:account, {now}, {now})
ON CONFLICT (id) DO UPDATE
SET endpoints_version = {max}(accounts.endpoints_version + 1, excluded.endpoints_version)
""")

_INSERT = sql("""
INSERT INTO endpoints (id, account, kind, target, description, event_types, filter, headers,
                       timeout, schedule, on_permanent, on_dead, secret, enabled, lane, version,
                       created_at, updated_at)
VALUES (:id, :account, :kind, :target, :description, :event_types, :filter, :headers, :timeout,
        :schedule, :on_permanent, :on_dead, :secret, :enabled, :lane, {now}, {now}, {now})
""")

_COLUMNS = """
e.id, e.kind, e.target, e.description, e.event_types, e.filter, e.headers, e.timeout, e.schedule,
e.on_permanent, e.on_dead, e.previous_until, e.enabled, e.disabled_reason, e.created_at,
e.updated_at, l.rate, l.max_in_flight
FROM endpoints e LEFT JOIN lanes l ON l.id = e.lane
"""
_ONE = sql(f"SELECT {_COLUMNS} WHERE e.id = :id AND e.account = :account")
_LIST = sql(f"""
SELECT {_COLUMNS} WHERE e.account = :account AND e.id < :before ORDER BY e.id DESC LIMIT :limit
""")

_CHANGE = sql("""
UPDATE endpoints SET
  target = coalesce(CAST(:target AS TEXT), target),
  description = coalesce(CAST(:description AS TEXT), description),
  event_types = coalesce(CAST(:event_types AS TEXT), event_types),
  filter = CASE WHEN :filter_given = 1 THEN CAST(:filter AS TEXT) ELSE filter END,
  failing_since_at = CASE WHEN CAST(:target AS TEXT) IS NULL THEN failing_since_at END,
  headers = CASE WHEN :headers_given = 1 THEN CAST(:headers AS TEXT) ELSE headers END,
  timeout = coalesce(CAST(:timeout AS DOUBLE PRECISION), timeout),
  schedule = CASE WHEN :schedule_given = 1 THEN CAST(:schedule AS TEXT) ELSE schedule END,
  on_permanent = coalesce(CAST(:on_permanent AS TEXT), on_permanent),
  on_dead = coalesce(CAST(:on_dead AS TEXT), on_dead),
  version = {max}(version + 1, {now}), updated_at = {now}
WHERE id = :id AND account = :account RETURNING lane
""")

_ROTATE = sql("""
UPDATE endpoints SET previous_secret = secret, previous_until = {now} + :overlap,
  secret = :secret, version = {max}(version + 1, {now}), updated_at = {now}
WHERE id = :id AND account = :account RETURNING previous_until
""")

_SWITCH = sql("""
UPDATE endpoints SET enabled = :enabled, disabled_reason = :reason, failing_since_at = NULL,
  version = {max}(version + 1, {now}), updated_at = {now}
WHERE id = :id AND account = :account RETURNING lane
""")

# Only what the failed push had read may be disabled: a target that was corrected meanwhile
# did not fail.
_DISABLE = sql("""
UPDATE endpoints SET enabled = :enabled, disabled_reason = :reason,
  version = {max}(version + 1, {now}), updated_at = {now}
WHERE id = :id AND version = :version
  AND (CAST(:before AS BIGINT) IS NULL OR failing_since_at <= :before)
RETURNING account, lane, target, version
""")

_DELETE = sql("DELETE FROM endpoints WHERE id = :id AND account = :account RETURNING lane")

_CANCEL = sql("""
UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = {now},
  last_error = :reason
WHERE id IN (SELECT id FROM deliveries WHERE lane = :lane AND due_at IS NOT NULL
             AND lease_until IS NULL AND status = 'pending' ORDER BY due_at LIMIT :limit)
  AND lease_until IS NULL AND status = 'pending'
RETURNING id, event_id, endpoint_id, ordering_key
""")

_LANE = sql("SELECT lane FROM endpoints WHERE id = :id AND account = :account")


def create(
    tx: Tx,
    account: str,
    *,
    kind: str,
    target: str,
    description: str,
    event_types: Sequence[str],
    filter_text: str | None = None,
    timeout: float,
    schedule: Sequence[float] | None,
    on_permanent: str,
    on_dead: str = "continue",
    rate_limit: float | None,
    max_in_flight: int,
    headers: str | None,
    secret: str,
) -> str:
    """Store an endpoint and make its lane; answers its id. `headers`, `secret`: sealed.

    The `secret` of a kind that signs nothing is ''.
    """
    id_ = new_id("end")
    lane = f"{DELIVERY}:{id_}"
    tx.run(
        _INSERT,
        id=id_,
        account=account,
        kind=kind,
        target=target,
        description=description,
        event_types=json.dumps(list(event_types)),
        filter=filter_text,
        headers=headers,
        timeout=timeout,
        schedule=None if schedule is None else json.dumps(list(schedule)),
        on_permanent=on_permanent,
        on_dead=on_dead,
        secret=secret,
        enabled=True,
        lane=lane,
    )
    _raise_version(tx, account)
    lanes.ensure(
        tx,
        lane,
        kind=DELIVERY,
        account=account,
        max_in_flight=max_in_flight,
        rate=rate_limit,
        burst=burst(rate_limit),
        trip_after=TRIP_AFTER,
    )
    return id_


def burst(rate: float | None) -> float:
    """One, and a tenth of a second's worth.

    The tenth makes up for a worker that looks a little late: what a full bucket would have been
    given meanwhile is lost. No second sees more than 1.1 times the rate, and one.
    """
    return 1.0 if rate is None else 1.0 + rate / 10


def change(tx: Tx, account: str, endpoint_id: str, changes: Mapping[str, Any]) -> None:
    """Write the given fields; `headers` comes sealed. NotFound if it is not the account's."""
    schedule = changes.get("schedule")
    event_types = changes.get("event_types")
    if "on_dead" in changes:
        ordering.hold(tx, endpoint_id)
    row = tx.one(
        _CHANGE,
        id=endpoint_id,
        account=account,
        target=changes.get("target"),
        description=changes.get("description"),
        event_types=None if event_types is None else json.dumps(event_types),
        filter_given=int("filter_text" in changes),
        filter=changes.get("filter_text"),
        headers_given=int("headers" in changes),
        headers=changes.get("headers"),
        timeout=changes.get("timeout"),
        schedule_given=int("schedule" in changes),
        schedule=None if schedule is None else json.dumps(schedule),
        on_permanent=changes.get("on_permanent"),
        on_dead=changes.get("on_dead"),
    )
    lane = _found(row)
    _raise_version(tx, account)
    pace: dict[str, Any] = {}
    if "rate_limit" in changes:
        rate = changes["rate_limit"]
        pace = {"rate": rate, "burst": burst(rate)}
    if "max_in_flight" in changes:
        pace["max_in_flight"] = changes["max_in_flight"]
    if pace:
        lanes.configure(tx, lane, **pace)
    if changes.get("on_dead") == "continue":
        ordering.resume(tx, endpoint_id)


def rotate(tx: Tx, account: str, endpoint_id: str, secret: str, overlap: float) -> int:
    """Put a new (sealed) secret in place; the old one signs too for `overlap` seconds.

    Of earlier rotations nothing is kept: two secrets at most. Answers until when (µs).
    """
    row = tx.one(
        _ROTATE, id=endpoint_id, account=account, secret=secret, overlap=int(overlap * SECOND)
    )
    until = _found(row)
    _raise_version(tx, account)
    return int(until)


def switch(tx: Tx, account: str, endpoint_id: str, *, enabled: bool) -> None:
    """Enable or disable: the lane is resumed or paused, its deliveries stay as they are."""
    row = tx.one(
        _SWITCH,
        id=endpoint_id,
        account=account,
        enabled=enabled,
        reason=None if enabled else "manual",
    )
    lane = _found(row)
    _raise_version(tx, account)
    lanes.configure(tx, lane, paused=not enabled)


def disable(
    tx: Tx, endpoint_id: str, version: int, reason: str, *, failing_before: int | None = None
) -> tuple[str, str, int] | None:
    """Disable the endpoint unless it was changed since `version`; its deliveries wait.

    With `failing_before` (µs), only if it has been failing since then. Answers its account, its
    target and its new version; None = it stays as it is.
    """
    row = tx.one(
        _DISABLE,
        id=endpoint_id,
        version=version,
        enabled=False,
        reason=reason,
        before=failing_before,
    )
    if row is None:
        return None
    account, lane, target, new = row
    _raise_version(tx, account)
    lanes.configure(tx, lane, paused=True)
    return account, target, new


async def remove(database: Database, account: str, endpoint_id: str) -> None:
    """Delete the endpoint and cancel what waits for it.

    The first chunk goes with the endpoint; the rest follows in transactions of its own, so that a
    long backlog does not hold up everybody's writes. If the process dies in between, the engine
    finds the rest without an endpoint and cancels it.
    """

    def first(tx: Tx) -> tuple[str, bool]:
        lane = delete(tx, account, endpoint_id)
        return lane, cancel_waiting(tx, lane)

    lane, more = await database.unit(first)
    while more:
        more = await database.unit(lambda tx: cancel_waiting(tx, lane))


def delete(tx: Tx, account: str, endpoint_id: str) -> str:
    """Delete the endpoint; answers its lane, whose waiting deliveries are to be cancelled.

    The lane stays, open: a delivery that an accept of the same moment still put into it is
    then claimed, found to have no endpoint, and cancelled.
    """
    lane = str(_found(tx.one(_DELETE, id=endpoint_id, account=account)))
    _raise_version(tx, account)
    ordering.forget(tx, endpoint_id)
    lanes.configure(tx, lane, paused=False, paused_by_hand=False, rate=None, burst=1.0)
    return lane


def cancel_waiting(tx: Tx, lane: str) -> bool:
    """Cancel a chunk of what waits in a deleted endpoint's lane; True = there may be more.

    What is being pushed at this moment is left to its own end.
    """
    rows = tx.rows(_CANCEL, lane=lane, limit=CANCEL_CHUNK, reason=settled.ENDPOINT_DELETED)
    if rows:
        settled.drop(tx, [event_id for _, event_id, _, _ in rows])
    for id_, _, endpoint_id, key in rows:
        if key is not None:  # an accept of the moment of deletion gave it a place after all
            ordering.leave(tx, endpoint_id, key, id_, dead=False)
    return len(rows) == CANCEL_CHUNK


def subscriber(tx: Tx, account: str, endpoint_id: str) -> Subscriber:
    """The endpoint as accept sees it."""
    return Subscriber(endpoint_id, _found(tx.one(_LANE, id=endpoint_id, account=account)))


def get(tx: Tx, account: str, endpoint_id: str, box: SecretBox) -> dict[str, Any]:
    """The endpoint as the API shows it."""
    found = tx.dicts(_ONE, id=endpoint_id, account=account)
    if not found:
        raise NotFound("There is no such endpoint.")
    return _view(found[0], tx.now(), box)


def page(
    tx: Tx, account: str, before: str | None, limit: int, box: SecretBox
) -> list[dict[str, Any]]:
    """Up to `limit` endpoints, newest first, below the id `before`."""
    # '~' sorts after every character of an id.
    rows = tx.dicts(_LIST, account=account, before=before or HIGHEST, limit=limit)
    return [_view(row, tx.now(), box) for row in rows]


def seal_headers(box: SecretBox, headers: Mapping[str, str] | None) -> str | None:
    """Headers as they are stored: they often carry credentials."""
    return box.seal(json.dumps(dict(headers))) if headers else None


def new_secret(box: SecretBox) -> tuple[str, str]:
    """A new signing secret: as it is shown once, and as it is stored."""
    secret = sign.generate_secret()
    return secret, box.seal(secret)


def _view(row: Mapping[str, Any], now: int, box: SecretBox) -> dict[str, Any]:
    headers, schedule, old_until = row["headers"], row["schedule"], row["previous_until"]
    return {
        "endpoint_id": row["id"],
        "kind": row["kind"],
        "target": row["target"],
        "description": row["description"],
        "event_types": json.loads(row["event_types"]),
        "filter": None if row["filter"] is None else json.loads(row["filter"]),
        # The names only: values are often credentials.
        "header_names": sorted(json.loads(box.open(headers))) if headers else [],
        "timeout": row["timeout"],
        "rate_limit": row["rate"],
        "max_in_flight": row["max_in_flight"],
        "schedule": None if schedule is None else json.loads(schedule),
        "on_permanent": row["on_permanent"],
        "on_dead": row["on_dead"],
        "enabled": bool(row["enabled"]),
        "disabled_reason": row["disabled_reason"],
        "old_secret_until": iso(old_until) if old_until and old_until > now else None,
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
    }


def _raise_version(tx: Tx, account: str) -> None:
    tx.run(_RAISE, account=account)


def _found(row: tuple[Any, ...] | None) -> Any:
    if row is None:
        raise NotFound("There is no such endpoint.")
    return row[0]
