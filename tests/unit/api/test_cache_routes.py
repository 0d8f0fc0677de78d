"""Forgetting answers on behalf of a caller."""

from __future__ import annotations

import time

import httpx
from tests.unit.api.test_generate import app_of
from tests.unit.cache.made import entry

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.cache_routes import Dropped, _drop
from forebay.api.inference import Inference
from forebay.cache.answer_cache import AnswerCache
from forebay.cache.key import digest_of, entry_id
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import Match, Stored, ToKeep
from forebay.cache.shared_tier import SharedTier
from forebay.core.settings import ServerSettings


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


async def test_what_the_store_holds_and_is_no_answer_is_unknown() -> None:
    cache = AnswerCache(1 << 20, 1 << 16)
    store = MemorySharedCache(SharedMemory(time.monotonic, 1 << 20))
    cache.tier = SharedTier(store, 5.0, time.monotonic, cache.metrics)
    digest = digest_of(b"key")
    await store.keep(digest, "", ToKeep(b"no answer", ("m", "1"), "", (), 60.0, 0.0, admitted=True, drops=store.drops))
    (found,), _ = await store.exchange([(digest, "")])
    assert isinstance(found, Stored)
    inference = Inference({}, ServerSettings(), Gate(Keys({}), Quota(None, time.monotonic)), cache=cache)
    transport = httpx.ASGITransport(app_of(inference))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(f"/v1/cache/{entry_id(digest)}")
    assert (answer.status_code, answer.json()["code"]) == (404, "cache_entry_not_found")
