"""While others are asked for an answer: who waits beside whom, whose time counts, what becomes of it at an end."""

from __future__ import annotations

import math
import time

import pytest
from tests.unit.engine.cached_rig import y
from tests.unit.engine.test_shared_cached import Process, answered, settled, two, until

from forebay.api.recall import Recall
from forebay.cache.memory_shared import SharedMemory
from forebay.core.caching import CacheAsk
from forebay.core.errors import AdmissionError, CacheMiss, DeadlineExceeded, ExecutionError
from forebay.core.request import Background, Request

ENOUGH_S = 5.0
NOTHING_OLD = CacheAsk(max_age_s=0.0)


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory(time.monotonic, 1 << 20)


def refuses_the_hurried(process: Process) -> None:
    """Its engine forecasts that each answer takes seconds."""
    submit = process.inner.submit

    def forecast(request: Request) -> None:
        if request.deadline - time.monotonic() < ENOUGH_S:
            raise AdmissionError("too busy", code="deadline_unreachable")
        submit(request)

    process.inner.submit = forecast  # type: ignore[method-assign]


def job(process: Process, timeout_s: float = 3600.0) -> Request:
    return process.ask(3.0, timeout_s=math.inf, background=Background(timeout_s))


async def kept_in_the_store(process: Process) -> None:
    for _ in range(2):
        await answered(process)
    await settled(process)


# -- whose time counts ------------------------------------------------------------------------------------------------


async def test_what_is_refused_to_one_without_time_is_computed_for_those_who_have_it(shared: SharedMemory) -> None:
    here = Process(shared)
    refuses_the_hurried(here)
    hurried, patient = here.ask(3.0, timeout_s=1.0), here.ask(3.0)
    await until(lambda: here.runs)
    here.run()
    assert isinstance(hurried.error, AdmissionError)
    assert (hurried.error.code, y(patient), len(here.ended)) == ("deadline_unreachable", 6.0, 2)
    assert here.engine.counts.misses == 1


async def test_the_time_of_one_that_has_left_does_not_count(shared: SharedMemory) -> None:
    here = Process(shared)
    refuses_the_hurried(here)
    hurried, patient = here.ask(3.0, timeout_s=1.0), here.ask(3.0)
    here.engine.cancel(hurried)
    await until(lambda: here.runs)
    here.run()
    assert (y(patient), here.ended, here.told(patient)) == (6.0, [patient], "miss")


async def test_where_nobody_has_the_time_all_are_refused(shared: SharedMemory) -> None:
    here, there = two(shared)
    refuses_the_hurried(here)
    several = [here.ask(3.0, timeout_s=timeout_s) for timeout_s in (1.0, 3.0, 2.0)]
    await until(lambda: len(here.ended) == 3)
    assert {one.error.code for one in several if one.error} == {"deadline_unreachable"}
    await answered(there)  # what was claimed for them is free


async def test_a_job_runs_where_requests_are_refused(shared: SharedMemory) -> None:
    here = Process(shared)
    refuses_the_hurried(here)
    hurried, patient = here.ask(3.0, timeout_s=1.0), job(here)
    await until(lambda: here.runs)
    here.run()
    assert (y(patient), hurried in here.ended, here.inner.seen[0].background) == (6.0, True, patient.background)


async def test_what_is_computed_after_the_look_is_in_time_and_in_turn_for_all_who_wait(shared: SharedMemory) -> None:
    here = Process(shared)
    asked = [here.ask(3.0, priority=2), here.ask(3.0, timeout_s=10.0), here.ask(3.0, priority=1)]
    await until(lambda: here.runs)
    (runs,) = here.inner.seen
    assert (runs.deadline, runs.priority) == (asked[1].deadline, 1)
    here.run()
    assert [y(one) for one in asked] == [6.0] * 3


async def test_one_with_less_time_does_not_wait_for_another_as_long_as_the_first_can(shared: SharedMemory) -> None:
    here, there = two(shared)
    there.ask(3.0)
    await until(lambda: there.runs)  # and it takes for ever
    first = here.ask(3.0)
    await until(lambda: shared.waited_for)
    here.engine._cost_s = 0.2  # type: ignore[attr-defined]
    second = here.ask(3.0, timeout_s=1.0)
    await until(lambda: here.runs or second.error)
    here.run()
    assert [y(first), y(second)] == [6.0, 6.0]


# -- jobs -------------------------------------------------------------------------------------------------------------


async def test_nobody_elsewhere_waits_behind_a_job(shared: SharedMemory) -> None:
    here, there = two(shared)
    job(here)
    await until(lambda: here.runs)
    asked = there.ask(3.0)
    await until(lambda: there.runs)
    there.run()
    assert y(asked) == 6.0


async def test_nobody_beside_a_job_waits_behind_it(shared: SharedMemory) -> None:
    here = Process(shared)
    first = job(here)
    await until(lambda: here.runs)
    asked, another = here.ask(3.0), job(here)
    await until(lambda: here.runs == 2)
    here.inner.finish(here.inner.seen[1])
    assert (y(asked), y(another), first in here.ended) == (6.0, 6.0, False)


async def test_where_only_jobs_are_left_it_runs_as_one_and_others_do_not_wait(shared: SharedMemory) -> None:
    here = Process(shared)
    leaves, stays = here.ask(3.0), job(here)
    here.engine.cancel(leaves)
    await until(lambda: here.runs)
    assert here.inner.seen[0].background is stays.background
    await until(lambda: not shared.claims)
    here.run()
    assert y(stays) == 6.0


async def test_a_job_whose_own_time_is_over_fails_once(shared: SharedMemory) -> None:
    here = Process(shared)
    failed = job(here)
    await until(lambda: here.runs)
    here.inner.fail_with = DeadlineExceeded("still running", stage="executing")
    here.run()
    assert isinstance(failed.error, DeadlineExceeded)
    assert (failed.error.stage, here.runs) == ("executing", 1)


# -- how old ----------------------------------------------------------------------------------------------------------


async def test_one_who_wants_nothing_old_does_not_wait_beside_a_look(shared: SharedMemory) -> None:
    here, there = two(shared)
    await kept_in_the_store(there)
    any_age, new = here.ask(3.0), here.ask(3.0, NOTHING_OLD)
    await until(lambda: here.runs and any_age in here.ended)
    here.run()
    assert [here.told(any_age), here.told(new), here.runs] == ["exact", "miss", 1]


async def test_one_who_wants_nothing_old_waits_beside_a_run_and_beside_his_like(shared: SharedMemory) -> None:
    here = Process(shared)
    asked = [here.ask(3.0, NOTHING_OLD), here.ask(3.0, NOTHING_OLD), here.ask(3.0)]
    await until(lambda: here.runs)
    asked.append(here.ask(3.0, NOTHING_OLD))
    here.run()
    assert ([y(one) for one in asked], here.runs) == ([6.0] * 4, 1)


async def test_an_answer_of_files_that_are_gone_is_not_remembered_for_those_that_came(shared: SharedMemory) -> None:
    here, there = two(shared)
    await kept_in_the_store(there)
    recall = Recall(here.engine)
    found = here.ask(3.0)
    here.inner.digest = "other"
    await until(lambda: here.ended)
    assert here.told(found) == "exact"
    recall.keep(b"body", None, found.cached, b"answer")
    assert recall.find(b"body", None, time.monotonic()) is None
    assert len(here.cache.memory) == 0


# -- the end of an engine ---------------------------------------------------------------------------------------------


async def test_what_is_sought_is_computed_where_the_engine_is_about_to_end(shared: SharedMemory) -> None:
    here = Process(shared)
    here.store.hangs = True
    asked, another = here.ask(3.0), here.ask(3.0)
    assert here.engine.pending == 1
    here.engine.hasten()
    assert (here.engine.pending, here.runs) == (0, 1)
    here.run()
    assert (y(asked), y(another)) == (6.0, 6.0)


async def test_what_another_computes_is_computed_here_too_where_the_engine_is_about_to_end(
    shared: SharedMemory,
) -> None:
    here, there = two(shared)
    there.ask(3.0)
    await until(lambda: there.runs)
    asked = here.ask(3.0)
    await until(lambda: shared.waited_for)
    assert here.engine.pending == 1
    here.engine.hasten()
    there.run()
    await until(lambda: not here.tier._works)
    here.run()
    assert (y(asked), here.ended, here.runs, here.engine.pending) == (6.0, [asked], 1, 0)


async def test_what_is_found_free_too_late_is_nobodys_claim(shared: SharedMemory) -> None:
    here = Process(shared)
    asked = here.ask(3.0)
    here.engine.hasten()
    await settled(here)
    assert (here.store.calls, shared.claims) == (["exchange", "fail"], {})
    here.run()
    assert (y(asked), here.runs) == (6.0, 1)


async def test_what_is_only_to_be_looked_up_needs_no_engine(shared: SharedMemory) -> None:
    here = Process(shared)
    asked = here.ask(3.0, CacheAsk(use="only"))
    assert here.engine.pending == 0
    here.engine.hasten()
    await until(lambda: here.ended)
    assert isinstance(asked.error, CacheMiss)
    assert here.runs == 0


async def test_what_everybody_has_left_holds_no_engine(shared: SharedMemory) -> None:
    here = Process(shared)
    here.engine.cancel(here.ask(3.0))
    assert here.engine.pending == 0
    here.engine.hasten()
    await settled(here)
    assert here.runs == 0


async def test_an_end_while_another_computes_leaves_nothing_sought(shared: SharedMemory) -> None:
    here, there = two(shared)
    there.ask(3.0)
    await until(lambda: there.runs)
    asked = here.ask(3.0)
    await until(lambda: shared.waited_for)
    for work in list(here.tier._works):
        work.cancel()
    await until(lambda: here.ended)
    assert isinstance(asked.error, ExecutionError)
    assert here.engine.pending == 0
