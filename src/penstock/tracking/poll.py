"""Checking shipments: the kind of work that asks carriers and settles what they answered.

What an answer means:

=====================  =============================================================  ===========
answer                 the shipment                                                   the circuit
=====================  =============================================================  ===========
Found                  its scans, status and event are one commit; next check by      well
                       ``intervals``, none after its end
NotFound, Invalid,     asked again ever less often; no attempt failed                 well
Forbidden (one number)
Malformed              asked again later; this one parcel could not be read           nothing
RateLimited            due again when the lane opens; nothing is counted              nothing: the
                                                                                      lane pauses
Unavailable,           asked again later, for ever                                    in trouble
Forbidden (all)
=====================  =============================================================  ===========

None but Found says anything of the parcel: whatever else happens, the last known status stays.
Exceptions, be they bugs of ours or the database's, are retried and say nothing of the carrier.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from penstock.clock import Clock
from penstock.errors import SecretBoxError
from penstock.telemetry import CARRIER_CREDENTIAL_REFUSED, log
from penstock.tracking import changes
from penstock.tracking.carriers.base import (
    Answer,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    RateLimited,
    Unavailable,
)
from penstock.tracking.census import Census
from penstock.tracking.clients import Clients
from penstock.tracking.credentials import CHECK, REFUSED, Credentials
from penstock.tracking.grouper import Grouper
from penstock.tracking.intervals import Facts, is_expired, next_check
from penstock.tracking.parcels import Parcel, load
from penstock.tracking.status import State, expired, fold
from penstock.work.backoff import exponential
from penstock.work.circuit import OnChange
from penstock.work.emit import Emit
from penstock.work.kinds import Kind, Task
from penstock.work.outcomes import Done, Health, Outcome, Postpone, Retry

FIRST_RETRY: Final = 60.0  # seconds after a failed check, doubling
LONGEST_RETRY: Final = 6 * 3600.0
FOR_EVER: Final = 2**31  # attempts, of which there are some thousands a year
PATIENCE: Final = 60.0  # seconds that a carrier is left alone if it does not say how long
NO_CREDENTIAL: Final = 300.0  # seconds until it is looked whether there is one
SAME_NUMBER: Final = 5.0  # seconds until the other of two shipments with one number is asked for
MOST_SCANS: Final = 500  # of one shipment that are kept; real ones have some dozens
SLOTS: Final = 256  # checks at once in one process


def check_kind(
    *,
    credentials: Credentials,
    clients: Clients,
    grouper: Grouper,
    census: Census,
    clock: Clock,
    emit: Emit,
    on_circuit: OnChange,
    lease: float,
) -> Kind[Parcel]:
    """The kind of work that checks shipments."""

    async def handle(task: Task[Parcel]) -> Outcome:
        parcel = task.data
        spec = credentials.specs.get(parcel.carrier)
        if spec is None:  # made by a newer version, beside which this one still runs
            return Postpone(NO_CREDENTIAL, "this version does not know the carrier")
        try:
            client = clients.get(
                parcel.lane, parcel.account, parcel.carrier, parcel.sealed, parcel.version
            )
        except SecretBoxError as exc:
            return Postpone(NO_CREDENTIAL, f"the credential cannot be opened: {exc}")
        if client is None:
            return Postpone(NO_CREDENTIAL, "there is no credential to ask the carrier with")
        fetched = await grouper.fetch(client, parcel.query)
        if fetched.answer is None:
            return Postpone(SAME_NUMBER, "another shipment with this number was asked for")
        speed = spec.speed(parcel.query.number)
        return judge(parcel, fetched.answer, fetched.health, clock.now(), emit, speed=speed)

    return Kind(
        name=CHECK,
        table="shipments",
        load=partial(load, census, credentials),
        handle=handle,
        terminal=frozenset({"done", "dead", "cancelled"}),
        ended="ended_at",
        lease=lease,
        timeout=90.0,
        slots=SLOTS,
        backoff=exponential(FIRST_RETRY, LONGEST_RETRY, attempts=FOR_EVER),
        on_circuit=on_circuit,
    )


def judge(
    parcel: Parcel,
    answer: Answer,
    health: Health | None,
    now: int,
    emit: Emit,
    *,
    speed: float = 1.0,
) -> Outcome:
    """What becomes of the row. `health` is the whole call's, if this row speaks for it."""
    match answer:
        case Found():
            state = fold(parcel.state, answer, parcel.known, now=now)
            return _known(parcel, state, answer, health, now, emit, speed)
        case NotFound() | Invalid() | Forbidden(number=str()):
            return _unknown(parcel, answer, health, now, emit, speed)
        case RateLimited(retry_after=wait):
            pause = PATIENCE if wait is None else max(wait, 1.0)
            # Due at once: it is the lane that waits, and opens for all of them.
            return Postpone(0.0, "the carrier asked for a pause", health=health, pause=pause)
        case Malformed(reason=reason):
            return _trouble(parcel, "malformed", f"the answer cannot be read: {reason}", health)
        case Forbidden(text=text):
            if health is not None:  # once for a call
                log(
                    CARRIER_CREDENTIAL_REFUSED,
                    carrier=parcel.carrier,
                    lane=parcel.lane,
                    error=text,
                )
            return _trouble(parcel, REFUSED, text, health)
        case Unavailable(reason=reason, kind=kind):
            return _trouble(parcel, kind, f"the carrier did not answer: {reason}", health)


def _known(
    parcel: Parcel,
    state: State,
    found: Found,
    health: Health | None,
    now: int,
    emit: Emit,
    speed: float,
) -> Outcome:
    before = {scan.fingerprint() for scan in parcel.known}
    room = MOST_SCANS - len(before)
    new = [scan for scan in found.scans if scan.fingerprint() not in before][: max(room, 0)]
    news = bool(new) or state != parcel.state
    facts = _facts(parcel, state, 0, now if news else parcel.news_at, speed)
    if is_expired(facts, now):
        state = expired(state, now)
        facts = _facts(parcel, state, 0, facts.news_at, speed)
        news = True
    apply = partial(
        changes.write,
        parcel,
        state,
        emit,
        new=new,
        news=news,
        not_found=0,
        error_kind=None,
        service=found.service or parcel.service,
    )
    return Done(next_check(facts, now, parcel.stretch), apply, health)


def _unknown(
    parcel: Parcel,
    answer: NotFound | Invalid | Forbidden,
    health: Health | None,
    now: int,
    emit: Emit,
    speed: float,
) -> Outcome:
    state, times = parcel.state, parcel.not_found + 1
    facts = _facts(parcel, state, times, parcel.news_at, speed)
    news = False
    if is_expired(facts, now):
        state, news = expired(state, now), True
        facts = _facts(parcel, state, times, parcel.news_at, speed)
    error_kind = {NotFound: "not_found", Invalid: "invalid"}.get(type(answer), "forbidden")
    apply = partial(
        changes.write,
        parcel,
        state,
        emit,
        new=[],
        news=news,
        not_found=times,
        error_kind=error_kind,
        service=parcel.service,
    )
    return Done(next_check(facts, now, parcel.stretch), apply, health)


def _facts(parcel: Parcel, state: State, not_found: int, news_at: int, speed: float) -> Facts:
    return Facts(
        state.status,
        state.sub_status,
        parcel.created_at,
        news_at,
        status_at=state.status_at,
        eta=state.eta,
        not_found=not_found,
        confirmed=parcel.state.terminal,
        speed=speed,
    )


def _trouble(parcel: Parcel, kind: str, reason: str, health: Health | None) -> Outcome:
    return Retry(reason=reason, apply=partial(changes.trouble, parcel, kind), health=health)
