"""The command `penstock`: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 unusable command line, settings or input, 3 done in part, 4 the
server cannot be reached. Results go to stdout (with ``--json`` one document), everything else to
stderr.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from penstock.cli.output import fail
from penstock.errors import PenstockError, SettingsError
from penstock.predictions.refusal import Question, Unusable

if TYPE_CHECKING:
    from penstock.cli.commands import app

__all__ = ["app", "main"]

# Commands on files: they need nothing of a server, and do not wait for its modules to load.
_ALONE = ("predict", "train")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'penstock.cli' has no attribute {name!r}")
    from penstock.cli.commands import app

    return app


def main() -> None:
    """Run the command line; errors made on purpose become one line and an exit code."""
    try:
        if sys.argv[1:2] and sys.argv[1] in _ALONE:
            from penstock.cli.alone import app
        else:
            from penstock.cli.commands import app
        app()
    except Question as exc:
        option = "" if "--" in exc.message else f" (--{exc.option.replace('_', '-')})"
        fail(exc.message + option, code=2)
    except (SettingsError, Unusable) as exc:
        fail(str(exc), code=2)
    except PenstockError as exc:
        from penstock.client import Unreachable

        fail(str(exc), code=4 if isinstance(exc, Unreachable) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
