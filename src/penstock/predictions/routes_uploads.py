"""`/v1/uploads`: files to be scored, or to be learned from."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.predictions import jobs, registry, signed, uploads, views
from penstock.predictions.answers import SignedUpload, UploadDetail, UploadView
from penstock.predictions.deps import Deps
from penstock.predictions.inputs import (
    Delimiter,
    Encoding,
    HeaderRow,
    ModelAsked,
    SignedIn,
    UploadPatch,
)
from penstock.predictions.problems import problem_of
from penstock.predictions.refusal import Unusable
from penstock.predictions.registry import Chosen
from penstock.predictions.taking import AROUND, look, take
from penstock.predictions.uploads import Upload

TASK_TIMEOUT: Final = 60.0  # seconds

FILE_BODY: Final[dict[str, Any]] = {
    "text/csv": {"schema": {"type": "string"}},
    "application/gzip": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "string", "contentMediaType": "text/csv"}},
        }
    },
}
_BODY: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": FILE_BODY}}


async def chosen_for(deps: Deps, account: str, asked: str | None) -> Chosen:
    """The model of a request, or the problem that there is none."""
    try:
        return await deps.database.read(lambda tx: registry.choose(tx, account, asked))
    except Unusable as refused:
        raise problem_of(refused) from None


async def presumed_for(deps: Deps, account: str, asked: str | None) -> Chosen | None:
    """The model to look at a file for; None = several could be meant, or the only one is damaged.

    Without a model a file can be kept all the same, to train another.
    """
    if asked is not None:
        return await chosen_for(deps, account, asked)
    found = await deps.database.read(lambda tx: registry.presumed(tx, account))
    if found is None:
        return None
    whole = await deps.aside.run("inspect:usable", deps.objects, found.spec, within=TASK_TIMEOUT)
    return found if whole else None


async def detail(deps: Deps, found: Upload, chosen: Chosen | None) -> UploadDetail:
    """An upload with the mapping that is proposed for a model."""
    mapping = None
    if found.layout is not None and chosen is not None:
        names = found.names
        remembered = await deps.database.read(
            lambda tx: jobs.remembered(tx, found.account, chosen.memory, names)
        )
        try:
            proposed = await deps.aside.run(
                "inspect:proposed",
                deps.objects,
                chosen.spec,
                names,
                remembered,
                within=TASK_TIMEOUT,
            )
        except Unusable as refused:  # the model's file is damaged
            raise problem_of(refused) from None
        mapping = views.mapping(found, chosen, proposed)
    return UploadDetail(**views.upload_detail(found, mapping))


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database = deps.database

    @api.post("/v1/uploads", status_code=201, summary="Upload a CSV", openapi_extra=_BODY)
    @requires("predictions:write", body_limit=deps.max_upload + AROUND)
    async def upload(
        request: Request,
        caller: Caller,
        model: Annotated[
            ModelAsked | None, Query(description="Whose columns are looked for.")
        ] = None,
        encoding: Encoding | None = None,
        delimiter: Delimiter | None = None,
        header_row: Annotated[HeaderRow | None, Query()] = None,
    ) -> UploadDetail:
        """A CSV as it is, packed with gzip, or as the file of a form.

        It is looked at, not read whole: type, encoding, delimiter, header. What can be read in two
        ways is a `question`, which a PATCH answers. With a mapping that is proposed for a model.
        """
        chosen = await presumed_for(deps, caller.account, model)
        given = {"encoding": encoding, "delimiter": delimiter, "header_row": header_row}
        found = await take(deps, request, caller.account, chosen, given)
        return await detail(deps, found, chosen)

    @api.post("/v1/uploads/signed", status_code=201, summary="Announce a file to be sent to S3")
    @requires("predictions:write")
    async def announce_upload(asked: SignedIn, caller: Caller) -> SignedUpload:
        """For files that are too large for a request here, as on AWS Lambda.

        PUT the file to the `url` with the `headers`, within an hour, then confirm it. S3 takes no
        other content than the one that was announced.
        """
        return SignedUpload(**await signed.announce(deps, caller.account, asked))

    @api.post("/v1/uploads/{upload_id}/confirm", summary="Confirm a file that was sent to S3")
    @requires("predictions:write")
    async def confirm_upload(
        upload_id: str,
        caller: Caller,
        model: Annotated[
            ModelAsked | None, Query(description="Whose columns are looked for.")
        ] = None,
        encoding: Encoding | None = None,
        delimiter: Delimiter | None = None,
        header_row: Annotated[HeaderRow | None, Query()] = None,
    ) -> UploadDetail:
        """It is looked at, and from then on is an upload like any other."""
        chosen = await presumed_for(deps, caller.account, model)
        given = {"encoding": encoding, "delimiter": delimiter, "header_row": header_row}
        found = await signed.confirm(deps, caller.account, upload_id, chosen, given)
        return await detail(deps, found, chosen)

    @api.get("/v1/uploads", summary="List uploads")
    @requires("predictions:read")
    async def list_uploads(page: Paged, caller: Caller) -> Items[UploadView]:
        """Newest first."""
        after = page.after(str)
        found = await database.read(
            lambda tx: uploads.page(tx, caller.account, after[0] if after else None, page.limit + 1)
        )
        shown, cursor = page.of(found, lambda item: (item.id,))
        return Items(items=[UploadView(**views.upload(item)) for item in shown], next_cursor=cursor)

    @api.get("/v1/uploads/{upload_id}", summary="Read an upload")
    @requires("predictions:read")
    async def read_upload(
        upload_id: str,
        caller: Caller,
        model: Annotated[
            ModelAsked | None, Query(description="For which the mapping is proposed.")
        ] = None,
    ) -> UploadDetail:
        """Its columns with samples, and for each of the model's columns the likeliest of them."""
        found = await database.read(lambda tx: uploads.get(tx, caller.account, upload_id))
        return await detail(deps, found, await presumed_for(deps, caller.account, model))

    @api.patch("/v1/uploads/{upload_id}", summary="Say how to read an upload")
    @requires("predictions:write")
    async def answer_upload(
        upload_id: str,
        patch: UploadPatch,
        caller: Caller,
        model: Annotated[
            ModelAsked | None, Query(description="For which the mapping is proposed.")
        ] = None,
    ) -> UploadDetail:
        """Answers its question, or corrects how it was read. It is looked at again."""
        found = await database.read(lambda tx: uploads.get(tx, caller.account, upload_id))
        chosen = await presumed_for(deps, caller.account, model)
        given = {**found.given, **patch.given()}
        try:
            looked = await look(deps, found.file.key, given, chosen)
        except Unusable as refused:
            raise problem_of(refused, upload_id) from None
        await database.unit(lambda tx: uploads.answer(tx, found, given, looked))
        again = await database.read(lambda tx: uploads.get(tx, caller.account, upload_id))
        return await detail(deps, again, chosen)

    @api.delete("/v1/uploads/{upload_id}", status_code=204, summary="Delete an upload")
    @requires("predictions:write")
    async def delete_upload(upload_id: str, caller: Caller) -> Response:
        """Its bytes too. What was scored or learned from it stays."""
        await database.unit(lambda tx: uploads.delete(tx, caller.account, upload_id))
        return Response(status_code=204)

    @api.get(
        "/v1/templates/churn.csv",
        summary="Read the template of a file to score",
        response_class=Response,
        responses={200: {"content": {"text/csv": {}}, "description": "A head and two rows."}},
    )
    @requires("predictions:read")
    async def churn_template(caller: Caller, model: ModelAsked | None = None) -> Response:
        """A CSV with the columns of a model, as it was trained."""
        chosen = await chosen_for(deps, caller.account, model)
        try:
            text = await deps.aside.run(
                "models:template", deps.objects, chosen.spec, within=TASK_TIMEOUT
            )
        except Unusable as refused:
            raise problem_of(refused) from None
        return Response(
            text,
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="churn.csv"'},
        )
