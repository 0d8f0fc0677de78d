"""`AnswerCache`: what all models of one process share."""

from __future__ import annotations

import time
from collections.abc import Callable

from forebay.cache.memory import MemoryCache
from forebay.cache.port import Match
from forebay.cache.semantic.index import SemanticIndex
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
        self.texts: SemanticIndex | None = None
        """The texts of semantic caches in that store."""
        self.on_forget: list[Callable[[Match], None]] = []
        """Told which answers are forgotten here: what is kept of them elsewhere in this process goes too."""
        memory = self.memory
        self.metrics = CacheMetrics(lambda: (len(memory), memory.nbytes, memory.evicted))

    def forget(self, match: Match) -> int:
        """Forget answers that are kept here; returns how many."""
        for tell in self.on_forget:
            tell(match)
        return self.memory.drop(lambda entry: match.fits(entry.place, entry.tenant, entry.tags), match.digest)
