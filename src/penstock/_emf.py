"""Metrics for Amazon CloudWatch, as lines of the log: the embedded metric format.

CloudWatch Logs takes the figures out of such a line by itself. The format:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

Only metrics with a name for CloudWatch are sent. There each combination of dimensions is a metric
that is paid for by the month, so a label with values without end has no place in one.
"""

from __future__ import annotations

import json
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from penstock._metrics import Metric

MOST_VALUES: Final = 100  # of a metric in one line, by the specification
MOST_KEPT: Final = 1000  # observations between two lines; of more, so many at random
MOST_SERIES: Final = 50  # combinations of a metric's dimensions in a process's life
OTHERS: Final = "other"  # the dimensions of what comes after them
_LONGEST: Final = 1024  # characters of a dimension's value

Dimensions = tuple[tuple[str, str], ...]


def _to_log(line: str) -> None:
    # A log that cannot be written must not stop the work it tells about.
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")


class _Observed:
    """The observations of a histogram; of very many a fair sample."""

    __slots__ = ("seen", "values")

    def __init__(self) -> None:
        self.values: list[float] = []
        self.seen = 0

    def add(self, value: float) -> None:
        self.seen += 1
        if len(self.values) < MOST_KEPT:
            self.values.append(value)
        elif (at := random.randrange(self.seen)) < MOST_KEPT:  # noqa: S311 - not a secret
            self.values[at] = value


class Emf:
    """What was counted, set and observed since the last line; threads may share it.

    Counters are sent as what was added since, gauges as they were last set, histograms as what was
    observed, each only if something was.
    """

    def __init__(
        self,
        namespace: str,
        *,
        write: Callable[[str], None] = _to_log,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._namespace = namespace
        self._write = write
        self._now = now
        self._lock = threading.Lock()
        self._figures: dict[Dimensions, dict[Metric, float | _Observed]] = {}
        self._series: dict[Metric, set[Dimensions]] = {}

    def add(self, metric: Metric, n: float, labels: Mapping[str, object]) -> None:
        """A counter went up."""
        with self._lock:
            found = self._of(metric, labels)
            before = found.get(metric, 0.0)
            assert not isinstance(before, _Observed)
            found[metric] = before + n

    def set(self, metric: Metric, value: float, labels: Mapping[str, object]) -> None:
        """A gauge was set."""
        if math.isfinite(value):
            with self._lock:
                self._of(metric, labels)[metric] = value

    def observe(self, metric: Metric, value: float, labels: Mapping[str, object]) -> None:
        """A histogram has one observation more."""
        if math.isfinite(value):
            with self._lock:
                observed = self._of(metric, labels).setdefault(metric, _Observed())
                assert isinstance(observed, _Observed)
                observed.add(value)

    def _of(self, metric: Metric, labels: Mapping[str, object]) -> dict[Metric, float | _Observed]:
        dimensions = tuple((name, _value(labels[name])) for name in metric.dimensions)
        series = self._series.setdefault(metric, set())
        if dimensions not in series:
            if len(series) >= MOST_SERIES:
                dimensions = tuple((name, OTHERS) for name in metric.dimensions)
            series.add(dimensions)
        return self._figures.setdefault(dimensions, {})

    def flush(self) -> None:
        """Write what there is, and begin anew."""
        with self._lock:
            figures, self._figures = self._figures, {}
        at = round(self._now() * 1000)
        for dimensions, values in figures.items():
            for line in _lines(values):
                self._write(json.dumps(self._document(at, dimensions, line)))

    def _document(
        self, at: int, dimensions: Dimensions, values: Mapping[Metric, object]
    ) -> dict[str, Any]:
        metrics = [{"Name": metric.cloudwatch, "Unit": _unit(metric)} for metric in values]
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [[name for name, _ in dimensions]],
            "Metrics": metrics,
        }
        return {
            "_aws": {"Timestamp": at, "CloudWatchMetrics": [directive]},
            **dict(dimensions),
            **{str(metric.cloudwatch): value for metric, value in values.items()},
        }


def _lines(values: Mapping[Metric, float | _Observed]) -> list[dict[Metric, object]]:
    """The figures of one set of dimensions, by lines: a line takes so many observations."""
    lines: list[dict[Metric, object]] = [{}]
    for metric, found in values.items():
        if not isinstance(found, _Observed):
            lines[0][metric] = found
            continue
        # Six digits are more than any chart shows, and half as long as what a float has.
        rounded = [float(f"{value:.6g}") for value in found.values]
        for number, first in enumerate(range(0, len(rounded), MOST_VALUES)):
            if number == len(lines):
                lines.append({})
            lines[number][metric] = rounded[first : first + MOST_VALUES]
    return lines


def _value(label: object) -> str:
    """A dimension's value: ASCII and not blank, by CloudWatch's rules."""
    return str(label).encode("ascii", "replace").decode()[:_LONGEST].strip() or "none"


def _unit(metric: Metric) -> str:
    return "Seconds" if metric.unit == "seconds" else "Count"
