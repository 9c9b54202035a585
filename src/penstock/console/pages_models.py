"""Models: trained from a file, looked into, promoted, rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from penstock.console import plots_predictions
from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Form, Visit
from penstock.console.shown_predictions import plainly

_ONES: Final = ("name", "label_column", "id_column")
_CHOICES: Final = ("as_of", "decimal", "date_order")
# Fields that take several, one in a line: what they are called, and what they mean.
_LISTS: Final = (
    ("drop", "Columns to leave out", "One in a line."),
    ("keep", "Columns to keep", "That look like an id, or too good to be true; one in a line."),
    ("required", "Columns that later files must have filled", "One in a line."),
    ("types", "What columns are", "One in a line: column = number, category, boolean, date, ymd, "
     "dmy, mdy or excel."),
)  # fmt: skip
_FURTHER: Final = (*_CHOICES, *(name for name, _, _ in _LISTS))


def add(desk: Desk) -> None:
    """Add the pages."""

    async def listed(visit: Visit, status: int, message: str) -> Response:
        page = await visit.api("GET", "/v1/models", {"cursor": visit.query.get("cursor")})
        return visit.render("models.html", status, page=page, message=message)

    @desk.page("/models")
    async def models(visit: Visit) -> Response:
        return await listed(visit, 200, "")

    @desk.action("/models", file=True)
    async def upload_to_learn(visit: Visit) -> Response:
        try:
            made = await visit.pass_file("/v1/uploads", {"model": "starter"})
        except Refused as refused:
            if refused.status >= 500 or refused.status == 403:
                raise
            return await listed(visit, refused.status, refused.detail)
        return visit.go(f"/models/new/{part(made['upload_id'])}", "The file was uploaded.")

    _add_training(desk)

    @desk.page("/models/starter")
    async def starter(visit: Visit) -> Response:
        card = await visit.api("GET", "/v1/models/starter/card")
        return _version(visit, "starter", None, card)

    @desk.page("/models/starter/file")
    async def starter_model_file(visit: Visit) -> Response:
        return visit.fetch("/v1/models/starter/file")

    _add_one(desk)


def _version(
    visit: Visit, title: str, version: Mapping[str, Any] | None, card: Mapping[str, Any] | None
) -> Response:
    return visit.render(
        "model_version.html",
        title=title,
        shown=version,
        card=card,
        compared=None if card is None else plots_predictions.reliability(card["reliability"]),
        shapes=[] if card is None else plots_predictions.shapes(card["features"]),
    )


# ------------------------------------------------------------------ training


def _add_training(desk: Desk) -> None:
    async def asked(
        visit: Visit,
        given: Mapping[str, str],
        *,
        status: int = 200,
        message: str = "",
        errors: Mapping[str, str] | None = None,
    ) -> Response:
        id_ = part(visit.path("upload_id"))
        file = await visit.api("GET", f"/v1/uploads/{id_}", {"model": "starter"})
        wrong = dict(errors or {})
        return visit.render(
            "model_new.html",
            status,
            file=file,
            columns=[(each["name"], each["name"]) for each in file["columns"]],
            lists=_LISTS,
            given=given,
            errors=wrong,
            message=message,
            further=any(given.get(name) or wrong.get(name) for name in _FURTHER),
        )

    @desk.page("/models/new/{upload_id}")
    async def new_training(visit: Visit) -> Response:
        model_id, number = visit.query.get("model_id"), visit.query.get("version", "")
        if model_id is None:
            return await asked(visit, {"name": "churn"})
        path = f"/v1/models/{part(model_id)}/versions/{part(number)}"
        found = await visit.api("GET", path)
        error = found["error"]
        errors = {}
        if found["question"] and error:
            errors[found["question"]] = plainly(error["message"])
        return await asked(
            visit,
            _given(found),
            message="" if errors or error is None else error["message"],
            errors=errors,
        )

    @desk.action("/models/new/{upload_id}")
    async def train(visit: Visit) -> Response:
        form = visit.form
        errors = {
            name: "Choose a column." for name in ("label_column", "id_column") if not form[name]
        }
        body: dict[str, Any] = {}
        try:
            body = {"upload_id": visit.path("upload_id"), **_body(form)}
        except ValueError as exc:
            errors["types"] = str(exc)
        message = "The training was not begun."
        if not errors:
            try:
                made = await visit.api("POST", "/v1/models", body=body)
            except Refused as refused:
                if refused.status >= 500 or refused.status in (403, 404):
                    raise
                errors = {
                    pointer.strip("/").partition("/")[0]: text for pointer, text in refused.errors
                }
                message = refused.detail
            else:
                here = f"/models/{part(made['model_id'])}/versions/{made['version']}"
                return visit.go(here, "The training waits for its turn.")
        return await asked(visit, form.given(), status=422, message=message, errors=errors)


def _body(form: Form) -> dict[str, Any]:
    """The request of a training. ValueError if a line of the types cannot be read."""
    body: dict[str, Any] = {name: form[name] for name in _ONES}
    for name in ("positive_label", "negative_label"):
        body[name] = [each.strip() for each in form[name].split(",") if each.strip()]
    body |= {name: form[name] for name in _CHOICES if form[name]}
    for name in ("drop", "keep", "required"):
        body[name] = [line.strip() for line in form[name].splitlines() if line.strip()]
    types = {}
    for line in form["types"].splitlines():
        if line.strip():
            column, equals, kind = line.rpartition("=")
            if not equals:
                raise ValueError(
                    f"Write a line as: column = number. This is {line.strip()[:60]!r}."
                )
            types[column.strip()] = kind.strip()
    body["types"] = types
    body["promote"] = form["promote"] == "yes"
    return body


def _given(version: Mapping[str, Any]) -> dict[str, str]:
    """What a training was told, as the form has it."""
    told = version["asked"]
    given = {name: told[name] or "" for name in (*_ONES[1:], *_CHOICES)} | {
        "name": version["model"]
    }
    for name in ("positive_label", "negative_label"):
        given[name] = ", ".join(told[name])
    for name in ("drop", "keep", "required"):
        given[name] = "\n".join(told[name])
    given["types"] = "\n".join(f"{column} = {kind}" for column, kind in told["types"].items())
    return given


# ------------------------------------------------------------------ a model


def _add_one(desk: Desk) -> None:
    async def shown(visit: Visit, status: int = 200, message: str = "") -> Response:
        path = f"/v1/models/{part(visit.path('model_id'))}"
        found = await visit.api("GET", path)
        quality = await visit.api("GET", f"{path}/quality")
        return visit.render("model.html", status, model=found, quality=quality, message=message)

    @desk.page("/models/{model_id}")
    async def model(visit: Visit) -> Response:
        return await shown(visit)

    @desk.page("/models/{model_id}/versions/{number}")
    async def model_version(visit: Visit) -> Response:
        path = f"/v1/models/{part(visit.path('model_id'))}/versions/{part(visit.path('number'))}"
        found = await visit.api("GET", path)
        card = await visit.api("GET", f"{path}/card") if found["status"] == "READY" else None
        return _version(visit, f"{found['model']}, version {found['version']}", found, card)

    @desk.page("/models/{model_id}/versions/{number}/file")
    async def model_version_file(visit: Visit) -> Response:
        model_id, number = part(visit.path("model_id")), part(visit.path("number"))
        return visit.fetch(f"/v1/models/{model_id}/versions/{number}/file")

    @desk.action("/models/{model_id}/versions/{number}/cancel")
    async def cancel_version(visit: Visit) -> Response:
        model_id, number = part(visit.path("model_id")), part(visit.path("number"))
        await visit.api("POST", f"/v1/models/{model_id}/versions/{number}/cancel")
        return visit.go(f"/models/{model_id}/versions/{number}", "The training was cancelled.")

    @desk.action("/models/{model_id}/{action}")
    async def move_model(visit: Visit) -> Response:
        id_, action = part(visit.path("model_id")), visit.path("action")
        api, here = f"/v1/models/{id_}", f"/models/{id_}"
        try:
            if action == "promote":
                number = visit.form["version"]
                if not number.isdecimal() or len(number) > 9:
                    raise Refused(422, "validation_failed", "Choose a version.")
                await visit.api("POST", f"{api}/promote", body={"version": int(number)})
                return visit.go(here, f"Version {number} is live.")
            if action == "rollback":
                found = await visit.api("POST", f"{api}/rollback")
                return visit.go(here, f"Version {found['live_version']} is live again.")
            if action == "delete":
                await visit.api("DELETE", api)
                return visit.go("/models", "The model was deleted.")
        except Refused as refused:
            if refused.status not in (409, 422):
                raise
            return await shown(visit, refused.status, refused.detail)
        raise Refused(404, "not_found", "There is nothing at this address.")
