"""Accepting jobs: once each, by key and id, within bounds."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.contract.jobs.calls import (
    AMPLE,
    keyed,
    leased,
    nothing_to_lease,
    reaped,
    record,
    spec,
    started,
    submitted,
    succeed,
)
from tests.contract.jobs.stores import Jobs, Store

from forebay.jobs.record import JobSpec
from forebay.jobs.store import RETRY_AFTER_MOST_S, Bounds, NewJob, QueueDepth


@pytest.fixture
def exact(store: Store) -> Store:
    """A store whose bounds hold to the job."""
    if not store.bounds_exactly:
        pytest.skip("bounds hold for each shard by itself")
    return store


def full_spec() -> JobSpec:
    """Every field other than at its default."""
    return spec(
        version="3",
        level=0,
        body=bytes(range(256)),
        content_type="application/octet-stream",
        header_length="17",
        ttl_s=31.5,
        timeout_s=2.25,
        retention_s=77.0,
        max_attempts=5,
        webhook="https://example.org/hook",
        metadata={"ünï": [1, 2.5, None, {"a": True}]},
    )


async def test_a_job_comes_to_its_worker_as_it_was_submitted(jobs: Jobs) -> None:
    asked = full_spec()
    [answer] = await jobs.submit([NewJob(asked)], AMPLE)
    assert (answer.outcome, answer.id) == ("created", asked.id)
    [job] = await leased(jobs)
    assert job.spec == asked
    assert (job.attempt, bool(job.nonce)) == (1, True)


async def test_a_record_shows_what_was_asked_but_not_its_body(store: Store) -> None:
    asked = full_spec()
    [answer] = await store.jobs.submit([NewJob(asked)], AMPLE)
    found = await record(store.other, asked.id)
    assert found.spec == msgspec.structs.replace(asked, body=b"")
    assert (found.state, found.attempt, found.sequence, found.created_ms) == ("queued", 0, 1, answer.created_ms)
    assert found.created_ms > 0
    assert (found.started_ms, found.finished_ms, found.output, found.error) == (0, 0, None, None)


async def test_a_hundred_submits_of_one_id_are_one_job(store: Store) -> None:
    asked = spec()
    calls = [(store.jobs, store.other)[i % 2].submit([NewJob(asked)] * 5, AMPLE) for i in range(20)]
    outcomes = [answer.outcome for answers in await asyncio.gather(*calls) for answer in answers]
    assert sorted(outcomes) == ["created"] + ["replayed"] * 99
    [job] = await leased(store.jobs)
    assert await nothing_to_lease(store.jobs)
    assert await succeed(store.jobs, job)
    [answer] = await store.jobs.submit([NewJob(asked)], AMPLE)
    assert (answer.outcome, answer.id) == ("replayed", asked.id)
    assert await nothing_to_lease(store.jobs)
    assert (await record(store.jobs, asked.id)).state == "succeeded"


async def test_of_fifty_at_once_with_one_key_one_is_a_job(store: Store) -> None:
    new = [keyed("key", "print") for _ in range(50)]
    calls = [(store.jobs, store.other)[i % 2].submit([one], AMPLE) for i, one in enumerate(new)]
    answers = [answer for [answer] in await asyncio.gather(*calls)]
    assert sorted(answer.outcome for answer in answers) == ["created"] + ["replayed"] * 49
    assert len({answer.id for answer in answers}) == 1
    assert len({answer.created_ms for answer in answers}) == 1
    [created] = [one.spec.id for one, answer in zip(new, answers, strict=True) if answer.outcome == "created"]
    assert answers[0].id == created
    looks = await store.jobs.read([one.spec.id for one in new])
    assert [look is not None for look in looks] == [one.spec.id == created for one in new]
    await leased(store.jobs)
    assert await nothing_to_lease(store.jobs)


async def test_a_key_twice_in_one_call_is_one_job(jobs: Jobs) -> None:
    new = [keyed("key", "print"), keyed("key", "print"), keyed("key", "other")]
    answers = await jobs.submit(new, AMPLE)
    assert [answer.outcome for answer in answers] == ["created", "replayed", "mismatch"]
    assert {answer.id for answer in answers[:2]} == {new[0].spec.id}


async def test_a_key_is_known_while_its_job_is_whatever_became_of_it(jobs: Jobs) -> None:
    first = keyed("key", "print")
    await jobs.submit([first], AMPLE)
    [job] = await leased(jobs)
    for _ in range(2):
        [replay, mismatch] = await jobs.submit([keyed("key", "print"), keyed("key", "?")], AMPLE)
        assert (replay.outcome, replay.id) == ("replayed", first.spec.id)
        assert mismatch.outcome == "mismatch"
        await succeed(jobs, job)


async def test_a_tenants_keys_are_their_own(jobs: Jobs) -> None:
    mine, theirs = keyed("key", "print"), keyed("key", "another", tenant="bert")
    answers = await jobs.submit([mine, theirs], AMPLE)
    assert [(answer.outcome, answer.id) for answer in answers] == [
        ("created", mine.spec.id),
        ("created", theirs.spec.id),
    ]


@pytest.mark.parametrize("how", ["deleted", "forgotten"])
async def test_a_key_may_be_used_anew_once_its_job_is_forgotten(store: Store, how: str) -> None:
    first, second = keyed("key", "print", retention_s=100.0), keyed("key", "other")
    await store.jobs.submit([first], AMPLE)
    [job] = await leased(store.jobs)
    await succeed(store.jobs, job)
    if how == "deleted":
        assert await store.jobs.delete(first.spec.id)
    else:
        await store.pass_s(101.0)
        await reaped(store)
    [answer] = await store.jobs.submit([second], AMPLE)
    assert (answer.outcome, answer.id) == ("created", second.spec.id)
    assert (await record(store.jobs, second.spec.id)).state == "queued"


async def test_the_id_of_a_deleted_job_is_not_taken_again(jobs: Jobs) -> None:
    asked = spec()
    await jobs.submit([NewJob(asked)], AMPLE)
    await jobs.delete(asked.id)
    [answer] = await jobs.submit([NewJob(asked)], AMPLE)
    assert answer.outcome == "replayed"
    assert await nothing_to_lease(jobs)
    assert list(await jobs.read([asked.id])) == [None]


async def test_no_more_jobs_wait_than_their_number_may_be(exact: Store) -> None:
    jobs = exact.jobs
    bounds = Bounds(5, 1 << 30)
    answers = await jobs.submit([NewJob(spec(level=i % 3)) for i in range(8)], bounds)
    assert [answer.outcome for answer in answers] == ["created"] * 5 + ["full"] * 3
    assert all(1.0 <= answer.retry_after_s <= RETRY_AFTER_MOST_S for answer in answers[5:])
    assert list(await jobs.read([answers[7].id])) == [None]
    [elsewhere] = await jobs.submit([NewJob(spec(model="other"))], bounds)
    assert elsewhere.outcome == "created"
    await leased(jobs)
    [again] = await jobs.submit([NewJob(spec())], bounds)
    assert again.outcome == "created"


async def test_no_more_bytes_wait_than_may(exact: Store) -> None:
    jobs = exact.jobs
    bounds = Bounds(1000, 100_000)
    answers = await jobs.submit([NewJob(spec(body=b"x" * 10_000)) for _ in range(20)], bounds)
    accepted = [answer.outcome for answer in answers].count("created")
    assert 8 <= accepted <= 10
    assert [answer.outcome for answer in answers] == ["created"] * accepted + ["full"] * (20 - accepted)
    for job in await leased(jobs, 3):
        await succeed(jobs, job)
    answers = await jobs.submit([NewJob(spec(body=b"x" * 10_000)) for _ in range(20)], bounds)
    assert [answer.outcome for answer in answers].count("created") == 3


async def test_a_used_key_is_answered_though_the_queue_is_full(exact: Store) -> None:
    jobs = exact.jobs
    first = keyed("key", "print")
    await jobs.submit([first], Bounds(1, 1000))
    [replay, refused] = await jobs.submit([keyed("key", "print"), keyed("new", "p")], Bounds(1, 1000))
    assert (replay.outcome, replay.id, refused.outcome) == ("replayed", first.spec.id, "full")
    await leased(jobs)
    [answer] = await jobs.submit([keyed("new", "p")], Bounds(1, 1000))
    assert answer.outcome == "created"


async def test_the_longer_a_queue_is_full_the_later_one_is_to_try_again(exact: Store) -> None:
    store = exact
    bounds, waits = Bounds(4, 1 << 30), []
    await submitted(store.jobs, 4)
    for _ in range(8):
        [answer] = await store.jobs.submit([NewJob(spec())], bounds)
        assert answer.outcome == "full"
        waits.append(answer.retry_after_s)
        await store.pass_s(30.0)
    assert waits[0] < waits[1] < waits[2]
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_AFTER_MOST_S
    await leased(store.jobs, 4)
    answers = await store.jobs.submit([NewJob(spec()) for _ in range(5)], bounds)
    assert answers[-1].outcome == "full"
    assert answers[-1].retry_after_s < waits[1]


async def test_depth_counts_what_waits_and_what_runs(store: Store) -> None:
    jobs = store.jobs
    assert await jobs.depth("m") == QueueDepth(0, 0, 0, 0.0)
    await submitted(jobs, 2, body=b"x" * 1000)
    await store.pass_s(30.0)
    await submitted(jobs, 1, body=b"x" * 1000, level=0)
    await submitted(jobs, 1, model="other")
    depth = await store.other.depth("m")
    assert (depth.waiting, depth.running) == (3, 0)
    assert 3000 <= depth.waiting_bytes <= 3000 + 3 * 1024
    assert 30.0 <= depth.oldest_s < 40.0
    high, low = await leased(jobs, 2)
    depth = await jobs.depth("m")
    assert (depth.waiting, depth.running) == (1, 2)
    assert 1000 <= depth.waiting_bytes <= 2024
    await succeed(jobs, high)
    await jobs.cancel([low.spec.id])
    depth = await jobs.depth("m")
    assert (depth.waiting, depth.running) == (1, 0)


async def test_depth_returns_to_nothing_however_jobs_end(store: Store) -> None:
    jobs = store.jobs
    await submitted(jobs, 2, model="other")
    await jobs.cancel(await submitted(jobs))
    running = await started(jobs)
    await jobs.delete(running.spec.id)
    late = await submitted(jobs, ttl_s=20.0)
    await store.pass_s(30.0)
    await reaped(store)
    assert (await record(jobs, late[0])).state == "expired"
    silent = await started(jobs, max_attempts=1)
    await store.pass_s(61.0)
    await reaped(store)
    assert (await record(jobs, silent.spec.id)).state == "failed"
    assert await jobs.depth("m") == QueueDepth(0, 0, 0, 0.0)
    assert (await jobs.depth("other")).waiting == 2
