"""How values of predictions are shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from markupsafe import Markup

CERTAIN: Final = 0.95  # what is below is asked
_OPTION: Final = r"--[a-z][a-z-]*(?: (?:'[^']*'|[^\s,.;]+))?"
_OPTIONS: Final = re.compile(rf":? {_OPTION}(?: or {_OPTION})*(?:, once for each)?")
DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}


def size(count: int) -> str:
    """Bytes in their largest unit: 512 B, 3.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes all")


def share(value: float | None) -> str:
    """A share in hundredths; — if there is none."""
    return "—" if value is None else f"{value * 100:.1f} %"


def done(prediction: Mapping[str, Any]) -> int:
    """How many hundredths of a prediction's bytes were scored."""
    return int(prediction["bytes_done"] * 100 // max(1, prediction["bytes_total"]))


def delimiter(character: str) -> str:
    """What columns are divided by, in words."""
    return DELIMITERS.get(character, repr(character))


def confidence(value: float) -> Markup:
    """How certain a mapping is: shape, colour and number."""
    if value >= CERTAIN:
        kind, shape = "good", "●"
    elif value > 0:
        kind, shape = "warn", "◆"
    else:
        return Markup('<span class="status warn"><i aria-hidden="true">◆</i>none</span>')
    return Markup('<span class="status {}"><i aria-hidden="true">{}</i>{} %</span>').format(
        kind, shape, f"{value * 100:.0f}"
    )


def plainly(message: str) -> str:
    """A question without the options of the command line that would answer it."""
    return _OPTIONS.sub("", message)


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "bytes": size,
    "share": share,
    "done": done,
    "delimiter": delimiter,
    "confidence": confidence,
    "plainly": plainly,
}
