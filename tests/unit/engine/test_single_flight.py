"""Equal requests in flight: one runs, each keeps its own deadline, and no one's end hurts another."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.unit.engine.cached_rig import Rig, y

from forebay.core.caching import CacheAsk
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError
from forebay.core.request import Background


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("too late", stage="queued")


async def test_a_thousand_equal_requests_are_one_computation() -> None:
    rig = Rig()
    asked = [rig.ask(3.0) for _ in range(1000)]
    rig.run()
    assert (rig.runs, len(rig.ended)) == (1, 1000)
    assert {y(one) for one in asked} == {6.0}
    assert [rig.told(one) for one in asked] == ["miss"] + ["coalesced"] * 999
    assert rig.engine.counts.coalesced == 999


async def test_a_model_that_is_not_deterministic_runs_for_each() -> None:
    rig = Rig(coalesces=False)
    rig.ask(3.0)
    rig.ask(3.0)
    assert rig.runs == 2


async def test_tenants_do_not_join_each_other() -> None:
    rig = Rig()
    rig.ask(3.0, CacheAsk("alice"))
    rig.ask(3.0, CacheAsk("bob"))
    assert rig.runs == 2


async def test_an_error_is_everybodys_and_is_not_kept() -> None:
    rig = Rig()
    asked = [rig.ask(3.0) for _ in range(3)]
    rig.inner.fail_with = ExecutionError("no", code="out_of_memory")
    rig.run()
    errors = [one.error for one in asked]
    assert all(isinstance(error, ExecutionError) and error.code == "out_of_memory" for error in errors)
    assert len({id(error) for error in errors}) == 3  # each may be raised by itself
    rig.ask(3.0)
    assert rig.runs == 2


async def test_the_first_may_leave() -> None:
    rig = Rig()
    first, second = rig.ask(3.0), rig.ask(3.0)
    rig.engine.cancel(first)
    rig.run()
    assert rig.ended == [second]
    assert (y(second), rig.runs, rig.inner.canceled) == (6.0, 1, [])


async def test_a_follower_may_leave() -> None:
    rig = Rig()
    first, second = rig.ask(3.0), rig.ask(3.0)
    rig.engine.cancel(second)
    rig.run()
    assert rig.ended == [first]


async def test_when_all_have_left_nothing_is_computed() -> None:
    rig = Rig()
    asked = [rig.ask(3.0) for _ in range(3)]
    for one in asked:
        rig.engine.cancel(one)
    assert rig.inner.canceled == [asked[0]]
    rig.ask(3.0)
    assert rig.runs == 2


async def test_the_first_ones_deadline_is_its_own() -> None:
    rig = Rig()
    first = rig.ask(3.0, timeout_s=1.0)
    later = [rig.ask(3.0, timeout_s=30.0), rig.ask(3.0, timeout_s=40.0)]
    rig.now += 1.0
    rig.inner.fail_with = too_late()
    rig.run()
    assert isinstance(first.error, DeadlineExceeded)
    assert (rig.ended, rig.runs) == ([first], 2)
    rig.inner.fail_with = None
    rig.run()
    assert [y(one) for one in later] == [6.0, 6.0]
    assert rig.runs == 2


async def test_those_who_are_late_with_the_first_end_with_it() -> None:
    rig = Rig()
    rig.ask(3.0, timeout_s=1.0)
    second = rig.ask(3.0, timeout_s=1.0)
    rig.now += 1.0
    rig.inner.fail_with = too_late()
    rig.run()
    assert isinstance(second.error, DeadlineExceeded)
    assert rig.runs == 1


async def test_where_nobody_else_may_run_all_are_told_why() -> None:
    rig = Rig()
    rig.ask(3.0, timeout_s=1.0)
    second = rig.ask(3.0)
    rig.now += 1.0
    rig.inner.fail_with = too_late()
    rig.inner.refuse_with = AdmissionError("full", retry_after_s=7.0)
    rig.run()
    assert isinstance(second.error, AdmissionError)
    assert second.error.retry_after_s == 7.0


async def test_a_follower_does_not_wait_longer_than_it_has() -> None:
    rig = Rig()
    first = rig.ask(3.0)
    second = rig.ask(3.0, timeout_s=0.001)
    rig.now += 0.01
    await asyncio.sleep(0.05)
    assert isinstance(second.error, DeadlineExceeded)
    assert second.error.stage == "waiting"
    rig.run()
    assert y(first) == 6.0
    assert rig.ended == [second, first]


async def test_one_in_a_hurry_brings_what_waits_in_the_queue_forward() -> None:
    rig = Rig()
    first = rig.ask(3.0, timeout_s=30.0)
    hurried = rig.ask(3.0, timeout_s=2.0)
    assert [request.deadline for request in rig.inner.seen] == [130.0, 102.0]
    assert rig.inner.canceled == [first]
    rig.run()
    assert (y(first), y(hurried), len(rig.ended)) == (6.0, 6.0, 2)


async def test_a_place_further_in_front_that_is_refused_changes_nothing() -> None:
    rig = Rig()
    first = rig.ask(3.0, timeout_s=30.0)
    rig.inner.refuse_with = AdmissionError("no time", code="deadline_unreachable")
    hurried = rig.ask(3.0, timeout_s=2.0)
    assert rig.inner.canceled == []
    rig.run()
    assert (y(first), y(hurried)) == (6.0, 6.0)


async def test_the_first_may_leave_after_it_was_brought_forward() -> None:
    rig = Rig()
    first, hurried = rig.ask(3.0, timeout_s=30.0), rig.ask(3.0, timeout_s=2.0)
    rig.engine.cancel(first)
    rig.run()
    assert rig.ended == [hurried]


async def test_after_the_hurried_ones_deadline_the_rest_go_on() -> None:
    rig = Rig()
    first, hurried = rig.ask(3.0, timeout_s=30.0), rig.ask(3.0, timeout_s=2.0)
    rig.now += 2.0
    rig.inner.fail_with = too_late()
    rig.run()
    assert isinstance(hurried.error, DeadlineExceeded)
    rig.inner.fail_with = None
    rig.run()
    assert y(first) == 6.0


async def test_nobody_waits_behind_a_job() -> None:
    rig = Rig()
    job = rig.ask(3.0, background=Background())
    asked = rig.ask(3.0)
    another = rig.ask(3.0)
    assert rig.runs == 2
    rig.run()
    assert [y(one) for one in (job, asked, another)] == [6.0, 6.0, 6.0]


async def test_a_job_may_wait_beside_what_is_waited_for() -> None:
    rig = Rig()
    rig.ask(3.0)
    job = rig.ask(3.0, background=Background())
    rig.run()
    assert (y(job), rig.runs) == (6.0, 1)
    assert job.background is not None
    assert job.background.began > 0


async def test_requests_do_not_wait_behind_a_job_where_the_first_has_no_more_time() -> None:
    rig = Rig()
    rig.ask(3.0, timeout_s=1.0)
    job, asked = rig.ask(3.0, timeout_s=math.inf, background=Background()), rig.ask(3.0)
    rig.now += 1.0
    rig.inner.fail_with = too_late()
    rig.run()
    assert (rig.runs, rig.inner.seen[-1].background) == (2, None)
    rig.inner.fail_with = None
    rig.run()
    assert (y(job), y(asked), rig.runs) == (6.0, 6.0, 2)


async def test_of_equal_jobs_each_has_its_own_time() -> None:
    rig = Rig()
    jobs = [rig.ask(3.0, timeout_s=math.inf, background=Background(timeout_s)) for timeout_s in (1.0, 2.0, 60.0)]
    rig.inner.fail_with = DeadlineExceeded("still running", stage="executing")
    rig.run()
    rig.run()
    assert [type(one.error) for one in jobs] == [DeadlineExceeded, DeadlineExceeded, type(None)]
    rig.inner.fail_with = None
    rig.run()
    assert (y(jobs[2]), rig.runs, len(rig.ended)) == (6.0, 3, 3)


async def test_one_that_comes_before_the_first_takes_it_with_him() -> None:
    rig = Rig()
    first, second = rig.ask(3.0, priority=2), rig.ask(3.0)
    assert [request.priority for request in rig.inner.seen] == [2, 0]
    assert rig.inner.canceled == [first]
    assert rig.ask(3.0, priority=2) is not None
    assert rig.ask(3.0, priority=1, background=Background()) is not None  # nobody waits for it
    assert rig.runs == 2
    rig.run()
    assert (y(first), y(second), len(rig.ended)) == (6.0, 6.0, 4)
    assert (rig.told(first), rig.engine.counts.misses) == ("miss", 1)


async def test_one_callback_that_fails_costs_nobody_else_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    first, second, third = rig.ask(3.0), rig.ask(3.0), rig.ask(3.0)

    def fail(request: object) -> None:
        raise RuntimeError("a broken connection")

    second.on_done = fail
    rig.run()
    assert rig.ended == [first, third]
    assert "could not be delivered" in caplog.text


async def test_no_cache_does_not_join_but_may_be_joined() -> None:
    rig = Rig()
    rig.ask(3.0)
    rig.ask(3.0, CacheAsk(use="refresh"))
    assert rig.runs == 2
    rig.ask(3.0)
    assert rig.runs == 2
