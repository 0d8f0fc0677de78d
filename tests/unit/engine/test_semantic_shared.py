"""Two processes with one store of cached answers and one index of texts: what one computes, the other finds."""

from __future__ import annotations

import time

import msgspec
import pytest
from tests.unit.engine.semantic_rig import MEND, REPAIR, Rig, soon, told
from tests.unit.engine.test_shared_cached import Store

from forebay.cache.memory_shared import SharedMemory
from forebay.cache.port import Match
from forebay.cache.semantic.local_index import LocalIndex
from forebay.cache.shared_tier import SharedTier
from forebay.core.caching import CacheAsk
from forebay.engine.shared_cached import SharedCachedEngine

NEAR = ("semantic", MEND.upper().encode())
MISS_REPAIR = ("miss", REPAIR.upper().encode())


class Process(Rig):
    """A rig that shares answers and texts."""

    def __init__(self, shared: SharedMemory, texts: LocalIndex) -> None:
        super().__init__(texts=texts)
        self.near.semantic = msgspec.structs.replace(self.near.semantic, index="store")
        self.store = Store(shared)
        self.shared = SharedTier(self.store, 0.2, self.clock, self.cache.metrics)
        self.shared.start(self.cache.forget)
        self.engine = SharedCachedEngine(self.near, self.rules, self.cache, self.shared)
        self.near.stand_behind(self.engine)


@pytest.fixture
def two() -> tuple[Process, Process]:
    shared, texts = SharedMemory(time.monotonic, 1 << 20), LocalIndex()
    return Process(shared, texts), Process(shared, texts)


async def kept(one: Process, text: str) -> None:
    """Asked for the first time, and found by others from now on."""
    assert told(await one.ask(text))[0] == "miss"
    await soon(lambda: "keep" in one.store.calls)


async def test_what_another_process_computed_is_found(two: tuple[Process, Process]) -> None:
    one, other = two
    await kept(one, MEND)
    several = [other.submit(REPAIR) for _ in range(3)]
    await other.until(*several)
    assert [told(request) for request in several] == [NEAR] * 3
    assert other.runs == 0
    counts = other.engine.counts
    assert (counts.semantic, counts.coalesced, counts.misses) == (1, 2, 0)
    exact = await one.ask(MEND)
    assert several[0].cached.entry == exact.cached.entry


async def test_what_was_dropped_is_found_by_nobody(two: tuple[Process, Process]) -> None:
    one, other = two
    await kept(one, MEND)
    await one.store.drop(Match())
    await soon(lambda: one.cache.memory.generation and other.cache.memory.generation)
    assert told(await other.ask(REPAIR)) == MISS_REPAIR
    await soon(lambda: "keep" in other.store.calls)
    assert told(await one.ask("Please repair a tire")) == ("semantic", REPAIR.upper().encode())


async def test_one_who_wants_a_fresh_answer_spoils_nothing(two: tuple[Process, Process]) -> None:
    one, other = two
    await kept(one, MEND)
    assert told(await other.ask(REPAIR, ask=CacheAsk(max_age_s=0.0)))[0] == "miss"
    other.cache.memory.drop(lambda entry: True)
    one.cache.memory.drop(lambda entry: True)
    assert told(await other.ask(f"{MEND}!")) == NEAR


@pytest.mark.parametrize("way", ["fails", "hangs"])
async def test_a_store_in_trouble_is_a_miss(two: tuple[Process, Process], way: str) -> None:
    one, other = two
    await kept(one, MEND)
    setattr(other.store, way, True)
    assert told(await other.ask(REPAIR)) == MISS_REPAIR
