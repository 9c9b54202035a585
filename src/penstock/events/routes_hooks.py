"""`/v1/hooks`: subscriptions as Zapier's REST hooks make and end them.

A hook is a webhook endpoint for one event type, made by a program that knows three calls:
subscribe, unsubscribe, and a list of samples. In everything else (signature, schedule, circuit,
410 disables it) it is the endpoint that `/v1/endpoints` shows.
https://docs.zapier.com/integrations/build/cli-hook-trigger
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from penstock.api.context import Caller, requires
from penstock.clock import to_iso
from penstock.errors import Refused
from penstock.events import endpoints
from penstock.events.deps import Deps
from penstock.events.destinations import TargetRefused
from penstock.events.models import EndpointIn, Pattern, Plain
from penstock.events.routes_endpoints import problem_of
from penstock.secretbox import SecretBox
from penstock.storage import Tx, sql

KIND: Final = "webhook"
MARK: Final = "Zapier hook"  # the description by which a hook is known again
SAMPLES: Final = 3  # as many as Zapier shows
LOOKED_THROUGH: Final = 1_000  # latest events, for samples of a pattern

# Two requests that subscribe the same target at once take turns here.
_ACCOUNT = sql("""
INSERT INTO accounts (id, endpoints_version, created_at) VALUES (:account, {now}, {now})
ON CONFLICT (id) DO NOTHING
""")
_TURN = sql("SELECT id FROM accounts WHERE id = :account {lock}")

_SAME = sql("""
SELECT id, enabled FROM endpoints
WHERE account = :account AND kind = :kind AND target = :target AND event_types = :event_types
  AND description = :description
ORDER BY id LIMIT 1
""")

_OF_TYPE = sql("""
SELECT id, event_type, payload, metadata, created_at FROM events
WHERE account = :account AND event_type = :event_type ORDER BY id DESC LIMIT :limit
""")

_OF_PREFIX = sql("""
SELECT id, event_type, payload, metadata, created_at FROM events WHERE id IN (
  SELECT id FROM (SELECT id, event_type FROM events WHERE account = :account
                  ORDER BY id DESC LIMIT :looked_through) AS latest
  WHERE substr(event_type, 1, CAST(:length AS INTEGER)) = :prefix ORDER BY id DESC LIMIT :limit
) ORDER BY id DESC
""")


class HookIn(BaseModel):
    """What Zapier sends when a Zap is turned on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    target_url: Annotated[Plain, Field(min_length=1, max_length=2048)]
    event: Annotated[Pattern, Field(description="An event type, prefix.* or *.")]


class HookView(BaseModel):
    """A subscription; `id` ends it, and is the id of its endpoint."""

    id: str
    target_url: str
    event: str
    created_at: str


class HookSample(BaseModel):
    """An event as it is pushed, with the `id` that Zapier asks of every item."""

    id: str
    event_id: str
    event_type: str
    payload: dict[str, Any]
    metadata: dict[str, Any] | None
    created_at: str


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database, box = deps.database, deps.box

    @api.post(
        "/v1/hooks",
        status_code=201,
        summary="Subscribe a hook",
        tags=["Hooks"],
        responses={200: {"model": HookView, "description": "It was subscribed already."}},
    )
    @requires("endpoints:write")
    async def subscribe_hook(new: HookIn, caller: Caller, answer: Response) -> HookView:
        """The same target and event again are the same hook (200); it is enabled if it was not."""
        try:
            target = await deps.destinations[KIND].check(new.target_url)
        except TargetRefused as exc:
            raise problem_of(Refused(exc.code, str(exc), "/target_url")) from None
        wanted = EndpointIn(kind=KIND, target=target, event_types=[new.event], description=MARK)
        fields = wanted.model_dump(exclude={"filter"}) | {"timeout": deps.policy.timeout}
        _, fields["secret"] = endpoints.new_secret(box)

        made, endpoint = await database.unit(lambda tx: subscribe(tx, caller.account, fields, box))
        if not made:
            answer.status_code = 200
        return HookView(
            id=endpoint["endpoint_id"],
            target_url=endpoint["target"],
            event=new.event,
            created_at=endpoint["created_at"],
        )

    @api.get("/v1/hooks/samples", summary="Sample events for a hook", tags=["Hooks"])
    @requires("events:read")
    async def hook_samples(
        caller: Caller,
        event: Annotated[Pattern, Query(description="An event type, prefix.* or *.")] = "*",
    ) -> list[HookSample]:
        """Up to three events, newest first, as an array; a prefix looks at the latest 1,000."""
        return await database.read(lambda tx: samples(tx, caller.account, event))

    @api.delete(
        "/v1/hooks/{hook_id}", status_code=204, summary="Unsubscribe a hook", tags=["Hooks"]
    )
    @requires("endpoints:write")
    async def unsubscribe_hook(hook_id: str, caller: Caller) -> Response:
        """Its pending deliveries are cancelled, as when an endpoint is deleted."""
        await endpoints.remove(database, caller.account, hook_id)
        return Response(status_code=204)


def subscribe(
    tx: Tx, account: str, fields: dict[str, Any], box: SecretBox
) -> tuple[bool, dict[str, Any]]:
    """The hook with these fields, enabled, and whether it was made now."""
    tx.run(_ACCOUNT, account=account)
    tx.one(_TURN, account=account)
    known = tx.one(
        _SAME,
        account=account,
        kind=KIND,
        target=fields["target"],
        event_types=json.dumps(fields["event_types"]),
        description=MARK,
    )
    if known is None:
        id_ = endpoints.create(tx, account, **fields)
    else:
        id_, enabled = known
        if not enabled:
            endpoints.switch(tx, account, id_, enabled=True)
    return known is None, endpoints.get(tx, account, id_, box)


def samples(tx: Tx, account: str, pattern: str) -> list[HookSample]:
    """The latest events that the pattern covers."""
    if pattern == "*" or pattern.endswith(".*"):
        prefix = pattern[:-1]
        rows = tx.rows(
            _OF_PREFIX,
            account=account,
            prefix=prefix,
            length=len(prefix),
            looked_through=LOOKED_THROUGH,
            limit=SAMPLES,
        )
    else:
        rows = tx.rows(_OF_TYPE, account=account, event_type=pattern, limit=SAMPLES)
    return [
        HookSample(
            id=id_,
            event_id=id_,
            event_type=event_type,
            payload=json.loads(payload),
            metadata=None if metadata is None else json.loads(metadata),
            created_at=to_iso(created_at),
        )
        for id_, event_type, payload, metadata, created_at in rows
    ]
