"""What the cache in front of an engine answers, and what it leaves to the engine."""

from __future__ import annotations

import asyncio
from itertools import repeat
from typing import Any

import pytest
from tests.unit.engine.cached_rig import Rig, y

from forebay.cache.policy import Throw
from forebay.core.caching import CacheAsk
from forebay.core.errors import AdmissionError, CacheMiss, ExecutionError
from forebay.core.request import Background, Listener


@pytest.fixture(autouse=True, params=[False, True], ids=["first", "like the last one"])
def primed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever holds of the first request of its shape holds of those that follow it."""
    monkeypatch.setattr(Rig, "primed", request.param)


def test_the_second_of_two_equal_requests_is_answered_at_once() -> None:
    rig = Rig()
    first = rig.ask(3.0)
    rig.run()
    second = rig.ask(3.0)
    assert (y(first), y(second), rig.runs) == (6.0, 6.0, 1)
    assert (rig.told(first), rig.told(second)) == ("miss", "exact")
    assert rig.engine.counts.hits == rig.engine.counts.misses == 1


def test_another_value_is_another_request() -> None:
    rig = Rig()
    rig.ask(3.0)
    other = rig.ask(4.0)
    rig.run()
    assert (y(other), rig.runs) == (8.0, 2)


def test_a_request_that_asks_nothing_of_the_cache_passes_it_by() -> None:
    rig = Rig()
    for _ in range(2):
        asked = rig.ask(3.0, None)
        rig.run()
        assert asked.cached is None
    assert (rig.runs, len(rig.cache.memory)) == (2, 0)


@pytest.mark.parametrize(
    "more",
    [{"explain": True}, {"listener": Listener(lambda row, outputs: None, lambda row, fraction: None)}],
    ids=["explained", "in pieces"],
)
def test_what_is_not_cached(more: dict[str, Any]) -> None:
    rig = Rig()
    for _ in range(2):
        rig.ask(3.0, **more)
        rig.run()
    assert (rig.runs, len(rig.cache.memory)) == (2, 0)


def test_no_store_neither_looks_nor_keeps() -> None:
    rig = Rig()
    rig.ask(3.0, CacheAsk(use="off"))
    rig.run()
    assert len(rig.cache.memory) == 0
    rig.ask(3.0)
    rig.run()
    rig.ask(3.0, CacheAsk(use="off"))
    assert rig.runs == 3


def test_no_cache_runs_and_keeps() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.run()
    refreshed = rig.ask(3.0, CacheAsk(use="refresh"))
    rig.run(5.0)
    assert (rig.told(refreshed), rig.runs) == ("miss", 2)
    assert rig.ask(3.0).cached.age_s == 0.0


def test_only_if_cached_runs_nothing() -> None:
    rig = Rig()
    with pytest.raises(CacheMiss):
        rig.ask(3.0, CacheAsk(use="only"))
    rig.ask(3.0)
    with pytest.raises(CacheMiss):
        rig.ask(3.0, CacheAsk(use="only"))
    rig.run()
    assert y(rig.ask(3.0, CacheAsk(use="only"))) == 6.0
    with pytest.raises(CacheMiss):
        rig.ask(3.0, CacheAsk(use="only"), explain=True)
    assert rig.runs == 1


def test_an_older_answer_than_the_caller_wants_is_a_miss() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.run()
    rig.now += 10.0
    assert rig.told(rig.ask(3.0, CacheAsk(max_age_s=10.0))) == "exact"
    rig.ask(3.0, CacheAsk(max_age_s=9.0))
    assert rig.runs == 2


@pytest.mark.parametrize(("shared", "runs"), [(False, 2), (True, 1)])
def test_tenants_share_only_where_that_is_asked_for(shared: bool, runs: int) -> None:
    rig = Rig(shared=shared)
    rig.ask(3.0, CacheAsk("alice"))
    rig.run()
    rig.ask(3.0, CacheAsk("bob"))
    rig.run()
    assert rig.runs == runs


def test_an_answer_ends_with_its_time() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.run()
    rig.now += 60.0
    rig.ask(3.0)
    assert rig.runs == 2


def test_a_failure_is_not_kept() -> None:
    rig = Rig()
    rig.inner.fail_with = ExecutionError("no")
    failed = rig.ask(3.0)
    rig.run()
    rig.inner.fail_with = None
    again = rig.ask(3.0)
    rig.run()
    assert failed.error is not None
    assert (y(again), rig.runs) == (6.0, 2)


def test_what_the_door_refuses_is_refused_and_leaves_nothing() -> None:
    rig = Rig()
    rig.inner.refuse_with = AdmissionError("full")
    asked = None
    with pytest.raises(AdmissionError):
        asked = rig.ask(3.0)
    assert asked is None
    rig.inner.refuse_with = None
    again = rig.ask(3.0)
    rig.run()
    assert y(again) == 6.0


def test_an_older_computation_does_not_take_the_place_of_a_newer_one() -> None:
    rig = Rig()
    rig.ask(3.0)
    older, rig.inner.held = rig.inner.held, []
    rig.now += 1.0
    rig.ask(3.0, CacheAsk(use="refresh"))
    rig.run()
    rig.inner.held = older
    rig.now += 1.0
    rig.run()
    again = rig.ask(3.0)
    assert (rig.told(again), again.cached.age_s) == ("exact", 1.0)


def test_what_cannot_be_computed_anew_is_not_served_beyond_its_end() -> None:
    rig = Rig(ttl_s=4.0)
    rig.ask(3.0)
    rig.run(took_s=100.0)
    rig.cache.memory.settle()
    entry = rig.cache.memory.get(next(iter(rig.cache.memory.rows)), rig.now)
    assert entry is not None
    rig.now = entry.refresh_at
    assert rig.told(rig.ask(3.0)) == "exact"
    assert rig.now < entry.refresh_at <= entry.stale_until


def test_an_answer_above_the_bound_is_not_kept() -> None:
    rig = Rig()
    rig.cache.max_entry_bytes = 20
    rig.engine = type(rig.engine)(rig.inner, rig.engine.rules, rig.cache)
    rig.ask(3.0)
    rig.run()
    assert len(rig.cache.memory) == 0


def test_new_files_are_another_model() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.run()
    rig.inner.digest = "other"
    rig.ask(3.0)
    assert rig.runs == 2


def test_what_ran_on_old_files_is_not_kept() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.inner.digest = "other"
    rig.run()
    assert len(rig.cache.memory) == 0


def test_an_answer_of_new_files_is_not_kept_under_the_key_of_old_ones() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.inner.digest = "other"
    rig.ask(4.0)  # from now on keys are about the new files
    rig.run()
    assert len(rig.cache.memory) == 1
    assert list(rig.cache.memory.rows) == [rig.engine._keys.of(rig.inner.seen[1], "")]
    rig.inner.digest = "d"
    rig.ask(3.0)
    assert rig.runs == 3


def test_an_answer_that_a_worker_computed_with_other_files_is_not_kept() -> None:
    rig = Rig()
    for ran_on in ("other", "d"):
        rig.ask(3.0).ran_on = ran_on
        rig.run()
        assert len(rig.cache.memory) == (ran_on == "d")


def test_while_workers_have_different_files_nothing_is_cached() -> None:
    rig = Rig()
    rig.inner.digest = ""
    for _ in range(2):
        rig.ask(3.0)
        rig.run()
    assert (rig.runs, len(rig.cache.memory)) == (2, 0)


def test_what_was_being_computed_when_the_cache_was_cleared_is_not_kept() -> None:
    rig = Rig()
    asked = rig.ask(3.0)
    rig.cache.memory.drop(lambda entry: True)
    rig.run()
    assert (y(asked), len(rig.cache.memory)) == (6.0, 0)


def test_the_answer_of_a_job_comes_after_submit_returns() -> None:
    async def check() -> None:
        rig = Rig()
        rig.ask(3.0)
        rig.run()
        job = rig.ask(3.0, background=Background())
        assert job not in rig.ended
        await asyncio.sleep(0)
        assert job in rig.ended
        assert rig.told(job) == "exact"

    asyncio.run(check())


def test_seconds_saved_are_those_of_the_model() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.run(2.0)
    rig.ask(3.0)
    rig.ask(3.0)
    assert rig.engine.counts.saved_s == pytest.approx(2 * rig.inner.row_compute_s)
    statistics = rig.engine.statistics()
    assert (statistics.cache_hit.count, statistics.cache_miss.count) == (2, 1)


# -- computed anew before its end ---------------------------------------------------------------------------------


def test_a_stale_answer_is_served_while_it_is_computed_anew() -> None:
    rig = Rig(stale_s=30.0)
    rig.ask(3.0)
    rig.run()
    rig.now += 70.0
    assert y(rig.ask(3.0)) == 6.0
    assert y(rig.ask(3.0)) == 6.0
    assert rig.runs == 2  # one computation for both
    rig.run()
    assert rig.ask(3.0).cached.age_s == 0.0
    rig.now += 100.0
    rig.ask(3.0)
    assert rig.runs == 3


@pytest.mark.parametrize("after_s", [55.0, 70.0], ids=["early", "stale"])
def test_only_if_cached_has_nothing_computed_anew(after_s: float) -> None:
    rig = Rig(stale_s=30.0)
    rig.engine._throws = repeat(Throw(jitter=1.0, early=0.7))
    rig.ask(3.0)
    rig.run(10.0)
    rig.now += after_s
    for _ in range(2):
        assert rig.told(rig.ask(3.0, CacheAsk(use="only"))) == "exact"
    assert rig.runs == 1
    rig.ask(3.0)  # whoever may have it run does, at once
    assert rig.runs == 2


def test_what_takes_long_is_computed_anew_before_its_end() -> None:
    rig = Rig()
    rig.engine._throws = repeat(Throw(jitter=1.0, early=0.7))
    rig.ask(3.0)
    rig.run(10.0)
    rig.now += 55.0
    assert rig.told(rig.ask(3.0)) == "exact"
    assert rig.runs == 2
    assert rig.inner.seen[-1].priority > 0


def test_a_computation_for_later_that_is_refused_is_tried_again() -> None:
    rig = Rig(stale_s=30.0)
    rig.ask(3.0)
    rig.run()
    rig.now += 61.0
    rig.inner.refuse_with = AdmissionError("full")
    assert y(rig.ask(3.0)) == 6.0
    rig.inner.refuse_with = None
    rig.now += 2.0
    rig.ask(3.0)
    rig.run()
    assert rig.ask(3.0).cached.age_s == 0.0


def test_a_computation_for_later_that_fails_hurts_nobody() -> None:
    rig = Rig(stale_s=30.0)
    rig.ask(3.0)
    rig.run()
    rig.now += 61.0
    rig.ask(3.0)
    rig.inner.fail_with = ExecutionError("no")
    rig.run()
    assert all(request.error is None for request in rig.ended)
    assert y(rig.ask(3.0)) == 6.0


# -- leaving -------------------------------------------------------------------------------------------------------


def test_a_caller_that_leaves_alone_cancels_the_computation() -> None:
    rig = Rig()
    asked = rig.ask(3.0)
    rig.engine.cancel(asked)
    assert rig.inner.canceled == [asked]
    rig.ask(3.0)
    assert rig.runs == 2  # nobody waits for the canceled one


def test_leaving_after_the_answer_is_nothing() -> None:
    rig = Rig()
    asked = rig.ask(3.0)
    rig.run()
    rig.engine.cancel(asked)
    rig.engine.cancel(rig.ask(3.0))
    assert len(rig.ended) == 2
