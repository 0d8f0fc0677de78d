"""Every metric about cascades, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_MODEL = ("model", "version")
CASCADE_TABLE = {
    "forebay_cascade_requests": (
        "counter",
        "Requests to a model with a student, by who answered: student, teacher, or both (some rows each).",
        (*_MODEL, "answered_by"),
    ),
    "forebay_cascade_rows": ("counter", "Their rows, by who answered: student or teacher.", (*_MODEL, "answered_by")),
    "forebay_cascade_compared": ("counter", "Rows that the student answered and the teacher too, to compare.", _MODEL),
    "forebay_cascade_disagreed": ("counter", "Of these, rows of another class.", _MODEL),
    "forebay_cascade_agreement": ("gauge", "Share of the last 1,000 compared rows of the same class.", _MODEL),
    "forebay_cascade_off": ("gauge", "1: the student is not asked, and the teacher answers everything.", _MODEL),
}
"""Name to kind, help and labels."""


class CascadeCounts:
    """What one cascade has answered. Belongs to the engine that counts."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests = {"student": 0, "teacher": 0, "both": 0}
        self.rows = {"student": 0, "teacher": 0}


class CascadeReading(NamedTuple):
    """What one model tells when somebody scrapes. `agreement`: None before anything was compared."""

    counts: CascadeCounts
    compared: int
    disagreed: int
    agreement: float | None
    off: bool


class CascadeMetrics:
    """Reads the models of this process, by model and version."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Callable[[], CascadeReading]] = {}

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        read = [(place, reading()) for place, reading in self.models.items()]
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {
            "forebay_cascade_requests": [
                ((*place, who), number) for place, one in read for who, number in one.counts.requests.items()
            ],
            "forebay_cascade_rows": [
                ((*place, who), number) for place, one in read for who, number in one.counts.rows.items()
            ],
            "forebay_cascade_compared": [(place, one.compared) for place, one in read],
            "forebay_cascade_disagreed": [(place, one.disagreed) for place, one in read],
            "forebay_cascade_agreement": [(place, one.agreement) for place, one in read if one.agreement is not None],
            "forebay_cascade_off": [(place, one.off) for place, one in read],
        }
        for name, (kind, text, labels) in CASCADE_TABLE.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=labels)
            for key, number in values[name]:
                family.add_metric(key, number)
            yield family
