"""Input that cannot be used, and questions that only its owner can answer."""

from __future__ import annotations

from penstock.errors import PenstockError


class Unusable(PenstockError):
    """The input cannot be used as it is.

    `code` is stable. The message says what was found, where, and what to do about it; values of
    the input in it are cut short.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Question(Unusable):
    """The input can be read in two ways, and guessing would be wrong for somebody.

    `option` is what answers it: the name of a field of `training.options.Options`.
    """

    def __init__(self, code: str, message: str, option: str) -> None:
        super().__init__(code, message)
        self.option = option


class MissingExtra(PenstockError):
    """A package that this needs is not installed."""


def quoted(value: str, limit: int = 40) -> str:
    """A value of the input for a message: escaped, in quotes, not longer than `limit`."""
    return repr(value if len(value) <= limit else value[: limit - 1] + "…")
