"""Uploaded files: their rows in the database. Their bytes are objects, which never change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import Conflict, NotFound
from penstock.ids import HIGHEST, new_id
from penstock.predictions.specs import FileSpec, JsonObject
from penstock.storage import Tx, sql
from penstock.storage.doomed import doom
from penstock.storage.objects import of_account

CONTENT: Final = "content"
PACKED: Final = "packed"

_INSERT = sql("""
INSERT INTO uploads (id, account, folder, status, filename, size, sha256, given, facts, created_at)
VALUES (:id, :account, :folder, 'receiving', :filename, :size, :sha256, '{}', '{}', {now})
""")
_COMPLETE = sql("""
UPDATE uploads SET status = 'ready', filename = :filename, size = :size, sha256 = :sha256,
  given = :given, layout = :layout, facts = :facts
WHERE id = :id AND status = 'receiving'
""")
_COLUMNS = """
SELECT id, account, folder, filename, size, sha256, given, layout, facts, created_at FROM uploads
"""
_ONE = sql(f"{_COLUMNS} WHERE id = :id AND account = :account AND status = 'ready'")
_ANNOUNCED = sql("""
SELECT folder, status, filename, size, sha256 FROM uploads
WHERE id = :id AND account = :account AND sha256 <> ''
""")
_PAGE = sql(f"""
{_COLUMNS} WHERE account = :account AND status = 'ready' AND id < :before
ORDER BY id DESC LIMIT :limit
""")
_ANSWER = sql("""
UPDATE uploads SET given = :given, layout = :layout, facts = :facts
WHERE id = :id AND account = :account
""")
_DELETE = sql("DELETE FROM uploads WHERE id = :id")
_USED = sql("""
SELECT 1 FROM predictions WHERE upload_id = :id AND status IN ('QUEUED', 'RUNNING')
UNION ALL SELECT 1 FROM model_versions WHERE upload_id = :id AND status = 'TRAINING' LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file. `layout` is None while it has to be asked how to read it (`facts["question"]`)."""

    id: str
    account: str
    folder: str
    filename: str | None
    size: int
    sha256: str
    given: JsonObject
    layout: JsonObject | None
    facts: JsonObject
    created_at: int

    @property
    def file(self) -> FileSpec:
        """What a process needs to know of it."""
        return FileSpec(f"{self.folder}/{CONTENT}", self.size, self.sha256)

    @property
    def names(self) -> list[str]:
        """The names of the columns that its rows have."""
        if self.layout is None:
            return []
        names: list[str] = self.layout["names"]
        return names[: len(names) - bool(self.layout["trailing"])]


@dataclass(frozen=True, slots=True)
class Announced:
    """A file that is sent past the server, as it was announced; `ready` = it has been confirmed."""

    folder: str
    ready: bool
    filename: str | None
    size: int
    sha256: str

    @property
    def packed(self) -> bool:
        """Whether it is to be unpacked."""
        return (self.filename or "").lower().endswith(".gz")

    @property
    def key(self) -> str:
        """Where it is sent to. What is unpacked has another: the URL may be used once more."""
        return f"{self.folder}/{PACKED if self.packed else CONTENT}"


def begin(tx: Tx, account: str, announced: Announced | None = None) -> tuple[str, str]:
    """A file comes in; answers its id and the key of its objects.

    It is noted before its first byte is stored, so that one that never comes to its end is
    found and deleted.
    """
    id_ = new_id("upl")
    folder = of_account(account, "uploads", id_)
    told = announced or Announced("", False, None, 0, "")
    about = {"filename": told.filename, "size": told.size, "sha256": told.sha256}
    tx.run(_INSERT, id=id_, account=account, folder=folder, **about)
    return id_, folder


def announced(tx: Tx, account: str, upload_id: str) -> Announced:
    """What was said of a file that is sent past the server. NotFound."""
    found = tx.one(_ANNOUNCED, id=upload_id, account=account)
    if found is None:
        raise NotFound("There is no such upload.")
    folder, status, filename, size, sha256 = found
    return Announced(folder, status == "ready", filename, size, sha256)


def complete(
    tx: Tx,
    upload_id: str,
    *,
    filename: str | None,
    size: int,
    sha256: str,
    given: Mapping[str, Any],
    looked: Mapping[str, Any],
) -> None:
    """The file is there, and was looked at."""
    done = tx.run(
        _COMPLETE,
        id=upload_id,
        filename=filename,
        size=size,
        sha256=sha256,
        given=json.dumps(given),
        **_looked(looked),
    )
    if not done:  # it came in for longer than anybody waits
        raise NotFound("There is no such upload.")


def discard(tx: Tx, upload_id: str, folder: str, *, again: float = 0.0) -> None:
    """Forget a file that did not come to its end, or cannot be used.

    `again`: seconds for which somebody may still send it.
    """
    tx.run(_DELETE, id=upload_id)
    doom(tx, folder, again=again)


def answer(tx: Tx, upload: Upload, given: Mapping[str, Any], looked: Mapping[str, Any]) -> None:
    """Its owner said how to read it, and it was looked at again."""
    values = {"given": json.dumps(given), **_looked(looked)}
    tx.run(_ANSWER, id=upload.id, account=upload.account, **values)


def _looked(looked: Mapping[str, Any]) -> dict[str, Any]:
    layout = looked["layout"]
    return {
        "layout": None if layout is None else json.dumps(layout),
        "facts": json.dumps(looked["facts"]),
    }


def get(tx: Tx, account: str, upload_id: str) -> Upload:
    """The upload. NotFound if it is not the account's."""
    found = tx.dicts(_ONE, id=upload_id, account=account)
    if not found:
        raise NotFound("There is no such upload.")
    return _upload(found[0])


def page(tx: Tx, account: str, before: str | None, limit: int) -> list[Upload]:
    """Up to `limit` uploads, newest first, below the id `before`."""
    rows = tx.dicts(_PAGE, account=account, before=before or HIGHEST, limit=limit)
    return [_upload(row) for row in rows]


def delete(tx: Tx, account: str, upload_id: str) -> None:
    """Delete it. NotFound; Conflict while something still reads it."""
    upload = get(tx, account, upload_id)
    if tx.one(_USED, id=upload_id) is not None:
        raise Conflict("A prediction or a training still reads this upload: cancel it first.")
    tx.run(_DELETE, id=upload_id)
    doom(tx, upload.folder)


def _upload(row: Mapping[str, Any]) -> Upload:
    values = dict(row)
    for name in ("given", "layout", "facts"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Upload(**values)
