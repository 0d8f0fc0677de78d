"""Claiming jobs: in order, by one at a time, for as long as the lease is renewed."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.jobs.calls import (
    LEASE_S,
    leased,
    nothing_to_lease,
    reaped,
    record,
    started,
    submitted,
    succeed,
    success,
)
from tests.contract.jobs.stores import Jobs, Store

from forebay.jobs.record import OVERDUE, SILENT
from forebay.jobs.store import LeasedJob


async def test_higher_levels_come_first_and_the_oldest_of_a_level(store: Store) -> None:
    levels = [2, 1, 0, 1, 2, 0, 1]
    ids = [(level, (await submitted(store.jobs, level=level))[0]) for level in levels]
    expected = sorted(ids, key=lambda pair: pair[0])
    given = [(job.spec.level, job.spec.id) for job in await leased(store.jobs, len(ids))]
    assert [level for level, _ in given] == sorted(levels)
    if store.orders:
        assert given == expected
    else:
        assert sorted(given) == sorted(expected)


async def test_the_models_that_are_asked_for_are_leased_and_no_others(jobs: Jobs) -> None:
    a, b, c = [(await submitted(jobs, model=model))[0] for model in "abc"]
    got: set[str] = set()
    async with asyncio.timeout(10):
        while got != {a, c}:
            got |= {job.spec.id for job in await jobs.lease(["a", "c"], 10, 1.0, LEASE_S)}
    assert (await record(jobs, b)).state == "queued"


async def test_the_level_counts_across_models(jobs: Jobs) -> None:
    await submitted(jobs, model="a", level=2)
    [high] = await submitted(jobs, model="b", level=0)
    [job] = await jobs.lease(["a", "b"], 1, 1.0, LEASE_S)
    assert job.spec.id == high


async def test_no_more_are_leased_than_asked_for(jobs: Jobs) -> None:
    await submitted(jobs, 7)
    assert len(await jobs.lease(["m"], 3, 1.0, LEASE_S)) <= 3
    assert list(await jobs.lease(["m"], 0, 0.0, LEASE_S)) == []
    assert list(await jobs.lease([], 3, 0.0, LEASE_S)) == []
    assert (await jobs.depth("m")).waiting >= 4


async def test_workers_side_by_side_never_get_the_same_job(store: Store) -> None:
    ids = await submitted(store.jobs, 200)
    got: list[LeasedJob] = []

    async def work(jobs: Jobs) -> None:
        while len(got) < len(ids):
            got.extend(await jobs.lease(["m"], 7, 0.05, LEASE_S))

    async with asyncio.timeout(20):
        await asyncio.gather(*(work((store.jobs, store.other)[i % 2]) for i in range(6)))
    assert sorted(job.spec.id for job in got) == sorted(ids)
    assert len({job.nonce for job in got}) == len(ids)


async def test_who_waits_gets_a_job_when_it_comes(store: Store) -> None:
    waiting = asyncio.create_task(leased(store.other))
    await asyncio.sleep(0.05)
    [id] = await submitted(store.jobs)
    [job] = await waiting
    assert job.spec.id == id


async def test_who_waits_in_vain_gets_none(jobs: Jobs) -> None:
    await submitted(jobs, model="other")
    assert list(await jobs.lease(["m"], 1, 0.05, LEASE_S)) == []


async def test_canceling_a_lease_loses_no_job(store: Store) -> None:
    ids: list[str] = []
    got: list[str] = []
    for turn in range(30):
        waiting = asyncio.create_task(store.jobs.lease(["m"], 10, 1.0, LEASE_S))
        await asyncio.sleep(0.002 * (turn % 3))
        ids += await submitted(store.other)
        if turn % 2:
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            got += [job.spec.id for job in await waiting]
        except asyncio.CancelledError:
            pass
    rest = await leased(store.jobs, len(ids) - len(got))
    assert sorted(got + [job.spec.id for job in rest]) == sorted(ids)


async def test_a_leased_job_runs_and_says_since_when(store: Store) -> None:
    [id] = await submitted(store.jobs)
    await store.pass_s(5.0)
    [job] = await leased(store.jobs)
    found = await record(store.other, id)
    assert (found.state, found.attempt, found.sequence) == ("running", 1, 2)
    assert 5_000 <= found.started_ms - found.created_ms < 15_000
    assert job.attempt == 1


async def test_a_job_whose_lease_is_renewed_stays_with_its_worker(store: Store) -> None:
    job = await started(store.jobs)
    for _ in range(4):
        await store.pass_s(LEASE_S - 15.0)
        assert list(await store.jobs.extend([job], LEASE_S)) == [True]
        done = await reaped(store)
        assert (done.requeued, done.failed) == (0, 0)
        assert await nothing_to_lease(store.jobs)
    assert await succeed(store.jobs, job)
    assert (await record(store.jobs, job.spec.id)).attempt == 1


async def test_a_job_whose_worker_fell_silent_after_renewing_runs_again(store: Store) -> None:
    job = await started(store.jobs)
    await store.pass_s(LEASE_S - 15.0)
    await store.jobs.extend([job], LEASE_S)
    await store.pass_s(LEASE_S - 15.0)
    assert (await reaped(store)).requeued == 0
    await store.pass_s(16.0)
    assert (await reaped(store)).requeued == 1
    [again] = await leased(store.jobs)
    assert again.attempt == 2


async def test_a_job_whose_worker_fell_silent_runs_again(store: Store) -> None:
    job = await started(store.jobs)
    await store.pass_s(LEASE_S - 15.0)
    assert (await reaped(store)).requeued == 0
    await store.pass_s(16.0)
    assert (await reaped(store)).requeued == 1
    found = await record(store.jobs, job.spec.id)
    assert (found.state, found.attempt, found.sequence) == ("queued", 1, 3)
    [again] = await leased(store.jobs)
    assert (again.spec, again.attempt) == (job.spec, 2)
    assert again.nonce != job.nonce
    assert (await reaped(store)).requeued == 0


async def test_of_two_reapers_one_takes_a_silent_job(store: Store) -> None:
    await submitted(store.jobs, 5)
    await leased(store.jobs, 5)
    await store.pass_s(LEASE_S + 1.0)
    done = await asyncio.gather(store.jobs.reap(), store.other.reap(), store.jobs.reap())
    assert sum(one.requeued for one in done) == 5
    jobs = await leased(store.jobs, 5)
    assert {job.attempt for job in jobs} == {2}
    assert await nothing_to_lease(store.jobs)


async def test_a_worker_that_comes_back_too_late_changes_nothing(store: Store) -> None:
    zombie = await started(store.jobs)
    await store.pass_s(LEASE_S + 1.0)
    await reaped(store)
    [taken] = await leased(store.other)
    assert list(await store.jobs.extend([zombie], LEASE_S)) == [False]
    assert not await succeed(store.jobs, zombie, b"late")
    assert (await record(store.jobs, zombie.spec.id)).state == "running"
    assert await succeed(store.other, taken, b"right")
    assert not await succeed(store.jobs, zombie, b"late")
    found = await record(store.jobs, zombie.spec.id)
    assert found.output is not None
    assert (found.state, found.output.body, found.attempt) == ("succeeded", b"right", 2)


async def test_a_late_worker_whose_job_nobody_took_yet_still_commits(store: Store) -> None:
    job = await started(store.jobs)
    await store.pass_s(LEASE_S + 1.0)
    assert await succeed(store.jobs, job)
    assert (await reaped(store)).requeued == 0
    assert (await record(store.jobs, job.spec.id)).state == "succeeded"


async def test_a_job_whose_workers_all_fell_silent_fails(store: Store) -> None:
    [id] = await submitted(store.jobs, max_attempts=3)
    for attempt in (1, 2, 3):
        [job] = await leased(store.jobs)
        assert job.attempt == attempt
        await store.pass_s(LEASE_S + 1.0)
        done = await reaped(store)
        assert (done.requeued, done.failed) == ((1, 0) if attempt < 3 else (0, 1))
    found = await record(store.jobs, id)
    assert (found.state, found.attempt, found.error) == ("failed", 3, SILENT)
    assert found.finished_ms > found.started_ms
    assert await nothing_to_lease(store.jobs)
    assert not await succeed(store.jobs, job)


@pytest.mark.parametrize("who", ["lease", "reaper"])
async def test_a_job_that_did_not_start_in_time_expires(store: Store, who: str) -> None:
    [late] = await submitted(store.jobs, ttl_s=20.0)
    [patient] = await submitted(store.jobs, ttl_s=90.0)
    await store.pass_s(21.0)
    if who == "reaper":
        done = await reaped(store)
        assert done.expired == 1
    [job] = await leased(store.jobs)
    assert job.spec.id == patient
    assert await nothing_to_lease(store.jobs)
    found = await record(store.jobs, late)
    assert (found.state, found.error, found.attempt, found.started_ms) == ("expired", OVERDUE, 0, 0)
    assert found.finished_ms >= found.created_ms + 20_000
    assert (await store.jobs.depth("m")).waiting == 0


async def test_a_job_that_started_in_time_may_end_later(store: Store) -> None:
    job = await started(store.jobs, ttl_s=20.0)
    await store.pass_s(30.0)
    assert (await reaped(store)).expired == 0
    assert await succeed(store.jobs, job)


async def test_another_attempt_does_not_start_when_the_time_to_start_is_over(store: Store) -> None:
    job = await started(store.jobs, ttl_s=LEASE_S)
    await store.pass_s(LEASE_S + 1.0)
    await reaped(store)
    await reaped(store)
    assert await nothing_to_lease(store.jobs)
    assert (await record(store.jobs, job.spec.id)).state == "expired"


async def test_extending_what_is_finished_or_unknown_is_refused(jobs: Jobs) -> None:
    done = await started(jobs)
    await jobs.finish([success(done)])
    running = await started(jobs)
    unknown = LeasedJob(running.spec, 1, "0" * 16, running.receipt)
    assert list(await jobs.extend([done, running, unknown], LEASE_S)) == [False, True, False]
