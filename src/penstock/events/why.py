"""Why a delivery has not run yet: the first thing that stands in its way, in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.clock import SECOND, to_iso
from penstock.work.lanes import Gate


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending delivery, as far as its waiting is concerned. Instants are µs."""

    due_at: int | None
    lease_until: int | None
    attempts: int
    enabled: bool | None  # of the endpoint; None = it was deleted
    disabled_reason: str | None
    behind: str | None = None  # the delivery whose turn it is under the same ordering key
    halted: bool = False  # that one died, and the endpoint says to halt
    inbox_until: int | None = None  # leased by a reader of the inbox until then


def why(delivery: Waiting, gate: Gate | None, now: int) -> dict[str, Any]:
    """`code` and `message`."""
    code, message = _why(delivery, gate, now)
    return {"code": code, "message": message}


def _why(delivery: Waiting, gate: Gate | None, now: int) -> tuple[str, str]:
    if delivery.lease_until is not None:
        until = to_iso(delivery.lease_until)
        return "leased", f"A worker has it in hand; if it dies, the lease ends at {until}."
    if delivery.enabled is None:
        return "endpoint_deleted", "The endpoint was deleted; the delivery is being cancelled."
    if not delivery.enabled:
        reason = f" ({delivery.disabled_reason})" if delivery.disabled_reason else ""
        return "endpoint_disabled", f"The endpoint is disabled{reason}. Enable it to go on."
    if delivery.due_at is None and delivery.behind is not None:
        if delivery.halted:
            return (
                "behind_dead",
                f"It waits behind {delivery.behind}, which died. Replay that one, or set the "
                "endpoint's on_dead to continue.",
            )
        return "behind", f"It waits behind {delivery.behind}, which has the same ordering key."
    if delivery.inbox_until is not None and delivery.inbox_until > now:
        until = to_iso(delivery.inbox_until)
        return (
            "inbox_leased",
            f"A reader of the inbox has leased the event until {until}; it is pushed then, unless "
            "the reader acknowledges it.",
        )
    if delivery.due_at is not None and delivery.due_at > now:
        when = to_iso(delivery.due_at)
        if delivery.attempts:
            n = delivery.attempts
            return "retry_later", f"Attempt {n} failed; the next one is due at {when}."
        return "not_due", f"It is not due before {when}."
    if gate is None:
        return "due", "It is due now."
    return _at_the_gate(gate, now)


def _at_the_gate(gate: Gate, now: int) -> tuple[str, str]:
    if gate.paused:
        return "lane_paused", "The endpoint's lane is paused. Resume it to go on."
    if gate.opens_in > 0:
        until = to_iso(now + int(gate.opens_in * SECOND))
        if gate.circuit == "closed":
            return (
                "receiver_asked_to_wait",
                f"The endpoint asked for a pause (Retry-After), which ends at {until}.",
            )
        return (
            "circuit_open",
            f"The endpoint's circuit is open: nothing is sent to it before {until}, "
            "then one delivery goes ahead as a probe.",
        )
    if gate.circuit != "closed" and gate.held > 0:
        return "circuit_probing", "Another delivery is being sent to see if the endpoint is back."
    if gate.held >= gate.cap:
        return "in_flight_cap", f"The endpoint has {gate.held} deliveries in flight, its maximum."
    if gate.tokens < 1:
        return "rate_limited", f"The endpoint takes {gate.rate:g} deliveries a second; it waits."
    return "due", "It is due now and will be taken by the next free worker."
