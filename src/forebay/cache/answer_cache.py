"""`AnswerCache`: what all models of one process share."""

from __future__ import annotations

import time

from forebay.cache.memory import MemoryCache
from forebay.cache.port import Match
from forebay.cache.shared_tier import SharedTier
from forebay.core.clock import Clock
from forebay.telemetry.cache_metrics import CacheMetrics


class AnswerCache:
    """Answers in memory, the store where there is one, and counters."""

    def __init__(self, memory_bytes: int, max_entry_bytes: int, clock: Clock = time.monotonic) -> None:
        """`clock`: monotonic seconds, that of deadlines."""
        self.memory = MemoryCache(memory_bytes)
        self.max_entry_bytes = max_entry_bytes
        self.clock = clock
        self.tier: SharedTier | None = None
        """The store of cached answers, where there is one."""
        memory = self.memory
        self.metrics = CacheMetrics(lambda: (len(memory), memory.nbytes, memory.evicted))

    def forget(self, match: Match) -> int:
        """Forget answers that are kept here; returns how many."""
        return self.memory.drop(lambda entry: match.fits(entry.place, entry.tenant, entry.tags), match.digest)
