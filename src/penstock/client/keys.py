"""`/v1/keys`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from penstock.client.calls import Call, Listing, at, nothing, reading
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value, moment


@dataclass(frozen=True, slots=True)
class Key(Value):
    """An API key as it is listed; `hint` is its last four characters."""

    id: str
    name: str
    scopes: tuple[str, ...]
    hint: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class CreatedKey(Key):
    """An API key as it is shown once, when it is made."""

    key: str = field(kw_only=True)


def create(
    name: str,
    scopes: Sequence[str] | None = None,
    *,
    expires_in: float | str | None = None,
    expires_at: datetime | str | None = None,
) -> Call[CreatedKey]:
    """Make a key, which is shown this once; all scopes and no end if none are given.

    `expires_in` is in seconds, or a duration such as ``90d``.
    """
    given = {
        "name": name,
        "scopes": None if scopes is None else list(scopes),
        "expires_in": expires_in,
        "expires_at": moment(expires_at),
    }
    body = {item: value for item, value in given.items() if value is not None}
    return Call("POST", at("keys"), reading(CreatedKey.of), body=body, repeatable=False)


def every(*, page_size: int = 100) -> Listing[Key]:
    """Keys that are not revoked, newest first."""
    return Listing(Call("GET", at("keys"), reading(dict), query={"limit": page_size}), Key.of)


def revoke(key_id: str) -> Call[None]:
    """End a key."""
    return Call("DELETE", at("keys", key_id), nothing)


class Keys(Resource):
    """API keys of the account."""

    create = blocking(create)
    list = pages(every)
    revoke = blocking(revoke)


class AsyncKeys(AsyncResource):
    """API keys of the account."""

    create = awaited(create)
    list = async_pages(every)
    revoke = awaited(revoke)
