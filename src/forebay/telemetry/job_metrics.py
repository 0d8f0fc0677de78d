"""Every metric about jobs, in one table, and the plain counters behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

JOB_TABLE = {
    "forebay_jobs_leased": ("counter", "Jobs taken to be run here.", ("model",)),
    "forebay_jobs_finished": (
        "counter",
        "Jobs that ended here, by how: succeeded, failed, expired, canceled, retry (another attempt), release (given "
        "back), lost (another answer stood already).",
        ("model", "kind"),
    ),
    "forebay_jobs_reaped": ("counter", "What the reaper did, by what it was.", ("kind",)),
    "forebay_job_webhooks": (
        "counter",
        "Calls of webhooks that ended, by how: delivered, retried (it failed and is called again later), failed (it is "
        "given up).",
        ("kind",),
    ),
    "forebay_job_store_errors": ("counter", "Calls to the store of jobs that failed, by call.", ("call",)),
    "forebay_job_stores_lost": (
        "counter",
        "Times that the store was found to have none of its jobs any more (flushed, or its folder taken away), as this "
        "process saw it.",
        (),
    ),
    "forebay_jobs_held": ("gauge", "Jobs that are leased here.", ()),
    "forebay_jobs_results_held": ("gauge", "Of these, done and not committed yet.", ()),
    "forebay_jobs_waiting": (
        "gauge",
        "Jobs that wait in the store. Every process tells the same: take the maximum, not the sum.",
        ("model",),
    ),
    "forebay_jobs_running": ("gauge", "Jobs that somebody runs, told as those that wait.", ("model",)),
    "forebay_jobs_oldest_seconds": (
        "gauge",
        "How long the oldest job has waited; where another broker than the store carries the jobs, since it was last "
        "queued or published again. Every process tells the same: take the maximum, not the sum.",
        ("model",),
    ),
}
"""Name to kind, help and labels."""


class JobMetrics:
    """The counters of this process, by the values of their labels; gauges are set, or read from `held`."""

    def __init__(self) -> None:
        self.leased: dict[str, int] = {}
        self.finished: dict[tuple[str, str], int] = {}
        self.reaped: dict[str, int] = {}
        self.webhooks: dict[str, int] = {}
        self.store_errors: dict[str, int] = {}
        self.stores_lost = 0
        self.held: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Jobs that are leased here, and how many of them are done and not committed."""
        self.depths: Mapping[str, tuple[int, int, float]] = {}
        """By model: jobs that wait, jobs that run, seconds that the oldest has waited."""

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        values = self._values()
        for name, (kind, text, labels) in JOB_TABLE.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=labels)
            for key, number in values[name]:
                family.add_metric(key, number)
            yield family

    def _values(self) -> dict[str, list[tuple[tuple[str, ...], float]]]:
        held, done = self.held()
        depths = self.depths.items()
        return {
            "forebay_jobs_leased": [((model,), number) for model, number in self.leased.items()],
            "forebay_jobs_finished": list(self.finished.items()),
            "forebay_jobs_reaped": [((kind,), number) for kind, number in self.reaped.items()],
            "forebay_job_webhooks": [((kind,), number) for kind, number in self.webhooks.items()],
            "forebay_job_store_errors": [((call,), number) for call, number in self.store_errors.items()],
            "forebay_job_stores_lost": [((), self.stores_lost)],
            "forebay_jobs_held": [((), held)],
            "forebay_jobs_results_held": [((), done)],
            "forebay_jobs_waiting": [((model,), waiting) for model, (waiting, _, _) in depths],
            "forebay_jobs_running": [((model,), running) for model, (_, running, _) in depths],
            "forebay_jobs_oldest_seconds": [((model,), oldest_s) for model, (_, _, oldest_s) in depths],
        }
