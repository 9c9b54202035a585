"""Predictions: a file dropped, its columns confirmed, its scoring watched, its report read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from penstock.console import files, plots_predictions, shown_predictions
from penstock.console.calls import Refused, part
from penstock.console.outcomes import MOST_BYTES, told
from penstock.console.pages import Desk, Visit

_STATUSES = ("QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
_AT_ONCE: Final = 10_000  # outcomes of one request
FEW: Final = 100  # columns that a list to choose from may have, for each of the model's
STARTER: Final = "starter"
_READINGS: Final = ("delimiter", "encoding", "header_row")
_ENCODINGS: Final = (
    ("utf-8", "UTF-8"),
    ("utf-16", "UTF-16"),
    ("cp1252", "Windows, western (cp1252)"),
    ("cp1250", "Windows, central European (cp1250)"),
    ("cp1251", "Windows, Cyrillic (cp1251)"),
    ("latin-1", "Latin 1"),
    ("iso-8859-2", "Latin 2"),
    ("iso-8859-15", "Latin 9"),
)


def add(desk: Desk) -> None:
    """Add the pages."""
    desk.show(**shown_predictions.FILTERS)

    async def listed(visit: Visit, status: int, message: str) -> Response:
        wanted = visit.query.get("status", "").upper()
        asked = {"status": wanted if wanted in _STATUSES else ""}
        page = await visit.api(
            "GET", "/v1/predictions", asked | {"cursor": visit.query.get("cursor")}
        )
        uploads = await visit.api("GET", "/v1/uploads", {"limit": 10})
        return visit.render(
            "predictions.html",
            status,
            page=page,
            asked=asked,
            statuses=_STATUSES,
            files=uploads["items"],
            message=message,
        )

    @desk.page("/predictions")
    async def predictions(visit: Visit) -> Response:
        return await listed(visit, 200, "")

    @desk.action("/predictions", file=True)
    async def upload_to_score(visit: Visit) -> Response:
        try:
            made = await visit.pass_file("/v1/uploads", {"model": await _usual(visit)})
        except Refused as refused:
            _unless_shown(refused)
            return await listed(visit, refused.status, refused.detail)
        return visit.go(f"/predictions/new/{part(made['upload_id'])}", "The file was uploaded.")

    @desk.page("/predictions/template.csv")
    async def churn_template_file(visit: Visit) -> Response:
        model = visit.query.get("model") or await _usual(visit)
        return visit.fetch("/v1/templates/churn.csv", {"model": model})

    _add_new(desk)
    _add_one(desk)


# ------------------------------------------------------------------ a file before it is scored


def _add_new(desk: Desk) -> None:
    async def confirm(
        visit: Visit,
        model: str,
        *,
        status: int = 200,
        message: str = "",
        given: Mapping[str, str] | None = None,
        errors: Mapping[str, str] | None = None,
        chosen: Mapping[str, str] | None = None,
    ) -> Response:
        id_ = part(visit.path("upload_id"))
        try:
            file = await visit.api("GET", f"/v1/uploads/{id_}", {"model": model})
        except Refused as refused:
            if refused.code != "unknown_model" or model == STARTER:
                raise
            file = await visit.api("GET", f"/v1/uploads/{id_}", {"model": STARTER})
            model, message, status = STARTER, refused.detail, refused.status
        mapping = file["mapping"]
        return visit.render(
            "prediction_new.html",
            status,
            file=file,
            model=model,
            models=await _models(visit, model),
            lines=[] if mapping is None else _lines(file, chosen),
            proposed={} if mapping is None else _proposed(mapping),
            few=len(file["columns"]) <= FEW,
            delimiters=[(c, f"{name} {c if c.strip() else ''}")
                        for c, name in shown_predictions.DELIMITERS.items()],
            encodings=_ENCODINGS,
            message=message,
            given={"on_bad_row": "quarantine"} | dict(given or {}),
            errors=dict(errors or {}),
        )  # fmt: skip

    @desk.page("/predictions/new/{upload_id}")
    async def confirm_columns(visit: Visit) -> Response:
        return await confirm(visit, visit.query.get("model") or await _usual(visit))

    @desk.action("/predictions/new/{upload_id}")
    async def score_upload(visit: Visit) -> Response:
        form, model = visit.form, visit.form["model"]
        chosen = dict(zip(form.all("want"), form.all("to"), strict=False))
        body: dict[str, Any] = {
            "upload_id": visit.path("upload_id"),
            "model": model,
            "mapping": {want: to.strip() for want, to in chosen.items() if to.strip()},
            "allow_missing": [want for want, to in chosen.items() if not to.strip()],
            "on_bad_row": form["on_bad_row"] or "quarantine",
            "force": form["force"] == "yes",
        }
        if form["as_of"]:
            body["as_of"] = form["as_of"]
        try:
            made = await visit.api("POST", "/v1/predictions", body=body)
        except Refused as refused:
            _unless_shown(refused)
            errors = _fields(refused)
            if (
                refused.option == "mapping"
                or refused.code in ("unknown_column", "missing_column")
                or not errors
            ):
                errors["mapping"] = refused.detail
            return await confirm(
                visit, model, status=422, given=form.given(), errors=errors, chosen=chosen
            )
        return visit.go(f"/predictions/{part(made['prediction_id'])}", made["message"])

    @desk.action("/predictions/new/{upload_id}/read")
    async def read_otherwise(visit: Visit) -> Response:
        id_, form = part(visit.path("upload_id")), visit.form
        model = form["model"] or await _usual(visit)
        # A tab is white space, and an answer all the same.
        delimiter = next(iter(form.all("delimiter")), "")
        body: dict[str, Any] = {
            "delimiter": delimiter or None,
            "encoding": form["encoding"] or None,
            "header_row": form["header_row"] or None,
        }
        errors: dict[str, str] = {}
        if body["header_row"] is not None:
            if form["header_row"].isdecimal() and len(form["header_row"]) < 4:
                body["header_row"] = int(form["header_row"])
            else:
                errors["header_row"] = "Write the number of a row, such as 3."
        if not errors:
            try:
                await visit.api("PATCH", f"/v1/uploads/{id_}", {"model": model}, body)
                here = f"/predictions/new/{id_}?model={part(model)}"
                return visit.go(here, "The file was read anew.")
            except Refused as refused:
                _unless_shown(refused)
                errors = _fields(refused) | {"reading": refused.detail}
        return await confirm(visit, model, status=422, given=form.given(), errors=errors)

    @desk.action("/predictions/new/{upload_id}/delete")
    async def delete_upload_file(visit: Visit) -> Response:
        await visit.api("DELETE", f"/v1/uploads/{part(visit.path('upload_id'))}")
        return visit.go("/predictions", "The file was deleted.")


async def _usual(visit: Visit) -> str:
    """The model that files are meant for unless another is chosen: the newest that is live."""
    found = await visit.maybe("/v1/models", {"limit": 100})
    live = [each for each in (found or {"items": []})["items"] if each["live_version"]]
    return live[0]["name"] if live else STARTER


async def _models(visit: Visit, chosen: str) -> list[tuple[str, str]]:
    found = await visit.maybe("/v1/models", {"limit": 100})
    models = [
        (each["name"], f"{each['name']}, version {each['live_version']}")
        for each in (found or {"items": []})["items"]
        if each["live_version"]
    ]
    models.append((STARTER, "starter (a demonstration)"))
    if chosen not in [value for value, _ in models]:
        models.insert(0, (chosen, chosen))
    return models


def _lines(file: Mapping[str, Any], chosen: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """The model's columns, each with what is proposed for it, or was chosen."""
    samples = {each["position"]: each["samples"] for each in file["columns"]}
    lines = []
    for each in file["mapping"]["columns"]:
        wanted, position = each["model_column"], each["position"]
        confidence = each["confidence"]
        if chosen is not None and wanted in chosen:
            number = chosen[wanted].strip().removeprefix("#")
            picked = int(number) if number.isdecimal() and len(number) < 5 else None
            if picked != position:
                position, confidence = picked, 1.0 if picked in samples else 0.0
        lines.append(
            {
                "wanted": wanted,
                "required": each["required"],
                "position": position,
                "confidence": confidence,
                "sure": confidence >= shown_predictions.CERTAIN,
                "samples": samples.get(position, []),
            }
        )
    return lines


def _proposed(mapping: Mapping[str, Any]) -> dict[int, str]:
    return {
        each["position"]: each["model_column"]
        for each in mapping["columns"]
        if each["position"] is not None
    }


# ------------------------------------------------------------------ a prediction


def _add_one(desk: Desk) -> None:
    async def shown(visit: Visit, status: int = 200, message: str = "") -> Response:
        path = f"/v1/predictions/{part(visit.path('prediction_id'))}"
        found = await visit.api("GET", path)
        summary, quality = found["summary"], None
        if summary is not None:
            quality = await visit.api("GET", f"{path}/quality")
        return visit.render(
            "prediction.html",
            status,
            prediction=found,
            summary=summary,
            gave_up=(found["error"] or {}).get("code") == "internal_error",
            spread=None if summary is None else plots_predictions.spread(summary),
            reasons=None if summary is None else plots_predictions.reasons(summary),
            drift_top=_most_drift(summary),
            quality=quality,
            compared=None if quality is None else plots_predictions.reliability(
                quality["reliability"]
            ),
            message=message,
        )  # fmt: skip

    @desk.page("/predictions/{prediction_id}")
    async def prediction(visit: Visit) -> Response:
        return await shown(visit)

    def file(name: str, path: str, query: Mapping[str, str]) -> None:
        @desk.page(f"/predictions/{{prediction_id}}/{name}")
        async def fetch(visit: Visit) -> Response:
            id_ = part(visit.path("prediction_id"))
            return visit.fetch(f"/v1/predictions/{id_}/{path}", query)

    file("result.csv", "result", {"format": "csv"})
    file("result.parquet", "result", {"format": "parquet"})
    file("errors.csv", "errors.csv", {})
    file("report", "report", {})

    @desk.action("/predictions/{prediction_id}/outcomes", file=True)
    async def tell_outcomes(visit: Visit) -> Response:
        id_ = part(visit.path("prediction_id"))
        try:
            if visit.sent is None:
                raise Refused(422, "bad_request", "Choose a file first.")
            outcomes = told(await files.whole(visit.sent, MOST_BYTES))
            stored = missing = twice = 0
            for at in range(0, len(outcomes), _AT_ONCE):
                body = {"outcomes": outcomes[at : at + _AT_ONCE]}
                done = await visit.api("POST", f"/v1/predictions/{id_}/outcomes", body=body)
                stored += done["stored"]
                missing += done["not_found"]
                twice += done["ambiguous"]
        except Refused as refused:
            _unless_shown(refused)
            return await shown(visit, refused.status, refused.detail)
        text = f"{stored:,} outcomes were stored."
        if missing:
            text += f" {missing:,} customers are not in the result."
        if twice:
            text += f" {twice:,} ids are of several rows and were left out."
        return visit.go(f"/predictions/{id_}", text)

    @desk.action("/predictions/{prediction_id}/{action}")
    async def move_prediction(visit: Visit) -> Response:
        id_, action = part(visit.path("prediction_id")), visit.path("action")
        if action == "cancel":
            await visit.api("POST", f"/v1/predictions/{id_}/cancel")
            return visit.go(f"/predictions/{id_}", "No further row is scored.")
        if action == "delete":
            await visit.api("DELETE", f"/v1/predictions/{id_}")
            return visit.go("/predictions", "The prediction was deleted.")
        raise Refused(404, "not_found", "There is nothing at this address.")


def _most_drift(summary: Mapping[str, Any] | None) -> float:
    """What the whole length of a bar stands for; 0.25 is a large shift."""
    found = (summary or {"drift": []})["drift"]
    return max([0.5, *(float(each["psi"]) for each in found)])


def _unless_shown(refused: Refused) -> None:
    """Raise what no field of a form can be blamed for."""
    if refused.status >= 500 or refused.status in (403, 404):
        raise refused


def _fields(refused: Refused) -> dict[str, str]:
    return {pointer.strip("/").partition("/")[0]: text for pointer, text in refused.errors}
