"""Canceling, deleting, and what is left of a job when its time is over."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.jobs.calls import (
    LEASE_S,
    leased,
    nothing_to_lease,
    reaped,
    record,
    spec,
    started,
    submitted,
    succeed,
    success,
)
from tests.contract.jobs.stores import Jobs, Store

from forebay.jobs.record import CANCELED, JobRecord
from forebay.jobs.store import Finish, Gone, LeasedJob, Partial


async def test_a_queued_job_is_canceled_and_never_run(store: Store) -> None:
    first, second = await submitted(store.jobs, 2)
    [look] = await store.other.cancel([first])
    assert isinstance(look, JobRecord)
    assert (look.state, look.error, look.sequence, look.attempt) == ("canceled", CANCELED, 2, 0)
    assert look.finished_ms >= look.created_ms
    [job] = await leased(store.jobs)
    assert job.spec.id == second
    assert await nothing_to_lease(store.jobs)


async def test_a_running_job_is_canceled_at_once_and_its_end_discarded(store: Store) -> None:
    job = await started(store.jobs)
    [look] = await store.other.cancel([job.spec.id])
    assert isinstance(look, JobRecord)
    assert (look.state, look.error, look.attempt) == ("canceled", CANCELED, 1)
    assert list(await store.jobs.extend([job], LEASE_S)) == [False]
    assert list(await store.jobs.tell([Partial(job, progress=0.5, number=1)])) == [False]
    ends = [success(job), Finish(job, "release"), Finish(job, "retry"), Finish(job, "canceled", error=CANCELED)]
    assert list(await store.jobs.finish(ends)) == [False] * 4
    await store.pass_s(LEASE_S + 1.0)
    assert (await reaped(store)).requeued == 0
    assert await record(store.jobs, job.spec.id) == look
    assert await nothing_to_lease(store.jobs)


async def test_a_finished_job_stays_as_it_is(jobs: Jobs) -> None:
    job = await started(jobs)
    await succeed(jobs, job)
    before = await record(jobs, job.spec.id)
    assert list(await jobs.cancel([job.spec.id])) == [before]
    assert await record(jobs, job.spec.id) == before


async def test_canceling_once_more_changes_nothing(store: Store) -> None:
    [id] = await submitted(store.jobs)
    [first] = await store.jobs.cancel([id])
    await store.pass_s(1.0)
    assert list(await store.other.cancel([id, id])) == [first, first]


async def test_many_are_canceled_in_one_call_each_by_itself(jobs: Jobs) -> None:
    running = await started(jobs)
    queued, unknown = (await submitted(jobs))[0], spec().id
    looks = await jobs.cancel([running.spec.id, unknown, queued])
    assert [look.state if isinstance(look, JobRecord) else look for look in looks] == ["canceled", None, "canceled"]


async def test_a_cancel_and_an_end_at_once_leave_one_of_them(store: Store) -> None:
    for turn in range(20):
        job = await started(store.jobs)
        calls = [store.jobs.finish([success(job)]), store.other.cancel([job.spec.id])]
        if turn % 2:
            calls.reverse()
        answers = await asyncio.gather(*calls)
        [done] = answers[turn % 2]
        found = await record(store.jobs, job.spec.id)
        assert (found.state, found.sequence) == ("succeeded" if done else "canceled", 3)
        assert (found.output is not None) == done
        assert (found.error == CANCELED) == (not done)


async def test_a_cancel_and_a_lease_at_once_leave_a_canceled_job(store: Store) -> None:
    for turn in range(20):
        [id] = await submitted(store.jobs)
        calls = [store.jobs.lease(["m"], 1, 0.0, LEASE_S), store.other.cancel([id])]
        if turn % 2:
            calls.reverse()
        got = (await asyncio.gather(*calls))[turn % 2]
        assert [await succeed(store.jobs, job) for job in got if isinstance(job, LeasedJob)] in ([], [False])
        assert (await record(store.jobs, id)).state == "canceled"
        assert await nothing_to_lease(store.jobs)


@pytest.mark.parametrize("when", ["queued", "running", "finished"])
async def test_a_deleted_job_is_as_if_it_had_never_been(store: Store, when: str) -> None:
    [id], [other] = await submitted(store.jobs), await submitted(store.jobs, model="other")
    if when != "queued":
        [job] = await leased(store.jobs)
    if when == "finished":
        await succeed(store.jobs, job)
    assert await store.jobs.delete(id) is True
    assert await store.other.delete(id) is False
    assert list(await store.jobs.read([id, other], output=False)) == [None, await record(store.jobs, other)]
    assert list(await store.jobs.cancel([id])) == [None]
    assert list(await store.jobs.events(id, 0)) == []
    assert [found.spec.id for found in (await store.jobs.list("anna")).jobs] == [other]
    assert await nothing_to_lease(store.jobs)
    await store.pass_s(LEASE_S + 1.0)
    assert (await reaped(store)).requeued == 0
    assert list(await store.jobs.read([id])) == [None]
    assert (await store.jobs.depth("m")).running == 0


async def test_the_run_of_a_deleted_job_ends_in_nothing(jobs: Jobs) -> None:
    job = await started(jobs)
    await jobs.delete(job.spec.id)
    assert list(await jobs.extend([job], LEASE_S)) == [False]
    assert list(await jobs.tell([Partial(job, piece=b"1", number=1)])) == [False]
    assert list(await jobs.finish([success(job), Finish(job, "release")])) == [False, False]
    assert list(await jobs.read([job.spec.id])) == [None]
    assert await nothing_to_lease(jobs)


async def test_what_never_was_is_not_found(jobs: Jobs) -> None:
    id = spec().id
    assert list(await jobs.read([id])) == [None]
    assert list(await jobs.cancel([id])) == [None]
    assert await jobs.delete(id) is False
    assert list(await jobs.events(id, 0)) == []
    assert list(await jobs.read([])) == []


async def test_a_finished_job_is_kept_for_its_retention_and_then_gone(store: Store) -> None:
    job, other = await started(store.jobs, retention_s=100.0), await started(store.jobs, retention_s=400.0)
    await store.pass_s(50.0)
    await succeed(store.jobs, job)
    await succeed(store.jobs, other)
    await store.pass_s(85.0)
    assert (await reaped(store)).forgotten == 0
    assert (await record(store.jobs, job.spec.id)).output is not None
    await store.pass_s(16.0)
    await reaped(store)
    assert list(await store.other.read([job.spec.id])) == [Gone("anna")]
    assert list(await store.jobs.cancel([job.spec.id])) == [Gone("anna")]
    assert await store.jobs.delete(job.spec.id) is False
    assert list(await store.jobs.read([job.spec.id])) == [Gone("anna")]
    assert list(await store.jobs.events(job.spec.id, 0)) == []
    assert [found.spec.id for found in (await store.jobs.list(None)).jobs] == [other.spec.id]
    assert (await record(store.jobs, other.spec.id)).state == "succeeded"


async def test_a_job_that_is_not_finished_is_kept_however_long_it_takes(store: Store) -> None:
    [id] = await submitted(store.jobs, retention_s=100.0)
    await store.pass_s(1000.0)
    await reaped(store)
    assert (await record(store.jobs, id)).state == "queued"
    [job] = await leased(store.jobs, lease_s=2000.0)
    await store.pass_s(1000.0)
    await reaped(store)
    assert await succeed(store.jobs, job)
