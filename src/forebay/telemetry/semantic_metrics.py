"""Every metric about the semantic cache, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_MODEL = ("model", "version")
_WAY = (*_MODEL, "way")
SEMANTIC_TABLE = {
    "forebay_semantic_lookups": (
        "counter",
        "Lookups of texts after the exact cache, by what came of it: normalised or semantic (hits), none_near, "
        "too_long, off, guard_... (what the guard had against the nearest), verifier, or an error.",
        (*_MODEL, "outcome"),
    ),
    "forebay_semantic_compared": (
        "counter",
        "Hits that also ran the model, to compare, by way: normalised (the same words) or semantic (near texts).",
        _WAY,
    ),
    "forebay_semantic_false_hits": ("counter", "Of these, hits whose answer was another one.", _WAY),
    "forebay_semantic_false_hit_rate": ("gauge", "Their share among the last 1,000 compared of a way.", _WAY),
    "forebay_semantic_off": (
        "gauge",
        "1: the rate of a way passed its limit, and its hits are no longer served.",
        _WAY,
    ),
}
"""Name to kind, help and labels."""


class WayReading(NamedTuple):
    """What is known of one way of finding texts. `false_hit_rate`: None before anything was compared."""

    compared: int
    false_hits: int
    false_hit_rate: float | None
    off: bool


class SemanticReading(NamedTuple):
    """What one model tells when somebody scrapes."""

    lookups: Mapping[str, int]
    ways: Mapping[str, WayReading]


class SemanticMetrics:
    """Reads the models of this process, by model and version."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Callable[[], SemanticReading]] = {}

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        values = self._values()
        for name, (kind, text, labels) in SEMANTIC_TABLE.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=labels)
            for key, number in values[name]:
                family.add_metric(key, number)
            yield family

    def _values(self) -> dict[str, list[tuple[tuple[str, ...], float]]]:
        read = [(place, reading()) for place, reading in self.models.items()]
        ways = [((*place, way), found) for place, one in read for way, found in one.ways.items()]
        return {
            "forebay_semantic_lookups": [
                ((*place, outcome), number) for place, one in read for outcome, number in one.lookups.items()
            ],
            "forebay_semantic_compared": [(key, found.compared) for key, found in ways],
            "forebay_semantic_false_hits": [(key, found.false_hits) for key, found in ways],
            "forebay_semantic_false_hit_rate": [
                (key, found.false_hit_rate) for key, found in ways if found.false_hit_rate is not None
            ],
            "forebay_semantic_off": [(key, found.off) for key, found in ways],
        }
