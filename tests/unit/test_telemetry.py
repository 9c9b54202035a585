from __future__ import annotations

import ast
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import _logging, telemetry
from penstock.telemetry import (
    CIRCUIT_OPENED,
    DELIVERY_LATENCY,
    DELIVERY_SUCCEEDED,
    DELIVERY_SUCCESS,
    DUE_ROWS,
    WORK_SETTLED,
    LogEvent,
    Metrics,
    bind,
    configure_logging,
    log,
    log_events,
    metrics_declared,
)

PACKAGE = Path(telemetry.__file__).parent
EVENTS = log_events()
METRICS = metrics_declared()
LOG_ARGS = {"exc_info"}  # an argument of `log` itself


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    logger, threshold = _logging._state.logger, _logging._state.threshold
    yield
    _logging._state.logger, _logging._state.threshold = logger, threshold
    logging.getLogger().removeHandler(_logging._handler)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_log_line_is_one_json_object_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "json")
    log(CIRCUIT_OPENED, lane="a\nb\x1b[31m", seconds=30)
    (line,) = _lines(capsys)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "event": "circuit_opened",
        "lane": "a\nb\x1b[31m",
        "seconds": 30,
    }


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log(DELIVERY_SUCCEEDED, attempt=1)
    assert _lines(capsys) == []
    configure_logging("debug", "json")
    log(DELIVERY_SUCCEEDED, attempt=1)
    assert len(_lines(capsys)) == 1


def test_an_undeclared_field_is_refused_even_below_the_level() -> None:
    configure_logging("error", "json")
    with pytest.raises(AssertionError, match=r"delivery_succeeded does not declare .'colour'"):
        log(DELIVERY_SUCCEEDED, colour="red")


def test_an_exception_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    password = "".join(["hun", "ter", "2"])
    try:
        raise LookupError("gone")
    except LookupError as exc:
        log(CIRCUIT_OPENED, exc_info=exc)
        (line,) = _lines(capsys)
        configure_logging("info", "console")
        log(CIRCUIT_OPENED, exc_info=exc)
    assert "LookupError: gone" in line["exception"]
    text = capsys.readouterr().err
    assert "LookupError: gone" in text
    # Local variables are not part of it.
    assert password not in text + line["exception"]


def test_text_from_outside_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    log(CIRCUIT_OPENED, reason="\x1b[2Jgone\nfake_event")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "\x1b[2J" not in text


def test_bound_fields_are_on_every_line_of_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    with bind(request_id="req_1"):
        log(CIRCUIT_OPENED)
    log(CIRCUIT_OPENED)
    inside, outside = _lines(capsys)
    assert inside["request_id"] == "req_1"
    assert "request_id" not in outside


def test_the_format_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    configure_logging("info")
    log(CIRCUIT_OPENED, lane="x")
    assert "circuit_opened" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert not sys.stderr.getvalue().startswith("{")  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure_logging("info")
    log(CIRCUIT_OPENED, lane="x")
    assert json.loads(sys.stderr.getvalue())["lane"] == "x"  # type: ignore[attr-defined]


def test_a_broken_standard_error_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    configure_logging("info", "json")
    monkeypatch.setattr(sys, "stderr", Broken())
    log(CIRCUIT_OPENED)


def test_warnings_of_libraries_come_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    configure_logging("debug", "json")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("went %s", "wrong")
    (line,) = _lines(capsys)
    assert (line["level"], line["logger"], line["event"]) == (
        "warning",
        "some.library",
        "went wrong",
    )


def test_names_are_unique_and_match_their_constants() -> None:
    assert len({event.name for event in EVENTS.values()}) == len(EVENTS) > 20
    for constant, event in EVENTS.items():
        assert constant == event.name.upper()
    names = [metric.name for metric in METRICS.values()]
    watched = [metric.cloudwatch for metric in METRICS.values() if metric.cloudwatch]
    assert len(set(names)) == len(names) > 10
    assert len(set(watched)) == len(watched)


@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: event.name)
def test_every_log_event_says_what_it_means(event: LogEvent) -> None:
    assert event.description.endswith(".")
    # These names are the line's own, or an argument of `log`.
    assert not event.fields & {"event", "level", "timestamp", "exception", "exc_info"}


def test_metric_names_follow_prometheus() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"penstock(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") == (metric.unit == "seconds")
        assert metric.description.endswith(".")


def _modules() -> dict[str, str]:
    own = ("telemetry.py", "_logging.py", "_metrics.py")
    return {
        str(path.relative_to(PACKAGE)): path.read_text("utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in own
    }


def _calls() -> Iterator[tuple[str, ast.expr, ast.Call]]:
    """Every call in the package with a first argument: where, that argument, the call."""
    for name, source in _modules().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and node.args:
                yield f"{name}:{node.lineno}", node.args[0], node


def _constant(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_everything_declared_is_used() -> None:
    words = set(re.findall(r"\b[A-Z][A-Z_]+\b", "\n".join(_modules().values())))
    assert sorted({*EVENTS, *METRICS} - words) == []


def test_everything_is_declared_here() -> None:
    assert [
        where
        for where, _, call in _calls()
        if _constant(call.func) in ("LogEvent", "Metric", "Metrics")
    ] == []


def test_every_call_gives_declared_fields_and_all_labels() -> None:
    wrong = []
    for where, first, call in _calls():
        given = {keyword.arg for keyword in call.keywords}
        name = _constant(first)
        if None in given:  # **fields: asserted when it runs
            continue
        if name in EVENTS and _constant(call.func) == "log":
            wrong += [f"{where} {name} {extra}" for extra in given - EVENTS[name].fields - LOG_ARGS]
        if name in METRICS and given != set(METRICS[name].labels):
            wrong.append(f"{where} {name} {given}")
    assert wrong == []


def test_counters_gauges_and_histograms_keep_their_values() -> None:
    own = Metrics(METRICS.values())
    own.inc(DELIVERY_SUCCESS)
    own.inc(DELIVERY_SUCCESS, 2)
    own.set(DUE_ROWS, 7, kind="job")
    own.inc(WORK_SETTLED, kind="job", outcome="done")
    own.inc(WORK_SETTLED, outcome="done", kind="job")
    own.observe(DELIVERY_LATENCY, 0.3)
    assert own.value(DELIVERY_SUCCESS) == 3
    assert own.value(DUE_ROWS, kind="job") == 7
    assert own.value(DUE_ROWS, kind="delivery") == 0
    assert own.value(WORK_SETTLED, kind="job", outcome="done") == 2
    assert own.value(DELIVERY_LATENCY) == 1
    text = own.render().decode()
    assert 'penstock_due_rows{kind="job"} 7.0' in text
    assert 'penstock_delivery_latency_seconds_bucket{le="0.5"} 1.0' in text
    assert "_created" not in text
    assert Metrics(METRICS.values()).value(DELIVERY_SUCCESS) == 0


def test_labels_must_be_the_declared_ones() -> None:
    own = Metrics(METRICS.values())
    with pytest.raises(ValueError, match="label"):
        own.inc(WORK_SETTLED, kind="job")
    with pytest.raises(ValueError, match="label"):
        own.inc(DELIVERY_SUCCESS, kind="job")
    with pytest.raises(ValueError, match="label"):
        own.inc(WORK_SETTLED)
