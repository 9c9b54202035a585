"""Uploads, predictions and models as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.clock import SECOND, to_iso
from penstock.predictions.jobs import Prediction
from penstock.predictions.registry import Chosen, Model, Version
from penstock.predictions.uploads import Upload

CERTAIN: Final = 0.95
PACE: Final = 30e6  # bytes a second of one process, before it is known

# The files of a result: their names, and how they are sent.
FILES: Final[Mapping[str, tuple[str, str]]] = {
    "result.csv": ("result?format=csv", "text/csv; charset=utf-8"),
    "result.parquet": ("result?format=parquet", "application/vnd.apache.parquet"),
    "errors.csv": ("errors.csv", "text/csv; charset=utf-8"),
    "report.html": ("report", "text/html; charset=utf-8"),
}


def iso(at: int | None) -> str | None:
    """An instant, or nothing."""
    return None if at is None else to_iso(at)


# ------------------------------------------------------------------ uploads


def upload(found: Upload) -> dict[str, Any]:
    """An upload, as lists show it."""
    layout = found.layout or {}
    return {
        "upload_id": found.id,
        "filename": found.filename,
        "size": found.size,
        "sha256": found.sha256,
        "created_at": to_iso(found.created_at),
        "encoding": layout.get("encoding"),
        "delimiter": layout.get("delimiter"),
        "rows_about": found.facts.get("rows_about"),
        "question": found.facts.get("question"),
    }


def upload_detail(found: Upload, mapping: Mapping[str, Any] | None) -> dict[str, Any]:
    """An upload with its columns."""
    return {
        **upload(found),
        "columns": columns(found),
        "notes": found.facts.get("notes", []),
        "mapping": mapping,
    }


def columns(found: Upload) -> list[dict[str, Any]]:
    """Its columns with their first cells."""
    samples = found.facts.get("samples", [])
    return [
        {
            "position": at + 1,
            "name": name,
            "samples": [row[at] for row in samples if at < len(row)],
        }
        for at, name in enumerate(found.names)
    ]


def mapping(found: Upload, chosen: Chosen, proposed: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping that is proposed."""
    required = set(proposed["required"])
    label = proposed["label"]
    return {
        "model": chosen.name,
        "model_version": chosen.number,
        "demo": chosen.id is None,
        "certain": all(match["confidence"] >= CERTAIN for match in proposed["matches"]),
        "columns": [
            {
                "model_column": match["wanted"],
                "required": match["wanted"] in required,
                "position": None if match["position"] is None else match["position"] + 1,
                "column": match["name"],
                "confidence": match["confidence"],
                "how": match["how"],
            }
            for match in proposed["matches"]
        ],
        "label_column": None if label is None else found.names[label],
    }


# ------------------------------------------------------------------ predictions


def prediction(found: Prediction, now: int) -> dict[str, Any]:
    """A prediction, as lists show it. `now` is the instant of the look."""
    done = max(0, found.next_byte - _start(found))
    total = max(1, found.size - _start(found))
    eta = None
    if found.status == "RUNNING" and found.started_at is not None and done:
        pace = done / max(1, now - found.started_at)
        eta = round((total - done) / pace / SECOND, 1)
    return {
        "prediction_id": found.id,
        "status": found.status,
        "message": _message(found),
        "upload_id": found.upload_id,
        "filename": found.filename,
        "model": found.model_name,
        "model_id": found.model_id,
        "model_version": found.model_number,
        "demo": found.demo,
        "rows_scored": found.rows_scored,
        "rows_set_aside": found.rows_set_aside,
        "bytes_done": found.next_byte,
        "bytes_total": found.size,
        "eta_seconds": eta,
        "error": _error(found.error_code, found.error),
        "last_error": found.last_error if found.status in ("QUEUED", "RUNNING") else None,
        "first_error": found.first_error,
        "created_at": to_iso(found.created_at),
        "started_at": iso(found.started_at),
        "ended_at": iso(found.ended_at),
    }


def created(found: Prediction, now: int) -> dict[str, Any]:
    """A prediction with about how much there is to do."""
    seconds = round(1.0 + found.size / PACE, 1)
    estimate = {"rows": found.options["rows_about"], "seconds": seconds}
    return {**prediction(found, now), "estimate": estimate}


def detail(found: Prediction, now: int) -> dict[str, Any]:
    """A prediction with what it found."""
    result = found.result if found.status == "COMPLETED" else None
    summary = None
    if result is not None:
        path = f"/v1/predictions/{found.id}"
        files = {
            name: {"url": f"{path}/{FILES[name][0]}", **each}
            for name, each in result["files"].items()
        }
        summary = {**result, "files": files}
    return {
        **prediction(found, now),
        "on_bad_row": "reject" if found.options["reject"] else "quarantine",
        "as_of": found.options["as_of"],
        "summary": summary,
    }


def _start(found: Prediction) -> int:
    start: int = found.options["layout"]["start"]
    return start


def _error(code: str | None, message: str | None) -> dict[str, Any] | None:
    return None if code is None else {"code": code, "message": message or ""}


def _message(found: Prediction) -> str:
    demo = " By the starter model, a demonstration: do not act on it." if found.demo else ""
    match found.status:
        case "QUEUED":
            if found.last_error:
                return f"Waits to be tried again: {found.last_error}"
            return f"Accepted: it will be scored in its turn.{demo}"
        case "RUNNING":
            return f"{found.rows_scored:,} customers are scored so far.{demo}"
        case "COMPLETED":
            aside = found.rows_set_aside
            were = "row was" if aside == 1 else "rows were"
            bad = f" {aside:,} {were} set aside: see errors.csv." if aside else ""
            return f"{found.rows_scored:,} customers were scored.{bad}{demo}"
        case "CANCELLED":
            return "Cancelled: there is no result."
        case _:
            return f"Not scored: {found.error or 'the reason is in the log.'}"


# ------------------------------------------------------------------ models


def model(found: Model) -> dict[str, Any]:
    """A model, as lists show it."""
    return {
        "model_id": found.id,
        "name": found.name,
        "live_version": found.live,
        "latest_version": found.latest,
        "created_at": to_iso(found.created_at),
    }


def version(found: Version, of: Model) -> dict[str, Any]:
    """A version."""
    messages = {
        "TRAINING": "It is being trained, or waits for its turn.",
        "READY": "It is live." if of.live == found.number else "Ready; promote it to make it live.",
        "CANCELLED": "Cancelled: there is no model.",
    }
    return {
        "model_id": of.id,
        "model": of.name,
        "version": found.number,
        "status": found.status,
        "live": of.live == found.number,
        "message": messages.get(found.status) or f"Not trained: {found.error}",
        "upload_id": found.upload_id,
        "asked": _asked(found.options),
        "sha256": found.sha256,
        "trained": found.summary,
        "error": _error(found.error_code, found.error),
        "question": found.question,
        "created_at": to_iso(found.created_at),
        "ended_at": iso(found.ended_at),
    }


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    other = {
        "label": "label_column",
        "id": "id_column",
        "positive": "positive_label",
        "negative": "negative_label",
    }
    return {other.get(name, name): value for name, value in options.items()}


def model_detail(
    found: Model, versions: Sequence[Version], promotions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A model with its versions."""
    return {
        **model(found),
        "versions": [version(each, found) for each in versions],
        "promotions": [
            {
                "version": each["number"],
                "previous": each["previous"],
                "how": each["how"],
                "at": to_iso(each["at"]),
            }
            for each in promotions
        ],
    }
