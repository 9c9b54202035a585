"""The client without a server: where it goes, what it understands, when it tries again."""

from __future__ import annotations

import inspect
import json
import os
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from penstock import runfile
from penstock.client import (
    ApiError,
    AsyncClient,
    Client,
    Delivery,
    Failure,
    Key,
    NewEvent,
    Problem,
    Unreachable,
    endpoints,
    events,
    inbox,
    keys,
    replays,
)
from penstock.client.address import Address, find
from penstock.client.calls import Answer, Call, Lost, Tries, describe, reading
from penstock.client.resources import AsyncResource, Resource
from penstock.errors import SettingsError
from penstock.runfile import RunFile

URL = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PENSTOCK_URL", "PENSTOCK_KEY", "PENSTOCK_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# Where it goes


def test_arguments_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runfile.write(tmp_path, RunFile(os.getpid(), URL, "run-token"))
    monkeypatch.setenv("PENSTOCK_URL", "https://env.example")
    monkeypatch.setenv("PENSTOCK_KEY", "env-key")

    assert find("https://a.example/", "k", None) == Address("https://a.example", "k")
    assert find("https://a.example/p/", None, None) == Address("https://a.example/p", "env-key")
    assert find(None, None, tmp_path) == Address(URL, "run-token")
    assert find(None, "other", tmp_path) == Address(URL, "other")
    assert find(None, None, None) == Address("https://env.example", "env-key")


def test_the_local_server_is_found_by_its_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(Unreachable, match=r"penstock-data.*penstock up"):
        find(None, None, None)
    (tmp_path / "penstock-data").mkdir()
    runfile.write(tmp_path / "penstock-data", RunFile(os.getpid(), URL, "a"))
    assert find(None, None, None).key == "a"

    (tmp_path / "other").mkdir()
    runfile.write(tmp_path / "other", RunFile(os.getpid(), URL, "b"))
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "other"))
    assert find(None, None, None).key == "b"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://a.example", "a-key"),
        ("a.example", "a-key"),
        ("http://", "a-key"),
        ("http://a.example:99999", "a-key"),
        ("http://a.example?x=1", "a-key"),
        ("http://user:pw@a.example", "a-key"),
        ("http://a .example", "a-key"),
        ("http://a.example", None),
        ("http://a.example", ""),
        ("http://a.example", "two words"),
        ("http://a.example", "k\r\nx: y"),
        ("http://a.example", "schlüssel"),
    ],
)
def test_what_cannot_be_right_is_refused(url: str, key: str | None) -> None:
    with pytest.raises(SettingsError) as refused:
        Client(url, key)
    assert not key or key not in str(refused.value)


def test_a_key_from_a_file_and_no_key_in_a_repr() -> None:
    client = Client("http://a.example", " secret-key\n")
    assert find("http://a.example", " secret-key\n", None).key == "secret-key"
    assert "secret" not in repr(client) + repr(find("http://a.example", "secret-key", None))
    client.close()


# What it understands


def test_values_come_from_json_and_go_back() -> None:
    document = {
        "id": "key_1",
        "name": "shop",
        "scopes": ["events:write"],
        "hint": "abcd",
        "created_at": "2026-01-02T03:04:05.678901Z",
        "expires_at": None,
        "last_used_at": "2026-01-02T03:04:06.000000Z",
    }
    key = Key.of({**document, "colour": "a field of a newer server"})

    assert key.created_at == datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    assert (key.scopes, key.expires_at) == (("events:write",), None)
    assert key.to_json() == document


def test_a_missing_member_takes_its_default_or_is_an_error() -> None:
    brief = {"delivery_id": "d", "endpoint_id": "e", "status": "pending", "attempts": 0}
    assert Delivery.of(brief).next_attempt_at is None
    with pytest.raises(ApiError) as strange:
        reading(Delivery.of)(Answer(200, {"x-request-id": "req_1"}, b'{"delivery_id": "d"}'))
    assert strange.value.code == "unexpected_answer"
    assert strange.value.request_id == "req_1"
    for body in (b"[]", b"null", b"", b"<html>", b"\xff"):
        with pytest.raises(ApiError, match="unexpected_answer"):
            reading(Delivery.of)(Answer(200, {}, body))


def test_calls_are_what_the_api_takes() -> None:
    then = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    sent = events.send("a", {"n": 1}, deliver_at=then, wait=5)
    assert sent.body is not None
    assert sent.body["deliver_at"] == "2026-01-01T00:00:00.000000Z"
    assert (sent.headers["prefer"], sent.held) == ("wait=5", 5.0)
    assert sent.repeatable
    assert sent.body["idempotency_key"] != (events.send("a").body or {})["idempotency_key"]
    assert (events.send("a", idempotency_key="k").body or {})["idempotency_key"] == "k"
    with pytest.raises(ValueError, match="zone"):
        events.send("a", deliver_at=datetime(2026, 1, 1))

    batch = events.send_batch([NewEvent("a", {}), NewEvent("b", {}, idempotency_key="own")])
    assert batch.body == {
        "events": [
            {"event_type": "a", "payload": {}},
            {"event_type": "b", "payload": {}, "idempotency_key": "own"},
        ]
    }
    assert batch.headers["idempotency-key"]

    listed = events.every(event_type="a b", since="2026-01-01T00:00:00Z").page("c/1")
    assert listed.target() == (
        "/v1/events?event_type=a+b&since=2026-01-01T00%3A00%3A00Z&limit=100&cursor=c%2F1"
    )
    assert events.get("../keys?x#y").target() == "/v1/events/..%2Fkeys%3Fx%23y"
    assert endpoints.update("e", rate_limit=None, schedule=(1, 2)).content() == (
        b'{"rate_limit":null,"schedule":[1,2]}'
    )
    assert not endpoints.create("http://x").repeatable
    assert not endpoints.rotate_secret("e").repeatable
    assert not endpoints.test("e").repeatable
    assert not keys.create("k").repeatable
    assert not events.replay("e").repeatable
    assert not replays.create().repeatable
    assert not endpoints.recover("e", "2026-01-01T00:00:00Z").repeatable
    assert events.delete("a/b").target() == "/v1/events/a%2Fb"
    assert replays.cancel("r").repeatable
    leased = inbox.lease(event_types=["a.*"], wait=2.5)
    assert (leased.held, leased.repeatable) == (2.5, True)
    patterns = inbox.every(event_types=("a", "b.*"), page_size=7)
    assert patterns.page(None).target() == "/v1/inbox?event_types=a&event_types=b.%2A&limit=7"
    assert inbox.every().page("c").target() == "/v1/inbox?limit=100&cursor=c"
    assert inbox.ack(("e",)).body == {"event_ids": ["e"]}
    assert inbox.release(["e"], "lea_1").body == {"event_ids": ["e"], "lease_id": "lea_1"}
    assert replays.create(event_types=("a",), since=then, include_missing=True).body == {
        "event_types": ["a"],
        "since": "2026-01-01T00:00:00.000000Z",
        "include_missing": True,
    }
    with pytest.raises(ValueError, match="JSON"):
        events.send("a", {"n": float("nan")}).content()


# When it tries again


def _post(repeatable: bool) -> Call[Any]:
    return describe("POST", "/v1/x", {}, repeatable=repeatable)


def _problem(status: int, code: str, **headers: str) -> Answer:
    body = {"code": code, "status": status, "detail": "No.", "request_id": "req_1"}
    return Answer(status, headers, json.dumps(body).encode())


def test_what_was_not_sent_is_sent_again() -> None:
    tries = Tries(_post(repeatable=False), URL, 2)
    refused = Lost("connection refused", sent=False)
    first, second = tries.after(refused), tries.after(refused)
    assert first is not None
    assert second is not None
    assert 0.12 < first <= 0.25 < second * 1.01 <= 0.51
    with pytest.raises(Unreachable, match=f"{URL} does not answer: connection refused"):
        tries.after(refused)


def test_what_may_have_been_done_is_done_again_only_if_that_does_no_harm() -> None:
    lost = Lost("reset", sent=True)
    assert Tries(_post(repeatable=True), URL, 1).after(lost)
    with pytest.raises(Unreachable, match="reset"):
        Tries(_post(repeatable=False), URL, 9).after(lost)
    for status in (408, 500, 502, 503, 504):
        answer = _problem(status, "storage_unavailable")
        assert Tries(_post(repeatable=True), URL, 1).after(answer)
        with pytest.raises(ApiError):
            Tries(_post(repeatable=False), URL, 1).after(answer)
    assert Tries(_post(repeatable=False), URL, 1).after(_problem(429, "rate_limited"))


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 422, 501, 507])
def test_a_refusal_is_final(status: int) -> None:
    with pytest.raises(ApiError) as refused:
        Tries(describe("GET", "/"), URL, 9).after(_problem(status, "some_code"))
    error = refused.value
    assert (error.code, error.status, error.detail) == ("some_code", status, "No.")
    assert error.request_id == "req_1"
    assert str(error) == "No. [some_code]"


def test_retry_after_is_honoured_within_reason() -> None:
    def wait(value: str) -> float | None:
        answer = _problem(503, "not_ready", **{"retry-after": value})
        return Tries(describe("GET", "/"), URL, 1).after(answer)

    assert wait("7") == 7
    before = datetime.now(UTC)
    in_ten = before.replace(microsecond=0) + timedelta(seconds=10)
    waits = timedelta(seconds=wait(format_datetime(in_ten, usegmt=True)) or 0)
    assert in_ten - datetime.now(UTC) <= waits <= in_ten - before
    for useless in ("soon", "-5", "1.5", "٣", "", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert 0 < (wait(useless) or 0) <= 0.25
    with pytest.raises(ApiError) as refused:
        wait("3600")
    assert refused.value.retry_after == 3600


def test_pauses_double_up_to_eight_seconds() -> None:
    tries = Tries(describe("GET", "/"), URL, 40)
    pauses = [tries.after(Lost("x", sent=True)) or 0 for _ in range(40)]
    for pause, limit in zip(pauses[:5], (0.25, 0.5, 1, 2, 4), strict=True):
        assert 0.5 * limit <= pause <= limit
    assert 4 <= max(pauses) <= 8


def test_a_delete_that_finds_nothing_after_a_lost_answer_has_worked() -> None:
    gone = _problem(404, "not_found")
    with pytest.raises(ApiError):
        Tries(describe("DELETE", "/"), URL, 1).after(gone)
    for outcome in (Lost("reset", sent=True), _problem(502, "bad_gateway")):
        tries = Tries(describe("DELETE", "/"), URL, 1)
        assert tries.after(outcome)
        assert tries.after(gone) is None
    tries = Tries(describe("DELETE", "/"), URL, 1)
    assert tries.after(Lost("refused", sent=False))
    with pytest.raises(ApiError):
        tries.after(gone)


def test_a_refusal_that_is_not_penstocks() -> None:
    for body in (b"<h1>Bad Gateway</h1>", b"", b"[]", b'{"message": "Forbidden"}'):
        with pytest.raises(ApiError) as refused:
            Tries(describe("GET", "/"), URL, 0).after(Answer(403, {"x-request-id": "r"}, body))
        assert (refused.value.code, refused.value.status) == ("unexpected_answer", 403)
        assert refused.value.request_id == "r"


def test_a_problem_of_a_batch_item_is_a_problem() -> None:
    document = {"code": "validation_failed", "status": 422, "errors": [{"message": "m"}]}
    assert Problem.of(document).errors == (Failure("m"),)


# Two clients, one surface


def _surface(client: type) -> dict[str, Any]:
    made = client("http://a.example", "k")
    return {
        f"{name}.{method}": inspect.signature(getattr(resource, method))
        for name, resource in vars(made).items()
        if isinstance(resource, Resource | AsyncResource)
        for method in dir(resource)
        if not method.startswith("_")
    }


def test_both_clients_have_the_same_methods() -> None:
    assert _surface(Client) == _surface(AsyncClient)
    assert str(_surface(Client)["events.get"]) == "(event_id: 'str')"
    assert Client.__init__.__annotations__ == AsyncClient.__init__.__annotations__
