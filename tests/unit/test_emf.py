"""Metrics as lines in CloudWatch's embedded metric format, and what AWS is told to make of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import telemetry
from penstock._emf import MOST_KEPT, MOST_SERIES, Emf
from penstock._metrics import Metric, Metrics
from penstock.telemetry import (
    CARRIER_CALLS,
    DEAD_ROWS,
    DELIVERY_LATENCY,
    DELIVERY_SUCCESS,
    DUE_ROWS,
    EVENTS_ACCEPTED,
    JOB_DURATION,
    LEASES_LOST,
    log_events,
    metrics_declared,
)

ROOT = Path(__file__).parents[2]
ALARMS = ROOT / "infra" / "terraform" / "modules" / "alarms"
SENT = [metric for metric in metrics_declared().values() if metric.cloudwatch]
# Labels whose values are few, and known to whoever deploys: each is a metric that is paid for.
FEW = {"kind", "queue", "job", "carrier", "outcome"}
# CloudWatch's units, as the specification's schema lists them.
UNITS = {
    *("Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"),
    *(
        f"{multiple}{unit}{per}"
        for unit, multiples in (
            ("ytes", ("B", "Kilob", "Megab", "Gigab", "Terab")),
            ("its", ("B", "Kilob", "Megab", "Gigab", "Terab")),
        )
        for multiple in multiples
        for per in ("", "/Second")
    ),
}


class Sent:
    """Metrics that are sent, and the lines so far."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.emf = Emf("Penstock/test", write=self._take, now=lambda: 1_700_000_000.25)
        self.metrics = Metrics(metrics_declared().values())
        self.metrics.send_to(self.emf)

    def _take(self, line: str) -> None:
        assert "\n" not in line
        found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        check(found, line)
        self.lines.append(found)

    def flush(self) -> list[dict[str, Any]]:
        self.lines.clear()
        self.emf.flush()
        return self.lines


def check(document: dict[str, Any], line: str) -> None:
    """The rules of the specification and of its JSON schema."""
    assert len(line.encode()) <= 1_000_000
    about = document["_aws"]
    assert type(about["Timestamp"]) is int
    assert about["CloudWatchMetrics"]
    for directive in about["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert re.fullmatch(r"[A-Za-z0-9._/#:-]{1,255}", directive["Namespace"])
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 30
            for name in dimensions:
                assert 1 <= len(name) <= 250
                value = document[name]
                assert isinstance(value, str)
                assert 1 <= len(value) <= 1024
                assert value.isascii()
                assert value.strip() == value
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert {"Name", "Unit"} <= set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert metric["Unit"] in UNITS
            found = document[metric["Name"]]
            values = found if isinstance(found, list) else [found]
            assert 1 <= len(values) <= 100
            assert all(type(value) in (int, float) for value in values)


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_a_line_has_what_happened_since_the_line_before(sent: Sent) -> None:
    sent.metrics.inc(DELIVERY_SUCCESS)
    sent.metrics.inc(DELIVERY_SUCCESS, 2)
    sent.metrics.observe(DELIVERY_LATENCY, 0.25)
    sent.metrics.observe(DELIVERY_LATENCY, 1 / 3)
    sent.metrics.set(DUE_ROWS, 9, kind="delivery")
    sent.metrics.set(DUE_ROWS, 7, kind="delivery")
    sent.metrics.inc(EVENTS_ACCEPTED)  # it has no name there
    plain, by_kind = sent.flush()

    assert plain == {
        "_aws": {
            "Timestamp": 1_700_000_000_250,
            "CloudWatchMetrics": [
                {
                    "Namespace": "Penstock/test",
                    "Dimensions": [[]],
                    "Metrics": [
                        {"Name": "DeliverySuccess", "Unit": "Count"},
                        {"Name": "DeliveryLatency", "Unit": "Seconds"},
                    ],
                }
            ],
        },
        "DeliverySuccess": 3,
        "DeliveryLatency": [0.25, 0.333333],
    }
    assert by_kind["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["kind"]]
    assert (by_kind["kind"], by_kind["DueRows"]) == ("delivery", 7)
    assert sent.flush() == []
    sent.metrics.inc(DELIVERY_SUCCESS)
    (again,) = sent.flush()
    assert again["DeliverySuccess"] == 1
    assert sent.metrics.value(DELIVERY_SUCCESS) == 4  # Prometheus has the sum, as ever


def test_many_observations_take_several_lines(sent: Sent) -> None:
    sent.metrics.inc(DELIVERY_SUCCESS, 250)
    for n in range(250):
        sent.metrics.observe(DELIVERY_LATENCY, n)
    lines = sent.flush()

    assert [len(line["DeliveryLatency"]) for line in lines] == [100, 100, 50]
    assert [value for line in lines for value in line["DeliveryLatency"]] == list(range(250))
    assert [line.get("DeliverySuccess") for line in lines] == [250, None, None]  # counted once


def test_of_very_many_observations_a_fair_sample_is_sent(sent: Sent) -> None:
    for n in range(20 * MOST_KEPT):
        sent.metrics.observe(DELIVERY_LATENCY, n)
    values = [value for line in sent.flush() for value in line["DeliveryLatency"]]

    assert len(values) == MOST_KEPT
    mean = sum(values) / len(values)
    assert 0.8 < mean / (10 * MOST_KEPT) < 1.2  # not only the first or the last


def test_what_is_no_number_is_not_sent(sent: Sent) -> None:
    sent.metrics.set(DUE_ROWS, float("nan"), kind="job")
    sent.metrics.observe(JOB_DURATION, float("inf"), job="a")
    sent.metrics.set(DEAD_ROWS, 1, kind="job")
    (line,) = sent.flush()
    assert "DueRows" not in line
    assert line["DeadRows"] == 1


def test_names_from_outside_become_what_cloudwatch_takes(sent: Sent) -> None:
    for name in ("größe", "  ", "x" * 3000, "a\nb"):
        sent.metrics.observe(JOB_DURATION, 1, job=name)
    assert {line["job"] for line in sent.flush()} == {"gr??e", "none", "x" * 1024, "a\nb"}


def test_a_label_without_end_does_not_cost_without_end(sent: Sent) -> None:
    for _ in range(2):
        for n in range(MOST_SERIES + 30):
            sent.metrics.observe(JOB_DURATION, n, job=f"job{n}")
        lines = sent.flush()
        assert len(lines) == MOST_SERIES + 1
        (rest,) = [line for line in lines if line["job"] == "other"]
        assert len(rest["JobDuration"]) == 30


def test_some_labels_are_for_prometheus_alone(sent: Sent) -> None:
    sent.metrics.inc(CARRIER_CALLS, carrier="ups", outcome="found")
    sent.metrics.inc(CARRIER_CALLS, carrier="dhl", outcome="found")
    (line,) = sent.flush()
    assert (line["outcome"], line["CarrierCalls"]) == ("found", 2)
    assert "carrier" not in line


def test_nothing_is_kept_once_nobody_is_to_hear_of_it(sent: Sent) -> None:
    sent.metrics.send_to(None)
    sent.metrics.inc(LEASES_LOST, kind="job")
    assert sent.flush() == []


def test_no_metric_is_split_by_what_has_many_values() -> None:
    for metric in SENT:
        assert set(metric.dimensions) <= FEW, metric.name
        assert set(metric.dimensions) <= set(metric.labels), metric.name
        # The last value of a gauge would be that of any one of those that are left out.
        assert metric.kind != "gauge" or metric.dimensions == metric.labels, metric.name


def test_a_broken_log_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Broken())
    emf = Emf("Penstock")
    emf.add(DELIVERY_SUCCESS, 1, {})
    emf.flush()


# ------------------------------------------------------------------ what AWS is told of them


def emitted(sent: Sent, metric: Metric) -> set[str]:
    """The dimensions with which it arrives."""
    labels = dict.fromkeys(metric.labels, "x")
    call = {"counter": sent.metrics.inc, "gauge": sent.metrics.set}.get(
        metric.kind, sent.metrics.observe
    )
    call(metric, 1, **labels)
    (line,) = sent.flush()
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert [each["Name"] for each in directive["Metrics"]] == [metric.cloudwatch]
    return set(directive["Dimensions"][0])


def asked() -> Iterator[tuple[str, set[str]]]:
    """Penstock's own metrics in alarms and widgets, as the text says: name and dimensions."""
    alarms = (ALARMS / "main.tf").read_text()
    for block in re.findall(r"namespace\s*= var\.metrics\.namespace\n(.*?)stat", alarms, re.DOTALL):
        (name,) = re.findall(r'metric_name\s*= "(\w+)"', block)
        (more,) = re.findall(r"dimensions\s*= merge\(var\.metrics\.dimensions, \{(.*?)}\)", block)
        yield name, set(re.findall(r"(\w+) =", more))
    dashboard = (ALARMS / "dashboard.tf").read_text()
    widget = r"var\.metrics\.namespace, (\"\w+\"|name)], local\.own(?:, \[(.*?)])?\)"
    for name, rest in re.findall(widget, dashboard):
        names = (
            re.findall(r'for name in \["(\w+)", "(\w+)"]', dashboard)[0]
            if name == "name"
            else (name.strip('"'),)
        )
        # Pairs of a name and a value; what is in braces says how it is drawn.
        pairs = re.sub(r"\{.*", "", rest).strip(", ").split(", ")
        for each in names:
            yield each, {pair.strip('"') for pair in pairs[::2] if pair}


def test_alarms_and_widgets_look_at_what_is_emitted(sent: Sent) -> None:
    by_name = {metric.cloudwatch: metric for metric in SENT}
    found = list(asked())
    assert {name for name, _ in found} >= {
        *("OldestDueAge", "DeadRows", "LanesOpen", "DueRows"),
        *("DeliverySuccess", "DeliveryFailure", "DeliveryRetry", "DeliveryLatency"),
    }
    for name, dimensions in found:
        assert emitted(sent, by_name[name]) == dimensions, name


def test_saved_queries_ask_for_what_lines_have() -> None:
    """Metrics by their names, levels and fields of log events by theirs."""
    fields = {"event", "level", "timestamp", *(metric.cloudwatch for metric in SENT)}
    fields |= {field for event in log_events().values() for field in event.fields}
    levels = {event.level for event in log_events().values()} | {"critical"}
    queries = re.findall(r"<<-QUERY\n(.*?)QUERY", (ALARMS / "queries.tf").read_text(), re.DOTALL)
    assert len(queries) >= 3
    for query in queries:
        named = set(re.findall(r"\bas (\w+)", query))
        text = re.sub(r'"[^"]*"|/[^\n]*/|@\w+', " ", query)
        words = set(re.findall(r"\b[A-Za-z]\w*\b(?!\()", text))
        language = {"filter", "stats", "as", "by", "in", "or", "and", "like", "sort", "desc", "h"}
        assert words - language - named <= fields, query
        for asked_for in re.findall(r"level in \[(.*?)]", query):
            assert set(re.findall(r'"(\w+)"', asked_for)) <= levels


def test_pages_for_trouble_name_what_there_is() -> None:
    metrics = {metric.cloudwatch for metric in SENT}
    events = set(log_events())
    for page in sorted((ROOT / "docs" / "how-to").glob("aws-*.md")):
        text = page.read_text()
        for word in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", text):
            if any(word.startswith(metric[:4]) for metric in metrics if metric):
                assert word in metrics, f"{page.name}: {word}"
        for word in re.findall(r"`([a-z]+_[a-z_]+)`", text):
            if word.rpartition("_")[2] in ("unreachable", "failed", "left", "lapsed", "opened"):
                assert word.upper() in events, f"{page.name}: {word}"


def test_every_metric_for_cloudwatch_is_sent_by_its_name(sent: Sent) -> None:
    assert {metric.cloudwatch for metric in SENT} >= {
        *("DeliverySuccess", "DeliveryFailure", "DeliveryRetry", "DeliveryLatency"),
        *("OldestDueAge", "DueRows", "DeadRows", "DlqDepth", "LanesOpen", "JobDuration"),
        *("ClaimToStart", "LeaseLost", "RowsScored"),
    }
    for metric in SENT:
        assert emitted(sent, metric) == set(metric.dimensions)
    assert telemetry.metrics.value(DELIVERY_SUCCESS) >= 0  # the process's own were left alone
