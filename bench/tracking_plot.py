"""The plot of a day of tracking, as SVG: one panel for each carrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP = 780, 150, 56, 44
SLOT = 900  # seconds, of one bar
SLOTS = 86_400 // SLOT
_STYLE = """
.bg{fill:#fbfcfd}.rest{fill:#9db8c9}.van{fill:#c8651b}
.limit{stroke:#a5443c;stroke-width:1.5;stroke-dasharray:5 4}.axis{stroke:#7d8f9c}
text{font:13px system-ui,sans-serif;fill:#1c2733}.dim{fill:#55636f;font-size:12px}
.b{font-weight:600}
@media (prefers-color-scheme:dark){
.bg{fill:#13191f}.rest{fill:#4d6c80}.van{fill:#e8914d}.limit{stroke:#e08b83}
.axis{stroke:#6c7f8d}text{fill:#e4eaef}.dim{fill:#a3b1bc}}
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A carrier's day. `looks`: second of the day, share of a call, whether on the van.

    `rate` is what the budget allows, in calls a second.
    """

    title: str
    looks: Sequence[tuple[float, float, bool]]
    rate: float


def draw(panels: Sequence[Panel]) -> str:
    """The document."""
    height = TOP + HEIGHT * len(panels) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img" aria-labelledby="t d">',
        '<title id="t">Calls to four carriers over a simulated day</title>',
        '<desc id="d">Calls in each quarter of an hour stay at or below what the daily budget'
        " allows. From half past six in the morning on, a growing part of them is for parcels that"
        " are out for delivery.</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="bg" width="{WIDTH}" height="{height}"/>',
        f'<rect class="van" x="{LEFT}" y="14" width="12" height="12"/>'
        f'<text class="dim" x="{LEFT + 18}" y="24">calls for parcels out for delivery</text>',
        f'<rect class="rest" x="{LEFT + 230}" y="14" width="12" height="12"/>'
        f'<text class="dim" x="{LEFT + 248}" y="24">calls for the others</text>',
        f'<path class="limit" d="M{LEFT + 390} 20h24"/>'
        f'<text class="dim" x="{LEFT + 420}" y="24">the day\'s budget, evenly spread</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * HEIGHT)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    bars = [[0.0, 0.0] for _ in range(SLOTS)]  # of the others, of those on the van
    for second, share, on_van in panel.looks:
        bars[min(SLOTS - 1, int(second // SLOT))][on_van] += share
    limit = panel.rate * SLOT
    most = max(limit, max(sum(bar) for bar in bars)) * 1.08
    base, plot = top + HEIGHT - 34, HEIGHT - 62
    wide = (WIDTH - LEFT - 16) / SLOTS
    parts = [f'<text class="b" x="{LEFT}" y="{top + 16}">{escape(panel.title)}</text>']
    paths = {"van": "", "rest": ""}
    for slot, (others, urgent) in enumerate(bars):
        x = LEFT + slot * wide
        low, high = plot * urgent / most, plot * (urgent + others) / most
        for name, start, end in (("van", 0.0, low), ("rest", low, high)):
            if end > start:
                paths[name] += f"M{x:.1f} {base - start:.1f}h{wide - 0.8:.1f}"
                paths[name] += f"V{base - end:.1f}h{0.8 - wide:.1f}z"
    parts += [f'<path class="{name}" d="{path}"/>' for name, path in paths.items() if path]
    at = base - plot * limit / most
    parts += [
        f'<path class="limit" d="M{LEFT} {at:.1f}H{WIDTH - 16}"/>',
        _text(LEFT - 6, at + 4, f"{limit:.3g}", "end"),
        f'<path class="axis" d="M{LEFT} {base}H{WIDTH - 16}"/>',
    ]
    for hour in range(0, 25, 4):
        x = LEFT + hour * 3600 / SLOT * wide
        parts.append(_text(x, base + 16, f"{hour:02}:00", "middle"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="dim" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
