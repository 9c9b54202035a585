"""`/v1/models`: trained, promoted, rolled back, read."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.responses import HTMLResponse, Response

from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.problems import Problem
from penstock.predictions import registry, uploads, views
from penstock.predictions.answers import CardView, ModelDetail, ModelView, VersionView
from penstock.predictions.deps import Deps
from penstock.predictions.downloads import page_headers
from penstock.predictions.extra import can_train
from penstock.predictions.inputs import ModelIn, PromotionIn
from penstock.predictions.problems import problem_of, question
from penstock.predictions.refusal import Unusable
from penstock.predictions.registry import Model, Version
from penstock.predictions.routes_uploads import TASK_TIMEOUT
from penstock.predictions.specs import ModelSpec
from penstock.storage import Tx

Number = Annotated[int, Path(ge=1, le=10**9)]
_PAGE: Final = "text/html; charset=utf-8"
_HTML: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/html": {}}, "description": "A page."}
}
_JSON: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/json": {}}, "description": "The model file."}
}


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database = deps.database

    async def detail(account: str, model_id: str) -> ModelDetail:
        def read(tx: Tx) -> ModelDetail:
            found = registry.get(tx, account, model_id)
            versions = registry.versions(tx, account, model_id)
            shown = views.model_detail(found, versions, registry.promotions(tx, model_id))
            return ModelDetail(**shown)

        return await database.read(read)

    async def one(account: str, model_id: str, number: int) -> tuple[Model, Version]:
        return await database.read(
            lambda tx: (
                registry.get(tx, account, model_id),
                registry.version(tx, account, model_id, number),
            )
        )

    async def card(spec: ModelSpec) -> CardView:
        try:
            found = await deps.aside.run("models:card", deps.objects, spec, within=TASK_TIMEOUT)
        except Unusable as refused:
            raise problem_of(refused) from None
        return CardView(**found)

    async def card_page(spec: ModelSpec) -> HTMLResponse:
        try:
            page = await deps.aside.run("models:page", deps.objects, spec, within=TASK_TIMEOUT)
        except Unusable as refused:
            raise problem_of(refused) from None
        return HTMLResponse(page, headers=dict(page_headers(_PAGE)))

    async def file(spec: ModelSpec, name: str) -> Response:
        try:
            data = await deps.aside.run("models:data", deps.objects, spec, within=TASK_TIMEOUT)
        except Unusable as refused:
            raise problem_of(refused) from None
        disposition = f'attachment; filename="{name}.json"'
        headers = {"ETag": f'"{spec.sha256}"', "Content-Disposition": disposition}
        return Response(data, media_type="application/json", headers=headers)

    @api.post("/v1/models", status_code=202, summary="Train a model", tags=["Models"])
    @requires("models:write")
    async def train_model(new: ModelIn, caller: Caller) -> VersionView:
        """A new version of the model of this name, from a file of past customers.

        It is trained in its turn; `model.trained` or `model.training_failed` tells of the end. What
        the file does not say is asked: the version fails with a `question`, and a new training
        answers it.
        """
        if not can_train():
            raise Problem("training_unavailable", "This server cannot train models.")

        def begin(tx: Tx) -> VersionView:
            found = uploads.get(tx, caller.account, new.upload_id)
            if found.layout is None:
                raise question(**found.facts["question"], upload_id=found.id)
            model, version = registry.begin(
                tx,
                caller.account,
                new.name,
                upload_id=found.id,
                options=new.options(),
                promote=new.promote,
            )
            return VersionView(**views.version(version, model))

        return await database.unit(begin)

    @api.get("/v1/models", summary="List models", tags=["Models"])
    @requires("models:read")
    async def list_models(page: Paged, caller: Caller) -> Items[ModelView]:
        """Newest first. The starter model, a demonstration, belongs to nobody."""
        after = page.after(str)
        found = await database.read(
            lambda tx: registry.page(
                tx, caller.account, after[0] if after else None, page.limit + 1
            )
        )
        shown, cursor = page.of(found, lambda item: (item.id,))
        return Items(items=[ModelView(**views.model(item)) for item in shown], next_cursor=cursor)

    # Before the routes with an id in the same place.
    @api.get("/v1/models/starter/card", summary="Read the starter model's card", tags=["Models"])
    @requires("models:read")
    async def starter_card() -> CardView:
        """Of the demonstration that ships with Penstock; its customers are invented."""
        return await card(registry.the_starter().spec)

    @api.get(
        "/v1/models/starter/card.html",
        summary="Read the starter model's card as a page",
        response_class=HTMLResponse,
        responses=_HTML,
        tags=["Models"],
    )
    @requires("models:read")
    async def starter_page() -> HTMLResponse:
        """With the shape of each column's part in a score."""
        return await card_page(registry.the_starter().spec)

    @api.get(
        "/v1/models/starter/file",
        summary="Fetch the starter model's file",
        response_class=Response,
        responses=_JSON,
        tags=["Models"],
    )
    @requires("models:read")
    async def starter_file() -> Response:
        """For `penstock predict`."""
        return await file(registry.the_starter().spec, registry.STARTER)

    @api.get("/v1/models/{model_id}", summary="Read a model", tags=["Models"])
    @requires("models:read")
    async def read_model(model_id: str, caller: Caller) -> ModelDetail:
        """Its versions, the newest first, and which was live from when on."""
        return await detail(caller.account, model_id)

    @api.delete("/v1/models/{model_id}", status_code=204, summary="Delete a model", tags=["Models"])
    @requires("models:write")
    async def delete_model(model_id: str, caller: Caller) -> Response:
        """With all its versions. What was scored by them stays."""
        await database.unit(lambda tx: registry.delete(tx, caller.account, model_id))
        return Response(status_code=204)

    @api.post("/v1/models/{model_id}/promote", summary="Make a version live", tags=["Models"])
    @requires("models:write")
    async def promote_model(model_id: str, to: PromotionIn, caller: Caller) -> ModelDetail:
        """From now on the model's name stands for it; predictions that exist keep theirs."""
        await database.unit(lambda tx: registry.promote(tx, caller.account, model_id, to.version))
        return await detail(caller.account, model_id)

    @api.post("/v1/models/{model_id}/rollback", summary="Take a promotion back", tags=["Models"])
    @requires("models:write")
    async def roll_back_model(model_id: str, caller: Caller) -> ModelDetail:
        """The version that was live before is live again; once more goes back one further."""
        await database.unit(lambda tx: registry.roll_back(tx, caller.account, model_id))
        return await detail(caller.account, model_id)

    @api.get("/v1/models/{model_id}/versions/{number}", summary="Read a version", tags=["Models"])
    @requires("models:read")
    async def read_version(model_id: str, number: Number, caller: Caller) -> VersionView:
        """How far its training is, or what came of it."""
        model, version = await one(caller.account, model_id, number)
        return VersionView(**views.version(version, model))

    @api.post(
        "/v1/models/{model_id}/versions/{number}/cancel",
        status_code=202,
        summary="Cancel a training",
        tags=["Models"],
    )
    @requires("models:write")
    async def cancel_training(model_id: str, number: Number, caller: Caller) -> VersionView:
        """Doing it again, or too late, is harmless."""
        await database.unit(lambda tx: registry.cancel(tx, caller.account, model_id, number))
        model, version = await one(caller.account, model_id, number)
        return VersionView(**views.version(version, model))

    @api.get(
        "/v1/models/{model_id}/versions/{number}/card",
        summary="Read a version's card",
        tags=["Models"],
    )
    @requires("models:read")
    async def read_card(model_id: str, number: Number, caller: Caller) -> CardView:
        """What it was trained on, how good it is, and each column's part in a score."""
        _, version = await one(caller.account, model_id, number)
        return await card(version.spec)

    @api.get(
        "/v1/models/{model_id}/versions/{number}/card.html",
        summary="Read a version's card as a page",
        response_class=HTMLResponse,
        responses=_HTML,
        tags=["Models"],
    )
    @requires("models:read")
    async def read_card_page(model_id: str, number: Number, caller: Caller) -> HTMLResponse:
        """With the shape of each column's part in a score, and what was said against observed."""
        _, version = await one(caller.account, model_id, number)
        return await card_page(version.spec)

    @api.get(
        "/v1/models/{model_id}/versions/{number}/file",
        summary="Fetch a version's file",
        response_class=Response,
        responses=_JSON,
        tags=["Models"],
    )
    @requires("models:read")
    async def read_model_file(model_id: str, number: Number, caller: Caller) -> Response:
        """The model as JSON, for `penstock predict`."""
        _, version = await one(caller.account, model_id, number)
        return await file(version.spec, version.id)
