"""Lanes as people see and move them. The gate itself is ``work/lanes.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from penstock.clock import SECOND, to_iso
from penstock.errors import NotFound
from penstock.storage import Statement, Tx, sql
from penstock.work import circuit, lanes
from penstock.work.care import LaneNote
from penstock.work.kinds import AnyKind

MOST_COUNTED: Final = 1_000  # rows counted in one lane
MOST_LOGGED: Final = 20  # transitions shown, the latest

Notes = Callable[[Tx, Sequence[str]], Mapping[str, LaneNote]]

_COLUMNS = """
n.id, n.kind, n.account, n.paused, n.paused_by_hand, n.open_at, n.rate, n.max_in_flight, n.circuit,
n.consecutive, n.trip_after, n.trips,
CASE WHEN n.override_until > {now} THEN n.override END AS held,
CASE WHEN n.override_until > {now} THEN n.override_until END AS held_until, n.created_at
FROM lanes n
"""
# Of the lane `n`: it lets nothing through, or only a probe.
STOPPED: Final = "(n.paused OR n.paused_by_hand OR n.circuit <> 'closed' OR n.open_at > {now})"
_LIST = sql(f"""
SELECT {_COLUMNS} WHERE n.account {{in:accounts}} AND n.id > :after AND n.kind {{in:kinds}}
  AND (:stopped = 0 OR {STOPPED}) ORDER BY n.id LIMIT :limit
""")
_ONE = sql(f"SELECT {_COLUMNS} WHERE n.id = :id AND n.account {{in:accounts}}")


@cache
def _depth(table: str) -> Statement:
    return sql(f"""
SELECT (SELECT count(*) FROM (SELECT 1 FROM {table} w WHERE w.lane = n.id
          AND w.due_at IS NOT NULL AND w.lease_until IS NULL LIMIT :most) c),
  (SELECT count(*) FROM {table} h WHERE h.lane = n.id AND h.lease_until IS NOT NULL),
  (SELECT min(w.due_at) FROM {table} w WHERE w.lane = n.id
     AND w.due_at IS NOT NULL AND w.lease_until IS NULL), n.id
FROM lanes n WHERE n.id {{in:ids}}
""")  # noqa: S608 - the kind's own word


def accounts_of(account: str, operator: str) -> list[str]:
    """Whose lanes the account may see: its own.

    Lanes of the deployment itself belong to no account; the operator's looks after them.
    """
    return [account, ""] if account == operator else [account]


class Lanes:
    """The lanes of these kinds, as the account may see them."""

    def __init__(self, kinds: Sequence[AnyKind], notes: Sequence[Notes], operator: str) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._notes = notes
        self._operator = operator

    @property
    def kinds(self) -> list[str]:
        """Their names."""
        return list(self._kinds)

    def page(
        self, tx: Tx, account: str, *, kind: str | None, stopped: bool, after: str, limit: int
    ) -> list[dict[str, Any]]:
        """Up to `limit` lanes above the id `after`."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            rows = tx.dicts(
                _LIST,
                accounts=accounts_of(account, self._operator),
                kinds=[name for name in self._kinds if kind in (None, name)],
                stopped=int(stopped),
                after=after,
                limit=limit,
            )
            found += self._views(tx, rows, empty_too=False)
            if len(rows) < limit:
                break
            after = rows[-1]["id"]
        return found[:limit]

    def get(self, tx: Tx, account: str, lane: str) -> dict[str, Any]:
        """One lane with the log of its circuit. NotFound if it is not the account's."""
        (view,) = self._views(tx, [self._row(tx, account, lane)])
        log = [
            entry | {"at": to_iso(entry["at"]), "open_until": _iso(entry["open_until"])}
            for entry in circuit.history(tx, lane, MOST_LOGGED)
        ]
        return view | {"log": log}

    def change(self, tx: Tx, account: str, lane: str, changes: Mapping[str, Any]) -> None:
        """Pause or resume it, or give it other limits; what its service pauses stays paused."""
        self._row(tx, account, lane)
        given = dict(changes)
        if "paused" in given:
            given["paused_by_hand"] = given.pop("paused")
        if "rate" in given:
            # A tenth of a second's worth besides the one: what a worker that looks a little late
            # would lose otherwise.
            rate = given["rate"]
            given["burst"] = 1.0 if rate is None else 1.0 + rate / 10
        lanes.configure(tx, lane, **given)

    def hold(
        self, tx: Tx, account: str, lane: str, state: str, seconds: float, actor: str, reason: str
    ) -> None:
        """Hold its circuit ``open`` or ``closed`` for so long."""
        kind = self._kinds[self._row(tx, account, lane)["kind"]]
        move = circuit.force_open if state == "open" else circuit.force_closed
        move(tx, lane, seconds, actor=actor, reason=reason, on_change=kind.on_circuit)
        lanes.wake(tx, kind.name, lane, delay=seconds if state == "open" else 0.0)

    def release(self, tx: Tx, account: str, lane: str, actor: str, reason: str) -> None:
        """Leave its circuit to itself again."""
        kind = self._row(tx, account, lane)["kind"]
        if circuit.release(tx, lane, actor=actor, reason=reason):
            lanes.wake(tx, kind, lane)

    def _row(self, tx: Tx, account: str, lane: str) -> dict[str, Any]:
        found = tx.dicts(_ONE, id=lane, accounts=accounts_of(account, self._operator))
        if not found or found[0]["kind"] not in self._kinds:
            raise NotFound("There is no such lane.")
        return found[0]

    def _noted(self, tx: Tx, ids: Sequence[str]) -> dict[str, LaneNote]:
        noted: dict[str, LaneNote] = {}
        for notes in self._notes:
            noted.update(notes(tx, ids))
        return noted

    def _views(
        self, tx: Tx, rows: Sequence[Mapping[str, Any]], *, empty_too: bool = True
    ) -> list[dict[str, Any]]:
        """These lanes; those that lead nowhere any more and are empty on request only."""
        depth: dict[str, tuple[int, int, int | None]] = {}
        for name in {row["kind"] for row in rows}:
            ids = [row["id"] for row in rows if row["kind"] == name]
            for waiting, held, oldest, id_ in tx.rows(
                _depth(self._kinds[name].table), ids=ids, most=MOST_COUNTED + 1
            ):
                depth[id_] = waiting, held, oldest
        noted = self._noted(tx, [row["id"] for row in rows])
        now = tx.now()
        views = []
        for row in rows:
            note = noted.get(row["id"])
            view = _view(row, depth.get(row["id"], (0, 0, None)), note, now)
            held = view["waiting"]["count"] or view["in_flight"]
            if empty_too or held or note is None or not note.gone:
                views.append(view)
        return views


def _view(
    row: Mapping[str, Any], depth: tuple[int, int, int | None], note: LaneNote | None, now: int
) -> dict[str, Any]:
    waiting, held, oldest = depth
    state = _state(row, now)
    return {
        "lane": row["id"],
        "kind": row["kind"],
        "title": note.title if note is not None else _title(row),
        "leads_to": note.page if note is not None else None,
        "state": state,
        "paused": bool(row["paused_by_hand"]),
        "paused_because": _because(row, note),
        "opens_at": to_iso(row["open_at"]) if row["open_at"] > now else None,
        "rate": row["rate"],
        "max_in_flight": row["max_in_flight"],
        "in_flight": held,
        "waiting": {"count": min(waiting, MOST_COUNTED), "more": waiting > MOST_COUNTED},
        "next_due_at": _iso(oldest),
        "late": max(0.0, (now - oldest) / SECOND) if oldest is not None else 0.0,
        "circuit": row["circuit"],
        "failures_in_a_row": row["consecutive"],
        "trips_at": row["trip_after"],
        "trips": row["trips"],
        "held": row["held"],
        "held_until": _iso(row["held_until"]),
        "created_at": to_iso(row["created_at"]),
    }


def _title(row: Mapping[str, Any]) -> str:
    """What the id says beside kind and account: a job's name, and the lane within it."""
    rest = str(row["id"]).partition(":")[2]
    if rest == row["account"]:
        return str(row["kind"]).replace("_", " ")
    return rest.removeprefix(f"{row['account']}:")


def _because(row: Mapping[str, Any], note: LaneNote | None) -> str | None:
    if not row["paused"]:
        return None
    return "its service keeps it so" if note is None else note.paused_because


def _state(row: Mapping[str, Any], now: int) -> str:
    if row["paused"] or row["paused_by_hand"]:
        return "paused"
    if row["circuit"] == "open":
        return "circuit_open"
    if row["circuit"] == "half_open":
        return "probing"
    return "waiting" if row["open_at"] > now else "passing"


def _iso(instant: int | None) -> str | None:
    return None if instant is None else to_iso(instant)
