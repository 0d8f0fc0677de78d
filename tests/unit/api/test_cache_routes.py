"""Forgetting answers on behalf of a caller."""

from __future__ import annotations

import time

from tests.unit.cache.made import entry

from forebay.api.cache_routes import Dropped, _drop
from forebay.cache.answer_cache import AnswerCache
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import Match
from forebay.cache.shared_tier import SharedTier


async def test_what_was_found_in_the_store_while_it_was_forgotten_there_is_forgotten_here_too() -> None:
    cache = AnswerCache(1 << 20, 1 << 16)

    class Store(MemorySharedCache):
        async def drop(self, match: Match) -> int:
            cache.memory.put(entry(b"found"))
            return await super().drop(match)

    cache.tier = SharedTier(Store(SharedMemory(time.monotonic, 1 << 20)), 5.0, time.monotonic, cache.metrics)
    cache.memory.put(entry(b"known"))
    assert await _drop(cache, None, Match(model="m")) == Dropped(2, 0)
    assert len(cache.memory) == 0
