"""Hostile requests: each gets a problem with a stable code, and the server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from support.client import Answer, Api
from support.process import Up

pytestmark = pytest.mark.anyio

KIB = 1024


def _event(payload: str) -> bytes:
    return b'{"event_type":"hostile","payload":' + payload.encode() + b"}"


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "malformed_json"),
    "blank": (b" \n", 400, "malformed_json"),
    "cut off": (b'{"event_type":"hostile","payload":{', 400, "malformed_json"),
    "trailing comma": (_event('{"a":1,}'), 400, "malformed_json"),
    "two documents": (_event("{}") * 2, 400, "malformed_json"),
    "single quotes": (b"{'event_type':'hostile'}", 400, "malformed_json"),
    "bare text": (b"hello", 400, "malformed_json"),
    "xml": (b"<?xml version='1.0'?><a/>", 400, "malformed_json"),
    "random bytes": (bytes(range(128, 256)), 400, "not_utf8"),
    "latin-1": ('{"event_type":"hostile","payload":{"a":"é"}}'.encode("latin-1"), 400, "not_utf8"),
    "utf-16": (_event('{"a":"é"}').decode().encode("utf-16"), 400, "not_utf8"),
    "overlong utf-8": (_event('{"a":"X"}').replace(b"X", b"\xc0\x80"), 400, "not_utf8"),
    "surrogate in utf-8": (_event('{"a":"X"}').replace(b"X", b"\xed\xa0\x80"), 400, "not_utf8"),
    "escaped nul": (_event('{"a":"x\\u0000y"}'), 422, "nul_character"),
    "escaped nul in a key": (_event('{"a\\u0000":1}'), 422, "nul_character"),
    "raw nul": (_event('{"a":"x\x00y"}'), 400, "malformed_json"),
    "lone high surrogate": (_event('{"a":"\\ud800"}'), 422, "lone_surrogate"),
    "lone low surrogate": (_event('{"a":"\\udc00x"}'), 422, "lone_surrogate"),
    "surrogates swapped": (_event('{"a":"\\udc00\\ud800"}'), 422, "lone_surrogate"),
    "nan": (_event('{"a":NaN}'), 422, "number_out_of_range"),
    "infinity": (_event('{"a":-Infinity}'), 422, "number_out_of_range"),
    "1e999": (_event('{"a":1e999}'), 422, "number_out_of_range"),
    "400 digits": (_event('{"a":' + "9" * 400 + ".0}"), 422, "number_out_of_range"),
    "5000 digits": (_event('{"a":' + "9" * 5000 + "}"), 422, "number_out_of_range"),
    "65 levels": (_event(_nested(65)), 422, "too_deep"),
    "40,000 levels": (_event(_nested(40_000)), 422, "too_deep"),
    "100,000 open brackets": (b"[" * 100_000, 422, "too_deep"),
    "an array": (b"[]", 422, "validation_failed"),
    "a string": (b'"event"', 422, "validation_failed"),
    "null": (b"null", 422, "validation_failed"),
    "payload an array": (_event("[1]"), 422, "validation_failed"),
    "payload missing": (b'{"event_type":"hostile"}', 422, "validation_failed"),
    "unknown field": (_event('{},"priority":1'), 422, "validation_failed"),
    "type of 101": (_event("{}").replace(b"hostile", b"a" * 101), 422, "validation_failed"),
    "type with newline": (_event("{}").replace(b"hostile", b"a\\n"), 422, "validation_failed"),
    "type a number": (_event("{}").replace(b'"hostile"', b"1"), 422, "validation_failed"),
    "naive time": (
        _event('{},"deliver_at":"2030-01-01T00:00:00"'),
        422,
        "validation_failed",
    ),
    "256 KiB and a byte": (
        _event('{"a":"' + "x" * (256 * KIB - 40) + '"}').ljust(256 * KIB + 1),
        413,
        "body_too_large",
    ),
    "8 MiB": (b"x" * (8 * KIB * KIB), 413, "body_too_large"),
}


@pytest.fixture
async def still_there(api: Api) -> AsyncIterator[None]:
    """Whatever was sent, the server is ready and takes a good event afterwards."""
    yield
    assert (await api.call("GET", "/health/live")).status == 200
    assert (await api.call("GET", "/health/ready")).status == 200
    assert (await api.send("hostile.after"))["event_id"]


async def _post(api: Api, data: bytes, content_type: str | None = "application/json") -> Answer:
    headers = {} if content_type is None else {"content-type": content_type}
    return await api.call("POST", "/v1/events", data=data, headers=headers)


@pytest.mark.usefixtures("still_there")
async def test_hostile_bodies_are_problems(api: Api) -> None:
    found = {}
    for name, (data, _, _) in HOSTILE.items():
        answer = await _post(api, data)
        found[name] = (answer.status, answer.code)
        # In between, a good one.
        assert (await _post(api, _event('{"n":1}'))).status == 202, name

    expected = {name: (status, code) for name, (_, status, code) in HOSTILE.items()}
    assert {n: f for n, f in found.items() if f != expected[n]} == {}


@pytest.mark.usefixtures("still_there")
async def test_what_is_unusual_but_right_is_accepted(api: Api) -> None:
    usual = {
        "64 levels": _event(_nested(62)),
        "a surrogate pair": _event('{"a":"\\ud83d\\ude00"}'),
        "an escaped backslash before u0000": _event('{"a":"\\\\u0000"}'),
        "1e308": _event('{"a":1e308}'),
        "64-bit and beyond": _event('{"a":18446744073709551616}'),
        "256 KiB": _event('{"a":"' + "x" * (256 * KIB - 100) + '"}').ljust(256 * KIB),
        "brackets in a string": _event('{"a":"' + "[" * 100_000 + '"}'),
    }

    found = {name: (await _post(api, data)).status for name, data in usual.items()}

    assert found == dict.fromkeys(usual, 202)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=iso-8859-1",
        "json",
    ],
)
async def test_other_media_types_are_refused(api: Api, content_type: str | None) -> None:
    answer = await _post(api, _event("{}"), content_type or "application/octet-stream")

    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.usefixtures("still_there")
async def test_a_chunked_body_is_cut_off_at_the_limit(api: Api) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(16 * 1024):
            sent += 64 * KIB
            yield b" " * (64 * KIB)
            await asyncio.sleep(0)  # a client that only writes would not see the answer

    answer = await api.call(
        "POST", "/v1/events", data=endless(), headers={"content-type": "application/json"}
    )

    assert (answer.status, answer.code) == (413, "body_too_large")
    assert sent < 1024 * KIB * KIB  # the answer did not wait for the end


@pytest.mark.usefixtures("still_there")
async def test_a_batch_judges_items_and_the_whole(api: Api) -> None:
    large = {"event_type": "hostile", "payload": {"a": "x" * (257 * KIB)}}
    small = {"event_type": "hostile", "payload": {}}

    answer = await api.ok("POST", "/v1/events/batch", {"events": [small, large, small]})

    assert [r["status_code"] for r in answer["results"]] == [202, 413, 202]
    assert answer["results"][1]["problem"]["code"] == "body_too_large"
    for body, code in (
        ({"events": []}, "validation_failed"),
        ({"events": [small] * 101}, "validation_failed"),
        ({"events": [large] * 21}, "body_too_large"),
    ):
        assert (await api.call("POST", "/v1/events/batch", body)).code == code


async def _said(port: int, raw: bytes, seconds: float = 0.3) -> tuple[int, str] | None:
    """Status and code of what is answered to these bytes in so long; None = nothing is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reply = b""
    with suppress(ConnectionError, TimeoutError):
        writer.write(raw)
        async with asyncio.timeout(seconds):
            await writer.drain()
            while b"\r\n\r\n" not in reply or not reply.endswith(b"}"):
                if not (more := await reader.read(65536)):
                    break
                reply += more
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    if not reply:
        return None
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return int(head.split()[1]), json.loads(body)["code"]


@pytest.mark.usefixtures("still_there")
async def test_garbage_on_the_socket_and_clients_that_hang_up(api: Api, server: Up) -> None:
    head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    json_head = head + "Content-Type: application/json\r\n"
    bad = (400, "bad_request")
    garbage: list[tuple[bytes, tuple[int, str] | None]] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), bad),  # TLS
        (b"\x00" * 5000, bad),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", bad),
        (b"G\xffT / HTTP/1.1\r\nHost: x\r\n\r\n", bad),
        ((json_head + "Content-Length: -5\r\n\r\n").encode(), bad),
        ((json_head + "Content-Length: 99999999999999999999\r\n\r\n").encode(), bad),
        ((json_head + "Content-Length: abc\r\n\r\n").encode(), bad),
        (
            (
                json_head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ).encode(),
            bad,
        ),
        (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 600_000, (431, "head_too_large")),
        (b"GET /" + b"a" * 600_000, (431, "head_too_large")),
        ((json_head + "Content-Length: 500\r\n\r\n{").encode(), None),  # hangs up in the body
        (head[: len(head) // 2].encode(), None),  # hangs up in the headers
        (b"", None),
    ]
    for raw, expected in garbage:
        patience = 0.3 if expected is None else 20.0
        assert await _said(server.port, raw, patience) == expected, raw[:100]
        assert (await api.call("GET", "/health/live")).status == 200

    # Chunks that are none, after a head that is right.
    await _said(server.port, (json_head + "Transfer-Encoding: chunked\r\n\r\nZZZ\r\n").encode())
    assert not server.logged("request_failed")


@pytest.mark.usefixtures("still_there")
async def test_slow_senders_hold_up_nobody(api: Api, server: Up) -> None:
    """A hundred connections that send a byte now and then: others are answered as ever."""
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
    try:
        for n, (_, writer) in enumerate(slow):
            writer.write(head[: 60 + n % 90].encode() if n % 2 else head.encode() + b'{"a"')
        for _ in range(5):
            for _, writer in slow:
                writer.write(b" ")
            loop = asyncio.get_running_loop()
            began = loop.time()
            await api.send("hostile.beside")
            assert loop.time() - began < 10
    finally:
        for _, writer in slow:
            writer.close()
        for _, writer in slow:
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.usefixtures("still_there")
async def test_odd_addresses_and_headers_are_problems(api: Api) -> None:
    odd: list[tuple[str, str, str]] = [
        ("GET", "/v1/events/%00", "nul_character"),
        ("GET", "/v1/events?event_type=a%00b", "nul_character"),
        ("GET", "/v1/events/evt_does-not-exist", "not_found"),
        ("GET", "/v1/events/" + "x" * 3000, "not_found"),
        ("GET", "/v1/events/%ff%fe", "not_found"),
        ("GET", "/nowhere", "not_found"),
        ("PUT", "/v1/events", "method_not_allowed"),
        ("GET", "/v1/events?limit=0", "validation_failed"),
        ("GET", "/v1/events?limit=abc", "validation_failed"),
        ("GET", "/v1/events?cursor=%F0%9F%98%80", "bad_cursor"),
        ("GET", "/v1/events?cursor=bm90IGEgY3Vyc29y", "bad_cursor"),
        ("GET", "/v1/events?since=yesterday", "validation_failed"),
        ("GET", "/v1/events?status=lost", "validation_failed"),
    ]
    found = [(m, p, (await api.call(m, p)).code) for m, p, _ in odd]
    assert found == odd
    far = "/v1/events?since=9999-12-31T23:59:59.999999-23:59"  # the year 10000 in UTC
    assert (await api.ok("GET", far))["items"] == []

    body = {"event_type": "hostile", "payload": {}}
    for key in ("", "x" * 256, "naïve"):
        answer = await api.call("POST", "/v1/events", body, headers={"idempotency-key": key})
        assert answer.code == "validation_failed"
    for prefer in ("wait=abc", "wait=-1", "respond-async", "wait=99999999999"):
        answer = await api.call("POST", "/v1/events", body, headers={"prefer": prefer})
        assert answer.status == 202


async def test_a_problem_says_what_it_is(api: Api) -> None:
    answer = await api.call(
        "POST",
        "/v1/events",
        {"event_type": "!", "payload": 1},
        headers={"x-request-id": "mine-1"},
    )

    problem = json.loads(answer.body)
    assert answer.headers["x-request-id"] == problem["request_id"] == "mine-1"
    assert {"type", "title", "status", "detail", "code", "instance", "errors"} <= problem.keys()
    assert {e["pointer"] for e in problem["errors"]} == {"/event_type", "/payload"}
    explained = await api.ok("GET", problem["type"])
    assert explained["code"] == "validation_failed"
