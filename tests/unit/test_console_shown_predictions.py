"""How the console shows values of predictions."""

from __future__ import annotations

import pytest

from penstock.console.calls import Refused
from penstock.console.outcomes import told
from penstock.console.plots_predictions import reliability, shapes, spread
from penstock.console.shown_predictions import plainly, size


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Say which one: --positive VALUE.", "Say which one."),
        ("The day: --as-of 2026-01-31, or leave it out: --drop a.", "The day, or leave it out."),
        ("Decimals: --decimal point or --decimal comma.", "Decimals."),
        ("Leave the column out: --drop 'a b'.", "Leave the column out."),
        ("Stayed: --negative VALUE, once for each. Rows", "Stayed. Rows"),
        ("A file -- of sorts.", "A file -- of sorts."),
    ],
)  # fmt: skip
def test_questions_lose_the_command_line(message: str, shown: str) -> None:
    assert plainly(message) == shown


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 3_400_000, 7 * 10**12)] == [
        "0 B", "999 B", "1.0 kB", "3.4 MB", "7000.0 GB"
    ]  # fmt: skip


def test_outcomes_of_a_file() -> None:
    assert told(b"\xef\xbb\xbfid;name;Churned\n1;a;YES\n\n2;b;0\n1;a;no\n") == [
        {"id": "1", "churned": False},
        {"id": "2", "churned": False},
    ]
    assert told(b"id\tgone\r\n 007\ttrue\r\n") == [{"id": " 007", "churned": True}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "two columns"),
        (b"id\n1\n", "two columns"),
        (b"id,churned\n", "no customers"),
        (b"id,churned\n1,perhaps\n", "Line 2: 'perhaps' is neither"),
        (b"id,churned\n1\n", "Line 2: '' is neither"),
        (b"id,churned\n,yes\n", "Line 2 has no id"),
        (b"id,churned\n1,\xff\n", "Byte 13 is not UTF-8"),
        (b"id,churned\n1,yes\x00\n", "NUL"),
    ],
)
def test_outcomes_that_are_unclear(content: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        told(content)
    assert refused.value.status == 422


def test_the_spread_is_drawn_by_level() -> None:
    summary = {
        "spread": [10, 0, 5, 5],
        "risk": {"high": 10, "medium": 0, "low": 10},
        "risk_from": {"medium": 0.3, "high": 0.6},
    }
    drawn = spread(summary)
    assert [bar.kind for bar in drawn.bars] == ["low", "medium", "high", "high"]
    assert [bar.height for bar in drawn.bars] == [120, 0, 60, 60]
    assert spread(summary | {"spread": [0, 0]}).bars[0].height == 0


def test_reliability_is_drawn_to_the_largest() -> None:
    assert reliability([]) is None
    drawn = reliability([{"predicted": 0.2, "observed": 0.4, "rows": 10}])
    assert drawn is not None
    assert (drawn.dots[0].x, drawn.dots[0].y, drawn.top) == (120, 0, "40%")


def test_shapes_are_curves_of_numbers_and_lines_of_values() -> None:
    slots = [{"is": f"plan is {name}", "contribution": part, "rows": rows}
             for name, part, rows in (("a", 0.5, 10), ("b", -0.25, 20), ("c", 0.1, 0))]  # fmt: skip
    number = [
        {"is": "age is missing", "contribution": 0.2, "rows": 3},
        {"is": "age up to 3", "contribution": -0.5, "rows": 10},
        {"is": "age from 4", "contribution": 0.5, "rows": 0},
    ]
    values, curve = shapes(
        [
            {"name": "plan", "kind": "category", "importance": 0.3, "slots": slots},
            {"name": "age", "kind": "number", "importance": 0.2, "slots": number},
        ]
    )
    assert [(line.name, line.left, line.right) for line in values.lines] == [
        ("b", 50, 0), ("a", 0, 100)
    ]  # fmt: skip
    assert curve.curve is not None
    assert curve.curve.points == "0.0,120.0 300.0,120.0 300.0,0.0 600.0,0.0"
    assert (curve.curve.first, curve.curve.last) == ("up to 3", "from 4")
    assert curve.curve.missing == "missing: +0.20, 3 customers"
