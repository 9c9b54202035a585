from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clock import SECOND, from_datetime
from penstock.storage import Tx
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Done, Outcome, Postpone, Retry
from penstock.work.settlement import ERROR_LIMIT, clean, decide

NOW = from_datetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


async def _handle(task: Task[Any]) -> Outcome:
    raise AssertionError


def kind(**options: Any) -> Kind[Any]:
    return Kind(
        "job",
        "jobs",
        load=lambda tx, claims: {},
        handle=_handle,
        done="succeeded",
        terminal=frozenset({"succeeded", "dead", "cancelled"}),
        **{"backoff": lambda n: 10.0 * n if n < 4 else None, **options},
    )


def claim(attempts: int = 0) -> Claim:
    return Claim("job", "j1", "l1", 3, attempts, 0, 0)


def after(outcome: Outcome, attempts: int = 0, **options: Any) -> tuple[Any, ...]:
    s = decide(kind(**options), claim(attempts), outcome, NOW)
    return s.status, s.delay_us, s.attempts, s.error


def test_done_ends_the_row_and_forgets_the_error() -> None:
    assert after(Done(), 2) == ("succeeded", None, 3, None)


def test_done_again_starts_over_later() -> None:
    assert after(Done(again=2.5), 7) == (None, 2_500_000, 0, None)


def test_done_again_at_once() -> None:
    assert after(Done(again=0)) == (None, 0, 0, None)


def test_a_retry_counts_and_waits_by_the_back_off() -> None:
    assert after(Retry(reason="no answer"), 1) == (None, 20 * SECOND, 2, "no answer")


def test_a_retry_waits_as_it_was_told() -> None:
    assert after(Retry(after=0.25, reason="busy"), 50) == (None, 250_000, 51, "busy")


def test_a_retry_is_dead_when_the_back_off_gives_up() -> None:
    assert after(Retry(reason="no"), 3) == ("dead", None, 4, "gave up after 4 attempts: no")


@pytest.mark.parametrize("outcome", [Retry(reason="no"), Retry(after=1, reason="no")])
def test_max_attempts_overrules_both_kinds_of_waiting(outcome: Retry) -> None:
    status, delay, attempts, error = after(outcome, 1, max_attempts=2)
    assert (status, delay, attempts) == ("dead", None, 2)
    assert error == "gave up after 2 attempts: no"


def test_a_postponement_does_not_count() -> None:
    assert after(Postpone(until=90, reason="quota"), 3) == (None, 90 * SECOND, 3, "quota")


def test_a_postponement_to_an_instant() -> None:
    instant = datetime(2026, 1, 2, 4, 4, 15, tzinfo=timezone(timedelta(hours=1)))
    assert after(Postpone(until=instant))[1] == 10 * SECOND


def test_what_lies_in_the_past_is_due_now() -> None:
    assert after(Postpone(until=datetime(2020, 1, 1, tzinfo=UTC)))[1] == 0
    assert after(Retry(after=-5))[1] == 0


def test_a_delay_without_end_still_fits_its_column() -> None:
    for endless in (1e15, float("inf")):
        status, delay, _, _ = after(Postpone(until=endless))
        assert status is None
        assert 50 * 365 * 86_400 * SECOND < delay < 2**62


def test_a_delay_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        after(Retry(after=float("nan")))


def test_dead_is_dead_at_the_first_try() -> None:
    assert after(Dead("410 Gone")) == ("dead", None, 1, "410 Gone")


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: Done(**more),
        lambda **more: Retry(**more),
        lambda **more: Postpone(1, **more),
        lambda **more: Dead("no", **more),
    ],
)
def test_apply_health_and_pause_are_passed_on(make: Any) -> None:
    def apply(tx: Tx) -> None:
        raise AssertionError

    s = decide(kind(), claim(), make(apply=apply, health="bad", pause=7.0), NOW)
    assert (s.apply, s.health, s.pause) == (apply, "bad", 7.0)


@given(st.text(st.characters(), max_size=3000))
def test_a_cleaned_text_can_be_stored_and_stays_what_it_was(text: str) -> None:
    got = clean(text)
    got.encode("utf-8")
    assert "\x00" not in got
    assert len(got) <= ERROR_LIMIT
    if text.isprintable():
        assert got == text[:ERROR_LIMIT]


def test_nul_and_lone_surrogates_are_written_out() -> None:
    assert clean("a\x00b\ud800c") == "a\\x00b\\ud800c"
