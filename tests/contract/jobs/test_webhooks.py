"""Webhooks: every end of a job that has one is to be delivered, until it is said to be settled."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.jobs.calls import AMPLE, BROKEN, CRASHED, leased, reaped, record, spec, started, submitted, succeed
from tests.contract.jobs.stores import Jobs, Store

from forebay.jobs.store import Finish, NewJob
from forebay.jobs.webhooks import Delivery, Settled

HOOK = "https://example.org/hook"
HOLD_S = 60.0


async def due(jobs: Jobs, most: int = 100, hold_s: float = HOLD_S) -> list[Delivery]:
    """What is due, taken."""
    return list(await jobs.due_webhooks(most, hold_s))


async def ended(jobs: Jobs, count: int = 1, retention_s: float = 3600.0) -> list[str]:
    """Ids of jobs with a webhook that have succeeded, in that order."""
    await submitted(jobs, count, webhook=HOOK, retention_s=retention_s)
    held = await leased(jobs, count)
    for job in held:
        assert await succeed(jobs, job)
    return [job.spec.id for job in held]


async def test_an_ended_job_with_a_webhook_is_due_at_once_and_only_for_one(store: Store) -> None:
    job = await started(store.jobs, webhook=HOOK, max_attempts=7)
    assert await due(store.jobs) == []
    assert await succeed(store.jobs, job)
    assert await due(store.other) == [Delivery(job.spec.id)]
    assert await due(store.jobs) == []
    found = await record(store.jobs, job.spec.id)
    assert (found.spec.webhook, found.spec.max_attempts) == (HOOK, 7)


async def test_a_job_without_one_owes_nothing(jobs: Jobs) -> None:
    assert await succeed(jobs, await started(jobs))
    assert await due(jobs) == []


async def test_an_end_that_is_told_twice_is_delivered_once(jobs: Jobs) -> None:
    job = await started(jobs, webhook=HOOK)
    assert await succeed(jobs, job)
    await jobs.settle_webhooks([Settled(one.id) for one in await due(jobs)])
    assert await succeed(jobs, job)
    assert await due(jobs) == []


@pytest.mark.parametrize("how", ["failed", "canceled", "used up", "silent", "overdue", "overdue at a lease"])
async def test_every_way_to_end_is_delivered(store: Store, how: str) -> None:
    jobs = store.jobs
    if how.startswith("overdue"):
        [id] = await submitted(jobs, webhook=HOOK, ttl_s=10.0)
        await store.pass_s(11.0)
        if how == "overdue":
            assert (await reaped(store)).expired == 1
        else:
            assert list(await jobs.lease(["m"], 10, 0.0, 60.0)) == []
    else:
        job = await started(jobs, webhook=HOOK, max_attempts=1)
        id = job.spec.id
        if how == "failed":
            await jobs.finish([Finish(job, "failed", error=BROKEN)])
        elif how == "used up":
            await jobs.finish([Finish(job, "retry", error=CRASHED)])
        elif how == "canceled":
            await jobs.cancel([id])
            await jobs.cancel([id])
        else:
            await store.pass_s(100.0)
            assert (await reaped(store)).failed == 1
    assert await due(jobs) == [Delivery(id)]


async def test_another_attempt_is_no_end(jobs: Jobs) -> None:
    job = await started(jobs, webhook=HOOK, max_attempts=2)
    assert list(await jobs.finish([Finish(job, "retry", error=CRASHED)])) == [True]
    assert await due(jobs) == []
    [again] = await leased(jobs)
    assert again.attempt == 2
    assert list(await jobs.finish([Finish(again, "retry", error=CRASHED)])) == [True]
    assert (await record(jobs, job.spec.id)).state == "failed"
    assert await due(jobs) == [Delivery(job.spec.id)]


async def test_what_was_taken_and_not_settled_is_due_again_after_the_hold(store: Store) -> None:
    [id] = await ended(store.jobs)
    assert await due(store.jobs, hold_s=60.0) == [Delivery(id)]
    await store.pass_s(45.0)
    assert await due(store.jobs) == []
    await store.pass_s(20.0)
    assert await due(store.other) == [Delivery(id)]


async def test_a_failure_is_counted_and_due_again_when_it_was_said(store: Store) -> None:
    [id] = await ended(store.jobs)
    for tries in range(3):
        assert await due(store.jobs) == [Delivery(id, tries)]
        await store.jobs.settle_webhooks([Settled(id, 300.0)])
        await store.pass_s(250.0)
        assert await due(store.jobs) == []
        await store.pass_s(60.0)
    await store.jobs.settle_webhooks([Settled(id, 0.0, counts=False)])
    assert await due(store.jobs) == [Delivery(id, 3)]


async def test_what_is_settled_for_good_is_not_due_again(store: Store) -> None:
    first, second = await ended(store.jobs, 2)
    await due(store.jobs)
    await store.other.settle_webhooks([Settled(first), Settled(second, 10.0)])
    await store.pass_s(3000.0)
    assert await due(store.jobs) == [Delivery(second, 1)]
    await store.jobs.settle_webhooks([Settled(second)])
    await store.pass_s(3000.0)
    assert await due(store.jobs) == []


async def test_settling_what_is_not_known_changes_nothing(jobs: Jobs) -> None:
    [id] = await ended(jobs)
    await due(jobs)
    await jobs.settle_webhooks([])
    await jobs.settle_webhooks([Settled(id)])
    await jobs.settle_webhooks([Settled(id, 0.0), Settled(spec().id, 0.0)])
    assert await due(jobs) == []


async def test_no_more_are_given_than_asked_for_and_each_once(jobs: Jobs) -> None:
    ids = await ended(jobs, 25)
    given = [await due(jobs, 10) for _ in range(4)]
    assert [len(some) for some in given] == [10, 10, 5, 0]
    assert sorted(one.id for some in given for one in some) == sorted(ids)


async def test_two_who_take_at_once_never_get_the_same(store: Store) -> None:
    ids = await ended(store.jobs, 60)
    calls = [due(jobs, 7) for jobs in (store.jobs, store.other) for _ in range(10)]
    given = [one.id for some in await asyncio.gather(*calls) for one in some]
    assert sorted(given) == sorted(ids)


async def test_the_longest_due_come_first(store: Store) -> None:
    if not store.orders:
        pytest.skip("several shards")
    early, late = await ended(store.jobs, 2)
    await due(store.jobs)
    await store.jobs.settle_webhooks([Settled(early, 200.0), Settled(late, 100.0)])
    await store.pass_s(1000.0)
    assert [one.id for one in await due(store.jobs, 1)] == [late]
    assert [one.id for one in await due(store.jobs, 1)] == [early]


async def test_a_forgotten_job_owes_nothing(store: Store) -> None:
    [deleted] = await ended(store.jobs)
    assert await store.jobs.delete(deleted)
    [running] = [job.spec.id for job in [await started(store.jobs, webhook=HOOK)]]
    assert await store.jobs.delete(running)
    await ended(store.jobs, retention_s=100.0)
    await store.pass_s(200.0)
    assert (await reaped(store)).forgotten == 1
    assert await due(store.jobs) == []


async def test_a_replayed_submit_of_a_job_with_a_webhook_is_that_job(jobs: Jobs) -> None:
    asked = spec(webhook=HOOK)
    for outcome in ("created", "replayed"):
        [answer] = await jobs.submit([NewJob(asked)], AMPLE)
        assert answer.outcome == outcome
    [job] = await leased(jobs)
    assert await succeed(jobs, job)
    assert await due(jobs) == [Delivery(asked.id)]
