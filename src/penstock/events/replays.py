"""Replays: sending many events again, as work of the engine.

A replay is a row with a filter and a cursor. Each step reads what comes next (``drip.py``), and
its settlement makes those deliveries pending and moves the cursor and the counts in one commit:
a step is never done twice nor left out. Ends of deliveries are counted in their own settlements.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from penstock.clock import SECOND, Clock
from penstock.errors import NotFound
from penstock.events import drip, replay, span
from penstock.events.accept import Acceptor
from penstock.events.drip import Filter, Progress, Step
from penstock.events.views import iso
from penstock.ids import HIGHEST, new_id
from penstock.storage import Database, Tx, sql
from penstock.work import lanes
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Done, Outcome

REPLAY: Final = "replay"  # the kind of work
AT_ONCE: Final = 2  # replays of one account that take a step at the same time

_INSERT = sql("""
INSERT INTO replays (id, account, filter, status, cursor, estimate, created_at, lane, due_at)
VALUES (:id, :account, :filter, 'pending', :cursor, :estimate, {now}, :lane, {now})
""")

_LOAD = sql("""
SELECT id, account, filter, cursor, behind, exhausted FROM replays WHERE id {in:ids}
""")

_STATUS = sql("SELECT status FROM replays WHERE id = :id")

_MOVE = sql("""
UPDATE replays SET cursor = :cursor, behind = :behind, exhausted = :exhausted,
  looked_at = looked_at + :looked_at, replayed = replayed + :replayed
WHERE id = :id
""")

_ENDED = sql("UPDATE replays SET finished_at = {now} WHERE id = :id")

# The last delivery's end wakes a replay that has nothing more to add.
_COUNT = sql("""
UPDATE replays SET delivered = delivered + :delivered, dead = dead + :dead,
  due_at = CASE WHEN status = 'pending' AND exhausted AND NOT EXISTS
      (SELECT 1 FROM deliveries d WHERE d.replay_id = replays.id AND d.status = 'pending')
    THEN {now} ELSE due_at END
WHERE id = :id RETURNING lane, CASE WHEN exhausted AND due_at <= {now} THEN 1 ELSE 0 END
""")

LOCK = sql("SELECT id FROM replays WHERE id {in:ids} ORDER BY id {lock}")

_COLUMNS = """
SELECT r.id, r.status, r.filter, r.looked_at, r.estimate, r.replayed, r.delivered, r.dead,
  (SELECT count(*) FROM deliveries d WHERE d.replay_id = r.id AND d.status = 'pending')
    AS outstanding,
  r.behind, r.created_at, r.finished_at, r.last_error FROM replays r
"""
_ONE = sql(f"{_COLUMNS} WHERE r.id = :id AND r.account = :account")
_PAGE = sql(f"""
{_COLUMNS} WHERE r.account = :account AND r.id < :before
ORDER BY r.id DESC LIMIT :limit
""")

_CANCEL = sql("""
UPDATE replays SET status = 'cancelled', due_at = NULL, finished_at = {now}
WHERE id = :id AND account = :account AND status = 'pending'
""")

_LANES = sql("SELECT id, lane FROM endpoints WHERE id {in:ids}")
_HALTED = sql("""
SELECT DISTINCT d.replay_id, d.endpoint_id FROM deliveries d
  JOIN order_heads h ON h.endpoint_id = d.endpoint_id AND h.key = d.ordering_key AND h.halted
WHERE d.replay_id {in:ids} AND d.status = 'pending'
""")
_ENDPOINT = sql("SELECT id FROM endpoints WHERE id = :id AND account = :account")


async def create(
    database: Database,
    account: str,
    *,
    event_types: Sequence[str] | None = None,
    status: str | None = None,
    since: int | None = None,
    until: int | None = None,
    endpoint_id: str | None = None,
    include_missing: bool = False,
    failed_only: bool = False,
) -> str:
    """Store a replay; answers its id. Instants are µs. NotFound if the endpoint is unknown.

    It is of the events that are there now: those accepted while it runs are not among them.
    """

    def look(tx: Tx) -> tuple[str, Filter, int | None]:
        if endpoint_id is not None and tx.one(_ENDPOINT, id=endpoint_id, account=account) is None:
            raise NotFound("There is no such endpoint.")
        end = tx.now() + 1  # what was accepted at this instant is there
        end = end if until is None else min(until, end)
        start, upto, estimate = span.find(tx, account, since, end)
        asked = Filter(
            upto=upto,
            until=end,
            since=since,
            event_types=None if event_types is None else tuple(event_types),
            status=status,
            endpoint_id=endpoint_id,
            include_missing=include_missing,
            failed_only=failed_only or status == "failed",
        )
        return start, asked, estimate

    start, asked, estimate = await database.read(look)
    id_, lane = new_id("rpl"), f"{REPLAY}:{account}"

    def store(tx: Tx) -> None:
        lanes.ensure(tx, lane, kind=REPLAY, account=account, max_in_flight=AT_ONCE)
        tx.run(
            _INSERT,
            id=id_,
            account=account,
            filter=drip.as_json(asked),
            cursor=start,
            estimate=estimate,
            lane=lane,
        )
        lanes.wake(tx, REPLAY, lane)

    await database.unit(store)
    return id_


def cancel(tx: Tx, account: str, replay_id: str) -> None:
    """Add nothing more. What was added and not tried yet is for `replay.withdraw`.

    A replay that has ended stays as it is. NotFound if it is not the account's.
    """
    if tx.one(_ONE, id=replay_id, account=account) is None:
        raise NotFound("There is no such replay.")
    tx.run(_CANCEL, id=replay_id, account=account)


def ended(tx: Tx, replay_id: str, *, dead: bool, delivered: bool) -> None:
    """A delivery of this replay ended; called in its settlement."""
    row = tx.one(_COUNT, id=replay_id, delivered=int(delivered), dead=int(dead))
    if row is not None and row[1]:
        lanes.wake(tx, REPLAY, row[0])


def get(tx: Tx, account: str, replay_id: str) -> dict[str, Any]:
    """The replay as the API shows it."""
    found = tx.dicts(_ONE, id=replay_id, account=account)
    if not found:
        raise NotFound("There is no such replay.")
    return _views(tx, found)[0]


def page(tx: Tx, account: str, before: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` replays, newest first, below the id `before`."""
    rows = tx.dicts(_PAGE, account=account, before=before or HIGHEST, limit=limit)
    return _views(tx, rows)


def _views(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As the API shows them. Behind are also, though a replay's row does not say so, the endpoint
    of one that is for no other while it takes nothing, and those where it waits behind a halt."""
    shown = [_view(row) for row in rows]
    alone = {view["filter"]["endpoint_id"] for view in shown if view["status"] == "pending"}
    lane_of = dict(tx.rows(_LANES, ids=sorted(alone - {None})))
    gates = lanes.gates(tx, "deliveries", sorted(lane_of.values())) if lane_of else ()
    closed = {gate.id for gate in gates if drip.closed_for(gate) is not None}
    for view in shown:
        endpoint_id = view["filter"]["endpoint_id"]
        if view["status"] == "pending" and lane_of.get(endpoint_id) in closed:
            view["behind"] = [endpoint_id]
    by_id = {view["replay_id"]: view for view in shown if view["status"] == "pending"}
    for replay_id, endpoint_id in tx.rows(_HALTED, ids=sorted(by_id)):
        behind = by_id[replay_id]["behind"]
        behind[:] = sorted({*behind, endpoint_id})
    return shown


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    asked = drip.from_json(row["filter"])
    return {
        "replay_id": row["id"],
        "status": row["status"],
        "filter": {
            "event_types": None if asked.event_types is None else list(asked.event_types),
            "status": asked.status,
            "since": iso(asked.since),
            "until": iso(asked.until),
            "endpoint_id": asked.endpoint_id,
            "include_missing": asked.include_missing,
            "failed_only": asked.failed_only,
        },
        "looked_at": row["looked_at"],
        "estimate": row["estimate"],
        "replayed": row["replayed"],
        "delivered": row["delivered"],
        "dead": row["dead"],
        "outstanding": row["outstanding"],
        "behind": sorted(json.loads(row["behind"])),
        "created_at": iso(row["created_at"]),
        "finished_at": iso(row["finished_at"]),
        "last_error": row["last_error"],
    }


def _load(tx: Tx, claims: Sequence[Claim]) -> Mapping[str, Progress]:
    return {
        id_: Progress(
            id_, account, drip.from_json(asked), cursor, json.loads(behind), bool(exhausted)
        )
        for id_, account, asked, cursor, behind, exhausted in tx.rows(
            _LOAD, ids=[claim.id for claim in claims]
        )
    }


def _write(step: Step, expiry: int, tx: Tx) -> None:
    id_, account = step.replay.id, step.replay.account
    if tx.one(_STATUS, id=id_) != ("pending",):  # cancelled since the step was planned
        return
    again, added = replay.send_again(
        tx, account, step.again, step.missing, expiry=expiry, replay=id_
    )
    tx.run(
        _MOVE,
        id=id_,
        cursor=step.cursor,
        behind=json.dumps(step.behind),
        exhausted=step.exhausted,
        looked_at=step.looked_at,
        replayed=again + added,
    )


def _replay_ended(tx: Tx, claim: Claim, status: str, reason: str) -> None:
    tx.run(_ENDED, id=claim.id)


def replay_kind(
    *, database: Database, clock: Clock, acceptor: Acceptor, expiry: float, lease: float = 60.0
) -> Kind[Progress]:
    """The kind of work that replays; `expiry` as accept's, in seconds."""
    expiry_us = int(expiry * SECOND)
    memories: dict[str, drip.Memory] = {}

    async def handle(task: Task[Progress]) -> Outcome:
        progress = task.data
        if len(memories) > 1000:  # of replays that were cancelled or went to other processes
            memories.clear()
        memory = memories.setdefault(progress.id, drip.Memory())
        at = clock.monotonic()
        # Read beside the writer, so that looking holds nobody up.
        step = await database.read(lambda tx: drip.plan(tx, acceptor, progress, memory, at))
        if step.finished:
            memories.pop(progress.id, None)
            return Done()
        return Done(step.wait, None if step.idle else partial(_write, step, expiry_us))

    return Kind(
        name=REPLAY,
        table="replays",
        load=_load,
        handle=handle,
        terminal=frozenset({"done", "dead", "cancelled"}),
        lease=lease,
        slots=4,
        on_end=_replay_ended,
    )
