"""`/v1/endpoints`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict, Unpack

from penstock.client.calls import Call, Listing, at, nothing, reading
from penstock.client.replays import Replay
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value, moment, plain


@dataclass(frozen=True, slots=True)
class Endpoint(Value):
    """A place that events are pushed to. `timeout` and `schedule` are in seconds."""

    endpoint_id: str
    kind: str
    target: str
    description: str
    event_types: tuple[str, ...]
    header_names: tuple[str, ...]
    timeout: float
    rate_limit: float | None
    max_in_flight: int
    schedule: tuple[float, ...] | None
    on_permanent: str
    enabled: bool
    disabled_reason: str | None
    old_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime
    filter: Mapping[str, Any] | None = None
    on_dead: str = "continue"


@dataclass(frozen=True, slots=True)
class CreatedEndpoint(Endpoint):
    """An endpoint with its signing secret, which is shown this once.

    None where deliveries of its kind are not signed: e-mails and text messages.
    """

    secret: str | None = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class RotatedSecret(Value):
    """The new signing secret, shown this once; the old one signs too until then."""

    endpoint_id: str
    secret: str
    old_secret_until: datetime


@dataclass(frozen=True, slots=True)
class SentTest(Value):
    """The event that was accepted as a test."""

    event_id: str
    delivery_id: str


class EndpointOptions(TypedDict, total=False):
    """How an endpoint is served. `timeout` and `schedule` are in seconds."""

    event_types: Sequence[str]
    filter: Mapping[str, Any] | None
    description: str
    headers: Mapping[str, str] | None
    timeout: float | None
    rate_limit: float | None
    max_in_flight: int
    schedule: Sequence[float] | None
    on_permanent: str
    on_dead: str


class EndpointChanges(EndpointOptions, total=False):
    """What can be changed about an endpoint; None takes a limit or the headers away."""

    target: str


def create(
    target: str, *, kind: str = "webhook", **options: Unpack[EndpointOptions]
) -> Call[CreatedEndpoint]:
    """Add an endpoint; its signing secret is shown this once."""
    return Call(
        "POST",
        at("endpoints"),
        reading(CreatedEndpoint.of),
        body={"target": target, "kind": kind, **_given(options)},
        repeatable=False,
    )


def get(endpoint_id: str) -> Call[Endpoint]:
    """One endpoint."""
    return Call("GET", at("endpoints", endpoint_id), reading(Endpoint.of))


def every(*, page_size: int = 100) -> Listing[Endpoint]:
    """Endpoints, newest first."""
    return Listing(
        Call("GET", at("endpoints"), reading(dict), query={"limit": page_size}), Endpoint.of
    )


def update(endpoint_id: str, **changes: Unpack[EndpointChanges]) -> Call[Endpoint]:
    """Change what is given; pending deliveries go by the new values."""
    return Call("PATCH", at("endpoints", endpoint_id), reading(Endpoint.of), body=_given(changes))


def delete(endpoint_id: str) -> Call[None]:
    """Delete an endpoint and cancel its pending deliveries."""
    return Call("DELETE", at("endpoints", endpoint_id), nothing)


def rotate_secret(endpoint_id: str, *, overlap_seconds: int = 86_400) -> Call[RotatedSecret]:
    """Make a new signing secret; the old one signs too for `overlap_seconds`."""
    return Call(
        "POST",
        at("endpoints", endpoint_id, "secret", "rotate"),
        reading(RotatedSecret.of),
        body={"overlap_seconds": overlap_seconds},
        repeatable=False,
    )


def test(endpoint_id: str) -> Call[SentTest]:
    """Send an event of type `penstock.test` to this endpoint alone."""
    return Call(
        "POST", at("endpoints", endpoint_id, "test"), reading(SentTest.of), repeatable=False
    )


def enable(endpoint_id: str) -> Call[Endpoint]:
    """Send what waits for the endpoint, and what comes."""
    return Call("POST", at("endpoints", endpoint_id, "enable"), reading(Endpoint.of))


def disable(endpoint_id: str) -> Call[Endpoint]:
    """Let the endpoint's deliveries wait until it is enabled."""
    return Call("POST", at("endpoints", endpoint_id, "disable"), reading(Endpoint.of))


def recover(
    endpoint_id: str, since: datetime | str, *, until: datetime | str | None = None
) -> Call[Replay]:
    """Send an endpoint what failed since then, and what it was never sent, as a replay.

    Repeating it sends nothing twice: what was delivered is left out.
    """
    body = {"since": moment(since)}
    if until is not None:
        body["until"] = moment(until)
    return Call(
        "POST",
        at("endpoints", endpoint_id, "recover"),
        reading(Replay.of),
        body=body,
        repeatable=False,
    )


class Endpoints(Resource):
    """Where events are pushed to."""

    create = blocking(create)
    get = blocking(get)
    list = pages(every)
    update = blocking(update)
    delete = blocking(delete)
    rotate_secret = blocking(rotate_secret)
    test = blocking(test)
    enable = blocking(enable)
    disable = blocking(disable)
    recover = blocking(recover)


class AsyncEndpoints(AsyncResource):
    """Where events are pushed to."""

    create = awaited(create)
    get = awaited(get)
    list = async_pages(every)
    update = awaited(update)
    delete = awaited(delete)
    rotate_secret = awaited(rotate_secret)
    test = awaited(test)
    enable = awaited(enable)
    disable = awaited(disable)
    recover = awaited(recover)


def _given(options: EndpointOptions) -> dict[str, object]:
    return {name: plain(value) for name, value in options.items()}
