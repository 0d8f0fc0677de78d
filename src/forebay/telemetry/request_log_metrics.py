"""Every metric about the request log, in one table, and the plain counters behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_MODEL = ("model", "version")
REQUEST_LOG_TABLE = {
    "forebay_request_log_sampled_rows": ("counter", "Rows that were chosen to be written.", _MODEL),
    "forebay_request_log_written_rows": ("counter", "Of these, rows that were written.", _MODEL),
    "forebay_request_log_dropped_rows": (
        "counter",
        "Of these, rows that were not, by reason: duplicate (an equal row is there), excluded (the API key is left "
        "out), redacted (the function said so), redaction_failed, queue_full, too_large, disk, stopped.",
        (*_MODEL, "reason"),
    ),
    "forebay_request_log_written_bytes": ("counter", "What was written.", _MODEL),
    "forebay_request_log_bytes": ("gauge", "What a model's log takes on disk, when it was last looked at.", ("model",)),
}
"""Name to kind, help and labels."""


class RequestLogCounts:
    """Of one version of a model. The serving process counts what is sampled, the writing one what is written, and that
    is added when it reports."""

    __slots__ = ("dropped", "sampled", "written", "written_bytes")

    def __init__(self) -> None:
        self.sampled = 0
        self.written = 0
        self.written_bytes = 0
        self.dropped: dict[str, int] = {}

    def drop(self, reason: str, rows: int) -> None:
        """Rows that are not written; both count them."""
        self.dropped[reason] = self.dropped.get(reason, 0) + rows


class RequestLogMetrics:
    """The counters of this process, by model and version."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], RequestLogCounts] = {}
        self.held_bytes: dict[str, int] = {}
        """On disk, by model."""

    def of(self, model: str, version: str) -> RequestLogCounts:
        """The counters of one version."""
        return self.models.setdefault((model, version), RequestLogCounts())

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        values = self._values()
        for name, (kind, text, labels) in REQUEST_LOG_TABLE.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=labels)
            for key, number in values[name]:
                family.add_metric(key, number)
            yield family

    def _values(self) -> dict[str, list[tuple[tuple[str, ...], float]]]:
        models = list(self.models.items())
        return {
            "forebay_request_log_sampled_rows": [(place, counts.sampled) for place, counts in models],
            "forebay_request_log_written_rows": [(place, counts.written) for place, counts in models],
            "forebay_request_log_dropped_rows": [
                ((*place, reason), rows) for place, counts in models for reason, rows in list(counts.dropped.items())
            ],
            "forebay_request_log_written_bytes": [(place, counts.written_bytes) for place, counts in models],
            "forebay_request_log_bytes": [((model,), held) for model, held in list(self.held_bytes.items())],
        }
