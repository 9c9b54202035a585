"""Imports: a CSV whose rows become shipments, as work of the engine.

The file is stored in parts of one size while it comes in, as UTF-8, so no more than a part of it is
ever in memory. Each step of the work reads on from where the last one ended, and its settlement
makes the shipments of some rows, notes the rows that could not be used, and moves on, in one
commit: whatever dies in between, no row is done twice nor left out. Importing a file again makes no
shipment twice: a number that is followed is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from penstock.clock import SECOND
from penstock.errors import NotFound, Refused
from penstock.ids import HIGHEST, new_id
from penstock.storage import Database, Tx, sql
from penstock.storage.retention import Rule, batches
from penstock.tracking import columns, shipments
from penstock.tracking.columns import Head
from penstock.tracking.credentials import Credentials
from penstock.tracking.sheet import MOST_BYTES, Fault, Place, Row, read
from penstock.tracking.shipments import NewShipment
from penstock.tracking.views import iso
from penstock.work import lanes
from penstock.work.emit import Emit
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Done, Outcome

IMPORT: Final = "shipment_import"  # the kind of work
AT_ONCE: Final = 1  # imports of one account that take a step at the same time
ROWS: Final = 100  # of one step
PART: Final = 256 * 1024  # bytes
MOST: Final = 20 * 2**20  # bytes of one file
MOST_ERRORS: Final = 10_000  # rows whose faults are kept; beyond, they are only counted
KEEP: Final = 30 * 86400.0  # seconds that an import is kept
ABANDONED: Final = 86400.0  # seconds after which a file that never came to its end is deleted

_WINDOW: Final = 2 * MOST_BYTES  # bytes looked at in one step

_INSERT = sql("""
INSERT INTO shipment_imports (id, account, status, options, cursor, row, created_at, lane)
VALUES (:id, :account, 'receiving', :options, :cursor, :row, {now}, :lane)
""")
_PART = sql("""
INSERT INTO shipment_import_parts (import_id, number, content) VALUES (:id, :number, :content)
""")
_COMPLETE = sql("""
UPDATE shipment_imports SET status = 'pending', size = :size, due_at = {now}
WHERE id = :id AND status = 'receiving' RETURNING lane
""")
_DISCARD = sql("DELETE FROM shipment_imports WHERE id = :id AND status = 'receiving'")

_LOAD = sql("""
SELECT id, account, options, size, cursor, row, inside, failed FROM shipment_imports
WHERE id {in:ids}
""")
_PARTS = sql("""
SELECT content FROM shipment_import_parts
WHERE import_id = :id AND number >= :first AND number <= :last ORDER BY number
""")
_STATUS = sql("SELECT status FROM shipment_imports WHERE id = :id")
_MOVE = sql("""
UPDATE shipment_imports SET cursor = :cursor, row = :row, inside = :inside,
  created = created + :created, existing = existing + :existing, failed = failed + :failed
WHERE id = :id
""")
_ERROR = sql("""
INSERT INTO shipment_import_errors (import_id, row, code, message, field)
VALUES (:id, :row, :code, :message, :field)
""")
_ENDED = sql("UPDATE shipment_imports SET ended_at = {now} WHERE id = :id")
_FORGET = sql("DELETE FROM shipment_import_parts WHERE import_id {in:ids}")

_COLUMNS = """
SELECT id, status, options, size, cursor, row, created, existing, failed, created_at, ended_at,
  last_error
FROM shipment_imports
"""
_ONE = sql(f"{_COLUMNS} WHERE id = :id AND account = :account")
_PAGE = sql(f"""
{_COLUMNS} WHERE account = :account AND id < :before
ORDER BY id DESC LIMIT :limit
""")
_ERRORS = sql("""
SELECT row, code, message, field FROM shipment_import_errors
WHERE import_id = :id AND row > :after ORDER BY row LIMIT :limit
""")
_CANCEL = sql("""
UPDATE shipment_imports SET status = 'cancelled', due_at = NULL, ended_at = {now}
WHERE id = :id AND account = :account AND status = 'pending'
""")

_OLD = """
(status <> 'pending' AND created_at <= {now} - :age)
  OR (status = 'receiving' AND created_at <= {now} - :abandoned)
"""
_PRUNE = sql(f"""
DELETE FROM shipment_imports WHERE id IN
  (SELECT id FROM shipment_imports WHERE {_OLD} ORDER BY created_at LIMIT :limit)
""")  # noqa: S608
_PRUNABLE = sql(f"SELECT count(*) FROM shipment_imports WHERE {_OLD}")  # noqa: S608
_AGES: Final = {"age": int(KEEP * SECOND), "abandoned": int(ABANDONED * SECOND)}


@dataclass(frozen=True, slots=True)
class Import:
    """An import under way: how to read it, and where to go on."""

    id: str
    account: str
    head: Head
    carrier: str | None
    size: int
    place: Place
    failed: int


# ------------------------------------------------------------------ taking a file in


def begin(
    tx: Tx, account: str, head: Head, place: Place, *, carrier: str | None, filename: str | None
) -> str:
    """Make room for a file whose rows begin at `place`; answers its id."""
    id_, lane = new_id("imp"), f"{IMPORT}:{account}"
    lanes.ensure(tx, lane, kind=IMPORT, account=account, max_in_flight=AT_ONCE)
    options = {
        "delimiter": head.delimiter,
        "columns": list(head.columns),
        "carrier": carrier,
        "filename": filename,
    }
    tx.run(
        _INSERT,
        id=id_,
        account=account,
        options=json.dumps(options),
        cursor=place.at,
        row=place.row,
        lane=lane,
    )
    return id_


def append(tx: Tx, import_id: str, number: int, content: bytes) -> None:
    """Store part `number` (from 0) of the file: `PART` bytes, but for the last one."""
    tx.run(_PART, id=import_id, number=number, content=content)


def complete(tx: Tx, import_id: str, size: int) -> None:
    """The file is there: its rows are owed from this commit on."""
    row = tx.one(_COMPLETE, id=import_id, size=size)
    if row is None:  # it came in for longer than anybody waits
        raise NotFound("There is no such import.")
    lanes.wake(tx, IMPORT, row[0])


def discard(tx: Tx, import_id: str) -> None:
    """Forget a file that did not come to its end."""
    tx.run(_DISCARD, id=import_id)


# ------------------------------------------------------------------ for people


def get(tx: Tx, account: str, import_id: str) -> dict[str, Any]:
    """The import as the API shows it. NotFound if it is not the account's."""
    found = tx.dicts(_ONE, id=import_id, account=account)
    if not found:
        raise NotFound("There is no such import.")
    return _view(found[0])


def page(tx: Tx, account: str, before: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` imports, newest first, below the id `before`."""
    rows = tx.dicts(_PAGE, account=account, before=before or HIGHEST, limit=limit)
    return [_view(row) for row in rows]


def errors(
    tx: Tx, account: str, import_id: str, after: int | None, limit: int
) -> list[dict[str, Any]]:
    """Rows that could not be used, in the file's order. NotFound if it is not the account's."""
    get(tx, account, import_id)
    return [
        {"row": row, "code": code, "message": message, "column": field}
        for row, code, message, field in tx.rows(
            _ERRORS, id=import_id, after=after or 0, limit=limit
        )
    ]


def cancel(tx: Tx, account: str, import_id: str) -> None:
    """Look at no more rows; the shipments that were made stay. NotFound if not the account's."""
    if not tx.run(_CANCEL, id=import_id, account=account):
        get(tx, account, import_id)
        return
    forget(tx, [import_id])


def forget(tx: Tx, ids: Sequence[str]) -> None:
    """Delete the files of imports that have ended."""
    tx.run(_FORGET, ids=list(ids))


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "import_id": row["id"],
        "status": row["status"],
        "filename": json.loads(row["options"])["filename"],
        "bytes_total": row["size"],
        "bytes_done": row["cursor"],
        "rows_done": row["row"] - 1,
        "created": row["created"],
        "existing": row["existing"],
        "failed": row["failed"],
        "created_at": iso(row["created_at"]),
        "ended_at": iso(row["ended_at"]),
        "last_error": row["last_error"],
    }


# ------------------------------------------------------------------ the work


def _load(tx: Tx, claims: Sequence[Claim]) -> Mapping[str, Import]:
    found = {}
    ids = [claim.id for claim in claims]
    for id_, account, options, size, cursor, row, inside, failed in tx.rows(_LOAD, ids=ids):
        how = json.loads(options)
        found[id_] = Import(
            id_,
            account,
            Head(how["delimiter"], tuple(how["columns"])),
            how["carrier"],
            size,
            Place(cursor, row, bool(inside)),
            failed,
        )
    return found


def _window(tx: Tx, work: Import) -> bytes:
    """The file from where the work goes on, as far as one step looks."""
    at = work.place.at
    first, skip = divmod(at, PART)
    rows = tx.rows(_PARTS, id=work.id, first=first, last=(at + _WINDOW) // PART)
    return b"".join(bytes(content) for (content,) in rows)[skip : skip + _WINDOW]


def _write(
    work: Import,
    after: Place,
    found: Sequence[NewShipment | Fault],
    numbers: Sequence[int],
    credentials: Credentials,
    emit: Emit,
    tx: Tx,
) -> None:
    if tx.one(_STATUS, id=work.id) == ("cancelled",):  # since the step was begun
        return
    created = existing = 0
    faults: list[Fault] = []
    for number, each in zip(numbers, found, strict=True):
        if isinstance(each, Fault):
            faults.append(each)
            continue
        try:
            made = shipments.create(tx, work.account, each, credentials=credentials, emit=emit)
        except Refused as refused:  # before anything was written
            column = (refused.pointer or "/").removeprefix("/") or None
            faults.append(Fault(number, refused.code, refused.message, column))
        else:
            created += made.new
            existing += not made.new
    kept = faults[: max(0, MOST_ERRORS - work.failed)]
    if kept:
        tx.many(
            _ERROR,
            [
                {
                    "id": work.id,
                    "row": fault.number,
                    "code": fault.code,
                    "message": fault.message,
                    "field": fault.column,
                }
                for fault in kept
            ],
        )
    tx.run(
        _MOVE,
        id=work.id,
        cursor=after.at,
        row=after.row,
        inside=after.inside,
        created=created,
        existing=existing,
        failed=len(faults),
    )


def _ended(tx: Tx, claim: Claim, status: str, reason: str) -> None:
    tx.run(_ENDED, id=claim.id)
    if status == "done":
        forget(tx, [claim.id])


def import_kind(
    *, database: Database, credentials: Credentials, emit: Emit, lease: float = 60.0
) -> Kind[Import]:
    """The kind of work that makes shipments of rows."""

    async def handle(task: Task[Import]) -> Outcome:
        work = task.data
        window = await database.read(lambda tx: _window(tx, work))
        final = work.place.at + len(window) >= work.size
        records, after = read(
            window, work.place, final=final, delimiter=work.head.delimiter, most=ROWS
        )
        found = [_judged(record, work, credentials) for record in records]
        numbers = [record.number for record in records]
        write = partial(_write, work, after, found, numbers, credentials, emit)
        return Done(None if after.at >= work.size else 0.0, write)

    return Kind(
        name=IMPORT,
        table="shipment_imports",
        load=_load,
        handle=handle,
        terminal=frozenset({"done", "dead", "cancelled"}),
        lease=lease,
        slots=2,
        max_attempts=10,
        on_end=_ended,
    )


def _judged(record: Row | Fault, work: Import, credentials: Credentials) -> NewShipment | Fault:
    if isinstance(record, Fault):
        return record
    return columns.shipment(record, work.head.columns, work.carrier, credentials.specs)


# ------------------------------------------------------------------ retention


def rules() -> tuple[Rule, ...]:
    """What is kept of imports for a while only."""
    return (Rule("shipment imports", batches(_prune), _prunable, every=3600.0),)


def _prune(tx: Tx) -> int:
    # Each takes its parts and its errors along.
    return tx.run(_PRUNE, limit=5, **_AGES)


def _prunable(tx: Tx) -> int:
    ((n,),) = tx.rows(_PRUNABLE, **_AGES)
    return int(n)
