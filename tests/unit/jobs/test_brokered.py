"""A store and a broker together, where one of them loses something, is away, or is too slow."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest
from tests.unit.jobs.flaky import AMPLE, IDS, LEASE_S, BuryingBroker, FlakyStore, Site

from forebay.brokers.port import Depth, Message
from forebay.core.errors import DependencyError
from forebay.jobs.record import JobError, JobSpec, Output
from forebay.jobs.record_store import Carried
from forebay.jobs.store import Finish, NewJob, Submission

CRASHED = JobError("instance_crashed", "gone", "executing")


@pytest.fixture
def site() -> Site:
    return Site()


async def test_a_job_whose_message_was_lost_is_published_again_and_once(site: Site) -> None:
    [spec] = await site.lose()
    site.clock.advance(59.0)
    assert (await site.queue.reap()).republished == 0
    site.clock.advance(1.0)
    assert (await site.queue.reap()).republished == 1
    assert (await site.queue.reap()).republished == 0
    [job] = await site.lease()
    assert job.spec == spec
    await site.succeed([job])
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_backlog_is_never_doubled(site: Site) -> None:
    await site.submit(100)
    for _ in range(10):
        site.clock.advance(100.0)
        assert (await site.queue.reap()).republished == 0
        jobs = await site.lease(3)
        await site.succeed(jobs)
    assert (await site.carries()).waiting == 70


async def test_a_backlog_is_not_doubled_where_jobs_are_given_back(site: Site) -> None:
    await site.submit(20)
    site.clock.advance(100.0)
    for _ in range(3):
        await site.queue.finish([Finish(job, "release") for job in await site.lease(2)])
        await site.lease(2)
        assert (await site.queue.reap()).republished == 0
        site.clock.advance(10.0)


async def test_a_lost_message_is_noticed_behind_a_backlog(site: Site) -> None:
    [lost] = await site.lose()
    site.clock.advance(61.0)
    later = await site.submit(5)
    assert (await site.queue.reap()).republished == 0
    [job] = await site.lease(1)
    assert job.spec == later[0]
    assert (await site.queue.reap()).republished == 1
    assert (await site.queue.reap()).republished == 0
    assert (await site.carries()).waiting == 5
    rest = await site.lease()
    assert [each.spec for each in rest] == [*later[1:], lost]


async def test_what_the_broker_does_not_confirm_is_refused_and_found_again(site: Site) -> None:
    site.broker.loses = True
    new = NewJob(JobSpec(id=IDS.new(), model="m", tenant="t"), "key", "print")
    [refused] = await site.queue.submit([new], AMPLE)
    assert refused == Submission("unconfirmed", new.spec.id, site.now_ms())
    site.broker.loses = False
    again = NewJob(JobSpec(id=IDS.new(), model="m", tenant="t"), "key", "print")
    [answer] = await site.queue.submit([again], AMPLE)
    assert answer == Submission("replayed", new.spec.id, site.now_ms())
    site.clock.advance(60.0)
    await site.queue.reap()
    [job] = await site.lease()
    assert job.spec == new.spec


async def test_what_is_not_confirmed_costs_no_other_job_of_the_same_call(site: Site) -> None:
    new = [NewJob(JobSpec(id=IDS.new(), model=model, tenant="t")) for model in ("m", "full", "m")]
    site.broker.full = "full"
    answers = await site.queue.submit(new, AMPLE)
    assert [answer.outcome for answer in answers] == ["created", "unconfirmed", "created"]
    assert [job.spec for job in await site.lease()] == [new[0].spec, new[2].spec]


async def test_while_the_broker_is_known_to_be_away_no_record_is_made(site: Site) -> None:
    await site.broker.close()
    spec = JobSpec(id=IDS.new(), model="m", tenant="t")
    with pytest.raises(DependencyError) as caught:
        await site.queue.submit([NewJob(spec)], AMPLE)
    assert caught.value.code == "broker_unavailable"
    assert await site.state(spec) is None


async def test_what_is_not_confirmed_when_it_is_published_again_comes_round_again(site: Site) -> None:
    await site.lose()
    site.clock.advance(60.0)
    site.broker.loses = True
    assert (await site.queue.reap()).republished == 0
    site.broker.loses = False
    site.clock.advance(60.0)
    assert (await site.queue.reap()).republished == 1
    assert len(await site.lease()) == 1


async def test_a_silent_workers_job_whose_new_message_is_not_confirmed_gets_it_in_the_next_round(site: Site) -> None:
    await site.submit(2)
    jobs = await site.lease()
    await site.broker.ack([job.receipt for job in jobs])
    site.clock.advance(LEASE_S + 1)
    site.broker.loses = True
    assert (await site.queue.reap()).requeued == 2
    assert (await site.carries()).waiting == 0
    site.broker.loses = False
    for _ in range(3):
        await site.queue.reap()
        assert (await site.carries()).waiting == 2
    assert [job.attempt for job in await site.lease()] == [2, 2]


async def test_a_record_that_was_lost_is_made_from_its_message(site: Site) -> None:
    [spec] = await site.submit()
    site.use(FlakyStore(site.now_ms))
    site.clock.advance(900.0)
    [job] = await site.lease()
    assert (job.spec, job.attempt) == (spec, 1)
    await site.succeed([job])
    assert await site.state(spec) == "succeeded"
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_job_whose_record_is_lost_while_it_runs_runs_again(site: Site) -> None:
    [spec] = await site.submit()
    [job] = await site.lease()
    site.use(FlakyStore(site.now_ms))
    assert list(await site.queue.finish([Finish(job, "succeeded", output=Output(b"y"))])) == [False]
    [again] = await site.lease()
    assert (again.spec, again.attempt) == (spec, 1)
    await site.succeed([again])
    assert await site.state(spec) == "succeeded"
    assert await site.carries() == Depth(0, 0, 0)


@pytest.mark.parametrize("how", ["deleted", "canceled", "gone"])
async def test_the_message_of_a_job_that_ends_while_it_runs_comes_back_once_and_is_acked(site: Site, how: str) -> None:
    [spec] = await site.submit(retention_s=5.0)
    [job] = await site.lease()
    if how == "deleted":
        await site.store.delete(spec.id)
    else:
        await site.store.cancel([spec.id])
    if how == "gone":
        site.clock.advance(6.0)
        await site.queue.reap()
    assert list(await site.queue.finish([Finish(job, "succeeded", output=Output(b"y"))])) == [False]
    assert (await site.carries()).waiting == 1
    assert list(await site.lease()) == []
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_record_is_not_made_from_a_message_older_than_its_retention(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    [spec] = await site.submit(retention_s=100.0)
    site.use(FlakyStore(site.now_ms))
    site.clock.advance(100.0)
    with caplog.at_level(logging.WARNING, "forebay.jobs"):
        assert list(await site.lease()) == []
    assert [record.message for record in caplog.records] == ["dropped a message whose job is not known, or no longer"]
    assert await site.state(spec) is None
    assert await site.carries() == Depth(0, 0, 0)


@pytest.mark.parametrize("how", ["deleted", "canceled", "gone"])
async def test_a_message_of_a_job_that_is_over_is_acked_unrun(site: Site, how: str) -> None:
    [spec] = await site.submit(retention_s=10.0)
    if how == "deleted":
        await site.store.delete(spec.id)
    else:
        await site.store.cancel([spec.id])
    if how == "gone":
        site.clock.advance(11.0)
        await site.queue.reap()
    assert list(await site.lease()) == []
    assert await site.state(spec) == {"deleted": None, "canceled": "canceled", "gone": "gone"}[how]
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_hundred_messages_of_one_job_are_one_run(site: Site) -> None:
    [spec] = await site.submit()
    [message] = site.queues._waiting["m", 1]
    await site.broker.publish([message] * 99)
    jobs = await site.lease(100)
    assert [job.spec for job in jobs] == [spec]
    assert (await site.carries()) == Depth(0, 0, 1)
    await site.succeed(jobs)
    await site.broker.publish([message])
    assert list(await site.lease()) == []
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_large_body_stays_in_the_store(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    [spec] = await site.submit(body=b"x" * 5000)
    assert (await site.carries()).waiting_bytes < 200
    [job] = await site.lease()
    assert job.spec == spec
    await site.queue.finish([Finish(job, "release")])
    site.use(FlakyStore(site.now_ms))
    with caplog.at_level(logging.WARNING, "forebay.jobs"):
        assert list(await site.lease()) == []
    assert "dropped a message whose job is not known" in caplog.text
    assert await site.carries() == Depth(0, 0, 0)


async def test_what_comes_beside_a_body_counts_as_well(site: Site) -> None:
    """Metadata above all: body and metadata fit a message each, together they do not."""
    await site.submit(body=b"x" * 800)
    assert (await site.carries()).waiting_bytes > 800
    await site.succeed(await site.lease())
    [spec] = await site.submit(body=b"x" * 800, metadata={"note": "y" * 200})
    assert (await site.carries()).waiting_bytes < 200
    [job] = await site.lease()
    assert job.spec == spec


async def test_where_the_broker_takes_less_a_job_is_accepted_and_travels_by_its_id(site: Site) -> None:
    site.broker.most_bytes = 200
    new = [NewJob(JobSpec(id=IDS.new(), model="m", tenant="t", body=b"x" * size)) for size in (1, 500, 1)]
    assert [answer.outcome for answer in await site.queue.submit(new, AMPLE)] == ["created"] * 3
    assert sorted(job.spec.id for job in await site.lease()) == sorted(one.spec.id for one in new)


async def test_where_the_broker_takes_less_a_lost_message_is_published_again(site: Site) -> None:
    [spec] = await site.lose(body=b"x" * 500)
    site.broker.most_bytes = 200
    site.clock.advance(60.0)
    assert (await site.queue.reap()).republished == 1
    assert [job.spec for job in await site.lease()] == [spec]


@pytest.mark.parametrize("payload", [b"", b"\xc1garbage", msgspec.msgpack.encode(Carried("another"))])
async def test_a_message_that_cannot_be_read_still_names_its_job(site: Site, payload: bytes) -> None:
    [spec] = await site.lose()
    await site.broker.publish([Message(spec.id, "m", payload), Message(IDS.new(), "m", payload)])
    [job] = await site.lease()
    assert job.spec == spec
    assert (await site.carries()) == Depth(0, 0, 1)


def shown(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.message} {record.__dict__}" for record in caplog.records]


@pytest.mark.parametrize("payload", [b"", b"\xc1garbage", msgspec.msgpack.encode(Carried("another"))])
async def test_a_message_that_is_no_job_is_a_dead_letter_where_the_broker_keeps_them(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(BuryingBroker)
    assert isinstance(site.broker, BuryingBroker)
    [spec], [late] = await site.lose(), await site.submit(retention_s=5.0)
    await site.store.delete(late.id)
    foreign = Message("x" * 5000, "m", payload)
    await site.broker.publish([Message(spec.id, "m", payload), foreign])
    with caplog.at_level(logging.WARNING, "forebay.jobs"):
        [job] = await site.lease()
    assert job.spec == spec
    assert site.broker.buried == [foreign]
    assert (await site.carries()) == Depth(0, 0, 1)
    assert "a message is no job; it went to the dead letters" in caplog.text
    assert all(len(line) < 2000 for line in shown(caplog)), "an id of any length is cut"


async def test_a_message_that_is_no_job_holds_nothing_up_where_it_cannot_be_buried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(BuryingBroker)
    assert isinstance(site.broker, BuryingBroker)
    site.broker.barred = "dead"
    [spec] = await site.submit()
    await site.broker.publish([Message("none", "m", b"junk")])
    with caplog.at_level(logging.WARNING, "forebay.jobs"):
        assert [job.spec for job in await site.lease()] == [spec]
    assert (await site.carries()) == Depth(0, 0, 1)
    assert "dropped a message that is no job and no dead letter: queue dead is refused" in caplog.text


async def test_no_message_is_acked_before_its_end_is_kept(site: Site) -> None:
    await site.submit()
    [job] = await site.lease()
    site.store.away = True
    for _ in range(2):
        with pytest.raises(DependencyError, match="the store is away"):
            await site.succeed([job])
        assert (await site.carries()).leased == 1
    site.store.away = False
    await site.succeed([job])
    assert await site.carries() == Depth(0, 0, 0)


async def test_messages_are_given_back_while_the_store_is_away(site: Site) -> None:
    specs = await site.submit(3)
    site.store.away = True
    with pytest.raises(DependencyError, match="the store is away"):
        await site.lease()
    assert (await site.carries()).waiting == 3
    site.store.away = False
    assert [job.spec for job in await site.lease()] == specs


async def test_an_end_that_was_kept_but_not_acked_is_not_run_again(site: Site) -> None:
    [spec] = await site.submit()
    [job] = await site.lease()
    site.broker.away = True
    with pytest.raises(DependencyError, match="the broker is away"):
        await site.succeed([job])
    site.broker.away = False
    assert await site.state(spec) == "succeeded"
    site.clock.advance(LEASE_S + 1)
    await site.queue.reap()
    assert list(await site.lease()) == []
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_message_that_comes_while_its_job_runs_is_acked_unrun(site: Site) -> None:
    [spec] = await site.submit()
    [message] = site.queues._waiting["m", 1]
    [job] = await site.lease()
    await site.broker.publish([message])
    assert list(await site.lease()) == []
    assert (await site.carries()) == Depth(0, 0, 1)
    await site.succeed([job])
    assert await site.state(spec) == "succeeded"


async def test_a_silent_workers_job_is_taken_over_by_its_message_before_the_reaper_comes(site: Site) -> None:
    await site.submit()
    [silent] = await site.lease()
    site.clock.advance(LEASE_S + 1)
    [job] = await site.lease()
    assert (job.spec, job.attempt) == (silent.spec, 2)
    reaped = await site.queue.reap()
    assert (reaped.requeued, reaped.republished) == (0, 0)
    assert list(await site.queue.finish([Finish(silent, "succeeded", output=Output(b"late"))])) == [False]
    await site.succeed([job])
    assert await site.carries() == Depth(0, 0, 0)


async def test_a_message_that_comes_during_the_delay_of_its_job_is_acked_unrun(site: Site) -> None:
    await site.submit()
    [message] = site.queues._waiting["m", 1]
    [job] = await site.lease()
    await site.queue.finish([Finish(job, "retry", error=CRASHED, delay_s=30.0)])
    assert await site.carries() == Depth(0, 0, 0)
    await site.broker.publish([message])
    assert list(await site.lease()) == []
    assert await site.carries() == Depth(0, 0, 0)
    site.clock.advance(30.0)
    assert (await site.queue.reap()).released == 1
    assert (await site.queue.depth("m")).oldest_s == 0.0
    assert [again.attempt for again in await site.lease()] == [2]


async def test_a_job_waits_since_it_was_last_queued_and_not_during_its_delay(site: Site) -> None:
    await site.submit(2)
    first, second = await site.lease()
    await site.queue.finish([Finish(first, "retry", error=CRASHED, delay_s=1000.0)])
    site.clock.advance(100.0)
    assert (await site.queue.depth("m")).oldest_s == 0.0
    await site.queue.finish([Finish(second, "release")])
    site.clock.advance(7.0)
    assert (await site.queue.depth("m")).oldest_s == 7.0


async def test_a_job_that_the_reaper_ends_gets_no_message(site: Site) -> None:
    spec = JobSpec(id=IDS.new(), model="m", tenant="t", ttl_s=LEASE_S - 1)
    await site.queue.submit([NewJob(spec)], AMPLE)
    await site.broker.ack([job.receipt for job in await site.lease()])
    site.clock.advance(LEASE_S + 1)
    await site.queue.reap()
    assert await site.state(spec) == "expired"
    assert await site.carries() == Depth(0, 0, 0)


async def test_only_who_leads_publishes(site: Site) -> None:
    await site.lose()
    site.clock.advance(60.0)
    site.store.follows = True
    reaped = await site.queue.reap()
    assert (reaped.leader, reaped.republished) == (False, 0)
    assert (await site.carries()).waiting == 0


async def jobs_of(site: Site, *models: str) -> list[JobSpec]:
    specs = [JobSpec(id=IDS.new(), model=model, tenant="t") for model in models]
    await site.queue.submit([NewJob(spec) for spec in specs], AMPLE)
    return specs


async def test_a_model_whose_queue_is_refused_keeps_no_other_models_lost_jobs_back(site: Site) -> None:
    await jobs_of(site, "barred", "m", "n")
    for model in ("barred", "m", "n"):
        site.queues._waiting[model, 1].clear()
    site.broker.barred = "barred"
    site.clock.advance(60.0)
    reaped = await site.queue.reap()
    assert (reaped.republished, reaped.unsent) == (2, "queue barred is refused")
    assert site.queues.depth("n").waiting == 1
    site.broker.barred = ""
    reaped = await site.queue.reap()
    assert (reaped.republished, reaped.unsent) == (1, "")


async def test_a_model_whose_queue_is_refused_keeps_no_other_models_silent_workers_jobs_back(site: Site) -> None:
    await jobs_of(site, "barred", "m", "barred", "m")
    jobs = await site.queue.lease(["barred", "m"], 10, 0.0, LEASE_S)
    await site.broker.ack([job.receipt for job in jobs])
    site.broker.barred = "barred"
    site.clock.advance(LEASE_S + 1)
    reaped = await site.queue.reap()
    assert (reaped.requeued, reaped.unsent) == (4, "queue barred is refused")
    assert site.queues.depth("m").waiting == 2
    site.broker.barred = ""
    assert (await site.queue.reap()).unsent == ""
    assert (site.queues.depth("m").waiting, site.queues.depth("barred").waiting) == (2, 2)


async def test_leases_are_prolonged_at_the_broker_too(site: Site) -> None:
    await site.submit()
    [job] = await site.lease()
    for _ in range(5):
        site.clock.advance(LEASE_S - 1)
        assert list(await site.queue.extend([job], LEASE_S)) == [True]
    assert (await site.carries()) == Depth(0, 0, 1)


async def test_a_lease_that_is_canceled_while_it_claims_gives_its_jobs_back(site: Site) -> None:
    specs = await site.submit(3)
    site.store.gate = asyncio.Event()
    leasing = asyncio.create_task(site.lease())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leasing
    site.store.gate.set()
    async with asyncio.timeout(10):
        while (await site.carries()).waiting < 3:
            await asyncio.sleep(0)
    jobs = await site.lease()
    assert [(job.spec, job.attempt) for job in jobs] == [(spec, 1) for spec in specs]


async def test_closing_waits_for_what_a_canceled_lease_gives_back(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    await site.submit()
    site.store.gate = asyncio.Event()
    leasing = asyncio.create_task(site.lease())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leasing
    closing = asyncio.create_task(site.queue.close())
    await asyncio.sleep(0)
    assert not closing.done()
    site.store.away = True
    site.store.gate.set()
    with caplog.at_level(logging.WARNING, "forebay.jobs"):
        await closing
    assert "jobs of a canceled lease wait for its end: the store is away" in caplog.text
    assert site.queues.depth("m").waiting == 1
    with pytest.raises(DependencyError):
        await site.lease()
