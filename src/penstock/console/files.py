"""Forms with a file: the fields before it are read, the file itself is passed on as it comes in.

A browser sends fields in the order of the form, so a form has its secret before its file, and
nothing of the file is stored unless the secret is right.
"""

from __future__ import annotations

from email.message import Message as Headers
from email.parser import HeaderParser
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from penstock.api import bodies
from penstock.api.context import of
from penstock.api.multipart import FormFile
from penstock.api.problems import Problem
from penstock.console.calls import Refused, Sent, refusal_of

MEDIA: Final = "multipart/form-data"
_MOST: Final = 64 * 1024  # bytes before the file
_MOST_FIELDS: Final = 50

_UNREADABLE: Final = Refused(400, "bad_request", "The form cannot be read.")


async def opening(request: Request) -> tuple[list[tuple[str, str]], Sent | None]:
    """The fields before the file, and the whole body with its headers; None if it has no file.

    Refused if it is no form.
    """
    headers = of(request).headers
    delimiter = b"--" + _boundary(headers.get(b"content-type", b"").decode("latin-1"))
    begun, more = b"", True
    fields: list[tuple[str, str]] = []
    at = 0
    while True:
        step = _field(begun, at, delimiter)
        if step is not None:
            at, field = step
            if field is False:
                return fields, None
            if field is True:
                break
            fields.append(field)
            if len(fields) > _MOST_FIELDS:
                raise _UNREADABLE
            continue
        if not more or len(begun) > _MOST:
            raise _UNREADABLE
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        begun += message.get("body", b"")
        more = message.get("more_body", False)
    first: list[Message] = [{"type": "http.request", "body": begun, "more_body": more}]

    async def receive() -> Message:
        return first.pop() if first else await request.receive()

    kept = (b"content-type", b"content-length")
    return fields, Sent({name: headers[name] for name in kept if name in headers}, receive)


async def whole(sent: Sent, most: int) -> bytes:
    """The file of a form, in memory. Refused if it has more than `most` bytes, or there is none."""
    form = FormFile(sent.headers[b"content-type"].decode("latin-1"))
    found = bytearray()
    try:
        while True:
            message = await sent.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            found += form.feed(message.get("body", b""))
            if len(found) > most:
                raise bodies.too_large(most)
            if not message.get("more_body", False):
                break
        form.end()
    except Problem as problem:
        raise refusal_of(problem) from None
    return bytes(found)


def _boundary(content_type: str) -> bytes:
    message = Headers()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise _UNREADABLE
    return boundary.encode()


def _field(body: bytes, at: int, delimiter: bytes) -> tuple[int, tuple[str, str] | bool] | None:
    """The field at a boundary, and where the next begins; True = the file, False = there is none.

    None if more of the body is needed.
    """
    if len(body) < at + len(delimiter) + 2:
        return None
    if not body.startswith(delimiter, at):
        raise _UNREADABLE
    if body.startswith(b"--", at + len(delimiter)):
        return at, False
    end = body.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    headers = HeaderParser().parsestr(
        body[at + len(delimiter) : end].strip().decode("utf-8", "replace")
    )
    filename = headers.get_filename()
    if filename is not None:  # where nothing was chosen, browsers send a file without a name
        return at, bool(filename)
    close = body.find(b"\r\n" + delimiter, end + 4)
    if close < 0:
        return None
    name = headers.get_param("name", header="content-disposition")
    try:
        value = body[end + 4 : close].decode()
    except UnicodeDecodeError:
        raise _UNREADABLE from None
    if not isinstance(name, str) or "\0" in value:
        raise _UNREADABLE
    return close + 2, (name, value)
