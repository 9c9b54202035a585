"""What really happened, and how good predictions were."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from penstock.api.context import Caller, requires
from penstock.predictions import jobs, outcomes, registry, views
from penstock.predictions.answers import (
    DatedQuality,
    ModelQuality,
    OutcomesStored,
    PredictionQuality,
    VersionQuality,
)
from penstock.predictions.deps import Deps
from penstock.predictions.inputs import OutcomesIn
from penstock.predictions.outcomes import Group
from penstock.predictions.specs import JsonObject
from penstock.storage import Tx

_TIMEOUT: Final = 300.0  # seconds
_BODY_LIMIT: Final = 2 * 1024 * 1024  # bytes
_DATED: Final = 50


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database = deps.database

    async def quality(groups: list[Group]) -> JsonObject:
        found: JsonObject = await deps.aside.run("outcomes:quality", groups, within=_TIMEOUT)
        return found

    @api.post("/v1/predictions/{prediction_id}/outcomes", summary="Say what really happened")
    @requires("predictions:write", body_limit=_BODY_LIMIT)
    async def store_outcomes(
        prediction_id: str, told: OutcomesIn, caller: Caller
    ) -> OutcomesStored:
        """Who churned and who stayed, by the ids of the file; up to 10,000 in one request.

        Ids are compared as they stand in the file, letter by letter. Of a customer who is told of
        twice the latest counts.
        """
        found = await database.read(lambda tx: jobs.get(tx, caller.account, prediction_id))
        churned = {each.id: each.churned for each in told.outcomes}
        scores, twice = await deps.aside.run(
            "outcomes:scores",
            deps.objects,
            outcomes.result_key(found),
            list(churned),
            within=_TIMEOUT,
        )

        def put(tx: Tx) -> None:
            jobs.get(tx, caller.account, prediction_id)
            outcomes.put(tx, prediction_id, scores, churned)

        await database.unit(put)
        missing = sorted(churned.keys() - scores.keys() - set(twice))
        return OutcomesStored(
            prediction_id=prediction_id,
            stored=len(scores),
            not_found=len(missing),
            not_found_ids=missing[: outcomes.SHOWN],
            ambiguous=len(twice),
        )

    @api.get("/v1/predictions/{prediction_id}/quality", summary="Read how good a prediction was")
    @requires("predictions:read")
    async def prediction_quality(prediction_id: str, caller: Caller) -> PredictionQuality:
        """By the outcomes that were told so far; scores count to four decimals."""
        await database.read(lambda tx: jobs.get(tx, caller.account, prediction_id))
        groups, latest = await database.read(lambda tx: outcomes.groups(tx, prediction_id))
        return PredictionQuality(
            prediction_id=prediction_id,
            latest_outcome_at=views.iso(latest),
            **await quality(groups),
        )

    @api.get("/v1/models/{model_id}/quality", summary="Read how good a model is in use")
    @requires("models:read")
    async def model_quality(model_id: str, caller: Caller) -> ModelQuality:
        """By the outcomes of its predictions: of each version, and from one to the next."""
        await database.read(lambda tx: registry.get(tx, caller.account, model_id))
        versions = await database.read(lambda tx: outcomes.by_version(tx, caller.account, model_id))
        dated = await database.read(
            lambda tx: outcomes.by_prediction(tx, caller.account, model_id, _DATED)
        )
        return ModelQuality(
            model_id=model_id,
            versions=[
                VersionQuality(
                    version=number, latest_outcome_at=views.iso(latest), **await quality(groups)
                )
                for number, (groups, latest) in versions.items()
            ],
            predictions=[
                DatedQuality(
                    **{**about, "created_at": views.iso(about["created_at"])},
                    **await quality(groups),
                )
                for about, groups in dated
            ],
        )
