"""The service's refusals and questions as the API tells them."""

from __future__ import annotations

from typing import Any, Final

from penstock.api.problems import PROBLEMS, Problem
from penstock.predictions.refusal import Question, Unusable

# The API's name for the option of mapping that answers a question.
_FIELDS: Final = {"map": "mapping"}


def problem_of(refused: Unusable, upload_id: str | None = None) -> Problem:
    """The problem that a refusal is; a question names the field that answers it.

    `upload_id` is that of a file which was kept, to be asked for again with the answer.
    """
    extra: dict[str, Any] = {}
    if isinstance(refused, Question):
        extra["option"] = _FIELDS.get(refused.option, refused.option)
    if upload_id is not None:
        extra["upload_id"] = upload_id
    if refused.code == "not_csv":
        return Problem("not_csv", refused.message, **extra)
    code = refused.code if refused.code in PROBLEMS else "file_unclear"
    # Elsewhere `not_utf8` is said of JSON, which is a bad request.
    status = 422 if PROBLEMS[code].status == 400 else None
    return Problem(code, refused.message, status=status, **extra)


def question(code: str, message: str, option: str, upload_id: str) -> Problem:
    """The problem that an upload's open question is to whoever wants to use it."""
    return problem_of(Question(code, message, option), upload_id)
