"""Spreading one event over many endpoints: work of its own, in chunks.

`cursor` is the last endpoint that was looked at, in id order; it moves in the transaction that
inserts the chunk's deliveries, so a chunk is never done twice nor left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from penstock.clock import SECOND
from penstock.events.accept import DELIVERY, FANOUT
from penstock.events.matching import Subscriber, matches, passing, stored_filter
from penstock.events.settled import fanout_ended
from penstock.ids import new_id
from penstock.storage import Tx, sql
from penstock.work import lanes
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Done, Outcome

CHUNK: Final = 500  # endpoints looked at in one step

_LOAD = sql("""
SELECT f.id, f.account, f.cursor, e.event_type, e.created_at, e.deliver_at,
       e.payload, e.metadata
FROM fanouts f JOIN events e ON e.id = f.id WHERE f.id {in:ids}
""")

# Endpoints made after the event was accepted are not among those it was accepted for.
_ENDPOINTS = sql("""
SELECT id, lane, event_types, filter FROM endpoints
WHERE account = :account AND id > :cursor AND created_at <= :created_at
ORDER BY id LIMIT :chunk
""")

# Endpoints that were deleted meanwhile are left out.
_INSERT = sql(
    sqlite="""
INSERT INTO deliveries (id, account, event_id, endpoint_id, status, created_at, expires_at,
                        lane, due_at)
SELECT json_extract(value, '$[0]'), :account, :event_id, json_extract(value, '$[1]'),
       'pending', :created_at, :expires_at, json_extract(value, '$[2]'), :due_at
FROM json_each(:rows) WHERE json_extract(value, '$[1]') IN (SELECT id FROM endpoints)
ON CONFLICT (event_id, endpoint_id) DO NOTHING
""",
    postgres="""
INSERT INTO deliveries (id, account, event_id, endpoint_id, status, created_at, expires_at,
                        lane, due_at)
SELECT r.value ->> 0, :account, :event_id, r.value ->> 1, 'pending', :created_at, :expires_at,
       r.value ->> 2, :due_at
FROM json_array_elements(CAST(:rows AS json)) AS r(value)
WHERE r.value ->> 1 IN (SELECT id FROM endpoints)
ON CONFLICT (event_id, endpoint_id) DO NOTHING
""",
)

_OPEN = sql("UPDATE events SET open_deliveries = open_deliveries + :n WHERE id = :id")
# The event may have been acknowledged from the inbox while this chunk was looked at.
_CANCELLED = sql("SELECT 1 FROM fanouts WHERE id = :id AND status = 'cancelled'")
_MOVE = sql("UPDATE fanouts SET cursor = :cursor WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next endpoints that an event may have to go to."""

    event_id: str
    account: str
    event_type: str
    deliver_at: int | None
    endpoints: tuple[tuple[str, str], ...]  # (id, lane) of those that match
    cursor: str
    last: bool


def _load(tx: Tx, claims: Sequence[Claim]) -> Mapping[str, Chunk]:
    chunks = {}
    for event_id, account, cursor, event_type, created_at, deliver_at, *contents in tx.rows(
        _LOAD, ids=[claim.id for claim in claims]
    ):
        rows = tx.rows(
            _ENDPOINTS, account=account, cursor=cursor, created_at=created_at, chunk=CHUNK
        )
        asking = tuple(
            Subscriber(id_, lane, stored_filter(text))
            for id_, lane, patterns, text in rows
            if matches(json.loads(patterns), event_type)
        )
        chunks[event_id] = Chunk(
            event_id,
            account,
            event_type,
            deliver_at,
            tuple((subscriber.id, subscriber.lane) for subscriber in passing(asking, *contents)),
            cursor=rows[-1][0] if rows else cursor,
            last=len(rows) < CHUNK,
        )
    return chunks


def _insert(chunk: Chunk, expiry: int, tx: Tx) -> None:
    if tx.one(_CANCELLED, id=chunk.event_id) is not None:
        return
    now = tx.now()
    due = now if chunk.deliver_at is None else max(now, chunk.deliver_at)
    rows = [[new_id("dlv"), endpoint_id, lane] for endpoint_id, lane in chunk.endpoints]
    if rows:
        made = tx.run(
            _INSERT,
            rows=json.dumps(rows),
            account=chunk.account,
            event_id=chunk.event_id,
            created_at=now,
            expires_at=due + expiry,
            due_at=due,
        )
        tx.run(_OPEN, id=chunk.event_id, n=made)
    tx.run(_MOVE, id=chunk.event_id, cursor=chunk.cursor)
    for _, lane in chunk.endpoints:
        lanes.wake(tx, DELIVERY, lane, (due - now) / SECOND)


def fanout_kind(expiry: float, *, lease: float = 60.0) -> Kind[Chunk]:
    """The kind of work that spreads events over more endpoints than accept does at once.

    `expiry`: as accept's.
    """
    expiry_us = int(expiry * SECOND)

    async def handle(task: Task[Chunk]) -> Outcome:
        chunk = task.data
        return Done(again=None if chunk.last else 0.0, apply=partial(_insert, chunk, expiry_us))

    return Kind(
        name=FANOUT,
        table="fanouts",
        load=_load,
        handle=handle,
        terminal=frozenset({"done", "dead", "cancelled"}),
        ended="ended_at",
        lease=lease,
        slots=4,
        on_end=fanout_ended,
    )
