"""Input that cannot be used, and questions that only its owner can answer."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Answer:
    """One way to answer a question: an option and its value, of `column` if it has one for each.

    How that is written is up to whoever asks: an option of the command, a field of a request.
    """

    option: str
    value: str = ""
    column: str = ""


class Question(Unusable):
    """The input can be read in two ways, and guessing would be wrong for somebody.

    `option` is what answers it: the name of a field of `training.options.Options`, of
    `sniff.Given`, or ``map``. `answers` are the ways to do so, where they can be spelled out.
    """

    def __init__(
        self, code: str, message: str, option: str, answers: tuple[Answer, ...] = ()
    ) -> None:
        super().__init__(code, message)
        self.option = option
        self.answers = answers


class MissingExtra(PenstockError):
    """A package that this needs is not installed."""


def quoted(value: str, limit: int = 40) -> str:
    """A value of the input for a message: escaped, in quotes, not longer than `limit`."""
    return repr(value if len(value) <= limit else value[: limit - 1] + "…")
