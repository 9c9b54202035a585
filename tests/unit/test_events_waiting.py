"""Why a delivery waits, who waits for an event, and how an excerpt is shown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from penstock.clock import SECOND, from_iso
from penstock.events import views
from penstock.events.accept import EventAvailable
from penstock.events.query import excerpt
from penstock.events.settled import EventSettled, Waiters, inbox_of
from penstock.events.why import Waiting, why
from penstock.work.lanes import Gate

NOW = from_iso("2026-01-01T00:00:00Z")
READY = Waiting(NOW - SECOND, None, 0, True, None)
OPEN = Gate("l", False, -1.0, "closed", 0, None, 1e9, 0, 32, -1.0)
LONG, SOON = 600, 30  # seconds: what ends soon, however busy the machine, did not wait for long


@pytest.mark.parametrize(
    ("waiting", "gate", "code", "said"),
    [
        ({}, {}, "due", "due now"),
        ({"lease_until": NOW + SECOND}, {}, "leased", "00:00:01"),
        ({"enabled": None}, {}, "endpoint_deleted", "deleted"),
        ({"enabled": False, "disabled_reason": "gone"}, {"paused": True},
         "endpoint_disabled", "(gone)"),
        ({"due_at": NOW + 60 * SECOND}, {}, "not_due", "00:01:00"),
        ({"due_at": NOW + 60 * SECOND, "attempts": 3}, {}, "retry_later", "Attempt 3"),
        ({"due_at": NOW + 60 * SECOND, "attempts": 3, "inbox_until": NOW + 60 * SECOND}, {},
         "inbox_leased", "00:01:00"),
        ({"inbox_until": NOW}, {}, "due", "due now"),
        ({"lease_until": NOW + SECOND, "inbox_until": NOW + SECOND}, {}, "leased", "00:00:01"),
        ({"due_at": None, "behind": "dlv_1"}, {}, "behind", "behind dlv_1"),
        ({"due_at": None, "behind": "dlv_1", "halted": True}, {}, "behind_dead", "on_dead"),
        ({}, {"paused": True}, "lane_paused", "paused"),
        ({}, {"opens_in": 30.0}, "receiver_asked_to_wait", "00:00:30"),
        ({}, {"opens_in": 30.0, "circuit": "open"}, "circuit_open", "00:00:30"),
        ({}, {"circuit": "half_open", "held": 1}, "circuit_probing", "Another delivery"),
        ({}, {"held": 32}, "in_flight_cap", "32 deliveries"),
        ({}, {"rate": 2.0, "tokens": 0.4}, "rate_limited", "2 deliveries a second"),
        ({}, {"rate": 2.0, "tokens": 1.0}, "due", "due now"),
    ],
)  # fmt: skip
def test_why(waiting: dict[str, Any], gate: dict[str, Any], code: str, said: str) -> None:
    answer = why(replace(READY, **waiting), replace(OPEN, **gate), NOW)
    assert answer["code"] == code
    assert said in answer["message"]


def test_messages() -> None:
    assert views.message("pending", 0, 0, None) == "Stored: there is no delivery to make."
    assert views.message("pending", 1, 0, None) == "Accepted: 1 delivery to make."
    assert "not before 2026-01-01T00:00:00" in views.message("pending", 2, 0, NOW)
    assert views.message("failed", 0, 2, None) == "Failed: 2 deliveries gave up."


@pytest.mark.parametrize(
    ("raw", "text", "encoded"),
    [
        (None, None, None),
        (b"", "", None),
        ("é".encode(), "é", None),
        ("ok é".encode()[:-1], "ok ", None),  # the cut went through a character
        (b"\xff\x00", "\ufffd\x00", "/wA="),
    ],
)
def test_excerpts(raw: bytes | None, text: str | None, encoded: str | None) -> None:
    assert excerpt(raw) == (text, encoded)


@pytest.mark.anyio
async def test_a_note_ends_the_wait_at_once() -> None:
    waiters, done = Waiters(poll=LONG), False

    async def settled() -> bool:
        return done

    waiting = asyncio.create_task(waiters.wait("evt_1", LONG, settled))
    await asyncio.sleep(0.01)
    waiters.on_notes([object(), EventSettled("evt_2", "delivered")])
    waiters.on_notes([EventSettled("evt_1", "pending")])  # not all of its deliveries yet
    await asyncio.sleep(0.01)
    assert not waiting.done()
    done = True
    waiters.on_notes([EventSettled("evt_1", "delivered")])
    await asyncio.wait_for(waiting, SOON)
    assert waiters._waiting == {}


@pytest.mark.anyio
async def test_what_other_processes_settle_is_found_by_polling() -> None:
    answers = iter([False, False, True])

    async def settled() -> bool:
        return next(answers)

    await asyncio.wait_for(Waiters(poll=0.01).wait("evt_1", LONG, settled), SOON)


@pytest.mark.anyio
async def test_a_wait_ends_with_its_time_and_with_the_process() -> None:
    async def settled() -> bool:
        return False

    waiters = Waiters(poll=LONG)
    await asyncio.wait_for(waiters.wait("evt_1", 0.05, settled), SOON)
    waiting = asyncio.create_task(waiters.wait("evt_1", LONG, settled))
    await asyncio.sleep(0.01)
    waiters.close()
    await asyncio.wait_for(waiting, SOON)
    await asyncio.wait_for(waiters.wait("evt_2", LONG, settled), SOON)


@pytest.mark.anyio
async def test_readers_of_an_inbox_hear_of_their_own_account() -> None:
    waiters, asked = Waiters(poll=LONG), 0

    async def over() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    waiting = asyncio.create_task(waiters.wait(inbox_of("mine"), LONG, over))
    await asyncio.sleep(0.01)
    waiters.on_notes([EventAvailable("other"), EventSettled("mine", "pending")])
    await asyncio.sleep(0.01)
    assert asked == 1
    waiters.on_notes([EventAvailable("mine")])
    await asyncio.wait_for(waiting, SOON)
    assert waiters._waiting == {}


@pytest.mark.anyio
async def test_what_is_being_taken_is_not_cut_short_by_the_time() -> None:
    taken = False

    async def over() -> bool:
        nonlocal taken
        await asyncio.sleep(0.1)
        taken = True
        return True

    await Waiters(poll=LONG).wait(inbox_of("mine"), 0.02, over)
    assert taken
