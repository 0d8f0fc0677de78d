"""Every metric about the answer cache, in one table, and the plain counters behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

_MODEL = ("model", "version")
CACHE_TABLE = {
    "forebay_cache_answers": (
        "counter",
        "Requests that asked the cache, by what came of it: exact (a kept answer), coalesced (the answer of an equal "
        "request in flight), semantic (the answer to a near text), miss (the model ran).",
        (*_MODEL, "outcome"),
    ),
    "forebay_cache_saved_seconds": ("counter", "Computing that answers from the cache have saved.", _MODEL),
    "forebay_cache_refreshes": ("counter", "Answers that were computed anew before their end.", _MODEL),
    "forebay_cache_store_answers": ("counter", "Of these, answers that another process had computed.", _MODEL),
    "forebay_cache_store_errors": ("counter", "Calls to the store of cached answers that failed, by call.", ("call",)),
    "forebay_cache_memory_entries": ("gauge", "Answers kept in this process.", ()),
    "forebay_cache_memory_bytes": ("gauge", "What they take.", ()),
    "forebay_cache_evictions": ("counter", "Answers that made room for others in this process.", ()),
}
"""Name to kind, help and labels."""


class ModelCacheCounts:
    """Of one version of a model."""

    __slots__ = ("coalesced", "hit_s", "hits", "misses", "refreshes", "saved_s", "semantic", "shared")

    def __init__(self) -> None:
        self.hits = 0
        self.hit_s = 0.0
        self.coalesced = 0
        self.semantic = 0
        self.misses = 0
        self.refreshes = 0
        self.shared = 0
        self.saved_s = 0.0


class CacheMetrics:
    """The counters of this process, by model and version."""

    def __init__(self, held: Callable[[], tuple[int, int, int]]) -> None:
        """`held`: entries, bytes and evictions of the answers in memory."""
        self.models: dict[tuple[str, str], ModelCacheCounts] = {}
        self.store_errors: dict[str, int] = {}
        self._held = held

    def failed(self, call: str) -> None:
        """A call to the store failed."""
        self.store_errors[call] = self.store_errors.get(call, 0) + 1

    def of(self, model: str, version: str) -> ModelCacheCounts:
        """The counters of one version."""
        return self.models.setdefault((model, version), ModelCacheCounts())

    def collect(self) -> Iterable[Any]:
        """Families of the table, filled."""
        values = self._values()
        for name, (kind, text, labels) in CACHE_TABLE.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=labels)
            for key, number in values[name]:
                family.add_metric(key, number)
            yield family

    def _values(self) -> dict[str, list[tuple[tuple[str, ...], float]]]:
        entries, nbytes, evicted = self._held()
        models = self.models.items()
        return {
            "forebay_cache_answers": [
                ((*place, outcome), number)
                for place, counts in models
                for outcome, number in (
                    ("exact", counts.hits),
                    ("coalesced", counts.coalesced),
                    ("semantic", counts.semantic),
                    ("miss", counts.misses),
                )
            ],
            "forebay_cache_saved_seconds": [(place, counts.saved_s) for place, counts in models],
            "forebay_cache_refreshes": [(place, counts.refreshes) for place, counts in models],
            "forebay_cache_store_answers": [(place, counts.shared) for place, counts in models],
            "forebay_cache_store_errors": [((call,), number) for call, number in self.store_errors.items()],
            "forebay_cache_memory_entries": [((), entries)],
            "forebay_cache_memory_bytes": [((), nbytes)],
            "forebay_cache_evictions": [((), evicted)],
        }
