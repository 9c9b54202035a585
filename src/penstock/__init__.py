"""Background work that is not lost: jobs, signed webhooks, on one machine or on AWS.

::

    from penstock import Penstock

    app = Penstock()

    @app.job(timeout="2m")
    async def resize(image_id: int, width: int = 800) -> str: ...

    await resize.enqueue(42, width=400)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from penstock._version import __version__

if TYPE_CHECKING:
    from penstock import errors
    from penstock.app import Penstock
    from penstock.client import AsyncClient, Client
    from penstock.jobs import (
        Job,
        JobCancelled,
        JobContext,
        JobFailed,
        JobHandle,
        current_job,
    )
    from penstock.work.outcomes import Dead, Done, Postpone, Retry

__all__ = [
    "AsyncClient",
    "Client",
    "Dead",
    "Done",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobHandle",
    "Penstock",
    "Postpone",
    "Retry",
    "__version__",
    "current_job",
    "errors",
]

# Imported when first asked for: the command line must not wait for what it does not use.
_HOMES: Final = {
    "Penstock": "penstock.app",
    **dict.fromkeys(("AsyncClient", "Client"), "penstock.client"),
    **dict.fromkeys(
        ("Job", "JobCancelled", "JobContext", "JobFailed", "JobHandle", "current_job"),
        "penstock.jobs",
    ),
    **dict.fromkeys(("Dead", "Done", "Postpone", "Retry"), "penstock.work.outcomes"),
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("penstock.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
