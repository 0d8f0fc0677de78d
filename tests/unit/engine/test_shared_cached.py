"""Two processes with one store of cached answers: one computes, both answer. Of the store's troubles nobody sees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from tests.unit.engine.cached_rig import Rig, y

from forebay.cache.breaker import MEASURE_AGAIN_S
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import Found, Match, Stats, ToKeep
from forebay.cache.shared_tier import SharedTier
from forebay.core.caching import CacheAsk, CacheRules
from forebay.core.errors import AdmissionError, CacheMiss, DeadlineExceeded, DependencyError, ExecutionError
from forebay.core.request import Background, Request
from forebay.engine.shared_cached import SharedCachedEngine


class Store(MemorySharedCache):
    """A store that can fail, hang, and count its calls."""

    def __init__(self, shared: SharedMemory) -> None:
        super().__init__(shared)
        self.calls: list[str] = []
        self.fails = self.hangs = self.is_late = False

    async def _trouble(self, name: str) -> None:
        self.calls.append(name)
        if self.hangs:
            await asyncio.sleep(3600)
        if self.fails:
            raise DependencyError("it is down")

    async def exchange(
        self, asked: Sequence[tuple[bytes, str]], computed: Sequence[tuple[bytes, str]] = ()
    ) -> tuple[Sequence[Found], Collection[bytes]]:
        await self._trouble("exchange")
        told = await super().exchange(asked, computed)
        if self.is_late:  # done there, and given up here
            await asyncio.sleep(3600)
        return told

    async def keep(self, digest: bytes, claim: str, answer: ToKeep) -> None:
        await self._trouble("keep")
        await super().keep(digest, claim, answer)

    async def fail(self, digest: bytes, claim: str, error: bytes = b"") -> None:
        await self._trouble("fail")
        await super().fail(digest, claim, error)

    async def renew(self, claims: Sequence[tuple[bytes, str]]) -> None:
        await self._trouble("renew")
        await super().renew(claims)

    async def stats(self) -> Stats:
        return await super().stats()


class Process(Rig):
    """A rig that shares what it keeps. Its clock is the real one."""

    def __init__(self, shared: SharedMemory, timeout_s: float = 20.0, coalesces: bool = True) -> None:
        super().__init__(coalesces)
        self.cache.clock = time.monotonic
        self.store = Store(shared)
        self.tier = SharedTier(self.store, timeout_s, time.monotonic, self.cache.metrics)
        self.tier.start(self.cache.forget)
        self.engine = SharedCachedEngine(self.inner, CacheRules(60.0, 0.0, False, coalesces), self.cache, self.tier)

    def ask(self, value: float = 1.0, *args: Any, **more: Any) -> Request:
        self.now = time.monotonic()
        return super().ask(value, *args, **more)

    def run(self, took_s: float = 0.0) -> None:
        super().run()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory(time.monotonic, 1 << 20)


def two(shared: SharedMemory, **more: Any) -> tuple[Process, Process]:
    return Process(shared, **more), Process(shared, **more)


async def answered(process: Process, value: float = 3.0) -> Request:
    """Ask, and let the engine answer if it is asked."""
    asked = process.ask(value)

    def ended() -> bool:
        process.run()
        return any(one is asked for one in process.ended)

    await until(ended)
    return asked


async def settled(*processes: Process) -> None:
    await until(lambda: not any(one.tier._calls or one.tier._gathering for one in processes))


async def test_a_thousand_equal_requests_at_two_processes_are_one_computation(shared: SharedMemory) -> None:
    here, there = two(shared)
    asked = [(here if number % 2 else there).ask(3.0) for number in range(1000)]
    await until(lambda: here.runs + there.runs)
    await asyncio.sleep(0.05)
    here.run()
    there.run()
    await until(lambda: len(here.ended) + len(there.ended) == 1000)
    assert {y(one) for one in asked} == {6.0}
    assert here.runs + there.runs == 1
    told = [one.cached.outcome for one in asked]
    assert told.count("miss") == 1


async def test_what_was_asked_for_twice_is_found_by_others(shared: SharedMemory) -> None:
    here, there = two(shared)
    await answered(here)
    await settled(here)
    assert not shared.kept  # once is not enough for a write
    await answered(here)
    await settled(here)
    assert len(shared.kept) == 1
    found = await answered(there)
    assert (y(found), there.runs, found.cached.outcome) == (6.0, 0, "exact")
    assert there.engine.counts.shared == 1


async def test_what_is_seen_again_after_it_was_forgotten_here_is_kept_there(shared: SharedMemory) -> None:
    here, there = two(shared)
    await answered(here)
    here.cache.forget(Match())
    await answered(here)
    await settled(here)
    assert len(shared.kept) == 1
    await answered(there)
    assert there.runs == 0


async def test_unique_requests_write_nothing(shared: SharedMemory) -> None:
    here, _ = two(shared)
    for value in range(20):
        await answered(here, float(value))
    await settled(here)
    assert not shared.kept


async def test_tenants_are_apart_there_too(shared: SharedMemory) -> None:
    here, there = two(shared)
    for _ in range(2):
        here.ask(3.0, CacheAsk("alice"))
        await until(lambda: here.runs)
        here.run()
        await asyncio.sleep(0.01)
    await settled(here)
    assert len(shared.kept) == 1
    there.ask(3.0, CacheAsk("bob"))
    await until(lambda: there.runs == 1)


async def test_an_error_is_told_to_those_who_wait_elsewhere(shared: SharedMemory) -> None:
    here, there = two(shared)
    here.ask(3.0)
    await until(lambda: here.runs)
    asked = there.ask(3.0)
    await until(lambda: shared.waited_for)
    here.inner.fail_with = ExecutionError("no", code="output_mismatch")
    here.run()
    await until(lambda: there.ended)
    assert isinstance(asked.error, ExecutionError)
    assert (asked.error.code, there.runs, shared.kept) == ("output_mismatch", 0, {})


async def test_when_the_one_elsewhere_is_too_late_another_computes(shared: SharedMemory) -> None:
    here, there = two(shared)
    here.ask(3.0)
    await until(lambda: here.runs)
    asked = there.ask(3.0)
    await until(lambda: shared.waited_for)
    here.inner.fail_with = DeadlineExceeded("late", stage="queued")
    here.run()
    await until(lambda: there.runs)
    there.run()
    assert y(asked) == 6.0


async def test_when_the_one_elsewhere_is_canceled_another_computes(shared: SharedMemory) -> None:
    here, there = two(shared)
    leaves = here.ask(3.0)
    await until(lambda: here.runs)
    asked = there.ask(3.0)
    await until(lambda: shared.waited_for)
    here.engine.cancel(leaves)
    await until(lambda: there.runs)
    there.run()
    assert y(asked) == 6.0


async def test_when_the_process_of_the_one_elsewhere_dies_another_computes(shared: SharedMemory) -> None:
    here, there = two(shared)
    here.ask(3.0)
    await until(lambda: here.runs)
    asked = there.ask(3.0)
    await until(lambda: shared.waited_for)
    assert here.tier._renewing is not None
    here.tier._renewing.cancel()
    await until(lambda: there.runs)
    there.run()
    assert y(asked) == 6.0


async def test_a_claim_outlasts_a_long_computation(shared: SharedMemory) -> None:
    here, there = two(shared)
    here.ask(3.0)
    await until(lambda: here.runs)
    there.ask(3.0)
    await asyncio.sleep(4.0)
    assert there.runs == 0
    here.run()
    await until(lambda: there.ended)
    assert y(there.ended[0]) == 6.0


async def test_each_keeps_its_deadline_while_it_waits(shared: SharedMemory) -> None:
    here, there = two(shared)
    here.ask(3.0)
    await until(lambda: here.runs)
    asked = there.ask(3.0, timeout_s=0.05)
    await until(lambda: there.ended)
    assert isinstance(asked.error, DeadlineExceeded)
    here.run()
    await asyncio.sleep(0.05)
    assert there.ended == [asked]


async def test_leaving_while_it_is_looked_up(shared: SharedMemory) -> None:
    here, _ = two(shared)
    asked = here.ask(3.0)
    here.engine.cancel(asked)
    await until(lambda: not here.tier._works)
    await settled(here)
    assert (here.runs, here.ended, here.inner.canceled, shared.claims) == (0, [], [], {})


async def test_what_the_door_refuses_after_the_look_is_told(shared: SharedMemory) -> None:
    here, there = two(shared)
    here.inner.refuse_with = AdmissionError("full", retry_after_s=7.0)
    asked = here.ask(3.0)
    await until(lambda: here.ended)
    assert isinstance(asked.error, AdmissionError)
    assert asked.error.retry_after_s == 7.0
    await settled(here)
    await answered(there)
    assert there.runs == 1


async def test_only_if_cached_asks_others_and_runs_nothing(shared: SharedMemory) -> None:
    here, there = two(shared)
    only = CacheAsk(use="only")
    missed = there.ask(3.0, only)
    await until(lambda: there.ended)
    assert isinstance(missed.error, CacheMiss)
    await answered(here)
    await answered(here)
    await settled(here)
    found = there.ask(3.0, only)
    await until(lambda: len(there.ended) == 2)
    assert (y(found), there.runs) == (6.0, 0)


async def test_what_is_found_for_one_who_wants_nothing_kept_is_not_kept(shared: SharedMemory) -> None:
    here, there = two(shared)
    await answered(here)
    unkept = CacheAsk(use="only", keeps=False)
    assert here.told(here.ask(3.0, unkept)) == "exact"
    await settled(here)
    assert not shared.kept  # it did not count as asked for again
    await answered(here)
    await settled(here)
    found = there.ask(3.0, unkept)
    await until(lambda: there.ended)
    assert (y(found), len(there.cache.memory)) == (6.0, 0)


async def test_a_job_is_answered_from_the_store(shared: SharedMemory) -> None:
    here, there = two(shared)
    await answered(here)
    await answered(here)
    await settled(here)
    job = there.ask(3.0, background=Background())
    await until(lambda: there.ended)
    assert (y(job), there.runs) == (6.0, 0)


async def test_a_model_that_is_not_deterministic_claims_nothing(shared: SharedMemory) -> None:
    here, there = two(shared, coalesces=False)
    here.ask(3.0)
    there.ask(3.0)
    await until(lambda: here.runs and there.runs)
    assert not shared.claims


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_a_store_in_trouble_is_a_miss_and_then_left_alone(shared: SharedMemory, trouble: str) -> None:
    here = Process(shared, timeout_s=0.01)
    setattr(here.store, trouble, True)
    for value in range(10):
        assert y(await answered(here, float(value))) == 2.0 * value
    assert here.tier.breaker.open
    assert here.store.calls.count("exchange") <= 5
    setattr(here.store, trouble, False)
    here.tier._timeout_s = 20.0
    await asyncio.sleep(0.6)
    here.tier.breaker._until = 0.0
    assert y(await answered(here, 50.0)) == 100.0  # it is tried again, by one request
    assert not here.tier.breaker.open


async def test_nobody_waits_for_claims_of_a_call_that_was_given_up(shared: SharedMemory) -> None:
    here = Process(shared, timeout_s=0.01)
    here.store.is_late = True
    assert y(await answered(here, 3.0)) == 6.0
    here.store.is_late = False
    assert shared.claims
    await until(lambda: not shared.claims)


async def test_who_waits_for_another_keeps_the_time_to_compute_it_himself(shared: SharedMemory) -> None:
    here, there = two(shared)
    there.engine._cost_s = 0.1  # type: ignore[attr-defined]
    here.ask(3.0)
    await until(lambda: here.runs)  # and it takes for ever
    asked = there.ask(3.0, timeout_s=2.0)
    await until(lambda: there.runs or asked.error)  # it is not told that it is too late
    there.run()
    assert y(asked) == 6.0


async def test_a_model_that_is_quicker_than_the_store_does_not_ask_it(shared: SharedMemory) -> None:
    here = Process(shared)
    here.tier.breaker.round_trip_s = 1.0
    here.tier.breaker.measured_at = time.monotonic()
    here.engine._cost_s = 4.9  # type: ignore[attr-defined]
    here.ask(3.0)
    assert here.runs == 1
    assert here.store.calls == []
    here.engine._cost_s = 5.1  # type: ignore[attr-defined]
    here.ask(4.0)
    assert here.runs == 1
    await until(lambda: here.runs == 2)


async def test_a_store_that_was_slow_is_measured_again_after_a_while(shared: SharedMemory) -> None:
    here = Process(shared)
    here.tier.breaker.round_trip_s = 1.0
    here.tier.breaker.measured_at = time.monotonic() - MEASURE_AGAIN_S
    here.engine._cost_s = 0.5  # type: ignore[attr-defined]
    here.ask(3.0)
    await until(lambda: here.runs == 1)
    assert here.store.calls == ["exchange"]
    assert here.tier.breaker.round_trip_s < 0.1


async def test_a_drop_reaches_every_process(shared: SharedMemory) -> None:
    here, there = two(shared)
    await answered(here)
    await answered(there)
    assert len(here.cache.memory) == len(there.cache.memory) == 1
    await here.store.drop(Match(model="m"))
    await until(lambda: not len(here.cache.memory) and not len(there.cache.memory))


async def test_what_is_no_answer_of_this_model_is_not_served(shared: SharedMemory) -> None:
    here, there = two(shared)
    await answered(here)
    await answered(here)
    await settled(here)
    for digest, (kept, since, until_) in list(shared.kept.items()):
        broken = ToKeep(b"rubbish", kept.place, kept.tenant, kept.tags, 60.0, 0.0)
        shared.kept[digest] = (broken, since, until_)
    assert y(await answered(there)) == 6.0
    assert there.runs == 1


async def test_what_the_store_has_and_cannot_be_used_is_computed(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two(shared)
    for _ in range(2):
        await answered(there)
    await settled(there)

    def fails(key: bytes, value: bytes) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr("forebay.engine.shared_cached.unpack", fails)
    assert y(await answered(here)) == 6.0
    assert here.runs == 1
