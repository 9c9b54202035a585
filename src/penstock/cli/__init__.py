"""The command `penstock`: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 unusable command line, settings or input, 3 done in part, 4 the
server cannot be reached. Results go to stdout (with ``--json`` one document), everything else to
stderr.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from penstock.cli.output import fail
from penstock.errors import PenstockError, SettingsError
from penstock.predictions.refusal import Question, Unusable

if TYPE_CHECKING:
    from penstock.cli.commands import app

__all__ = ["app", "main"]

# Commands on files: they need nothing of a server, and do not wait for its modules to load.
_ALONE = ("predict", "train")

_OPTIONS = {"types": "type"}  # that are called otherwise than their fields

_UNUSABLE = frozenset({400, 413, 422})  # the server's words for what is wrong with the input


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'penstock.cli' has no attribute {name!r}")
    from penstock.cli.commands import app

    return app


@functools.cache
def program(*, alone: bool = False) -> Callable[[], Any]:
    """Every command, or only those on files; put together once in a process."""
    if alone:
        from penstock.cli.alone import app
    else:
        from penstock.cli.commands import app
    return get_command(app)


def main() -> None:
    """Run the command line; errors made on purpose become one line and an exit code."""
    try:
        program(alone=bool(sys.argv[1:]) and sys.argv[1] in _ALONE)()
    except Question as exc:
        fail(f"{exc.message}{_how(exc)}", code=2)
    except (SettingsError, Unusable) as exc:
        fail(str(exc), code=2)
    except PenstockError as exc:
        fail(_told(exc), code=_code(exc))
    except KeyboardInterrupt:
        sys.exit(130)


def _how(question: Question) -> str:
    """By which options it is answered."""
    if not question.answers:
        return f" (--{question.option.replace('_', '-')})"
    ways = []
    for answer in question.answers:
        value = "=".join(filter(None, (answer.column, answer.value)))
        option = _OPTIONS.get(answer.option, answer.option.replace("_", "-"))
        ways.append(f"--{option} {shlex.quote(value)}")
    return f" Answer with {' or '.join(ways)}."


def _told(exc: PenstockError) -> str:
    """The error in a line; of a request that was refused, all that is wrong with it."""
    from penstock.client import ApiError, Unreachable

    if isinstance(exc, Unreachable) and "penstock up" not in str(exc):
        return f"{exc}; is the address right? `penstock doctor` where it runs may say more"
    if not isinstance(exc, ApiError) or not exc.errors:
        return str(exc)
    faults = (f"{each.pointer or each.parameter}: {each.message}" for each in exc.errors)
    return f"{'; '.join(faults)} [{exc.code}]"


def _code(exc: PenstockError) -> int:
    from penstock.client import ApiError, Unreachable

    if isinstance(exc, Unreachable):
        return 4
    return 2 if isinstance(exc, ApiError) and exc.status in _UNUSABLE else 1
