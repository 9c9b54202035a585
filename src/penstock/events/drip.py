"""How a replay adds rows: little by little, beside new work and never in front of it.

While new events are being accepted, a step is small and the next one far off, so that what the
two share (the processor, the disk, the writer) is new work's; while none are, a replay hurries.

A step looks at a window of events, oldest first, and at the lanes of the deliveries it would
make. A lane takes as much as it has room for: nothing while it is closed, paused or full, or new
deliveries wait in it, and never more than a quarter of its cap at once. So a new event finds its
lane as it would have been.

An endpoint whose lane takes nothing for longer than `PATIENCE` falls behind: it goes on from a
cursor of its own when it can, and the others do not wait for it.

A cursor is ``event/endpoint``: every pair up to that one is done. An event alone means all of its
endpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.events.accept import Acceptor
from penstock.events.matching import matches
from penstock.events.replay import ENDED, Missing
from penstock.storage import Tx, sql
from penstock.work import lanes
from penstock.work.lanes import Gate

OUTSTANDING: Final = 1000  # rows that a replay has under way at most
STEP: Final = 0.05  # seconds between steps while new events are being accepted
SMALL: Final = 4  # rows added in one of those
HURRY: Final = 0.02  # seconds between steps while none are
QUIET: Final = 1.0  # seconds without a new event after which a replay hurries
READ_ON: Final = 0.005  # seconds between steps that found nothing to add
LARGE: Final = 16  # rows added in a step while none are
IN_HAND: Final = 32  # rows of a replay due or being sent at once, over all lanes
NEAR: Final = 64  # events looked at in one step
FAR: Final = 500  # the same, where the nearest ones hold nothing to send
MOST_PAIRS: Final = 2000  # deliveries read in one step
PATIENCE: Final = 1.0  # seconds
MOST_BEHIND: Final = 32  # endpoints with a cursor of their own

_WINDOW = sql("""
SELECT id, event_type, status, created_at, ordering_key FROM events
WHERE account = :account AND id >= :start AND id <= :upto ORDER BY id LIMIT :window
""")
_NEWEST = sql("SELECT max(id) FROM events")
_TOUCHED = sql("""
SELECT DISTINCT event_id FROM deliveries WHERE event_id {in:ids} AND replay_id = :replay
""")
_DELIVERIES = sql("""
SELECT d.event_id, d.endpoint_id, d.id, d.status, d.lane, p.id
FROM deliveries d LEFT JOIN endpoints p ON p.id = d.endpoint_id
WHERE d.event_id {in:ids} AND (d.event_id <> :start OR d.endpoint_id > :after)
  AND (:only = '' OR d.endpoint_id = :only)
ORDER BY d.event_id, d.endpoint_id LIMIT :limit
""")
_OUTSTANDING = sql("""
SELECT count(*) FROM deliveries WHERE replay_id = :replay AND status = 'pending'
""")
_OURS = sql("""
SELECT lane, count(*) FROM deliveries WHERE replay_id = :replay AND status = 'pending'
  AND (lease_until IS NOT NULL OR due_at <= {now}) GROUP BY lane
""")
_TAKEN = sql("""
SELECT l.id FROM lanes l WHERE l.id {in:ids} AND EXISTS (SELECT 1 FROM deliveries d
  WHERE d.lane = l.id AND d.due_at IS NOT NULL AND d.due_at <= {now} AND d.lease_until IS NULL
    AND (d.replay_id IS NULL OR d.replay_id <> :replay))
""")
_LANES = sql("SELECT id, lane FROM endpoints WHERE id {in:ids}")


@dataclass(frozen=True, slots=True)
class Filter:
    """What a replay is of. Instants are µs; `upto` is the last event that was there when it
    was asked for. `failed_only`: what was delivered is left out."""

    upto: str
    until: int
    since: int | None = None
    event_types: tuple[str, ...] | None = None
    status: str | None = None
    endpoint_id: str | None = None
    include_missing: bool = False
    failed_only: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """A replay as its row says. `behind`: cursors of endpoints that could not keep up."""

    id: str
    account: str
    filter: Filter
    cursor: str
    behind: Mapping[str, str]
    exhausted: bool


@dataclass(slots=True)
class Memory:
    """What a process remembers of a replay between steps; nothing is lost with it but patience.

    Times are monotonic seconds. `stuck`: since when lanes have had no room.
    """

    stuck: dict[str, float] = field(default_factory=dict)
    newest: str | None = None  # the newest event of all
    newest_at: float = 0.0  # when it was first seen


@dataclass(frozen=True, slots=True)
class Pair:
    """A delivery to be made pending, or (`delivery_id` None) to be made."""

    event_id: str
    endpoint_id: str
    lane: str
    key: str | None
    delivery_id: str | None

    @property
    def cursor(self) -> str:
        """The place right behind it."""
        return f"{self.event_id}/{self.endpoint_id}"


@dataclass(slots=True)
class Scan:
    """What a window of events holds: `end` is the cursor behind it, `over` = no more follows."""

    pairs: list[Pair]
    events: list[str]
    end: str
    over: bool


@dataclass(slots=True)
class Step:
    """What is to be written: rows, cursors, counts; and when to look again."""

    replay: Progress
    cursor: str
    behind: dict[str, str]
    exhausted: bool
    looked_at: int = 0
    taken: list[Pair] = field(default_factory=list)
    wait: float = STEP
    finished: bool = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write."""
        r = self.replay
        before = (r.cursor, dict(r.behind), r.exhausted)
        return not self.taken and before == (self.cursor, self.behind, self.exhausted)

    @property
    def again(self) -> list[tuple[str, str]]:
        """(event, delivery) ids to be made pending again."""
        return [(p.event_id, p.delivery_id) for p in self.taken if p.delivery_id is not None]

    @property
    def missing(self) -> list[Missing]:
        """Deliveries that were never made."""
        return [
            Missing(p.event_id, p.endpoint_id, p.lane, p.key)
            for p in self.taken
            if p.delivery_id is None
        ]


def room(gate: Gate, ours: int) -> int:
    """How many more rows of a replay a lane takes now, `ours` being due or under way in it."""
    free = min(max(1, gate.cap // 4) - ours, gate.allowance)
    if gate.rate is not None:
        # A full bucket is one that new work does not need just now.
        full = max(1.0, gate.rate / 10) - 1e-6  # all of `endpoints.burst` but a part of one
        whole = gate.due_in is None and gate.tokens >= full
        free = min(free, max(1, int(gate.tokens / 4))) if whole else 0
    return max(0, free)


def closed_for(gate: Gate) -> float | None:
    """Seconds after which to look at a lane again that lets nothing through; None = it does."""
    if gate.paused:
        return 5.0
    if gate.opens_in > 0:
        return min(5.0, max(STEP, gate.opens_in))
    return 1.0 if gate.circuit != "closed" else None


def plan(tx: Tx, acceptor: Acceptor, replay: Progress, memory: Memory, at: float) -> Step:
    """The next step; `at` is now, in monotonic seconds."""
    step = Step(replay, replay.cursor, dict(replay.behind), replay.exhausted)
    ((outstanding,),) = tx.rows(_OUTSTANDING, replay=replay.id)
    if replay.exhausted:
        # The end of the last delivery says so itself; this is for one that said so in vain.
        step.finished, step.wait = outstanding == 0, 15.0
        return step
    ours = dict(tx.rows(_OURS, replay=replay.id))
    pace = _pace(tx, memory, at)
    budget = min(
        SMALL if pace == STEP else LARGE, IN_HAND - sum(ours.values()), OUTSTANDING - outstanding
    )
    if budget <= 0:
        step.wait = pace if outstanding < OUTSTANDING else 0.5
        return step
    return _Planner(tx, acceptor, step, ours, budget, memory.stuck, at, pace).run()


def _pace(tx: Tx, memory: Memory, at: float) -> float:
    """Seconds until the next step: whether anything was accepted lately decides."""
    ((newest,),) = tx.rows(_NEWEST)
    if newest != memory.newest:
        # The first look cannot tell how old the newest event is.
        memory.newest, memory.newest_at = newest, at
    return HURRY if at - memory.newest_at >= QUIET else STEP


class _Planner:
    def __init__(
        self,
        tx: Tx,
        acceptor: Acceptor,
        step: Step,
        ours: Mapping[str, int],
        budget: int,
        stuck: dict[str, float],
        at: float,
        pace: float,
    ) -> None:
        self.tx = tx
        self.acceptor = acceptor
        self.step = step
        self.replay = step.replay
        self.ours = ours
        self.budget = budget
        self.stuck = stuck
        self.at = at
        self.pace = pace
        self.rooms: dict[str, int] = {}
        self.closed: dict[str, float] = {}
        self.waits: list[float] = []

    def run(self) -> Step:
        step, only = self.step, self.replay.filter.endpoint_id
        main = self._scan(self.replay.cursor, self.replay.filter.upto, only)
        lane_of = dict(self.tx.rows(_LANES, ids=sorted(step.behind)))
        self._look({pair.lane for pair in main.pairs} | set(lane_of.values()))
        late = [e for e in step.behind if e in lane_of]
        step.behind = {e: step.behind[e] for e in late}  # deleted endpoints are forgotten
        main_over = self._main(main)
        for endpoint_id in late:
            self._behind(endpoint_id, lane_of[endpoint_id])
        step.exhausted = main_over and not step.behind
        if step.idle:
            step.wait = min(self.waits, default=self.pace)
        else:
            step.wait = self.pace if step.taken else READ_ON
        return step

    def _main(self, scan: Scan) -> bool:
        """Go through the window; answers whether everything was seen."""
        step, alone = self.step, self.replay.filter.endpoint_id is not None
        for pair in scan.pairs:
            if pair.endpoint_id not in step.behind and not self._take(pair):
                falls = self.budget > 0 and not alone and self._is_stuck(pair.lane)
                if not falls or len(step.behind) >= MOST_BEHIND:
                    self._move(step.cursor, scan)
                    return False
                step.behind[pair.endpoint_id] = step.cursor
            step.cursor = pair.cursor
        self._move(scan.end, scan)
        return scan.over

    def _move(self, cursor: str, scan: Scan) -> None:
        event_id, slash, _ = cursor.partition("/")
        self.step.cursor = cursor
        self.step.looked_at = sum(
            e < event_id or (e == event_id and not slash) for e in scan.events
        )

    def _behind(self, endpoint_id: str, lane: str) -> None:
        step = self.step
        if self.rooms.get(lane, 0) <= 0 or self.budget <= 0:
            self.waits.append(self.closed.get(lane, self.pace))
            return
        # Up to where the others are; there it joins them again.
        upto = step.cursor.partition("/")[0]
        scan = self._scan(step.behind[endpoint_id], upto, endpoint_id)
        for pair in scan.pairs:
            if _after(pair, step.cursor):
                break
            if not self._take(pair):
                return
            step.behind[endpoint_id] = pair.cursor
        if scan.over:
            del step.behind[endpoint_id]
        else:
            step.behind[endpoint_id] = scan.end

    def _take(self, pair: Pair) -> bool:
        if self.rooms.get(pair.lane, 0) <= 0 or self.budget <= 0:
            self.waits.append(self.closed.get(pair.lane, self.pace))
            return False
        self.rooms[pair.lane] -= 1
        self.budget -= 1
        self.step.taken.append(pair)
        self.stuck.pop(pair.lane, None)
        return True

    def _is_stuck(self, lane: str) -> bool:
        since = self.stuck.setdefault(lane, self.at)
        return lane in self.closed or self.at - since > PATIENCE

    def _look(self, ids: set[str]) -> None:
        """Find out how much room these lanes have."""
        busy = {id_ for (id_,) in self.tx.rows(_TAKEN, ids=sorted(ids), replay=self.replay.id)}
        for gate in lanes.gates(self.tx, "deliveries", sorted(ids)):
            wait = closed_for(gate)
            if wait is not None:
                self.closed[gate.id] = wait
            elif gate.id not in busy:
                self.rooms[gate.id] = room(gate, self.ours.get(gate.id, 0))

    # ------------------------------------------------------------------ reading

    def _scan(self, cursor: str, upto: str, only: str | None) -> Scan:
        """The pairs after `cursor` in a window of events up to `upto`, of one endpoint or all."""
        near = self._window(cursor, upto, only, NEAR)
        if near.pairs or near.over:
            return near
        return self._window(cursor, upto, only, FAR)

    def _window(self, cursor: str, upto: str, only: str | None, size: int) -> Scan:
        start, slash, after = cursor.partition("/")
        rows = self.tx.rows(
            _WINDOW, account=self.replay.account, start=start, upto=upto, window=size
        )
        full = len(rows) == size
        if rows and rows[0][0] == start and not slash:
            rows = rows[1:]
        looked = [row[0] for row in rows]
        end = looked[-1] if looked else cursor
        chosen = self._chosen(rows, start if slash else "")
        if not chosen:
            return Scan([], looked, end, over=not full)
        found = self.tx.rows(
            _DELIVERIES,
            ids=[row[0] for row in chosen],
            start=start if slash else "",
            after=after,
            only=only or "",
            limit=MOST_PAIRS,
        )
        pairs = self._pairs(chosen, found, start if slash else "", after, only)
        if len(found) == MOST_PAIRS:
            # What follows the last one read is not known: the window ends there.
            last = (found[-1][0], found[-1][1])
            pairs = [pair for pair in pairs if (pair.event_id, pair.endpoint_id) <= last]
            return Scan(pairs, looked, f"{last[0]}/{last[1]}", over=False)
        return Scan(pairs, looked, end, over=not full)

    def _chosen(self, rows: Sequence[tuple[Any, ...]], partial: str) -> list[tuple[Any, ...]]:
        """The events of a window that the filter takes."""
        f = self.replay.filter
        touched: set[str] = set()
        if f.status is not None and rows:
            # This replay may have changed an event's status itself, for another endpoint.
            ids = [row[0] for row in rows]
            touched = {e for (e,) in self.tx.rows(_TOUCHED, ids=ids, replay=self.replay.id)}
        return [
            (id_, type_, status, created_at, key)
            for id_, type_, status, created_at, key in rows
            if (f.since is None or created_at >= f.since)
            and created_at < f.until
            and (f.event_types is None or matches(f.event_types, type_))
            and (f.status is None or status == f.status or id_ in touched or id_ == partial)
        ]

    def _pairs(
        self,
        chosen: Iterable[tuple[Any, ...]],
        found: Iterable[tuple[Any, ...]],
        start: str,
        after: str,
        only: str | None,
    ) -> list[Pair]:
        f = self.replay.filter
        have: dict[str, dict[str, tuple[Any, ...]]] = {}
        for row in found:
            have.setdefault(row[0], {})[row[1]] = row
        matcher = self.acceptor.matcher(self.tx, self.replay.account) if f.include_missing else None
        pairs: list[Pair] = []
        for event_id, event_type, event_status, _, key in chosen:
            known = have.get(event_id, {})
            new = [
                Pair(event_id, endpoint_id, lane, key, delivery_id)
                for _, endpoint_id, delivery_id, status, lane, endpoint in known.values()
                if endpoint is not None and self._wanted(status, event_status)
            ]
            if matcher is not None:
                new += [
                    Pair(event_id, s.id, s.lane, key, None)
                    for s in matcher.subscribers_of(self.tx, event_id, event_type)
                    if s.id not in known
                    and (only is None or s.id == only)
                    and not (event_id == start and s.id <= after)
                ]
            pairs += sorted(new, key=lambda pair: pair.endpoint_id)
        return pairs

    def _wanted(self, status: str, event_status: str) -> bool:
        if status not in ENDED:
            return False
        if not self.replay.filter.failed_only:
            return True
        # Cancelled under an event that was delivered: it was taken from the inbox.
        return status == "dead" or (
            status == "cancelled" and event_status not in ("delivered", "replayed")
        )


def _after(pair: Pair, cursor: str) -> bool:
    event_id, slash, endpoint_id = cursor.partition("/")
    if pair.event_id != event_id:
        return pair.event_id > event_id
    return bool(slash) and pair.endpoint_id > endpoint_id


def as_json(f: Filter) -> str:
    """The filter as it is stored."""
    return json.dumps({name: getattr(f, name) for name in f.__slots__})


def from_json(text: str) -> Filter:
    """The stored filter."""
    fields = json.loads(text)
    if fields["event_types"] is not None:
        fields["event_types"] = tuple(fields["event_types"])
    return Filter(**fields)
