"""What only the store in memory promises."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from forebay.jobs.ids import JobIds
from forebay.jobs.memory import MemoryJobs
from forebay.jobs.record import JobSpec, Output
from forebay.jobs.store import Bounds, Change, Finish, Gone, NewJob, Partial
from forebay.jobs.subscription import Subscription

AMPLE = Bounds(1_000_000, 1 << 40)


def change(sequence: int) -> Change:
    return Change("1", sequence, "running", "m")


def new_job() -> NewJob:
    return NewJob(JobSpec(id=JobIds().new(), model="m", tenant="t", body=b"x" * 1000))


async def test_a_reader_who_is_too_slow_is_told_so_and_goes_on() -> None:
    subscription = Subscription(most=3)
    assert await anext(subscription) == []
    for sequence in range(1, 4):
        subscription.add(change(sequence))
    assert await anext(subscription) == [change(1), change(2), change(3)]
    for sequence in range(4, 9):
        subscription.add(change(sequence))
    assert await anext(subscription) == []
    assert await anext(subscription) == [change(8)]
    subscription.add(change(9))
    assert await anext(subscription) == [change(9)]


async def test_closing_ends_every_wait() -> None:
    jobs = MemoryJobs()
    subscription = jobs.changes()
    leasing = asyncio.create_task(jobs.lease(["m"], 1, 60.0, 1.0))
    reading = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await reading == []
    reading = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    await jobs.close()
    assert await leasing == []
    with pytest.raises(StopAsyncIteration):
        await reading
    assert await jobs.lease(["m"], 1, 60.0, 1.0) == []
    assert [changes async for changes in jobs.changes()] == [[]]


async def test_a_subscription_that_nobody_holds_is_not_kept() -> None:
    jobs = MemoryJobs()
    unheld = weakref.ref(jobs.changes())
    gc.collect()
    assert unheld() is None
    await jobs.submit([new_job()], AMPLE)


async def test_nothing_is_left_of_jobs_whose_time_is_over() -> None:
    now = [1_000_000]
    jobs = MemoryJobs(lambda: now[0])
    new = [NewJob(new_job().spec, f"key {number}", "print") for number in range(100)]
    await jobs.submit(new, AMPLE)
    for job in await jobs.lease(["m"], 50, 0.0, 10.0):
        await jobs.extend([job], 20.0)
        await jobs.finish([Finish(job, "succeeded", output=Output(b"1"))])
    for one in new[50:]:
        await jobs.delete(one.spec.id)
    now[0] += 30_000
    await jobs.reap()
    for _ in range(2):
        now[0] += 86_400_001
        await jobs.reap()
    records = jobs._records
    left = (records._entries, records._ids, records._keys, records._markers, records._alarms)
    assert [len(each) for each in left] == [0, 0, 0, 0, 0]
    assert await jobs.lease(["m"], 1, 0.0, 1.0) == []
    assert [len(heap) for heaps in jobs._ready.values() for heap in heaps] == [0, 0, 0]


async def test_a_key_may_be_used_anew_before_the_reaper_has_come_by() -> None:
    now = [1_000_000]
    jobs = MemoryJobs(lambda: now[0])
    first, second = NewJob(new_job().spec, "key", "print"), NewJob(new_job().spec, "key", "other")
    await jobs.submit([first], AMPLE)
    await jobs.cancel([first.spec.id])
    now[0] += 86_400_000
    assert await jobs.read([first.spec.id]) == [Gone("t")]
    [answer] = await jobs.submit([second], AMPLE)
    assert (answer.outcome, answer.id) == ("created", second.spec.id)
    assert await jobs.read([first.spec.id]) == [Gone("t")]


async def test_what_a_failed_attempt_told_is_not_kept() -> None:
    jobs = MemoryJobs()
    await jobs.submit([new_job()], AMPLE)
    [job] = await jobs.lease(["m"], 1, 0.0, 10.0)
    await jobs.tell([Partial(job, piece=b"1", number=number) for number in range(1, 100)])
    await jobs.finish([Finish(job, "release")])
    events = await jobs.events(job.spec.id, 0)
    assert [(event.sequence, event.kind) for event in events] == [(1, "status"), (2, "status"), (102, "status")]


async def test_the_body_of_a_finished_job_is_dropped() -> None:
    jobs = MemoryJobs()
    new = new_job()
    await jobs.submit([new], AMPLE)
    await jobs.cancel([new.spec.id])
    assert jobs._records._entries[new.spec.id].body == b""
