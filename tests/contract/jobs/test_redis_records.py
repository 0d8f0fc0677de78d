"""`RedisRecords` where records, messages or answers are lost."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from tests.contract.brokers.proxy import Proxy
from tests.contract.jobs.calls import AMPLE, LEASE_S, spec
from tests.contract.jobs.redis_servers import Servers
from tests.contract.jobs.redis_stores import MOVED_CLOCK

from forebay.brokers.memory import HeldQueues, MemoryBroker
from forebay.brokers.port import Message
from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.ids import JobIds
from forebay.jobs.record import JobSpec, Output
from forebay.jobs.record_store import Carried
from forebay.jobs.redis_records import RedisRecords
from forebay.jobs.store import Finish, LeasedJob, NewJob

REPUBLISH_AFTER_S = 60.0


@dataclass
class Site:
    """Records in several shards of a server that others use too, and queues in memory."""

    link: RedisLink
    prefix: str
    shards: int
    records: RedisRecords
    queues: HeldQueues
    queue: BrokeredQueue

    async def pass_s(self, seconds: float) -> None:
        for shard in range(self.shards):
            await self.link.execute("INCRBY", f"{self.prefix}:{{s{shard}}}:passed", round(seconds))

    async def forget_all(self) -> None:
        """All keys but the clock's."""
        for key in await self.link.execute("KEYS", f"{self.prefix}:*"):
            if not key.endswith(b":passed"):
                await self.link.execute("DEL", key)

    async def submit(self, count: int, **changes: object) -> list[JobSpec]:
        specs = [spec(**changes) for _ in range(count)]
        await self.queue.submit([NewJob(one) for one in specs], AMPLE)
        return specs

    async def lease(self, most: int = 100) -> list[LeasedJob]:
        return list(await self.queue.lease(["m"], most, 0.0, LEASE_S))

    def lose_messages(self) -> None:
        for waiting in self.queues._waiting.values():
            waiting.clear()


@pytest.fixture
async def site(servers: Servers) -> AsyncIterator[Site]:
    url = servers.url("valkey")
    assert url is not None
    prefix, shards, link = f"test-{secrets.token_hex(6)}", 3, RedisLink(url)
    records = RedisRecords(link, shards=shards, prefix=prefix, clock=MOVED_CLOCK)
    queues = HeldQueues(holds_items=False)
    queue = BrokeredQueue(records, MemoryBroker(queues), republish_after_s=REPUBLISH_AFTER_S)
    yield Site(link, prefix, shards, records, queues, queue)
    with contextlib.suppress(DependencyError):
        await queue.close()
    await link.close()


def ids(jobs: list[LeasedJob]) -> list[str]:
    return sorted(job.spec.id for job in jobs)


async def test_jobs_whose_messages_were_lost_are_published_again_once(site: Site) -> None:
    specs = await site.submit(30)
    site.lose_messages()
    await site.pass_s(REPUBLISH_AFTER_S - 2)
    assert (await site.queue.reap()).republished == 0
    await site.pass_s(3)
    assert (await site.queue.reap()).republished == 30
    assert (await site.queue.reap()).republished == 0
    jobs = await site.lease()
    assert ids(jobs) == sorted(one.id for one in specs)
    assert {job.spec.body for job in jobs} == {b'{"x":1}'}


async def test_a_backlog_is_not_doubled_however_long_it_waits(site: Site) -> None:
    await site.submit(20)
    for _ in range(3):
        await site.pass_s(REPUBLISH_AFTER_S + 5)
        assert (await site.queue.reap()).republished == 0
        await site.queue.finish([Finish(job, "succeeded", output=Output(b"y")) for job in await site.lease(2)])
    assert site.queues.depth("m").waiting == 14


async def test_what_the_reaper_freed_is_told_of_until_it_is_published(site: Site) -> None:
    large, small = spec(body=b"x" * 200_001), spec(body=b"x" * 200_000)
    await site.queue.submit([NewJob(large), NewJob(small)], AMPLE)
    await site.lease()
    await site.pass_s(LEASE_S + 1)
    for _ in range(2):
        due = await site.records.due(REPUBLISH_AFTER_S)
        told = {job.id: job for job in due.jobs}
        assert set(told) == {large.id, small.id}
        assert told[small.id].spec == small
        assert told[large.id].named
    due = await site.records.due(REPUBLISH_AFTER_S, [small.id])
    assert [job.id for job in due.jobs] == [large.id]
    site.lose_messages()
    await site.queue.reap()
    [job] = await site.lease()
    assert (job.spec, job.attempt) == (large, 2)
    assert not (await site.records.due(REPUBLISH_AFTER_S)).jobs


async def test_a_backlog_is_not_doubled_where_jobs_are_given_back(site: Site) -> None:
    await site.submit(20)
    await site.pass_s(REPUBLISH_AFTER_S + 5)
    await site.queue.finish([Finish(job, "release") for job in await site.lease(2)])
    assert len(await site.lease(2)) == 2
    assert (await site.queue.reap()).republished == 0
    assert site.queues.depth("m").waiting == 18


async def test_what_was_passed_by_is_published_again(site: Site) -> None:
    made = JobIds()
    lost, later = ([spec(id=made.new(7)) for _ in range(5)] for _ in range(2))
    await site.queue.submit([NewJob(one) for one in lost], AMPLE)
    site.lose_messages()
    await site.pass_s(REPUBLISH_AFTER_S + 5)
    await site.queue.submit([NewJob(one) for one in later], AMPLE)
    assert (await site.queue.reap()).republished == 0
    await site.lease(1)
    assert (await site.queue.reap()).republished == 5
    assert (await site.queue.reap()).republished == 0
    assert ids(await site.lease())[:5] == sorted(one.id for one in lost)


async def test_records_that_were_lost_are_made_from_messages(site: Site) -> None:
    specs = await site.submit(20, metadata={"a": 1}, ttl_s=500.0)
    [young] = await site.submit(1, retention_s=30.0)
    await site.forget_all()
    await site.pass_s(60)
    jobs = await site.lease()
    assert ids(jobs) == sorted(one.id for one in specs)
    assert {job.attempt for job in jobs} == {1}
    by_id = {one.id: one for one in specs}
    assert all(job.spec == by_id[job.spec.id] for job in jobs)
    done = await site.queue.finish([Finish(job, "succeeded", output=Output(b"y")) for job in jobs])
    assert all(done)
    looks = await site.records.read([*by_id, young.id])
    assert [look is not None for look in looks] == [True] * 20 + [False]
    assert site.queues.depth("m").waiting == 0


async def test_a_job_that_was_deleted_is_not_made_again(site: Site) -> None:
    [deleted, canceled] = await site.submit(2)
    assert await site.records.delete(deleted.id)
    await site.records.cancel([canceled.id])
    assert await site.lease() == []
    [look] = await site.records.read([deleted.id])
    assert look is None


async def test_a_job_that_is_told_of_twice_in_one_call_is_claimed_once(site: Site) -> None:
    [one] = await site.submit(1)
    carried = [Carried(one.id, 0, one), Carried(one.id), Carried("no-id"), Carried(one.id, 0, one)]
    claimed = await site.records.claim(carried, LEASE_S)
    assert isinstance(claimed[0], LeasedJob)
    assert list(claimed[1:]) == ["stale", "unknown", "stale"]


async def test_a_lost_job_that_is_told_of_twice_in_one_call_is_made_and_claimed_once(site: Site) -> None:
    one, other = spec(), spec()
    answers = await site.queue.submit([NewJob(one), NewJob(other)], AMPLE)
    await site.forget_all()
    told, told_of_other = Carried(one.id, answers[0].created_ms, one), Carried(other.id, answers[1].created_ms, other)
    claimed = await site.records.claim([Carried(one.id), told, told_of_other, told], LEASE_S)
    assert [each.spec if isinstance(each, LeasedJob) else each for each in claimed] == [one, "stale", other, "stale"]
    jobs = [each for each in claimed if isinstance(each, LeasedJob)]
    assert (
        list(await site.records.finish([Finish(job, "succeeded", output=Output(b"y")) for job in jobs])) == [True] * 2
    )


async def test_a_message_without_its_job_finds_it_in_the_store(site: Site) -> None:
    [one] = await site.submit(1)
    site.lose_messages()
    site.queues.put([Message(one.id, "m", msgspec.msgpack.encode(Carried(one.id)))])
    [job] = await site.lease()
    assert job.spec == one


async def test_what_a_claim_has_begun_is_given_back_where_a_lost_job_cannot_be_made(site: Site) -> None:
    lost = await site.submit(5, max_attempts=1)
    await site.forget_all()
    known = await site.submit(5, max_attempts=1)
    await site.link.execute("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(DependencyError):
            await site.lease()
    finally:
        await site.link.execute("CONFIG", "SET", "maxmemory", 0)
    jobs = await site.lease()
    assert ids(jobs) == sorted(one.id for one in [*lost, *known])
    assert {job.attempt for job in jobs} == {1}


@pytest.mark.parametrize("is_gone", [False, True], ids=["that comes back at once", "that is gone then"])
async def test_what_a_claim_has_begun_is_given_back_where_the_answer_of_a_shard_is_lost(
    site: Site, servers: Servers, tmp_path: Path, is_gone: bool
) -> None:
    await site.submit(30, max_attempts=1)
    await site.queue.finish([Finish(job, "release") for job in await site.lease()])  # the server knows the scripts
    server = Path(str(servers.url("valkey")).removeprefix("unix://"))
    async with Proxy(tmp_path / "s", server).serving() as proxy:
        link = RedisLink(proxy.url)
        records = RedisRecords(link, shards=site.shards, prefix=site.prefix, clock=MOVED_CLOCK)
        queue = BrokeredQueue(records, MemoryBroker(site.queues))
        proxy.lose_answer_to(b"{s1}", then_refuse=is_gone)
        for _ in range(1 + is_gone):
            with pytest.raises(DependencyError):
                await queue.lease(["m"], 100, 0.0, LEASE_S)
        proxy.accept()
        jobs = await queue.lease(["m"], 100, 0.0, LEASE_S)
        await link.close()
    assert len(jobs) == 30
    assert {job.attempt for job in jobs} == {1}
