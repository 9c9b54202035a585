"""Why a shipment has not been checked yet: the first thing that stands in its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.clock import SECOND, to_iso
from penstock.work.lanes import Gate


def why(row: Mapping[str, Any], gate: Gate | None, now: int) -> dict[str, str]:
    """`code` and `message`, of a shipment that is followed or was given up, by its row."""
    code, message = _why(row, gate, now)
    return {"code": code, "message": message}


def _why(row: Mapping[str, Any], gate: Gate | None, now: int) -> tuple[str, str]:
    if row["status"] == "dead":
        return (
            "dead",
            f"Checking it was given up: {row['last_error']}. Refresh it to go on.",
        )
    if row["lease_until"] is not None:
        until = to_iso(row["lease_until"])
        return "leased", f"A worker is asking the carrier; if it dies, the lease ends at {until}."
    if gate is not None and gate.by_hand:
        return "lane_paused", "The carrier's lane is paused. Resume it to go on."
    if gate is not None and gate.paused:
        return (
            "no_credential",
            "There is no credential to ask the carrier with. Store one to go on: "
            f"PUT /v1/carriers/{row['carrier']}/credentials.",
        )
    due_at = row["due_at"]
    if due_at is not None and due_at > now:
        when = to_iso(due_at)
        if row["consecutive_errors"]:
            return (
                "retry_later",
                f"The latest check failed ({row['error_kind']}); the next one is due at {when}.",
            )
        if row["not_found"]:
            return (
                "not_found_yet",
                f"The carrier does not know the number, or not yet; it is asked again at {when}.",
            )
        if row["last_error"]:
            return (
                "retry_later",
                f"The latest check could not be made: {row['last_error']}. It is tried again at "
                f"{when}.",
            )
        return "not_due", f"The next check is due at {when}."
    return ("due", "It is due now.") if gate is None else _at_the_gate(gate, now)


def _at_the_gate(gate: Gate, now: int) -> tuple[str, str]:
    if gate.opens_in > 0:
        until = to_iso(now + int(gate.opens_in * SECOND))
        if gate.circuit == "closed":
            return (
                "carrier_asked_to_wait",
                f"The carrier asked for a pause, which ends at {until}.",
            )
        return (
            "circuit_open",
            f"The carrier's circuit is open; nothing is asked of it before {until}, then one "
            "check goes ahead as a probe.",
        )
    if gate.circuit != "closed" and gate.held > 0:
        return "circuit_probing", "Another check is being made to see if the carrier is back."
    if gate.held >= gate.cap:
        return "in_flight_cap", f"The carrier is being asked for {gate.held} others, the maximum."
    if gate.tokens < 1 and gate.rate is not None:
        seconds = (1 - gate.tokens) / gate.rate
        return (
            "budget",
            f"The carrier's budget is used up for now; the next call is allowed in {seconds:.0f} "
            "seconds, the check due longest goes first.",
        )
    return "due", "It is due now and will be taken by the next free worker."
