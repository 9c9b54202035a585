"""What a credential may do: an area and `read` or `write`.

`x:write` implies `x:read`: whoever may change a thing learns what it is by the answer to
the change. A key made without scopes may do everything (`*`), also what later versions add.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

AREAS: Final = (
    "events",
    "endpoints",
    "inbox",
    "shipments",
    "predictions",
    "models",
    "lanes",
    "jobs",
    "keys",
)
EVERYTHING: Final = "*"
ALL: Final = frozenset(f"{area}:{verb}" for area in AREAS for verb in ("read", "write"))


def expand(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes granted by `scopes`, implied ones included; unknown names grant nothing."""
    named = frozenset(scopes)
    if EVERYTHING in named:
        return ALL
    implied = {f"{scope[:-6]}:read" for scope in named if scope.endswith(":write")}
    return (named | implied) & ALL


def normalize(scopes: Iterable[str] | None) -> list[str]:
    """The scopes as they are stored: sorted, without repeats; None is everything.

    ValueError names what is unknown. An empty list is an error, lest a list that was built
    by mistake make a key that may do everything, or nothing.
    """
    if scopes is None:
        return [EVERYTHING]
    named = sorted(set(scopes))
    if not named:
        raise ValueError("name at least one scope, or leave scopes out for all of them")
    if named == [EVERYTHING]:
        return named
    unknown = [scope for scope in named if scope not in ALL]
    if unknown:
        raise ValueError(
            f"unknown scope {', '.join(map(repr, unknown))}; "
            f"known are {', '.join(sorted(ALL))}, and '*' alone for all of them"
        )
    return named
