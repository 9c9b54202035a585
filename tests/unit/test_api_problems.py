from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from penstock import errors
from penstock.api.problems import PROBLEMS, Problem, from_exception, pointer, response


@pytest.mark.parametrize(
    ("exc", "code", "status"),
    [
        (Problem("bad_cursor"), "bad_cursor", 400),
        (HTTPException(404), "not_found", 404),
        (HTTPException(405, headers={"Allow": "GET"}), "method_not_allowed", 405),
        (HTTPException(413), "body_too_large", 413),
        (HTTPException(400), "bad_request", 400),
        (HTTPException(418), "bad_request", 418),
        (HTTPException(502), "internal_error", 500),
        (errors.NotFound(), "not_found", 404),
        (errors.Conflict(), "conflict", 409),
        (errors.StorageFull(), "storage_full", 507),
        (errors.StorageUnavailable(), "storage_unavailable", 503),
        (errors.BadData(), "bad_data", 422),
        (errors.SettingsError("secret=hunter2"), "internal_error", 500),
        (RuntimeError("secret=hunter2"), "internal_error", 500),
        (RequestValidationError([]), "validation_failed", 422),
    ],
    ids=lambda value: repr(value),
)
def test_what_an_exception_is_to_the_client(exc: Exception, code: str, status: int) -> None:
    problem = from_exception(exc)
    assert (problem.code, problem.status_code) == (code, status)
    assert "hunter2" not in problem.detail


def test_headers_of_the_exception_are_kept() -> None:
    assert from_exception(HTTPException(405, headers={"Allow": "GET"})).headers == {"Allow": "GET"}
    assert "Retry-After" in (from_exception(errors.StorageUnavailable()).headers or {})


def test_an_answer_has_every_member_of_rfc_9457_and_ours() -> None:
    class Context:
        request_id = "req_1"

    scope: dict[str, Any] = {"path": "/v1/keys", "penstock": Context()}
    answer = response(Problem("not_found", "There is no such key.", extra_member=1), scope)
    assert answer.status_code == 404
    assert answer.media_type == "application/problem+json"
    assert json.loads(bytes(answer.body)) == {
        "type": "/problems/not_found",
        "title": "Not found",
        "status": 404,
        "detail": f"There is no such key. {PROBLEMS['not_found'].advice}",
        "code": "not_found",
        "instance": "/v1/keys",
        "request_id": "req_1",
        "extra_member": 1,
    }


def test_where_a_parameter_failed() -> None:
    failures = [
        {"loc": ("query", "limit"), "msg": "Too big"},
        {"loc": ("body", "a/b", 0), "msg": "Too small"},
        {"loc": ("body",), "msg": "Field required"},
    ]
    assert from_exception(RequestValidationError(failures)).extra["errors"] == [
        {"in": "query", "parameter": "limit", "message": "Too big"},
        {"pointer": "/a~1b/0", "message": "Too small"},
        {"pointer": "", "message": "Field required"},
    ]


def test_every_code_says_what_it_is_and_what_to_do() -> None:
    for code, kind in PROBLEMS.items():
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", code)
        assert 400 <= kind.status < 600
        assert kind.title
        assert not kind.title.endswith(".")
        assert kind.advice.endswith(".")


# The examples of RFC 6901, section 5.
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], ""),
        (["foo", 0], "/foo/0"),
        ([""], "/"),
        (["a/b"], "/a~1b"),
        (["m~n"], "/m~0n"),
        ([" "], "/ "),
    ],
)
def test_pointers(steps: list[str | int], expected: str) -> None:
    assert pointer(steps) == expected
