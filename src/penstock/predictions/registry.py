"""Models: a name with versions that never change, one of which is live.

A version is the work of a training first (`fitting`) and an immutable file then, known by its
SHA-256. Which one is live can be changed and changed back; a prediction keeps the version that it
was asked for with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from penstock.errors import Conflict, NotFound
from penstock.ids import HIGHEST, new_id
from penstock.predictions import starter
from penstock.predictions.refusal import Unusable, quoted
from penstock.predictions.specs import JsonObject, ModelSpec
from penstock.storage import Tx, sql
from penstock.storage.doomed import UNDER_WAY, doom
from penstock.storage.objects import of_account
from penstock.work import lanes

TRAIN: Final = "model_training"  # the kind of work
FILE: Final = "model.json"
How = Literal["trained", "promoted", "rolled back"]

_NUMBERED = re.compile(r"(?P<name>.+)@(?P<number>[0-9]{1,9})")

_ENSURE = sql("""
INSERT INTO models (id, account, name, created_at) VALUES (:id, :account, :name, {now})
ON CONFLICT (account, name) DO NOTHING
""")
_NUMBER = sql("""
UPDATE models SET latest = latest + 1 WHERE account = :account AND name = :name
RETURNING id, latest
""")
_INSERT = sql("""
INSERT INTO model_versions (id, model_id, account, folder, number, status, upload_id, options,
                            promote, created_at, lane, due_at)
VALUES (:id, :model_id, :account, :folder, :number, 'TRAINING', :upload_id, :options,
        :promote, {now}, :lane, {now})
""")
_MODEL = """SELECT id, account, name, live, latest, created_at FROM models"""
_ONE = sql(f"{_MODEL} WHERE id = :id AND account = :account")
_LOCKED = sql(f"{_MODEL} WHERE id = :id AND account = :account {{lock}}")
_PAGE = sql(f"""
{_MODEL} WHERE account = :account AND id < :before ORDER BY id DESC LIMIT :limit
""")
_BY_NAME = sql(f"{_MODEL} WHERE account = :account AND (name = :name OR id = :name)")
_ALL_LIVE = sql(f"{_MODEL} WHERE account = :account AND live IS NOT NULL ORDER BY id LIMIT 6")

_VERSION = """
SELECT id, model_id, account, folder, number, status, upload_id, options, sha256, summary,
  error_code, error, question, created_at, ended_at
FROM model_versions
"""
_VERSIONS = sql(f"{_VERSION} WHERE model_id = :model_id ORDER BY number DESC LIMIT 100")
_NUMBERED_ONE = sql(f"{_VERSION} WHERE model_id = :model_id AND number = :number")
_LIVE = sql("UPDATE models SET live = :number WHERE id = :id")
_PROMOTED = sql("""
INSERT INTO model_promotions (id, model_id, number, previous, how, at)
VALUES (:id, :model_id, :number, :previous, :how, {now})
""")
_PROMOTIONS = sql("""
SELECT number, previous, how, at FROM model_promotions
WHERE model_id = :model_id ORDER BY id DESC LIMIT 100
""")
_CANCEL = sql("""
UPDATE model_versions SET status = 'CANCELLED', due_at = NULL, ended_at = {now}
WHERE id = :id AND status = 'TRAINING'
""")
_FOLDERS = sql("SELECT folder FROM model_versions WHERE model_id = :model_id")
_SCORING = sql("""
SELECT 1 FROM predictions WHERE model_id = :model_id AND status IN ('QUEUED', 'RUNNING') LIMIT 1
""")
_DELETE = sql("DELETE FROM models WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Model:
    """A name and its versions; `live` is the number of the one that the name stands for."""

    id: str
    account: str
    name: str
    live: int | None
    latest: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Version:
    """A version. `sha256` and `summary` are there once its status is READY."""

    id: str
    model_id: str
    account: str
    folder: str
    number: int
    status: str
    upload_id: str
    options: JsonObject
    sha256: str | None
    summary: JsonObject | None
    error_code: str | None
    error: str | None
    question: str | None
    created_at: int
    ended_at: int | None

    @property
    def spec(self) -> ModelSpec:
        """Its file. Conflict if there is none."""
        if self.status != "READY" or self.sha256 is None:
            raise Conflict(f"Version {self.number} has no model: it is {self.status}.")
        return ModelSpec(f"{self.folder}/{FILE}", self.sha256)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model that a file is scored by; without an id it is the starter model."""

    spec: ModelSpec
    name: str
    id: str | None = None
    number: int | None = None

    @property
    def memory(self) -> str:
        """By what its mappings are remembered: all versions of a model share them."""
        return self.id or starter.NAME


STARTER: Final = starter.NAME


def the_starter() -> Chosen:
    """The model that ships with Penstock."""
    return Chosen(ModelSpec(None, starter.sha256()), STARTER)


# ------------------------------------------------------------------ choosing


def choose(tx: Tx, account: str, asked: str | None) -> Chosen:
    """The model of a request: a name or an id, ``name@3`` for a version that is not live.

    Without a name it is the account's only live model, or the starter model while there is none.
    Raises `Unusable`.
    """
    if asked is None:
        live = _all_live(tx, account)
        if not live:
            return the_starter()
        if len(live) > 1:
            raise Unusable(
                "unknown_model",
                "There are several models: "
                + ", ".join(quoted(model.name) for model in live[:5])
                + ". Say which one.",
            )
        return _chosen(tx, live[0], live[0].live)
    if asked == STARTER:
        return the_starter()
    name, number = asked, None
    if (match := _NUMBERED.fullmatch(asked)) is not None:
        name, number = match["name"], int(match["number"])
    found = _models(tx.dicts(_BY_NAME, account=account, name=name))
    if not found:
        raise Unusable("unknown_model", f"There is no model {quoted(name)}.")
    number = found[0].live if number is None else number
    if number is None:
        raise Unusable(
            "unknown_model",
            f"The model {quoted(name)} has no live version. Wait for its training, or promote one.",
        )
    return _chosen(tx, found[0], number)


def presumed(tx: Tx, account: str) -> Chosen | None:
    """The model that a request without a name means; None if the account has several."""
    return None if len(_all_live(tx, account)) > 1 else choose(tx, account, None)


def _all_live(tx: Tx, account: str) -> list[Model]:
    return _models(tx.dicts(_ALL_LIVE, account=account))


def _chosen(tx: Tx, model: Model, number: int | None) -> Chosen:
    rows = tx.dicts(_NUMBERED_ONE, model_id=model.id, number=number)
    if not rows or rows[0]["status"] != "READY":
        raise Unusable(
            "unknown_model", f"The model {quoted(model.name)} has no version {number} to score by."
        )
    return Chosen(_version(rows[0]).spec, model.name, model.id, number)


# ------------------------------------------------------------------ training


def begin(
    tx: Tx,
    account: str,
    name: str,
    *,
    upload_id: str,
    options: Mapping[str, Any],
    promote: bool,
) -> tuple[Model, Version]:
    """Have a new version trained; its model is made if there is none of this name."""
    tx.run(_ENSURE, id=new_id("mdl"), account=account, name=name)
    numbered = tx.one(_NUMBER, account=account, name=name)
    assert numbered is not None
    model_id, number = numbered
    id_, lane = new_id("mdv"), f"{TRAIN}:{account}"
    lanes.ensure(tx, lane, kind=TRAIN, account=account, max_in_flight=1)
    tx.run(
        _INSERT,
        id=id_,
        model_id=model_id,
        account=account,
        folder=of_account(account, "models", model_id, id_),
        number=number,
        upload_id=upload_id,
        options=json.dumps(options),
        promote=promote,
        lane=lane,
    )
    lanes.wake(tx, TRAIN, lane)
    return get(tx, account, model_id), version(tx, account, model_id, number)


def cancel(tx: Tx, account: str, model_id: str, number: int) -> None:
    """End a training; doing it again is harmless. NotFound."""
    found = version(tx, account, model_id, number)
    if tx.run(_CANCEL, id=found.id):
        doom(tx, found.folder, again=UNDER_WAY)


# ------------------------------------------------------------------ for people


def get(tx: Tx, account: str, model_id: str) -> Model:
    """The model. NotFound if it is not the account's."""
    found = _models(tx.dicts(_ONE, id=model_id, account=account))
    if not found:
        raise NotFound("There is no such model.")
    return found[0]


def _locked(tx: Tx, account: str, model_id: str) -> Model:
    found = _models(tx.dicts(_LOCKED, id=model_id, account=account))
    if not found:
        raise NotFound("There is no such model.")
    return found[0]


def page(tx: Tx, account: str, before: str | None, limit: int) -> list[Model]:
    """Up to `limit` models, newest first, below the id `before`."""
    return _models(tx.dicts(_PAGE, account=account, before=before or HIGHEST, limit=limit))


def versions(tx: Tx, account: str, model_id: str) -> list[Version]:
    """Its latest hundred versions, the newest first. NotFound."""
    get(tx, account, model_id)
    return [_version(row) for row in tx.dicts(_VERSIONS, model_id=model_id)]


def version(tx: Tx, account: str, model_id: str, number: int) -> Version:
    """One version. NotFound."""
    get(tx, account, model_id)
    rows = tx.dicts(_NUMBERED_ONE, model_id=model_id, number=number)
    if not rows:
        raise NotFound("There is no such version.")
    return _version(rows[0])


def promotions(tx: Tx, model_id: str) -> list[JsonObject]:
    """What was made live, the latest first."""
    return tx.dicts(_PROMOTIONS, model_id=model_id)


def promote(tx: Tx, account: str, model_id: str, number: int, how: How = "promoted") -> None:
    """Make a version live. NotFound; Conflict unless it is ready."""
    model = _locked(tx, account, model_id)
    version(tx, account, model_id, number).spec  # noqa: B018 - Conflict if there is no file
    if model.live != number:
        make_live(tx, model, number, how)


def make_live(tx: Tx, model: Model, number: int, how: How) -> None:
    """Write down that this version is live from now on."""
    tx.run(_LIVE, id=model.id, number=number)
    tx.run(
        _PROMOTED,
        id=new_id("mdp"),
        model_id=model.id,
        number=number,
        previous=model.live,
        how=how,
    )


def roll_back(tx: Tx, account: str, model_id: str) -> None:
    """Make live what was live before. NotFound; Conflict if nothing was."""
    model = _locked(tx, account, model_id)
    before = _before(promotions(tx, model_id))
    if before is None:
        raise Conflict("No other version was live before this one.")
    make_live(tx, model, before, "rolled back")


def _before(latest_first: Sequence[Mapping[str, Any]]) -> int | None:
    """What a rollback leads to: one after another, each goes one promotion further back."""
    depth = 0
    for entry in latest_first:
        if entry["how"] == "rolled back":
            depth += 1
        elif depth:
            depth -= 1
        else:
            previous: int | None = entry["previous"]
            return previous
    return None


def delete(tx: Tx, account: str, model_id: str) -> None:
    """Delete it with its versions. NotFound; Conflict while a file is scored by it."""
    get(tx, account, model_id)
    if tx.one(_SCORING, model_id=model_id) is not None:
        raise Conflict("A prediction still uses this model: wait for it, or cancel it.")
    for (folder,) in tx.rows(_FOLDERS, model_id=model_id):
        doom(tx, folder, again=UNDER_WAY)
    tx.run(_DELETE, id=model_id)


def _models(rows: Sequence[Mapping[str, Any]]) -> list[Model]:
    return [Model(**row) for row in rows]


def _version(row: Mapping[str, Any]) -> Version:
    values = dict(row)
    for name in ("options", "summary"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Version(**values)
