"""A request that is understood and not carried out; the routes turn it into a problem."""

from __future__ import annotations

from penstock.errors import PenstockError


class Refused(PenstockError):
    """The request cannot be carried out.

    `code` is the problem's stable code; `pointer` names the field at fault (RFC 6901).
    """

    def __init__(self, code: str, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pointer = pointer
