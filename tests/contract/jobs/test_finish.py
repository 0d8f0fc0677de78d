"""How runs end: the first end stands, and a repeat of it changes nothing."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from tests.contract.jobs.calls import (
    BROKEN,
    CRASHED,
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

from forebay.jobs.record import JobRecord, Output
from forebay.jobs.store import Finish, LeasedJob


async def test_an_output_is_kept_as_it_was_given(store: Store) -> None:
    job = await started(store.jobs)
    await store.pass_s(5.0)
    output = Output(bytes(range(256)), "application/octet-stream", "44")
    metrics = {"batch_rows": 3, "queue_ms": 1.5, "dispatch_reason": "idle"}
    assert list(await store.jobs.finish([Finish(job, "succeeded", output=output, metrics=metrics)])) == [True]
    found = await record(store.other, job.spec.id)
    assert (found.state, found.output, found.error, found.metrics) == ("succeeded", output, None, metrics)
    assert (found.attempt, found.sequence) == (1, 3)
    assert 5_000 <= found.finished_ms - found.started_ms < 15_000


async def test_outputs_are_left_out_where_they_are_not_wanted(jobs: Jobs) -> None:
    job = await started(jobs)
    await succeed(jobs, job)
    [look] = await jobs.read([job.spec.id], output=False)
    whole = await record(jobs, job.spec.id)
    assert isinstance(look, JobRecord)
    assert (look.state, look.output) == ("succeeded", None)
    assert whole.output == Output(b'{"y":1}')


@pytest.mark.parametrize("kind", ["failed", "expired", "canceled"])
async def test_an_end_without_an_output_tells_its_error(
    jobs: Jobs, kind: Literal["failed", "expired", "canceled"]
) -> None:
    job = await started(jobs)
    assert list(await jobs.finish([Finish(job, kind, error=BROKEN)])) == [True]
    found = await record(jobs, job.spec.id)
    assert (found.state, found.error, found.output) == (kind, BROKEN, None)
    assert found.finished_ms >= found.started_ms
    assert await nothing_to_lease(jobs)


async def test_the_first_end_stands(store: Store) -> None:
    job = await started(store.jobs)
    ends = [Finish(job, "failed", error=BROKEN), success(job), Finish(job, "release"), Finish(job, "retry")]
    assert list(await store.jobs.finish(ends)) == [True, False, False, False]
    for end in ends[1:]:
        assert list(await store.other.finish([end])) == [False]
    assert (await record(store.jobs, job.spec.id)).state == "failed"
    assert await nothing_to_lease(store.jobs)


async def test_of_many_ends_at_once_one_stands(store: Store) -> None:
    job = await started(store.jobs)
    ends = [success(job), Finish(job, "failed", error=BROKEN), Finish(job, "canceled", error=BROKEN)]
    calls = [(store.jobs, store.other)[i % 2].finish([end]) for i, end in enumerate(ends)]
    done = [answer for [answer] in await asyncio.gather(*calls)]
    assert sorted(done) == [False, False, True]
    assert (await record(store.jobs, job.spec.id)).state == ends[done.index(True)].kind


@pytest.mark.parametrize("kind", ["succeeded", "failed", "release", "retry"])
async def test_the_same_end_once_more_is_confirmed_and_changes_nothing(
    store: Store, kind: Literal["succeeded", "failed", "release", "retry"]
) -> None:
    job = await started(store.jobs)
    end = Finish(job, kind, output=Output(b"y"), error=CRASHED)
    assert list(await store.jobs.finish([end])) == [True]
    before = await record(store.jobs, job.spec.id)
    await store.pass_s(1.0)
    assert list(await store.other.finish([end, end])) == [True, True]
    assert await record(store.jobs, job.spec.id) == before
    if kind in ("release", "retry"):
        [again] = await leased(store.jobs)
        assert await nothing_to_lease(store.jobs)
        assert list(await store.other.finish([end])) == [True]
        assert (await record(store.jobs, job.spec.id)).state == "running"
        assert await succeed(store.jobs, again)
        assert list(await store.other.finish([end])) == [False]


async def test_many_ends_in_one_call_are_judged_each_by_itself(jobs: Jobs) -> None:
    await submitted(jobs, 4)
    a, b, c, d = await leased(jobs, 4)
    await jobs.cancel([b.spec.id])
    await jobs.delete(c.spec.id)
    ends = [success(a), success(b), success(c), Finish(d, "failed", error=BROKEN)]
    assert list(await jobs.finish(ends)) == [True, False, False, True]
    states = [
        look.state if isinstance(look, JobRecord) else look
        for look in await jobs.read([job.spec.id for job in (a, b, c, d)])
    ]
    assert states == ["succeeded", "canceled", None, "failed"]


async def test_a_job_that_was_given_back_is_free_at_once_and_the_attempt_does_not_count(jobs: Jobs) -> None:
    [id] = await submitted(jobs, max_attempts=1)
    for _ in range(5):
        [job] = await leased(jobs)
        assert (job.spec.id, job.attempt) == (id, 1)
        assert list(await jobs.finish([Finish(job, "release")])) == [True]
        found = await record(jobs, id)
        assert (found.state, found.attempt) == ("queued", 0)
        assert (await jobs.depth("m")).waiting == 1
    [job] = await leased(jobs)
    assert await succeed(jobs, job)


async def test_a_failed_attempt_is_tried_again_until_none_is_left(jobs: Jobs) -> None:
    [id] = await submitted(jobs, max_attempts=3)
    for attempt in (1, 2, 3):
        [job] = await leased(jobs)
        assert (job.attempt, (await record(jobs, id)).error) == (attempt, None)
        assert list(await jobs.finish([Finish(job, "retry", error=CRASHED)])) == [True]
    found = await record(jobs, id)
    assert (found.state, found.attempt, found.error) == ("failed", 3, CRASHED)
    assert await nothing_to_lease(jobs)


async def test_an_attempt_given_back_after_a_failed_one_counts_not(jobs: Jobs) -> None:
    job = await started(jobs, max_attempts=2)
    await jobs.finish([Finish(job, "retry", error=CRASHED)])
    [job] = await leased(jobs)
    await jobs.finish([Finish(job, "release")])
    assert (await record(jobs, job.spec.id)).attempt == 1
    [job] = await leased(jobs)
    assert job.attempt == 2


async def test_a_delayed_attempt_waits_for_its_time(store: Store) -> None:
    job = await started(store.jobs)
    await store.jobs.finish([Finish(job, "retry", error=CRASHED, delay_s=30.0)])
    found = await record(store.jobs, job.spec.id)
    assert (found.state, found.attempt) == ("queued", 1)
    assert (await store.jobs.depth("m")).waiting == 1
    assert (await reaped(store)).released == 0
    assert await nothing_to_lease(store.jobs)
    await store.pass_s(31.0)
    assert (await reaped(store)).released == 1
    [again] = await leased(store.jobs)
    assert (again.spec, again.attempt) == (job.spec, 2)
    assert (await reaped(store)).released == 0


async def test_a_delayed_attempt_can_be_canceled_and_can_expire(store: Store) -> None:
    canceled = await started(store.jobs)
    await store.jobs.finish([Finish(canceled, "retry", error=CRASHED, delay_s=30.0)])
    late = await started(store.jobs, ttl_s=20.0)
    await store.jobs.finish([Finish(late, "retry", error=CRASHED, delay_s=30.0)])
    await store.jobs.cancel([canceled.spec.id])
    await store.pass_s(31.0)
    await reaped(store)
    assert await nothing_to_lease(store.jobs)
    looks = [(await record(store.jobs, job.spec.id)).state for job in (canceled, late)]
    assert looks == ["canceled", "expired"]


async def test_a_job_of_another_nonce_or_none_cannot_be_ended(jobs: Jobs) -> None:
    job = await started(jobs)
    forged = LeasedJob(job.spec, job.attempt, "f" * len(job.nonce), job.receipt)
    empty = LeasedJob(job.spec, job.attempt, "", job.receipt)
    assert list(await jobs.finish([success(forged), success(empty)])) == [False, False]
    await jobs.finish([Finish(job, "release")])
    assert list(await jobs.finish([success(empty)])) == [False]
    assert list(await jobs.extend([empty], LEASE_S)) == [False]
    assert (await record(jobs, job.spec.id)).state == "queued"
