"""Every metric about variants, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_MODEL = ("model", "version")
_VARIANT = (*_MODEL, "variant")
VARIANT_TABLE = {
    "forebay_variant_requests": ("counter", "Requests to a model with variants, by who answers.", _VARIANT),
    "forebay_variant_level": (
        "gauge",
        "Which answers now: 0 the model itself, 1 its first variant.",
        _MODEL,
    ),
    "forebay_variant_steps": ("counter", "Changes of the level: down to a faster one, or up.", (*_MODEL, "way")),
    "forebay_variant_compared": ("counter", "Rows that a variant was asked too, to compare.", _VARIANT),
    "forebay_variant_disagreed": ("counter", "Of these, rows with another answer.", _VARIANT),
    "forebay_variant_agreement": ("gauge", "Share of the last 1,000 compared rows with the same answer.", _VARIANT),
    "forebay_variant_off": ("gauge", "1: it may not answer, since it agreed less than when it was measured.", _VARIANT),
}
"""Name to kind, help and labels."""


class VariantReading(NamedTuple):
    """What is known of one variant. `agreement`: None before anything was compared."""

    compared: int
    disagreed: int
    agreement: float | None
    off: bool


class VariantsReading(NamedTuple):
    """What one model tells when somebody scrapes."""

    requests: Mapping[str, int]
    steps: Mapping[str, int]
    level: int
    variants: Mapping[str, VariantReading]


class VariantMetrics:
    """Reads the models of this process, by model and version."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Callable[[], VariantsReading]] = {}

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        values = self._values()
        for name, (kind, text, labels) in VARIANT_TABLE.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=labels)
            for key, number in values[name]:
                family.add_metric(key, number)
            yield family

    def _values(self) -> dict[str, list[tuple[tuple[str, ...], float]]]:
        read = [(place, reading()) for place, reading in self.models.items()]
        each = [((*place, name), one) for place, found in read for name, one in found.variants.items()]
        return {
            "forebay_variant_requests": [((*p, name), n) for p, one in read for name, n in one.requests.items()],
            "forebay_variant_level": [(place, one.level) for place, one in read],
            "forebay_variant_steps": [((*p, way), n) for p, one in read for way, n in one.steps.items()],
            "forebay_variant_compared": [(key, one.compared) for key, one in each],
            "forebay_variant_disagreed": [(key, one.disagreed) for key, one in each],
            "forebay_variant_agreement": [(key, one.agreement) for key, one in each if one.agreement is not None],
            "forebay_variant_off": [(key, one.off) for key, one in each],
        }
