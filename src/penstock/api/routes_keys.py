"""`/v1/keys`: API keys of the caller's account."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from starlette.responses import Response

from penstock.api import keys
from penstock.api.auth import forbidden
from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.problems import Problem
from penstock.api.routing import router
from penstock.api.scopes import ALL, expand, normalize
from penstock.clock import SECOND, from_datetime
from penstock.durations import seconds
from penstock.storage import Database, Tx

_LONGEST = 10 * 366 * 86400  # seconds


def _duration(value: str | float) -> float:
    result = seconds(value)
    if not 1 <= result <= _LONGEST:
        raise ValueError("a key lives from one second to ten years")
    return result


class NewKey(BaseModel):
    """What to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "shop", "scopes": ["events:write"], "expires_in": "90d"}]
        },
    )

    name: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=keys.NAME_LENGTH),
    ]
    scopes: Annotated[
        Annotated[list[str], Field(max_length=len(ALL))] | None,
        AfterValidator(lambda scopes: None if scopes is None else normalize(scopes)),
        Field(description="`area:read` or `area:write`; absent = everything (`*`)."),
    ] = None
    expires_in: Annotated[
        Annotated[str | float, AfterValidator(_duration)] | None,
        Field(description="Seconds, or a duration such as `12h` or `90d`."),
    ] = None
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_in is not None and self.expires_at is not None:
            raise ValueError("give expires_in or expires_at, not both")
        return self


class KeyView(BaseModel):
    """A key as it is listed: without the key."""

    id: str
    name: str
    scopes: list[str]
    hint: Annotated[str, Field(description="The key's last four characters.")]
    created_at: str
    expires_at: str | None
    last_used_at: Annotated[str | None, Field(description="Exact to about a minute.")]


class CreatedKey(KeyView):
    """A key as it is shown once, when it is made."""

    key: str


def routes(database: Database) -> APIRouter:
    """The routes, on `database`."""
    api = router(tags=["Keys"])

    @api.post("/v1/keys", status_code=201, summary="Make an API key")
    @requires("keys:write")
    async def create_key(new: NewKey, caller: Caller) -> CreatedKey:
        """The answer is the only place where the key is ever shown."""
        beyond = expand(normalize(new.scopes)) - caller.scopes
        if beyond:
            raise forbidden(min(beyond))

        def create(tx: Tx) -> tuple[keys.Key, str] | None:
            expires_at = None
            if new.expires_at is not None:
                expires_at = from_datetime(new.expires_at)
            elif new.expires_in is not None:
                expires_at = tx.now() + round(float(new.expires_in) * SECOND)
            if expires_at is not None and expires_at <= tx.now():
                return None
            return keys.create(tx, caller.account, new.name, new.scopes, expires_at=expires_at)

        made = await database.unit(create)
        if made is None:
            failure = {"message": "The expiry has passed already", "pointer": "/expires_at"}
            raise Problem("validation_failed", "The expiry has passed already.", errors=[failure])
        key, secret = made
        return CreatedKey(**keys.view(key), key=secret)

    @api.get("/v1/keys", summary="List API keys")
    @requires("keys:read")
    async def list_keys(page: Paged, caller: Caller) -> Items[KeyView]:
        """Newest first; revoked ones are not listed."""
        after = page.after(str)
        found = await database.read(
            lambda tx: keys.page(
                tx, caller.account, after=after[0] if after else None, limit=page.limit + 1
            )
        )
        shown, cursor = page.of(found, lambda key: (key.id,))
        return Items(items=[KeyView(**keys.view(key)) for key in shown], next_cursor=cursor)

    @api.delete("/v1/keys/{key_id}", status_code=204, summary="Revoke an API key")
    @requires("keys:write")
    async def revoke_key(key_id: str, caller: Caller) -> Response:
        """It is refused at once by this process, and by others within two seconds."""
        if not await database.unit(lambda tx: keys.revoke(tx, caller.account, key_id)):
            raise Problem("not_found", "There is no such key.")
        return Response(status_code=204)

    return api
