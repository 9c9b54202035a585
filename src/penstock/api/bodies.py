"""JSON from strangers: read with a limit, refuse what cannot be kept, then validate.

Beyond RFC 8259 a body must not hold what a later step could not carry: NUL characters
(PostgreSQL has no text with them), lone surrogates (no UTF-8 for them), NaN, infinities and
numbers that become them, and nesting beyond `MOST_LEVELS` (other parsers recurse). The usual
body is cleared by a few searches of its bytes; only what looks suspicious is parsed again.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from penstock.api.problems import Problem, invalid

T = TypeVar("T", bound=BaseModel)

DEFAULT_LIMIT: Final = 256 * 1024  # bytes, of routes that state no other
MOST_LEVELS: Final = 64

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
# Every digit looks like 0 and every E like e: the shape in which to look for big numbers.
_SHAPE: Final = bytes.maketrans(b"123456789E", b"000000000e")
_MANY_DIGITS: Final = b"0" * 200


async def read(request: Request, limit: int | None = DEFAULT_LIMIT) -> bytes:
    """The whole body; `body_too_large` as soon as more than `limit` bytes came in."""
    chunks: list[bytes] = []
    size = 0
    receive = request.receive
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if limit is not None and size > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            break
        chunks.append(chunk)
    return b"".join([*chunks, chunk]) if chunks else chunk


def too_large(limit: int) -> Problem:
    """The refusal of a body of more than `limit` bytes."""
    return Problem("body_too_large", f"The body may have at most {limit} bytes.", limit=limit)


def check_type(content_type: bytes | None) -> None:
    """Refuse a Content-Type that is not JSON in UTF-8."""
    if content_type == b"application/json":
        return
    if content_type is None:
        raise Problem("unsupported_media_type", "The request names no Content-Type.")
    media, *parameters = content_type.decode("latin-1").lower().split(";")
    media = media.strip()
    if media != "application/json" and not (
        media.startswith("application/") and media.endswith("+json")
    ):
        raise Problem("unsupported_media_type", "The body is not said to be JSON.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            raise Problem("unsupported_media_type", "The body is not said to be in UTF-8.")


def parse(model: type[T], raw: bytes) -> T:
    """`raw` as a `model`, or the problem that it has."""
    check(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as exc:
        failures = exc.errors(include_url=False, include_context=False, include_input=False)
    if failures[0]["type"] == "json_invalid" and not failures[0]["loc"]:
        raise _malformed(raw, failures[0]["msg"])
    raise invalid(failures)


def loads(raw: bytes) -> Any:
    """`raw` as plain Python values, or the problem that it has."""
    check(raw)
    try:
        return from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as exc:
        message = str(exc)
    raise _malformed(raw, message)


async def receive(request: Request, model: type[T]) -> T:
    """The body of a request as a `model`, under the limit of its route."""
    context = request.scope["penstock"]
    check_type(context.headers.get(b"content-type"))
    return parse(model, await read(request, context.body_limit))


def check(raw: bytes) -> None:
    """Refuse what the parser would let through. Costs about 3 µs for a body of 300 bytes."""
    if b"\\u0000" in raw and _NUL.search(raw):
        raise Problem("nul_character", "The body holds the character \\u0000.")
    if raw.count(b"[") + raw.count(b"{") > MOST_LEVELS and _deeper(raw, MOST_LEVELS):
        raise Problem("too_deep", "The body is nested too deeply.")
    shape = raw.translate(_SHAPE)
    if (
        b"NaN" in raw
        or b"Infinity" in raw
        or b"0e000" in shape
        or b"0e+000" in shape
        or _MANY_DIGITS in shape
    ):
        _check_numbers(raw)


def _deeper(raw: bytes, levels: int) -> bool:
    """Whether brackets outside strings are nested more than `levels` deep.

    Each round takes the innermost pairs away, so what is left after `levels` rounds was
    nested deeper. Brackets that do not match are left for the parser to refuse.
    """
    rest = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(levels):
        shorter = rest.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(rest):
            return False
        rest = shorter
    return b"[]" in rest or b"{}" in rest


def _check_numbers(raw: bytes) -> None:
    def constant(name: str) -> NoReturn:
        raise Problem("number_out_of_range", f"The body holds {name}.")

    def real(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise Problem("number_out_of_range", "The body holds a number beyond 1.8e308.")
        return value

    try:
        # Integers are left alone: the parser bounds their length itself.
        json.loads(raw, parse_constant=constant, parse_float=real, parse_int=len)
    except (ValueError, RecursionError):
        return  # malformed in another way, which the parser will name


def _malformed(raw: bytes, message: str) -> Problem:
    message = message.removeprefix("Invalid JSON: ")
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        return Problem("not_utf8", f"Byte {exc.start} is not UTF-8.")
    if not raw.strip():
        return Problem("malformed_json", "The body is empty.")
    if "recursion limit" in message:
        return Problem("too_deep", "The body is nested too deeply.")
    if "number out of range" in message:
        return Problem("number_out_of_range", "The body holds a number of thousands of digits.")
    if "hex escape" in message and _SURROGATE.search(raw):
        return Problem("lone_surrogate", "The body holds half of a surrogate pair.")
    return Problem("malformed_json", f"The body is not JSON: {message}.")
