"""`/v1/events`: accepting events and reading them back."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from penstock.api import bodies, paging
from penstock.api.context import Caller, of, principal, requires
from penstock.api.paging import Items, Paged
from penstock.api.problems import PROBLEMS, Problem, invalid
from penstock.api.routing import router
from penstock.clock import from_datetime
from penstock.errors import Refused
from penstock.events import (
    query,
    routes_endpoints,
    routes_figures,
    routes_hooks,
    routes_inbox,
    routes_replay,
)
from penstock.events.accept import Accepted, NewEvent, compact, new_event
from penstock.events.deps import Deps
from penstock.events.models import BatchIn, EventIn
from penstock.events.routes_endpoints import problem_of
from penstock.events.shapes import BatchOutcome, EventAccepted, EventDetail, EventItem, EventStatus
from penstock.telemetry import EVENT_ACCEPTED, EVENTS_ACCEPTED, log, metrics

LONGEST_WAIT: Final = 20.0  # seconds
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
_WAIT: Final = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?", re.IGNORECASE)


def routes(deps: Deps) -> APIRouter:
    """The routes of events and endpoints."""
    api = router(tags=["Events"])
    database, acceptor, clock = deps.database, deps.acceptor, deps.clock
    policy = deps.policy

    @api.post(
        "/v1/events",
        status_code=202,
        summary="Accept an event",
        responses={202: {"model": EventAccepted, "description": "Stored durably."}},
    )
    @requires("events:write", body=EventIn, body_limit=policy.max_body, direct=True)
    async def accept_event(request: Request) -> Response:
        """Stored and owed to every subscribed endpoint when the answer comes.

        `Idempotency-Key` (or the field) makes repeating it safe for 24 hours; `Prefer: wait=N`
        holds the answer up to N seconds (at most 20) until every delivery was tried.
        """
        event = await bodies.receive(request, EventIn)
        context = of(request)
        account = principal(request).account
        try:
            key = _key(context.headers)
            if key and event.idempotency_key and key != event.idempotency_key:
                raise Refused(
                    "validation_failed",
                    "The Idempotency-Key header says otherwise",
                    "/idempotency_key",
                )
            new = new_event(event, now=clock.now(), key=key, traceparent=context.traceparent)
        except Refused as refused:
            raise problem_of(refused) from None
        outcome = await deps.gatherer.accept(account, new)
        if isinstance(outcome, Refused):
            raise problem_of(outcome)
        headers = {}
        if outcome.replayed:
            headers["Idempotent-Replayed"] = "true"
        else:
            _count(outcome, new, account)
        answer = outcome.answer
        seconds = _wait(context.headers.get(b"prefer"))
        if seconds:
            headers["Preference-Applied"] = f"wait={seconds:g}"
            answer = await _when_tried(deps, account, outcome.event_id, seconds)
        return Response(answer, 202, headers, "application/json")

    @api.post(
        "/v1/events/batch",
        status_code=202,
        summary="Accept up to 100 events",
        responses={202: {"model": BatchOutcome, "description": "What became of each."}},
    )
    @requires("events:write", body=BatchIn, body_limit=policy.max_batch_body, direct=True)
    async def accept_batch(request: Request) -> Response:
        """Each item has its own outcome; all that are accepted are stored in one transaction.

        An `Idempotency-Key` header gives item *i* the key `{key}#{i}`, unless it has its own.
        """
        context = of(request)
        bodies.check_type(context.headers.get(b"content-type"))
        raw = await bodies.read(request, context.body_limit)
        batch = bodies.parse(BatchIn, raw)
        try:
            key = _key(context.headers)
        except Refused as refused:
            raise problem_of(refused) from None
        account = principal(request).account
        prepared: list[NewEvent | Problem] = []
        for index, item in enumerate(batch.events):
            try:
                if len(raw) > policy.max_body:
                    _check_size(item, policy.max_body)
                event = EventIn.model_validate(item)
                own = event.idempotency_key or (f"{key}#{index}" if key else None)
                prepared.append(
                    new_event(event, now=clock.now(), key=own, traceparent=context.traceparent)
                )
            except ValidationError as exc:
                prepared.append(invalid(exc.errors(include_url=False, include_context=False)))
            except Refused as refused:
                prepared.append(problem_of(refused))
            except Problem as exc:
                prepared.append(exc)
        valid = [new for new in prepared if isinstance(new, NewEvent)]
        outcomes = iter(
            await database.unit(lambda tx: acceptor.accept(tx, account, valid)) if valid else ()
        )
        results: list[str] = []
        replayed = refused_ = 0
        for index, item in enumerate(prepared):
            outcome = next(outcomes) if isinstance(item, NewEvent) else item
            if isinstance(outcome, Accepted):
                replayed += outcome.replayed
                if not outcome.replayed and isinstance(item, NewEvent):
                    _count(outcome, item, account)
                results.append(
                    f'{{"index":{index},"status_code":202,'
                    f'"replayed":{"true" if outcome.replayed else "false"},'
                    f'"event":{outcome.answer}}}'
                )
            else:
                refused_ += 1
                problem = problem_of(outcome) if isinstance(outcome, Refused) else outcome
                results.append(json.dumps(_refusal(index, problem)))
        total = len(results)
        summary = {
            "total": total,
            "accepted": total - replayed - refused_,
            "replayed": replayed,
            "refused": refused_,
        }
        text = f'{{"results":[{",".join(results)}],"summary":{json.dumps(summary)}}}'
        return Response(text, 202, media_type="application/json")

    @api.get("/v1/events", summary="List events")
    @requires("events:read")
    async def list_events(
        page: Paged,
        caller: Caller,
        event_type: Annotated[str | None, Query(max_length=100)] = None,
        status: EventStatus | None = None,
        since: Annotated[AwareDatetime | None, Query(description="Accepted at or after.")] = None,
        until: Annotated[AwareDatetime | None, Query(description="Accepted before.")] = None,
        endpoint: Annotated[
            str | None, Query(max_length=100, description="With a delivery to this endpoint.")
        ] = None,
    ) -> Items[EventItem]:
        """Newest first.

        With several filters a page may be short, or empty, and yet not be the last: go on by its
        `next_cursor` as long as it has one.
        """
        after = page.after(str)
        found, edge = await database.read(
            lambda tx: query.page(
                tx,
                caller.account,
                event_type=event_type,
                status=status,
                since=None if since is None else from_datetime(since),
                until=None if until is None else from_datetime(until),
                endpoint=endpoint,
                before=after[0] if after else None,
                limit=page.limit,
            )
        )
        cursor = None if edge is None else paging.encode(edge)
        return Items(items=[EventItem(**item) for item in found], next_cursor=cursor)

    @api.get("/v1/events/{event_id}", summary="Read an event")
    @requires("events:read")
    async def read_event(event_id: str, caller: Caller) -> EventDetail:
        """With its deliveries, their attempts, and why a delivery has not run yet."""
        found = await database.read(lambda tx: query.detail(tx, caller.account, event_id))
        return EventDetail(**found)

    routes_replay.add(api, deps)
    routes_endpoints.add(api, deps)
    routes_inbox.add(api, deps)
    routes_hooks.add(api, deps)
    routes_figures.add(api, deps)
    return api


async def _when_tried(deps: Deps, account: str, event_id: str, seconds: float) -> str:
    """The event's view once every delivery was tried, or `seconds` have passed."""

    async def tried() -> bool:
        _, done = await deps.database.read(lambda tx: query.summary(tx, account, event_id))
        return done

    await deps.waiters.wait(event_id, seconds, tried)
    view, _ = await deps.database.read(lambda tx: query.summary(tx, account, event_id))
    return json.dumps(view, separators=(",", ":"))


def _key(headers: dict[bytes, bytes]) -> str | None:
    value = headers.get(b"idempotency-key")
    if value is None:
        return None
    if not _KEY.fullmatch(value):
        message = "Idempotency-Key must be 1 to 255 printable ASCII characters"
        raise Refused("validation_failed", message)
    return value.decode("ascii")


def _wait(prefer: bytes | None) -> float:
    """Seconds of ``Prefer: wait=N`` (RFC 7240 §4.3), 0 = not asked for."""
    if prefer is None:
        return 0.0
    for preference in prefer.decode("latin-1").split(","):
        found = _WAIT.fullmatch(preference.partition(";")[0].strip())
        if found:
            return min(LONGEST_WAIT, float(found[1]))
    return 0.0


def _check_size(item: Any, limit: int) -> None:
    # Measured as compact JSON: the item's own share of the body is not known any more.
    if len(compact({"": item}).encode()) - 5 > limit:
        raise bodies.too_large(limit)


def _count(outcome: Accepted, new: NewEvent, account: str) -> None:
    metrics.inc(EVENTS_ACCEPTED)
    log(
        EVENT_ACCEPTED,
        event_id=outcome.event_id,
        event_type=new.event_type,
        account=account,
    )


def _refusal(index: int, problem: Problem) -> dict[str, Any]:
    return {
        "index": index,
        "status_code": problem.status_code,
        "problem": {
            "type": f"/problems/{problem.code}",
            "title": PROBLEMS[problem.code].title,
            "status": problem.status_code,
            "detail": problem.detail,
            "code": problem.code,
            **problem.extra,
        },
    }
