"""Endpoints that fail for days are disabled, and what is told of endpoints in trouble.

`failing_since_at` is set by the first failed attempt after a success and cleared by the next
success; a push brings along what its claim read, so the column is written only when it changes.

======================================  =====================================================
event type                              when
======================================  =====================================================
``endpoint.disabled``                   it answered 410 (``gone``), or nothing but failures
                                        for `Policy.disable_after` (``failing``)
``endpoint.circuit_opened``             its circuit opened; not again when a probe fails
``endpoint.circuit_closed``             it is sent to again
======================================  =====================================================

They are events of the account like any other, stored in the transaction of what they tell, but
they go to endpoints that name them (``endpoint.*`` or the type itself) only, not to those that
take ``*``, and never to the endpoint in question. Else, where many endpoints fail together, each
of them would be told of all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.clock import SECOND
from penstock.events import endpoints
from penstock.storage import Tx, sql
from penstock.telemetry import ENDPOINT_DISABLED, log
from penstock.work.circuit import Changed

DISABLED: Final = "endpoint.disabled"
CIRCUIT_OPENED: Final = "endpoint.circuit_opened"
CIRCUIT_CLOSED: Final = "endpoint.circuit_closed"


@dataclass(frozen=True, slots=True)
class EndpointDisabled:
    """A note: the endpoint was disabled because of how it answered."""

    endpoint_id: str
    account: str
    reason: str


# (tx, account, event type, payload, source key, the endpoint that it is about)
Tell = Callable[[Tx, str, str, Mapping[str, Any], str, str], None]

_FAILING = sql("""
UPDATE endpoints SET failing_since_at = {now} WHERE id = :id AND failing_since_at IS NULL
""")
_WELL = sql("UPDATE endpoints SET failing_since_at = NULL WHERE id = :id")
_OF_LANE = sql("SELECT id, account, target FROM endpoints WHERE lane = :lane AND id = :id")


def nobody(
    tx: Tx,
    account: str,
    event_type: str,
    payload: Mapping[str, Any],
    source_key: str,
    about: str,
) -> None:
    """Tells nobody."""


def succeeded(tx: Tx, endpoint_id: str) -> None:
    """An attempt was taken by an endpoint that had been failing."""
    tx.run(_WELL, id=endpoint_id)


def failed(
    tx: Tx,
    endpoint_id: str,
    version: int,
    failing_since: int | None,
    disable_after: float,
    tell: Tell,
) -> None:
    """An attempt failed: disables the endpoint if every one did for `disable_after` seconds.

    `failing_since` (µs) as the attempt's claim read it. Not if it was changed since `version`,
    nor if another attempt was taken meanwhile.
    """
    if failing_since is None:
        tx.run(_FAILING, id=endpoint_id)
    elif tx.now() - failing_since >= disable_after * SECOND:
        _disable(tx, endpoint_id, version, "failing", failing_since, tell)


def gone(tx: Tx, endpoint_id: str, version: int, tell: Tell) -> None:
    """The endpoint answered 410 at this version."""
    _disable(tx, endpoint_id, version, "gone", None, tell)


def _disable(
    tx: Tx, endpoint_id: str, version: int, reason: str, since: int | None, tell: Tell
) -> None:
    found = endpoints.disable(tx, endpoint_id, version, reason, failing_before=since)
    if found is None:
        return
    account, target, new = found
    payload = {"endpoint_id": endpoint_id, "target": target, "reason": reason}
    tell(tx, account, DISABLED, payload, f"{DISABLED}:{endpoint_id}:{new}", endpoint_id)
    tx.notify(EndpointDisabled(endpoint_id, account, reason))


def on_notes(notes: Sequence[object]) -> None:
    """Log what was disabled, once that is committed."""
    for note in notes:
        if type(note) is EndpointDisabled:
            log(
                ENDPOINT_DISABLED,
                endpoint_id=note.endpoint_id,
                account=note.account,
                reason=note.reason,
            )


def on_circuit(tell: Tell) -> Callable[[Tx, Changed], None]:
    """What the delivery kind does about its lanes' circuits."""

    def changed(tx: Tx, change: Changed) -> None:
        if change.reopened or change.state == "half_open":
            return
        id_ = change.lane.partition(":")[2]
        row = tx.one(_OF_LANE, lane=change.lane, id=id_)
        if row is None:
            return
        _, account, target = row
        event_type = CIRCUIT_OPENED if change.state == "open" else CIRCUIT_CLOSED
        payload: dict[str, Any] = {
            "endpoint_id": id_,
            "target": target,
            "reason": change.reason,
        }
        if change.open_for is not None:
            payload["seconds"] = round(change.open_for, 1)
        source_key = f"{event_type}:{id_}:{change.generation}"
        tell(tx, account, event_type, payload, source_key, id_)

    return changed
