"""The handlers for Lambda, each answer followed by a log line of what its process holds then."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from typing import Any

from penstock.aws import lambda_handlers
from support.lambda_runtime import open_files


def _counted(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def handle(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        finally:
            if event.get("count"):
                print(json.dumps({"timestamp": "", "event": "counted", **_held()}), flush=True)

    return handle


def _held() -> dict[str, int]:
    gc.collect()
    objects = gc.get_objects()
    loops = [each for each in objects if isinstance(each, asyncio.AbstractEventLoop)]
    return {
        "files": open_files("self"),
        "threads": threading.active_count(),
        "loops": sum(not loop.is_closed() for loop in loops),
        "tasks": sum(len(asyncio.all_tasks(loop)) for loop in loops),
        "timers": sum(
            not timer.cancelled() for loop in loops for timer in getattr(loop, "_scheduled", ())
        ),
    }


events_worker = _counted(lambda_handlers.events_worker)
api = _counted(lambda_handlers.api)
