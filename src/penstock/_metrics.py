"""Counters, gauges and histograms: the machinery behind `penstock.telemetry`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family

# Seconds: from a local commit to a delivery that waited for its second retry.
SECONDS_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One figure: what it is called, what it counts, and by what it is split.

    Labels take values from small fixed sets, never ids: each combination is kept for good.
    `cloudwatch` is its name there, None = it is not sent; `by` are the labels that are dimensions
    there, None = all of them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS_BUCKETS
    cloudwatch: str | None = None
    by: tuple[str, ...] | None = None

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What it is split by in CloudWatch."""
        return self.labels if self.by is None else self.by


class Sink(Protocol):
    """What also hears of metrics that have a name for CloudWatch."""

    def add(self, metric: Metric, n: float, labels: Mapping[str, object]) -> None:
        """A counter went up."""
        ...

    def set(self, metric: Metric, value: float, labels: Mapping[str, object]) -> None:
        """A gauge was set."""
        ...

    def observe(self, metric: Metric, value: float, labels: Mapping[str, object]) -> None:
        """A histogram has one observation more."""
        ...


class _Registry(CollectorRegistry):
    """A registry without the ``_created`` series, which double the output and tell nothing."""

    def collect(self) -> Iterator[Family]:
        for family in super().collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


class Metrics:
    """The values of a fixed set of metrics; threads may share it."""

    def __init__(self, declared: Iterable[Metric]) -> None:
        # A registry of its own: the application's may hold other figures of the same name.
        self._registry = _Registry()
        self._families = {metric: self._family(metric) for metric in declared}
        # Looking a child up by its labels costs several times the increment itself.
        self._children: dict[tuple[Metric, tuple[tuple[str, object], ...]], Any] = {}
        self._lock = threading.Lock()
        self._sink: Sink | None = None

    def send_to(self, sink: Sink | None) -> None:
        """From now on let `sink` hear of everything that CloudWatch is to know; None = nobody."""
        self._sink = sink

    def _family(self, metric: Metric) -> Counter | Gauge | Histogram:
        described = (metric.name, metric.description, metric.labels)
        if metric.kind == "counter":
            return Counter(*described, registry=self._registry)
        if metric.kind == "gauge":
            return Gauge(*described, registry=self._registry)
        return Histogram(*described, registry=self._registry, buckets=metric.buckets)

    def _child(self, metric: Metric, labels: dict[str, object]) -> Any:
        if not labels and not metric.labels:
            return self._families[metric]
        key = (metric, tuple(labels.items()))
        child = self._children.get(key)
        if child is None:
            with self._lock:
                child = self._children[key] = self._families[metric].labels(**labels)
        return child

    def inc(self, metric: Metric, n: float = 1, /, **labels: object) -> None:
        """Add `n` to a counter or gauge."""
        self._child(metric, labels).inc(n)
        if self._sink is not None and metric.cloudwatch is not None:
            self._sink.add(metric, n, labels)

    def set(self, metric: Metric, value: float, /, **labels: object) -> None:
        """Set a gauge."""
        self._child(metric, labels).set(value)
        if self._sink is not None and metric.cloudwatch is not None:
            self._sink.set(metric, value, labels)

    def observe(self, metric: Metric, value: float, /, **labels: object) -> None:
        """Add one observation to a histogram."""
        self._child(metric, labels).observe(value)
        if self._sink is not None and metric.cloudwatch is not None:
            self._sink.observe(metric, value, labels)

    def value(self, metric: Metric, /, **labels: object) -> float:
        """The value of a counter or gauge, or the number of a histogram's observations.

        It is 0 for a combination of labels that was never seen. Slow: for tests and pages.
        """
        suffix = {"counter": "", "gauge": "", "histogram": "_count"}[metric.kind]
        wanted = {name: str(value) for name, value in labels.items()}
        return self._registry.get_sample_value(metric.name + suffix, wanted) or 0.0

    def render(self) -> bytes:
        """Everything in the Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)
