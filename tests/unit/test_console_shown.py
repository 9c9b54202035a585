"""How the console words times, durations and sentences, and what its plots are made of."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clock import SECOND, from_iso
from penstock.console import plots, shown

NOW = from_iso("2026-01-31T12:00:00Z")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"), (0, "0 ms"), (0.0124, "12 ms"), (1, "1 s"), (4.25, "4.2 s"), (59, "59 s"),
        (60, "1 min"), (200, "3 min"), (5_000, "83 min"), (5_400, "1.5 h"), (7_195, "2 h"),
        (40_000, "11 h"), (129_600, "1.5 d"), (172_800, "2 d"), (30 * 86_400, "30 d"),
    ],
)  # fmt: skip
def test_durations_are_in_their_largest_unit(seconds: float | None, text: str) -> None:
    assert shown.lasting(seconds) == text


def test_times_are_relative_and_exact_on_hover() -> None:
    html = shown.ago("2026-01-31T11:57:00Z", NOW)
    assert ">3 min ago</time>" in html
    assert 'title="2026-01-31T11:57:00Z"' in html.replace(".000000", "")
    assert ">in 2 h<" in shown.ago(NOW + 7_200 * SECOND, NOW)
    assert ">now<" in shown.ago(NOW, NOW)
    assert "—" in shown.ago(None, NOW)


def test_sentences_have_readable_times_and_no_markup() -> None:
    html = shown.times("<b> is due at 2026-02-01T00:10:44.743324Z, or not.", NOW)
    assert html.startswith("&lt;b&gt; is due at <time ")
    assert "2026-02-01 00:10:44 UTC (in 12 h)</time>, or not." in html
    assert 'title="2026-02-01T00:10:44.743324Z"' in html
    assert shown.times("nothing of the kind", NOW) == "nothing of the kind"


def test_a_carriers_own_time_keeps_its_zone() -> None:
    assert shown.local("2025-12-02T15:00:00-07:00") == "2025-12-02 15:00 -07:00"
    assert shown.local("2025-12-02T15:00:00") == "2025-12-02 15:00"
    assert shown.local("2025-12-02") == "2025-12-02"


@pytest.mark.parametrize(
    ("message", "status", "left"),
    [
        ("Delivered.", "delivered", ""),
        ("Failed: 1 delivery gave up.", "failed", "1 delivery gave up."),
        ("Delivered again.", "replayed", "Delivered again."),
        ("Accepted: 2 deliveries to make.", "pending", "Accepted: 2 deliveries to make."),
    ],
)
def test_a_message_does_not_repeat_the_status(message: str, status: str, left: str) -> None:
    assert shown.beside(message, status) == left


def test_a_status_is_a_shape_and_a_word() -> None:
    assert shown.status("circuit_open").endswith("</i>circuit open</span>")
    assert shown.status("<b>").endswith("&lt;b&gt;</span>")
    shapes = {str(shown.status(word))[:60] for word in ("delivered", "pending", "dead", "expired")}
    assert len(shapes) == 4


def _span(**values: Any) -> dict[str, Any]:
    span = {"since": "2026-01-31T11:00:00Z", "events": 0, "estimated": False, "under_way": 0}
    return span | {"failed": 0.0, "p50": None, "p95": None} | values


def test_plots_fill_their_height_and_say_what_it_is() -> None:
    busy = _span(events=40, under_way=4, p50=0.1, p95=0.4, estimated=True)
    figures = {"span": 60.0, "spans": [_span(), _span(events=10, p50=0.1, p95=0.2), busy]}
    for plot in (plots.throughput(figures), plots.depth(figures)):
        assert max(bar.height for bar in plot.bars) == plots.HEIGHT
        assert all(0 <= bar.x <= bar.x + bar.width <= plots.WIDTH for bar in plot.bars)
        assert "about" in plot.bars[-1].title
    assert plots.throughput(figures).top == "40 in 1 min"
    assert plots.depth(figures).label == "Events on their way: 4 now, at most 4"
    delay = plots.latency(figures)
    assert len(delay.bars) == 2  # nothing was delivered in the first span
    assert delay.bars[-1].height + delay.bars[-1].upper == plots.HEIGHT
    assert (delay.bars[-1].height, delay.top) == (plots.HEIGHT / 4, "400 ms")


def test_plots_of_nothing_are_empty() -> None:
    figures = {"span": 60.0, "spans": [_span(), _span()]}
    for plot in (plots.throughput(figures), plots.depth(figures), plots.latency(figures)):
        assert all(bar.height == 0 for bar in plot.bars)


def test_dead_work_leads_to_what_it_belongs_to_if_that_has_a_page() -> None:
    row = {"kind": "fanout", "about": "evt_1", "title": "a<b → its endpoints"}
    assert shown.about(row) == '<a href="/events/evt_1">a&lt;b → its endpoints</a>'
    assert shown.about(row | {"kind": "replay"}) == "a&lt;b → its endpoints"
