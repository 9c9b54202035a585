"""What a wake-up looks like as the body of a message in a queue.

``{"v":1,"kind":"delivery","lane":"…"}`` and nothing else. Anybody who may send to the queue can
write such a message, so nothing in it is trusted beyond "look at this lane now". Its age is not
looked at: a message that was redriven is old by nature.
"""

from __future__ import annotations

import json
from typing import Any, Final

from penstock.work.wakeups import Wake

VERSION: Final = 1
_FIELDS: Final = frozenset({"v", "kind", "lane"})


class BadBody(ValueError):
    """The body of a message is no wake-up; the text says why."""


def encode(wake: Wake) -> str:
    """The body for a wake. Its delay is not in there: it belongs to the message."""
    # ASCII only: SQS refuses control characters and U+FFFE, which a lane's name may hold.
    return json.dumps({"v": VERSION, "kind": wake.kind, "lane": wake.lane}, separators=(",", ":"))


def decode(body: str) -> tuple[str, str] | None:
    """Kind and lane of a wake-up; None = a later version wrote it. Raises BadBody."""
    try:
        found = json.loads(body, object_pairs_hook=_once)
    except RecursionError:
        raise BadBody("not JSON: nested too deeply") from None
    except ValueError as exc:
        raise BadBody(str(exc) if isinstance(exc, BadBody) else f"not JSON: {exc}") from None
    if not isinstance(found, dict):
        raise BadBody("not a JSON object")
    version = found.get("v")
    if type(version) is int and version > VERSION:
        return None
    if type(version) is not int or version != VERSION:
        raise BadBody(f"v is not {VERSION}")
    if unknown := found.keys() - _FIELDS:
        raise BadBody(f"unknown fields: {', '.join(sorted(map(repr, unknown)))[:200]}")
    if missing := _FIELDS - found.keys():
        raise BadBody(f"missing fields: {', '.join(sorted(missing))}")
    kind, lane = found["kind"], found["lane"]
    if not isinstance(kind, str) or not isinstance(lane, str):
        raise BadBody("kind and lane must be texts")
    return kind, lane


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadBody("a field is given twice")
    return found
