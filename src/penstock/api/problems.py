"""What a client is told when a request cannot be served (RFC 9457, ``problem+json``).

Every stable `code` is in `PROBLEMS`, with its status, its title and what to do about it.
Routes raise ``Problem("code", "What happened, in a sentence.")``; the advice is appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from penstock import errors

MEDIA_TYPE: Final = "application/problem+json"
MOST_ERRORS: Final = 50  # of one answer; a hostile body can hold any number


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: HTTP status, title, and what the client should do."""

    status: int
    title: str
    advice: str


_GENERAL: Final[Mapping[str, Kind]] = {
    "bad_request": Kind(400, "Bad request", "Correct the request and send it again."),
    "malformed_json": Kind(400, "Malformed JSON", "Send one complete JSON value."),
    "not_utf8": Kind(400, "Not UTF-8", "Encode the body as UTF-8 (RFC 8259, section 8.1)."),
    "bad_cursor": Kind(
        400, "Bad cursor", "Pass next_cursor of the previous page as it is, or start without one."
    ),
    "unauthenticated": Kind(
        401, "Authentication required", "Send 'Authorization: Bearer' with an API key."
    ),
    "invalid_token": Kind(
        401, "Credential refused", "Check that the key is complete and current, or make a new one."
    ),
    "insufficient_scope": Kind(
        403, "Scope missing", "Use a key that has the scope, or make one with it."
    ),
    "shared_circuit": Kind(
        403,
        "Circuit shared with other accounts",
        "Store a credential of the account's own, or ask the server's operator.",
    ),
    "not_found": Kind(
        404, "Not found", "Check the address, and that the credential is of the owning account."
    ),
    "method_not_allowed": Kind(
        405, "Method not allowed", "Use one of the methods that the Allow header lists."
    ),
    "too_slow": Kind(408, "Request Timeout", "Send the request faster, or in smaller parts."),
    "conflict": Kind(409, "Conflict", "Read the current state and decide again."),
    "no_signed_uploads": Kind(
        409,
        "No signed uploads",
        "Send the file as the body of POST /v1/uploads: this server keeps objects in a folder.",
    ),
    "not_sent": Kind(
        409, "File not there", "Send the file to the URL as it was announced, then confirm."
    ),
    "not_signed": Kind(
        409, "Not signed", "There is nothing to rotate: what goes to this endpoint is not signed."
    ),
    "body_too_large": Kind(413, "Body too large", "Send less in one request."),
    "unsupported_media_type": Kind(
        415, "Unsupported media type", "Send JSON with 'Content-Type: application/json'."
    ),
    "not_csv": Kind(
        415,
        "Not a CSV",
        "Send it with 'Content-Type: text/csv', or as the file of multipart/form-data.",
    ),
    "validation_failed": Kind(
        422, "Validation failed", "Correct what 'errors' lists and send the request again."
    ),
    "target_refused": Kind(
        422,
        "Target refused",
        "Give an https:// URL that leads to public addresses; the server's operator can allow "
        "private networks with PENSTOCK_ALLOW_PRIVATE_TARGETS.",
    ),
    "idempotency_key_reused": Kind(
        422,
        "Idempotency key reused",
        "Send the first request again as it was, or use a new key for a new event.",
    ),
    "unknown_carrier": Kind(
        422, "Unknown carrier", "Give one of the names that GET /v1/carriers lists."
    ),
    "carrier_not_configured": Kind(
        422,
        "No credential for the carrier",
        "Store one with PUT /v1/carriers/{carrier}/credentials; the server's operator can also "
        "set one for everybody.",
    ),
    "nul_character": Kind(
        422, "NUL character", "Remove \\u0000: databases cannot hold it in a text."
    ),
    "lone_surrogate": Kind(
        422, "Lone surrogate", "Send \\ud800-\\udfff in pairs only: alone they encode no character."
    ),
    "number_out_of_range": Kind(
        422,
        "Number out of range",
        "Send it as a string: NaN and Infinity are not JSON, and neither a number beyond "
        "1.8e308 nor one of thousands of digits survives a round trip.",
    ),
    "too_deep": Kind(422, "Nested too deeply", "Nest arrays and objects at most 64 levels deep."),
    "bad_data": Kind(
        422, "Value refused by the database", "Look for control characters and extreme numbers."
    ),
    "head_too_large": Kind(
        431, "Request Header Fields Too Large", "Send a shorter address and fewer headers."
    ),
    "rate_limited": Kind(
        429, "Too many requests", "Wait as many seconds as the Retry-After header says."
    ),
    "internal_error": Kind(
        500,
        "Internal error",
        "Try again; if it persists, look for the request id in the server's log.",
    ),
    "not_ready": Kind(503, "Not ready", "Wait until the checks pass; the log says more."),
    "storage_unavailable": Kind(
        503, "Storage unavailable", "Nothing was changed; try again in a few seconds."
    ),
    "issuer_unavailable": Kind(
        503, "Identity provider unavailable", "Try again in a minute, or use an API key."
    ),
    "storage_full": Kind(
        507, "Storage full", "Nothing was changed; free space on the server's disk, then try again."
    ),
}

# A file that cannot be used, or not without an answer: what is wrong stands in the detail.
_UNUSABLE: Final = "Correct the file and upload it again."
_UNCLEAR: Final = (
    "Say which it is in the request, or with PATCH /v1/uploads/{upload_id} for a file that is "
    "uploaded already."
)
_UNMAPPED: Final = (
    "GET /v1/uploads/{upload_id} shows the file's columns and a proposal; give the mapping."
)
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "ambiguous_delimiter": ("Delimiter unclear", _UNCLEAR),
    "bad_delimiter": ("Bad delimiter", _UNCLEAR),
    "bad_encoding": ("Not in this encoding", _UNUSABLE),
    "bad_header_row": ("Bad header row", _UNCLEAR),
    "duplicate_column": ("Column named twice", _UNMAPPED),
    "empty": ("Empty file", _UNUSABLE),
    "file_unclear": ("File unclear", _UNCLEAR),
    "header_row": ("Header unclear", _UNCLEAR),
    "header_too_long": ("Header too long", _UNUSABLE),
    "missing_column": ("Column missing", _UNMAPPED),
    "model_damaged": ("Model file damaged", "Train the model anew."),
    "model_invalid": ("Model file invalid", "Train the model anew."),
    "model_version": ("Model of another version", "Train the model anew."),
    "name_too_long": ("Column name too long", _UNUSABLE),
    "no_delimiter": ("No delimiter", _UNUSABLE),
    "no_header": ("No header", _UNCLEAR),
    "no_rows": ("No rows", _UNUSABLE),
    "not_gzip": ("Not gzip", _UNUSABLE),
    "too_many_columns": ("Too many columns", _UNUSABLE),
    "unclear_mapping": ("Mapping unclear", _UNMAPPED),
    "unclosed_quote": ("Quote not closed", _UNUSABLE),
    "unknown_column": ("Unknown column", _UNMAPPED),
    "unknown_encoding": ("Unknown encoding", _UNCLEAR),
    "unknown_model": ("Unknown model", "GET /v1/models lists them."),
}
PROBLEMS: Final[Mapping[str, Kind]] = {
    **_GENERAL,
    "too_large_unpacked": Kind(413, "Too large unpacked", _UNUSABLE),
    "training_unavailable": Kind(
        501,
        "Training not installed",
        "Install penstock[train] on the server, or train with the command `penstock train`.",
    ),
    **{code: Kind(422, title, advice) for code, (title, advice) in _FILES.items()},
}

_BY_STATUS: Final = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


class Problem(HTTPException):
    """A request that cannot be served, and why.

    It is an HTTPException so that frameworks which let those pass let this one pass too.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
        **extra: Any,
    ) -> None:
        kind = PROBLEMS[code]
        super().__init__(
            status or kind.status,
            f"{detail} {kind.advice}" if detail else kind.advice,
            dict(headers) if headers else None,
        )
        self.code = code
        self.extra = extra


def pointer(location: Iterable[str | int]) -> str:
    """A place in a JSON document by RFC 6901; the empty string is the whole document."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in location)


def invalid(failures: Iterable[Mapping[str, Any]], *, rooted: bool = False) -> Problem:
    """`validation_failed` from pydantic's errors.

    `rooted`: locations begin with where the value came from, as FastAPI writes them
    (``body``, ``query``, ``path``, ``header``). Values are not repeated: they may be secret.
    """
    listed: list[dict[str, Any]] = []
    for failure in islice(failures, MOST_ERRORS):
        location = list(failure["loc"])
        source = location.pop(0) if rooted and location else "body"
        # Pydantic announces our own validators' words as "Value error, …".
        message = failure["msg"].removeprefix("Value error, ")
        entry: dict[str, Any] = {"message": message[:1].upper() + message[1:]}
        if source == "body":
            entry["pointer"] = pointer(location)
        else:
            entry["in"] = source
            entry["parameter"] = ".".join(map(str, location))
        listed.append(entry)
    first = listed[0] if listed else {"message": "Unknown.", "pointer": ""}
    where = first.get("parameter") or first.get("pointer") or "the body"
    detail = f"{first['message'].rstrip('.')} (at {where})."
    return Problem("validation_failed", detail, errors=listed)


def from_exception(exc: Exception) -> Problem:
    """The problem that `exc` is to the client; `internal_error` when it is our fault."""
    match exc:
        case Problem():
            return exc
        case RequestValidationError():
            return invalid(exc.errors(), rooted=True)
        case HTTPException(status_code=status) if status < 500:
            code = _BY_STATUS.get(status, "bad_request")
            detail = "There is nothing at this address." if status == 404 else ""
            return Problem(code, detail, status=status, headers=exc.headers)
        case errors.NotFound():
            return Problem("not_found", str(exc))
        case errors.Conflict():
            return Problem("conflict", str(exc))
        case errors.StorageFull():
            return Problem("storage_full", str(exc))
        case errors.StorageUnavailable():
            return Problem("storage_unavailable", str(exc), headers={"Retry-After": "5"})
        case errors.BadData():
            return Problem("bad_data", str(exc))
        case _:
            return Problem("internal_error")


def body(problem: Problem, *, instance: str | None, request_id: str | None) -> bytes:
    """The document that tells of the problem."""
    return to_json(
        {
            "type": f"/problems/{problem.code}",
            "title": PROBLEMS[problem.code].title,
            "status": problem.status_code,
            "detail": problem.detail,
            "code": problem.code,
            "instance": instance,
            "request_id": request_id,
            **problem.extra,
        }
    )


def response(problem: Problem, scope: Scope) -> Response:
    """The answer to the request of `scope`."""
    context = scope.get("penstock")
    request_id = context.request_id if context is not None else None
    return Response(
        body(problem, instance=scope["path"], request_id=request_id),
        problem.status_code,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )
