from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from penstock.errors import SettingsError
from penstock.work.wakeups import EVERYTHING, Wake
from penstock.work.wakeups.postgres import PAYLOAD_BYTES, PostgresWakeups, decode, encode


def test_a_url_in_sqlalchemys_form_is_understood() -> None:
    url = "postgresql+psycopg://me@db.example:5433/app?connect_timeout=2"
    settings = conninfo_to_dict(PostgresWakeups(url)._conninfo)
    assert (settings["host"], str(settings["port"])) == ("db.example", "5433")
    assert settings["dbname"] == "app"
    assert str(settings["connect_timeout"]) == "2"
    assert "keepalives_idle" in settings


def test_a_bad_url_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="URL"):
        PostgresWakeups("no such=thing")


# Surrogates cannot be stored in the database, so no lane is called that.
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
_delays = st.just(0.0) | st.floats(0, 900)


def received(payloads: list[str]) -> dict[tuple[str, str], float]:
    return {(wake.kind, wake.lane): wake.delay for payload in payloads for wake in decode(payload)}


@given(st.dictionaries(st.tuples(_texts, _texts), _delays, max_size=60))
@settings(max_examples=60, deadline=None)
def test_payloads_fit_and_say_what_was_meant(wakes: dict[tuple[str, str], float]) -> None:
    payloads = list(encode(wakes))
    assert all(0 < len(payload.encode()) <= PAYLOAD_BYTES for payload in payloads)
    assert received(payloads) == wakes


def test_payloads_are_well_filled() -> None:
    wakes = {("delivery", f"ep_{n:026}"): 0.0 for n in range(1000)}
    payloads = list(encode(wakes))
    assert received(payloads) == wakes
    assert min(len(payload) for payload in payloads[:-1]) > PAYLOAD_BYTES - 60


def test_a_payload_may_be_full_to_the_byte() -> None:
    frame = len('[["a",""]]')
    (payload,) = encode({("a", "x" * (PAYLOAD_BYTES - frame)): 0.0})
    assert len(payload) == PAYLOAD_BYTES


def test_a_lane_too_long_to_name_wakes_everything() -> None:
    payloads = list(encode({("a", "x" * PAYLOAD_BYTES): 0.0, ("job", "b"): 0.0}))
    assert received(payloads) == {(EVERYTHING, EVERYTHING): 0.0, ("job", "b"): 0.0}


def test_what_is_overdue_is_sent_as_now_and_what_is_years_away_not_at_all() -> None:
    wakes = {("job", "a"): -1.0, ("job", "b"): 1e9, ("job", "c"): float("inf")}
    assert list(encode(wakes)) == ['[["job","a"]]']


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "hello",
        "{}",
        "null",
        "7",
        '["job", "a"]',
        '[["job"]]',
        '[["job", 7]]',
        '[["job", null]]',
        '[[["job"], "a"]]',
        '[["job", "a", "soon"]]',
        '[["job", "a", -1]]',
        '[["job", "a", NaN]]',
        '[["job", "a", Infinity]]',
        '[["job", "a", 1, 2]]',
        f'[["job", "a", {"9" * 400}]]',
        f'[["job", "a", {"9" * 5000}]]',
        '[["job", "a"], 3]',
        "[" * 7000,
    ],
)
def test_a_malformed_payload_is_a_value_error(payload: str) -> None:
    with pytest.raises(ValueError, match="not "):
        decode(payload)


def test_payloads_of_both_forms() -> None:
    assert decode('[["job","a"],["job","b",1.5]]') == [Wake("job", "a"), Wake("job", "b", 1.5)]
    assert decode("[]") == []
