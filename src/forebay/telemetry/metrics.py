"""Every metric that Forebay exports, in one table, and the plain counters behind them.

The hot path adds to plain integers; Prometheus objects are built only when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from forebay.telemetry.cache_metrics import CacheMetrics
from forebay.telemetry.cascade_metrics import CascadeMetrics
from forebay.telemetry.job_metrics import JobMetrics
from forebay.telemetry.request_log_metrics import RequestLogMetrics
from forebay.telemetry.semantic_metrics import SemanticMetrics
from forebay.telemetry.variant_metrics import VariantMetrics

K = TypeVar("K")

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

TABLE = {
    "forebay_requests": ("counter", "Requests answered, by code (ok or an error code).", ("model", "version", "code")),
    "forebay_refused": ("counter", "Requests refused at admission, by reason.", ("model", "version", "code")),
    "forebay_canceled": ("counter", "Requests whose client left before the answer.", ("model", "version")),
    "forebay_request_seconds": ("histogram", "From arrival to answer.", ("model", "version")),
    "forebay_queue_seconds": ("histogram", "From arrival to the batch being sent.", ("model", "version")),
    "forebay_compute_seconds": ("histogram", "An instance's own time for a batch.", ("model", "version")),
    "forebay_first_piece_seconds": (
        "histogram",
        "From arrival to the first piece of a streamed answer.",
        ("model", "version"),
    ),
    "forebay_batch_rows": ("histogram", "Rows of a batch.", ("model", "version")),
    "forebay_dispatch": ("counter", "Batches by the reason for their size.", ("model", "version", "reason")),
    "forebay_padding_rows": ("counter", "Padding added to batches, in rows' worth.", ("model", "version")),
    "forebay_in_flight_requests": ("gauge", "Admitted and not yet answered.", ("model", "version")),
    "forebay_queue_depth_rows": ("gauge", "Rows that wait in the queue.", ("model", "version")),
    "forebay_queue_depth_bytes": ("gauge", "Bytes that wait in the queue.", ("model", "version")),
    "forebay_instances_ready": ("gauge", "Instances that can run a batch.", ("model", "version")),
    "forebay_instance_deaths": ("counter", "Instances that ended unasked.", ("model", "version")),
}
"""Name to kind, help and labels."""


class Histogram:
    """Counts by upper bound, and a sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def absorb(self, other: Histogram) -> None:
        """Add what another one of the same bounds has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def observe_ages(self, born: list[float], now: float, low: float, high: float, total: float) -> None:
        """Count the ages at `now` of several instants: `low` and `high` are the least and greatest, `total` their sum.

        Those of one batch mostly fall into one bucket, which is then found once.
        """
        first, last = bisect_left(self.bounds, low), bisect_left(self.bounds, high)
        if first == last:
            self.counts[first] += len(born)
        else:
            for instant in born:
                self.counts[bisect_left(self.bounds, now - instant)] += 1
        self.total += total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            found.append((bound, running))
        return found


class ModelMetrics:
    """The counters of one version of a model; `gauges` reads what is true now."""

    def __init__(self, model: str, version: str, gauges: Callable[[], dict[str, float]]) -> None:
        self.model = model
        self.version = version
        self.gauges = gauges
        self.answered: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.dispatched: dict[str, int] = {}
        self.canceled = 0
        self.deaths = 0
        self.padding_rows = 0.0
        self.request_s = Histogram(SECONDS)
        self.queue_s = Histogram(SECONDS)
        self.compute_s = Histogram(SECONDS)
        self.first_piece_s = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)

    def absorb(self, other: ModelMetrics) -> None:
        """Add what an engine has counted whose place this one's takes."""
        for mine, its in (
            (self.answered, other.answered),
            (self.refused, other.refused),
            (self.dispatched, other.dispatched),
        ):
            for key, number in its.items():
                mine[key] = mine.get(key, 0) + number
        self.canceled += other.canceled
        self.deaths += other.deaths
        self.padding_rows += other.padding_rows
        for histogram in _HISTOGRAMS.values():
            histogram(self).absorb(histogram(other))


def count(table: dict[K, int], key: K) -> None:
    """Add one."""
    table[key] = table.get(key, 0) + 1


class Metrics(Collector):
    """All models' counters as one Prometheus exposition."""

    def __init__(self) -> None:
        self.jobs: JobMetrics | None = None
        """Set where there are jobs."""
        self.cache: CacheMetrics | None = None
        """Set where answers may be kept."""
        self.semantic: SemanticMetrics | None = None
        self.cascades: CascadeMetrics | None = None
        self.variants: VariantMetrics | None = None
        """Set where near texts may be answered alike."""
        self.request_log: RequestLogMetrics | None = None
        """Set where answered requests may be written down."""
        self._models: list[ModelMetrics] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add(self, model: ModelMetrics) -> None:
        """Export this model's counters from now on."""
        self._models.append(model)

    def remove(self, model: ModelMetrics) -> None:
        """Forget this model's counters; they need not be there."""
        self._models = [one for one in self._models if one is not model]

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Any]:
        """Nothing to check at registration."""
        return ()

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        for name, (kind, text, labels) in TABLE.items():
            if kind == "gauge":
                gauge = GaugeMetricFamily(name, text, labels=labels)
                for model in self._models:
                    gauge.add_metric([model.model, model.version], model.gauges()[name])
                yield gauge
            elif kind == "histogram":
                histogram = HistogramMetricFamily(name, text, labels=labels)
                for model in self._models:
                    found = _HISTOGRAMS[name](model)
                    histogram.add_metric([model.model, model.version], found.buckets(), found.total)
                yield histogram
            else:
                counter = CounterMetricFamily(name, text, labels=labels)
                for model in self._models:
                    for values, number in _COUNTERS[name](model):
                        counter.add_metric([model.model, model.version, *values], number)
                yield counter
        if self.jobs is not None:
            yield from self.jobs.collect()
        if self.cache is not None:
            yield from self.cache.collect()
        if self.semantic is not None and self.semantic.models:
            yield from self.semantic.collect()
        if self.cascades is not None and self.cascades.models:
            yield from self.cascades.collect()
        if self.variants is not None and self.variants.models:
            yield from self.variants.collect()
        if self.request_log is not None and self.request_log.models:
            yield from self.request_log.collect()


def _by_key(table: dict[str, int]) -> list[tuple[tuple[str, ...], float]]:
    return [((key,), number) for key, number in table.items()]


_HISTOGRAMS: dict[str, Callable[[ModelMetrics], Histogram]] = {
    "forebay_request_seconds": lambda m: m.request_s,
    "forebay_queue_seconds": lambda m: m.queue_s,
    "forebay_compute_seconds": lambda m: m.compute_s,
    "forebay_first_piece_seconds": lambda m: m.first_piece_s,
    "forebay_batch_rows": lambda m: m.batch_rows,
}
_COUNTERS: dict[str, Callable[[ModelMetrics], list[tuple[tuple[str, ...], float]]]] = {
    "forebay_requests": lambda m: _by_key(m.answered),
    "forebay_refused": lambda m: _by_key(m.refused),
    "forebay_canceled": lambda m: [((), m.canceled)],
    "forebay_dispatch": lambda m: _by_key(m.dispatched),
    "forebay_padding_rows": lambda m: [((), m.padding_rows)],
    "forebay_instance_deaths": lambda m: [((), m.deaths)],
}
