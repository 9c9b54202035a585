"""Endpoints as a push needs them, and what a claimed delivery is loaded into.

A parsed endpoint is kept under its `version`, which every change raises, so that the usual
load reads the delivery, its event and a number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.errors import SecretBoxError
from penstock.events import sign
from penstock.secretbox import SecretBox
from penstock.storage import Tx, sql
from penstock.work.kinds import Claim

_KEPT: Final = 10_000  # parsed endpoints

_LOAD = sql("""
SELECT d.id, d.expires_at, d.step, e.id, e.event_type, e.payload, e.metadata, e.created_at,
       e.traceparent, d.ordering_key,
       CASE WHEN e.inbox_until_at > {now} THEN e.inbox_until_at - {now} END,
       d.replay_id, p.failing_since_at, p.id, p.version
FROM deliveries d JOIN events e ON e.id = d.event_id LEFT JOIN endpoints p ON p.id = d.endpoint_id
WHERE d.id {in:ids}
""")

_RECEIVERS = sql("""
SELECT id, account, lane, version, target, timeout, schedule, on_permanent, headers, secret,
       previous_secret, previous_until, kind
FROM endpoints WHERE id {in:ids}
""")


@dataclass(frozen=True, slots=True)
class Receiver:
    """An endpoint at one version; its secrets are still sealed. Durations are seconds."""

    id: str
    account: str
    lane: str
    version: int
    target: str
    timeout: float
    schedule: tuple[float, ...]
    patient: bool  # a permanent answer is tried again, after the long gaps only
    headers: str | None
    secret: str  # '' = none: its kind does not sign
    previous_secret: str | None
    previous_until: int | None  # µs
    kind: str = "webhook"


@dataclass(frozen=True, slots=True)
class Opened:
    """What was sealed: the endpoint's own headers and its signing keys."""

    headers: Mapping[str, str]
    key: bytes | None  # None = its kind does not sign
    previous_key: bytes | None


def signing_keys(receiver: Receiver, opened: Opened, now: int) -> list[bytes]:
    """The keys that sign at the instant `now` (µs): two while a secret is being rotated.

    Without any, SecretBoxError: what a receiver expects to be signed must not go out unsigned.
    """
    if opened.key is None:
        raise SecretBoxError("the endpoint has no signing secret")
    if opened.previous_key is not None and now < (receiver.previous_until or 0):
        return [opened.key, opened.previous_key]
    return [opened.key]


@dataclass(frozen=True, slots=True)
class Push:
    """A claimed delivery with all that its attempt needs; `receiver` None = deleted."""

    delivery_id: str
    event_id: str
    event_type: str
    payload: str
    metadata: str | None
    created_at: int
    traceparent: str | None
    expires_at: int
    step: int  # position in the receiver's schedule
    receiver: Receiver | None
    held_for: int | None = None  # µs for which a reader of the inbox had it, at the claim
    failing_since: int | None = None  # µs; of the receiver, at the claim
    ordering_key: str | None = None


class Receivers:
    """The parsed endpoints of one process; `schedule` is for those without their own."""

    __slots__ = ("_box", "_known", "_opened", "_schedule", "ordered", "replays")

    def __init__(self, box: SecretBox, schedule: Sequence[float]) -> None:
        self._box = box
        self._schedule = tuple(schedule)
        self._known: dict[str, Receiver] = {}
        self._opened: dict[str, tuple[int, Opened]] = {}
        self.ordered = False  # whether any delivery with an ordering key was ever loaded
        self.replays: dict[str, str] = {}  # of deliveries loaded lately, those that belong to one

    def load(self, tx: Tx, claims: Sequence[Claim]) -> Mapping[str, Push]:
        """The claimed deliveries by id (the kind's `load`)."""
        rows = tx.rows(_LOAD, ids=[claim.id for claim in claims])
        current: dict[str, Receiver] = {}
        missing: set[str] = set()
        if len(self.replays) + len(rows) > _KEPT:
            self.replays.clear()
        for delivery_id, *_, key, _, replay_id, _, endpoint_id, version in rows:
            if key is not None:
                self.ordered = True
            if replay_id is not None:
                self.replays[delivery_id] = replay_id
            known = self._known.get(endpoint_id)
            if known is not None and known.version == version:
                current[endpoint_id] = known
            elif endpoint_id is not None:
                missing.add(endpoint_id)
        if missing:
            current |= self._read(tx, missing)
        return {
            row[0]: Push(
                delivery_id=row[0],
                expires_at=row[1],
                step=row[2],
                event_id=row[3],
                event_type=row[4],
                payload=row[5],
                metadata=row[6],
                created_at=row[7],
                traceparent=row[8],
                ordering_key=row[9],
                held_for=row[10],
                failing_since=row[12],
                receiver=current.get(row[13]),
            )
            for row in rows
        }

    def _read(self, tx: Tx, ids: set[str]) -> dict[str, Receiver]:
        fresh = {}
        for row in tx.rows(_RECEIVERS, ids=sorted(ids)):
            id_, account, lane, version, target, timeout, schedule, on_permanent, *sealed = row
            fresh[id_] = Receiver(
                id_,
                account,
                lane,
                version,
                target,
                timeout,
                self._schedule if schedule is None else tuple(json.loads(schedule)),
                on_permanent == "long",
                *sealed,
            )
        if len(self._known) + len(fresh) > _KEPT:
            self._known.clear()
        self._known |= fresh
        return fresh

    def open(self, receiver: Receiver) -> Opened:
        """The receiver's secrets. Raises SecretBoxError if the key that sealed them is gone."""
        known = self._opened.get(receiver.id)
        if known is not None and known[0] == receiver.version:
            return known[1]
        unseal = self._box.open
        opened = Opened(
            {} if receiver.headers is None else json.loads(unseal(receiver.headers)),
            sign.decode_secret(unseal(receiver.secret)) if receiver.secret else None,
            None
            if receiver.previous_secret is None
            else sign.decode_secret(unseal(receiver.previous_secret)),
        )
        if len(self._opened) >= _KEPT:
            self._opened.clear()
        self._opened[receiver.id] = (receiver.version, opened)
        return opened
