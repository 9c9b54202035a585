"""What a delivery's end means for its event, and telling those who wait for it.

An event counts its open deliveries. The settlement that brings the count to 0 makes the event
final, in the same transaction: ``delivered`` (``replayed``, if any delivery was sent again), or
``failed`` if any delivery died. One whose deliveries were all cancelled stays ``pending``: nobody
has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.events import ordering, replays
from penstock.events.accept import EventAvailable
from penstock.storage import Tx, sql
from penstock.telemetry import EVENT_STATUS_UPDATED, log
from penstock.work.kinds import Claim

# The reason of a delivery whose endpoint was deleted: it ends as cancelled, not as dead.
ENDPOINT_DELETED: Final = "endpoint_deleted: the endpoint was deleted"

_CANCEL = sql("""
UPDATE deliveries SET status = 'cancelled' WHERE id = :id
RETURNING event_id, endpoint_id, ordering_key, replay_id
""")

_LOCK = sql("SELECT id FROM events WHERE id {in:ids} ORDER BY id {lock}")

# An attempt is counted by the settlement that logs it: if this one did, its number is there.
_ENDED = """
UPDATE events SET
  open_deliveries = open_deliveries - 1,
  dead_deliveries = dead_deliveries + :dead,
  delivery_attempts = delivery_attempts
    + (SELECT count(*) FROM attempts WHERE delivery_id = :delivery AND number = :number),
  status = CASE WHEN open_deliveries > 1 THEN status
                WHEN dead_deliveries + :dead > 0 THEN 'failed'
                WHEN replays > 0 THEN 'replayed' ELSE 'delivered' END,
  delivered_at = CASE WHEN open_deliveries > 1 OR dead_deliveries + :dead > 0 THEN delivered_at
                      ELSE {now} END
WHERE id = """
_END = sql(_ENDED + ":event RETURNING id, status")
_END_DELIVERY = sql(
    f"""{_ENDED}(SELECT event_id FROM deliveries WHERE id = :delivery)
RETURNING id, status, (SELECT endpoint_id FROM deliveries WHERE id = :delivery),
  (SELECT ordering_key FROM deliveries WHERE id = :delivery),
  (SELECT replay_id FROM deliveries WHERE id = :delivery)
"""  # noqa: S608 - no input in it
)

# An open delivery that ended without being delivered or dead.
_TAKEN = (
    "EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id AND d.status = 'delivered')"
)
_DROP = sql(f"""
UPDATE events SET
  open_deliveries = open_deliveries - 1,
  status = CASE WHEN open_deliveries > 1 THEN status WHEN dead_deliveries > 0 THEN 'failed'
                WHEN {_TAKEN} THEN CASE WHEN replays > 0 THEN 'replayed' ELSE 'delivered' END
                ELSE status END,
  delivered_at = CASE WHEN open_deliveries > 1 OR dead_deliveries > 0 THEN delivered_at
                      WHEN {_TAKEN} THEN {{now}} ELSE delivered_at END
WHERE id {{in:ids}} RETURNING id, status
""")  # noqa: S608 - no input in it


@dataclass(frozen=True, slots=True)
class EventSettled:
    """A note: a delivery of this event was tried or ended; `status` is the event's now."""

    event_id: str
    status: str


def delivery_ended(tx: Tx, claim: Claim, status: str, reason: str) -> None:
    """A delivery reached ``delivered`` or ``dead`` (the kind's `on_end`)."""
    if reason == ENDPOINT_DELETED:
        row = tx.one(_CANCEL, id=claim.id)
        if row is None:
            return
        event_id, *place = row
        drop(tx, [event_id])
        _make_way(tx, claim.id, *place, status="cancelled")
        return
    dead, number = int(status == "dead"), claim.attempts + 1
    row = tx.one(_END_DELIVERY, dead=dead, delivery=claim.id, number=number)
    if row is not None:
        event_id, event_status, *place = row
        tx.notify(EventSettled(event_id, event_status))
        _make_way(tx, claim.id, *place, status=status)


def _make_way(
    tx: Tx,
    delivery_id: str,
    endpoint_id: str,
    key: str | None,
    replay_id: str | None,
    *,
    status: str,
) -> None:
    """Call the next one behind the ordering key, and tell the replay that sent it."""
    if key is not None:
        ordering.leave(tx, endpoint_id, key, delivery_id, dead=status == "dead")
    if replay_id is not None:
        replays.ended(tx, replay_id, dead=status == "dead", delivered=status == "delivered")


def fanout_ended(tx: Tx, claim: Claim, status: str, reason: str) -> None:
    """An event was spread over all its endpoints, or that was given up."""
    if status == "dead":
        _tell(tx, tx.one(_END, event=claim.id, dead=1, delivery="", number=0))
    else:
        drop(tx, [claim.id])


def drop(tx: Tx, event_ids: Sequence[str]) -> None:
    """One open delivery of each of these events will not be made, and that is no failure."""
    # Locked by a statement before the update, which then sees what others committed meanwhile:
    # whether another delivery of the event was delivered decides its status.
    tx.rows(_LOCK, ids=sorted(event_ids))
    for event_id, status in tx.rows(_DROP, ids=sorted(event_ids)):
        tx.notify(EventSettled(event_id, status))


def _tell(tx: Tx, ended: tuple[Any, ...] | None) -> None:
    if ended is not None:
        event_id, status = ended
        tx.notify(EventSettled(event_id, status))


def inbox_of(account: str) -> tuple[str, str]:
    """What readers of the account's inbox wait for."""
    return "inbox", account


class Waiters:
    """Requests that wait: for an event's deliveries (``Prefer: wait``), or for their inbox."""

    def __init__(self, poll: float = 0.5) -> None:
        # What other processes commit is not told here, so there is also a poll.
        self._poll = poll
        self._waiting: dict[Hashable, set[asyncio.Event]] = {}
        self._closed = False

    def on_notes(self, notes: Sequence[object]) -> None:
        """Called on the event loop with the notes of a commit."""
        for note in notes:
            if type(note) is EventSettled:
                if note.status != "pending":
                    log(EVENT_STATUS_UPDATED, event_id=note.event_id, status=note.status)
                self._tell(note.event_id)
            elif type(note) is EventAvailable and self._waiting:
                self._tell(inbox_of(note.account))

    def _tell(self, awaited: Hashable) -> None:
        for told in self._waiting.get(awaited, ()):
            told.set()

    async def wait(
        self, awaited: Hashable, seconds: float, over: Callable[[], Awaitable[bool]]
    ) -> None:
        """Until `over` says so, `seconds` have passed or the process is to stop.

        `awaited` is an event's id or `inbox_of` an account. `over`, which may take something for
        the one who waits, is never cut short by the time.
        """
        told = asyncio.Event()
        self._waiting.setdefault(awaited, set()).add(told)
        deadline = time.monotonic() + seconds
        try:
            while not self._closed and not await over():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, self._poll)):
                        await told.wait()
                told.clear()
        finally:
            waiting = self._waiting[awaited]
            waiting.discard(told)
            if not waiting:
                del self._waiting[awaited]

    def close(self) -> None:
        """Let go of everyone who waits: the process is to stop."""
        self._closed = True
        for waiting in self._waiting.values():
            for told in waiting:
                told.set()
