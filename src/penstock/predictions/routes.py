"""`/v1/predictions`: files scored, followed, fetched."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from penstock.api import bodies
from penstock.api.context import Caller, of, requires
from penstock.api.paging import Items, Paged
from penstock.api.routing import router
from penstock.errors import Conflict
from penstock.predictions import (
    jobs,
    routes_models,
    routes_outcomes,
    routes_uploads,
    uploads,
    views,
)
from penstock.predictions.answers import (
    PredictionCreated,
    PredictionDetail,
    PredictionView,
    Status,
)
from penstock.predictions.deps import Deps
from penstock.predictions.downloads import download
from penstock.predictions.inputs import Day, Id, ModelAsked, OnBadRow, PredictionIn
from penstock.predictions.jobs import Prediction
from penstock.predictions.problems import problem_of, question
from penstock.predictions.refusal import Unusable
from penstock.predictions.registry import Chosen
from penstock.predictions.routes_uploads import FILE_BODY, TASK_TIMEOUT, chosen_for
from penstock.predictions.taking import AROUND, take
from penstock.predictions.uploads import Upload
from penstock.storage import Tx

_JSON_LIMIT: Final = 256 * 1024
_BODY: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": FILE_BODY}}


def routes(deps: Deps) -> APIRouter:
    """The routes of uploads, predictions, outcomes and models."""
    api = router(tags=["Predictions"])
    database = deps.database
    routes_uploads.add(api, deps)

    async def read(account: str, prediction_id: str) -> Prediction:
        return await database.read(lambda tx: jobs.get(tx, account, prediction_id))

    @api.post(
        "/v1/predictions",
        status_code=202,
        summary="Score a file",
        openapi_extra=_BODY,
        responses={200: {"model": PredictionCreated, "description": "The same was asked before."}},
    )
    @requires("predictions:write", body=PredictionIn, body_limit=deps.max_upload + AROUND)
    async def create_prediction(
        request: Request,
        caller: Caller,
        response: Response,
        model: Annotated[
            ModelAsked | None, Query(description="With a CSV as the body, as in the JSON.")
        ] = None,
        on_bad_row: Annotated[
            OnBadRow, Query(description="With a CSV as the body.")
        ] = "quarantine",
        as_of: Annotated[Day | None, Query(description="With a CSV as the body.")] = None,
        force: Annotated[bool, Query(description="With a CSV as the body.")] = False,
    ) -> PredictionCreated:
        """Of an upload, with a mapping; or of a CSV in the body, if its mapping is certain.

        The same content, model and options are the same prediction, which is answered with 200,
        unless `force` is set. A CSV whose mapping is not certain is kept: the problem names its
        `upload_id`.
        """
        asked = await _asked(request)
        if asked is None:
            chosen = await chosen_for(deps, caller.account, model)
            upload = await take(deps, request, caller.account, chosen, {})
            asked = PredictionIn(
                upload_id=upload.id, on_bad_row=on_bad_row, as_of=as_of, force=force
            )
        else:
            chosen = await chosen_for(deps, caller.account, asked.model)
            wanted = asked.upload_id
            upload = await database.read(lambda tx: uploads.get(tx, caller.account, wanted))
        made, new = await _create(deps, upload, chosen, asked)
        if not new:
            response.status_code = 200
        now = deps.clock.now()
        return PredictionCreated(**views.created(made, now))

    @api.get("/v1/predictions", summary="List predictions")
    @requires("predictions:read")
    async def list_predictions(
        page: Paged,
        caller: Caller,
        status: Annotated[Status | None, Query()] = None,
        upload_id: Annotated[Id | None, Query()] = None,
    ) -> Items[PredictionView]:
        """Newest first."""
        after = page.after(str)
        found = await database.read(
            lambda tx: jobs.page(
                tx,
                caller.account,
                after[0] if after else None,
                page.limit + 1,
                status=status,
                upload=upload_id,
            )
        )
        shown, cursor = page.of(found, lambda item: (item.id,))
        now = deps.clock.now()
        items = [PredictionView(**views.prediction(item, now)) for item in shown]
        return Items(items=items, next_cursor=cursor)

    @api.get("/v1/predictions/{prediction_id}", summary="Read a prediction")
    @requires("predictions:read")
    async def read_prediction(prediction_id: str, caller: Caller) -> PredictionDetail:
        """How far it is; and once it is complete, what it found and where its files are."""
        found = await read(caller.account, prediction_id)
        return PredictionDetail(**views.detail(found, deps.clock.now()))

    @api.post(
        "/v1/predictions/{prediction_id}/cancel", status_code=202, summary="Cancel a prediction"
    )
    @requires("predictions:write")
    async def cancel_prediction(prediction_id: str, caller: Caller) -> PredictionView:
        """Scores no further chunk. There is no result; doing it again is harmless."""

        def cancel(tx: Tx) -> Prediction:
            jobs.cancel(tx, caller.account, prediction_id)
            return jobs.get(tx, caller.account, prediction_id)

        return PredictionView(**views.prediction(await database.unit(cancel), deps.clock.now()))

    @api.delete("/v1/predictions/{prediction_id}", status_code=204, summary="Delete a prediction")
    @requires("predictions:write")
    async def delete_prediction(prediction_id: str, caller: Caller) -> Response:
        """With its files and outcomes; one that is under way ends. Its upload stays."""
        await database.unit(lambda tx: jobs.delete(tx, caller.account, prediction_id))
        return Response(status_code=204)

    @api.get(
        "/v1/predictions/{prediction_id}/result",
        summary="Fetch the result",
        response_class=Response,
        responses=_file("result.csv", "result.parquet"),
    )
    @requires("predictions:read")
    async def fetch_result(
        prediction_id: str,
        caller: Caller,
        format: Annotated[Literal["csv", "parquet"], Query()] = "csv",
    ) -> Response:
        """One row for each customer that was scored, in the order of the file.

        The id under the file's own name for it, probability, level of risk, three reasons. In the
        CSV, ids that a spreadsheet would run as a formula have an apostrophe before them.
        """
        return await _send(deps, await read(caller.account, prediction_id), f"result.{format}")

    @api.get(
        "/v1/predictions/{prediction_id}/errors.csv",
        summary="Fetch the rows that were set aside",
        response_class=Response,
        responses=_file("errors.csv"),
    )
    @requires("predictions:read")
    async def fetch_errors(prediction_id: str, caller: Caller) -> Response:
        """Row, line and byte in the file, the column, a code, the value, and what is wrong."""
        return await _send(deps, await read(caller.account, prediction_id), "errors.csv")

    @api.get(
        "/v1/predictions/{prediction_id}/report",
        summary="Read the report",
        response_class=Response,
        responses=_file("report.html"),
    )
    @requires("predictions:read")
    async def fetch_report(prediction_id: str, caller: Caller) -> Response:
        """A page: how the risk is spread, why, how far the customers are from the training's."""
        return await _send(deps, await read(caller.account, prediction_id), "report.html")

    routes_outcomes.add(api, deps)
    routes_models.add(api, deps)
    return api


async def _asked(request: Request) -> PredictionIn | None:
    """The JSON of a request; None = its body is the file."""
    content_type = of(request).headers.get(b"content-type")
    media = (content_type or b"").partition(b";")[0].strip().lower()
    if not (media.endswith(b"json") or content_type is None):
        return None
    bodies.check_type(content_type)
    return bodies.parse(PredictionIn, await bodies.read(request, _JSON_LIMIT))


async def _create(
    deps: Deps, upload: Upload, chosen: Chosen, asked: PredictionIn
) -> tuple[Prediction, bool]:
    account, names = upload.account, upload.names
    if upload.layout is None:
        raise question(**upload.facts["question"], upload_id=upload.id)
    remembered = await deps.database.read(
        lambda tx: jobs.remembered(tx, account, chosen.memory, names)
    )
    try:
        settled = await deps.aside.run(
            "inspect:settled",
            deps.objects,
            chosen.spec,
            names,
            asked.mapping,
            remembered,
            asked.allow_missing,
            within=TASK_TIMEOUT,
        )
    except Unusable as refused:
        raise problem_of(refused, upload.id) from None
    today = datetime.datetime.now(datetime.UTC).date()

    def create(tx: Tx) -> tuple[Prediction, bool]:
        # As it is now: it may have been deleted, or be read otherwise, since it was looked at.
        if uploads.get(tx, account, upload.id).layout != upload.layout:
            raise Conflict("The upload was changed meanwhile.")
        if asked.mapping:
            jobs.remember(tx, account, chosen.memory, names, settled)
        id_, new = jobs.create(
            tx,
            upload,
            chosen,
            settled,
            as_of=(asked.as_of or today).isoformat(),
            reject=asked.on_bad_row == "reject",
            force=asked.force,
        )
        return jobs.get(tx, account, id_), new

    return await deps.database.unit(create)


def _file(*names: str) -> dict[int | str, dict[str, Any]]:
    content: dict[str, Any] = {views.FILES[name][1].partition(";")[0]: {} for name in names}
    return {
        200: {"content": content, "description": "The file."},
        307: {"description": "Where the file is, in S3: `Location`, valid for five minutes."},
    }


async def _send(deps: Deps, found: Prediction, name: str) -> Response:
    if found.status != "COMPLETED" or found.result is None:
        raise Conflict(f"There is no result: the prediction is {found.status}.")
    media_type = views.FILES[name][1]
    # Not the name of what was uploaded: that is somebody's text.
    filename = None if name == "report.html" else f"{found.id}-{name}"
    sha256 = found.result["files"][name]["sha256"]
    return await download(deps.objects, f"{found.folder}/{name}", media_type, filename, sha256)
