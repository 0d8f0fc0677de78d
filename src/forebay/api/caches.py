"""The answer cache of one server, from its settings."""

from __future__ import annotations

from forebay.core.settings import CacheSettings
from forebay.engine.cached import AnswerCache
from forebay.telemetry.metrics import Metrics


def answer_cache(settings: CacheSettings, metrics: Metrics) -> AnswerCache:
    """What all models of a server share; its counters are exported."""
    cache = AnswerCache(settings.memory_bytes, settings.max_entry_bytes)
    metrics.cache = cache.metrics
    return cache
