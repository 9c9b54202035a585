"""The one file of a ``multipart/form-data`` body (RFC 7578), passed on while it comes in."""

from __future__ import annotations

from email.message import Message
from email.parser import HeaderParser
from typing import Final, Literal

from penstock.api.problems import Problem

MOST_HEADER_BYTES: Final = 8 * 1024  # of one part
MOST_PARTS: Final = 20


class FormFile:
    """Takes a body piece by piece and gives the contents of its file back.

    The file is the first part with a file name, or the first one called ``file``; other parts are
    left out. A body without any, or with two, is refused with a `Problem`.
    """

    def __init__(self, content_type: str) -> None:
        message = Message()
        message["content-type"] = content_type
        boundary = message.get_param("boundary")
        if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
            raise _malformed("its Content-Type names no boundary")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = b"\r\n"  # so that the first boundary is found like the others
        self._state: Literal["skip", "boundary", "headers", "file", "over"] = "skip"
        self._parts = 0
        self.filename: str | None = None
        self.found = False

    def feed(self, data: bytes) -> bytes:
        """What of the file is in this piece of the body."""
        self._buffer += data
        contents: list[bytes] = []
        while self._step(contents):
            pass
        return b"".join(contents)

    def end(self) -> None:
        """Say that the body is over; it must be complete."""
        if self._state != "over":
            raise _malformed("it ends before its last boundary")
        if not self.found:
            raise _malformed("it holds no file")

    def _step(self, contents: list[bytes]) -> bool:
        """One step onward; False = more is needed."""
        match self._state:
            case "skip" | "file":
                return self._content(contents)
            case "boundary":
                return self._boundary()
            case "headers":
                return self._headers()
            case "over":  # an epilogue means nothing
                self._buffer = b""
                return False

    def _content(self, contents: list[bytes]) -> bool:
        at = self._buffer.find(self._delimiter)
        # The last bytes may be the beginning of a boundary.
        safe = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if self._state == "file":
            contents.append(self._buffer[:safe])
        if at < 0:
            self._buffer = self._buffer[safe:]
            return False
        self._buffer = self._buffer[at + len(self._delimiter) :]
        self._state = "boundary"
        return True

    def _boundary(self) -> bool:
        if self._buffer.startswith(b"--"):
            self._state = "over"
            return True
        end = self._buffer.find(b"\r\n")
        if end < 0 and len(self._buffer) < 256:
            return False
        if end < 0 or self._buffer[:end].strip(b" \t"):
            raise _malformed("a boundary is followed by something else")
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _malformed(f"it has more than {MOST_PARTS} parts")
        # The line's end stays: a part without headers has two of them in a row here.
        self._buffer = self._buffer[end:]
        self._state = "headers"
        return True

    def _headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MOST_HEADER_BYTES or (end < 0 and len(self._buffer) > MOST_HEADER_BYTES):
            raise _malformed("the headers of a part are too long")
        if end < 0:
            return False
        # Browsers send file names as UTF-8, whatever the RFCs say of headers.
        text = self._buffer[:end].lstrip(b"\r\n").decode("utf-8", "replace")
        headers = HeaderParser().parsestr(text)
        self._buffer = self._buffer[end + 4 :]
        name = headers.get_param("name", header="content-disposition")
        filename = headers.get_filename()
        if filename is None and name != "file":
            self._state = "skip"
            return True
        if self.found:
            raise _malformed("it holds more than one file")
        self.found, self.filename = True, filename
        self._state = "file"
        return True


def _malformed(what: str) -> Problem:
    return Problem("bad_request", f"The multipart body cannot be read: {what}.")
