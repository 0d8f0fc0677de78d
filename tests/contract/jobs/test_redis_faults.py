"""`RedisJobs` when its server restarts, stalls, fills up, loses data or loses connections."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from tests.contract.jobs.calls import (
    AMPLE,
    BROKEN,
    LEASE_S,
    Listener,
    leased,
    record,
    spec,
    submitted,
    succeed,
    success,
)
from tests.contract.jobs.redis_servers import Server, valkey

from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError, RequestError, SetupError
from forebay.jobs.record import JobRecord
from forebay.jobs.redis_codec import packed_id
from forebay.jobs.redis_jobs import RedisJobs
from forebay.jobs.store import Finish, Gone, NewJob, Reaped
from forebay.jobs.webhooks import Settled

HOOK = "https://example.org/hook"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(valkey(), appendonly="yes", appendfsync="always") as started:
        yield started


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisJobs]:
    link = RedisLink(url)
    jobs = RedisJobs(link)
    try:
        yield jobs
    finally:
        await jobs.close()
        await link.close()


async def led(jobs: RedisJobs) -> Reaped:
    """One round of the reaper; a leader before this one may hold the lock for a moment more."""
    async with asyncio.timeout(10):
        while not (done := await jobs.reap()).leader:
            await asyncio.sleep(0.1)
    return done


async def test_a_restarted_server_learns_the_scripts_anew(server: Server) -> None:
    async with opened(server.url) as jobs:
        [id] = await submitted(jobs)
        server.kill()
        with pytest.raises(DependencyError, match=r"cannot be reached|connection broke") as caught:
            await jobs.submit([NewJob(spec())], AMPLE)
        assert caught.value.code == "store_unavailable"
        server.start()
        [job] = await leased(jobs)
        assert job.spec.id == id
        assert await succeed(jobs, job)
        server.ask("SCRIPT", "FLUSH")
        assert (await record(jobs, id)).state == "succeeded"


async def test_after_a_restart_changes_are_heard_and_who_waits_is_woken(server: Server) -> None:
    async with opened(server.url) as jobs, Listener(jobs) as listener:
        server.kill()
        server.start()
        async with asyncio.timeout(20):
            while True:
                waiting = asyncio.create_task(leased(jobs))
                [id] = await submitted(jobs)
                assert [job.spec.id for job in await waiting] == [id]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await listener.until(id, 2)
                        break


async def test_connections_that_are_killed_in_mid_call_cost_no_job(server: Server) -> None:
    async with opened(server.url) as jobs:
        specs = [spec() for _ in range(400)]

        async def submit(number: int) -> None:
            while True:
                with contextlib.suppress(DependencyError):
                    await jobs.submit([NewJob(one) for one in specs[number : number + 10]], AMPLE)
                    return

        done: set[str] = set()

        async def work() -> None:
            while len(done) < len(specs):
                with contextlib.suppress(DependencyError):
                    for job in await jobs.lease(["m"], 10, 0.05, LEASE_S):
                        while True:
                            with contextlib.suppress(DependencyError):
                                assert await succeed(jobs, job)
                                done.add(job.spec.id)
                                break

        async def kill() -> None:
            while True:
                await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.02)

        killing = asyncio.create_task(kill())
        async with asyncio.timeout(60):
            await asyncio.gather(*(submit(number) for number in range(0, 400, 10)), work(), work())
        killing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killing
        looks: Sequence[object] = ()
        async with asyncio.timeout(30):
            while not looks:  # a last kill may still be under way
                with contextlib.suppress(DependencyError):
                    looks = await jobs.read([one.id for one in specs])
        assert {look.state for look in looks if isinstance(look, JobRecord)} == {"succeeded"}
        assert {look.attempt for look in looks if isinstance(look, JobRecord)} == {1}


async def test_a_lease_whose_answer_was_lost_is_given_back_and_counts_not(server: Server) -> None:
    async with opened(server.url) as jobs:
        [id] = await submitted(jobs)
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(DependencyError, match="no answer within"):
                await jobs.lease(["m"], 1, 0.0, 3600.0)
        finally:
            server.process.send_signal(signal.SIGCONT)
        [job] = await leased(jobs)
        assert (job.spec.id, job.attempt) == (id, 1)
        assert await succeed(jobs, job)


async def test_at_its_maxmemory_submits_are_refused_and_ends_pass() -> None:
    with Server(valkey()) as server:
        async with opened(server.url) as jobs:
            ids = await submitted(jobs, 3)
            job, *_ = await leased(jobs)
            server.ask("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(DependencyError, match="maxmemory"):
                await jobs.submit([NewJob(spec())], AMPLE)
            assert list(await jobs.extend([job], LEASE_S)) == [True]
            assert await succeed(jobs, job)
            [other] = await leased(jobs)
            assert await succeed(jobs, other)
            await jobs.cancel([ids[2]])
            await led(jobs)
            looks = await jobs.read(ids)
            assert [look.state for look in looks if isinstance(look, JobRecord)] == [
                "succeeded",
                "succeeded",
                "canceled",
            ]
            server.ask("CONFIG", "SET", "maxmemory", "0")
            await submitted(jobs)


async def test_a_server_that_cannot_write_its_disk_refuses_and_is_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with Server(valkey(), save="3600 1000000", dir=str(data)) as server:
        async with opened(server.url) as jobs:
            [id] = await submitted(jobs)
            [job] = await leased(jobs)
            data.rmdir()
            server.ask("BGSAVE")
            async with asyncio.timeout(10):
                while server.info("persistence")["rdb_last_bgsave_status"] == "ok":
                    await asyncio.sleep(0.05)
            with pytest.raises(DependencyError, match="MISCONF"):
                await jobs.submit([NewJob(spec())], AMPLE)
            with pytest.raises(DependencyError, match="MISCONF"):
                await succeed(jobs, job)
            assert (await record(jobs, id)).state == "running"
            server.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
            assert await succeed(jobs, job)


async def test_flushall_under_running_processes_is_survived(server: Server) -> None:
    async with opened(server.url) as jobs, opened(server.url) as other:
        [lost] = await submitted(jobs)
        [job] = await leased(jobs)
        server.ask("FLUSHALL")
        assert not await succeed(jobs, job)
        assert list(await jobs.read([lost])) == [None]
        assert list(await jobs.extend([job], LEASE_S)) == [False]
        assert (await led(jobs)).leader
        [id] = await submitted(other)
        [job] = await leased(jobs)
        assert job.spec.id == id
        assert await succeed(jobs, job)
        assert [found.spec.id for found in (await other.list("anna")).jobs] == [id]


async def test_webhooks_survive_a_restart_of_the_server_and_none_is_left_of_what_is_forgotten(server: Server) -> None:
    async with opened(server.url) as jobs:
        ids = await submitted(jobs, 2, webhook=HOOK)
        for job in await leased(jobs, 2):
            assert await succeed(jobs, job)
        await jobs.due_webhooks(10, 0.0)
        await jobs.settle_webhooks([Settled(ids[0], 0.0)])
        server.kill()
        server.start()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(DependencyError):
                    due = await jobs.due_webhooks(10, 0.0)
                    break
        assert sorted((one.id, one.tries) for one in due) == sorted([(ids[0], 1), (ids[1], 0)])
        assert [await jobs.delete(id) for id in ids] == [True, True]
        assert server.ask("EXISTS", "forebay:{s0}:webhooks", "forebay:{s0}:tries") == 0


async def test_webhooks_of_a_flushed_server_are_settled_in_vain(server: Server) -> None:
    async with opened(server.url) as jobs:
        ids = await submitted(jobs, 2, webhook=HOOK)
        for job in await leased(jobs, 2):
            assert await succeed(jobs, job)
        assert len(await jobs.due_webhooks(1, 0.0)) == 1
        server.ask("FLUSHALL")
        await jobs.settle_webhooks([Settled(ids[0], 0.0), Settled(ids[1])])
        assert list(await jobs.due_webhooks(10, 0.0)) == []
        assert server.ask("EXISTS", "forebay:{s0}:webhooks", "forebay:{s0}:tries") == 0


async def test_while_the_server_loads_its_data_calls_say_so(server: Server) -> None:
    async with opened(server.url) as jobs:
        await submitted(jobs, 4000)
        server.kill()
        # It answers once in about a thousand of the commands that it reads back.
        server.begin("--key-load-delay", "500")
        async with asyncio.timeout(20):
            while True:
                with pytest.raises(DependencyError) as caught:
                    await jobs.depth("m")
                if "it is loading its data" in caught.value.message:
                    break


async def test_queued_jobs_whose_entries_were_lost_are_queued_anew(server: Server) -> None:
    async with opened(server.url) as jobs:
        ids = await submitted(jobs, 1200)
        server.ask("DEL", "forebay:{s0}:q:m", "forebay:{s0}:models")
        assert (await led(jobs)).republished == 1200
        assert (await jobs.depth("m")).waiting == 1200
        assert [job.spec.id for job in await leased(jobs, 1200)] == ids


async def test_running_jobs_whose_entries_were_lost_run_again(server: Server) -> None:
    async with opened(server.url) as jobs:
        ids = await submitted(jobs, 20)
        await leased(jobs, 20)
        server.ask("DEL", "forebay:{s0}:r:m")
        assert (await led(jobs)).republished == 0
        assert (await led(jobs)).requeued == 20
        assert [(job.spec.id, job.attempt) for job in await leased(jobs, 20)] == [(id, 2) for id in ids]


async def test_finished_jobs_whose_entries_were_lost_are_forgotten_in_time(server: Server) -> None:
    async with opened(server.url) as jobs:
        [id] = await submitted(jobs, retention_s=1.0)
        [job] = await leased(jobs)
        await succeed(jobs, job)
        server.ask("DEL", "forebay:{s0}:x")
        async with asyncio.timeout(10):
            while (await led(jobs)).forgotten == 0:
                await asyncio.sleep(0.2)
        assert list(await jobs.read([id])) == [Gone("anna")]


_WORKER = """
import asyncio, sys
from forebay.brokers.redis_link import RedisLink
from forebay.jobs.redis_jobs import RedisJobs

async def main():
    link = RedisLink(sys.argv[1])
    jobs = RedisJobs(link)
    while found := await jobs.lease(["m"], 7, 0.2, 60.0):
        for job in found:
            print(job.spec.id)
    await jobs.close()
    await link.close()

asyncio.run(main())
"""


async def test_two_processes_at_once_never_get_the_same_job(server: Server) -> None:
    async with opened(server.url) as jobs:
        ids = await submitted(jobs, 1000)
        command = [sys.executable, "-c", _WORKER, server.url]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        answers = [(await asyncio.to_thread(worker.communicate, timeout=60))[0].split() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0]
        assert sorted(answers[0] + answers[1]) == sorted(ids)


async def test_a_server_that_may_evict_jobs_is_refused(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "100mb")
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with opened(server.url) as jobs:
        with pytest.raises(SetupError, match="allkeys-lru"):
            await jobs.check()
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert (await jobs.check()).startswith("Valkey ")


async def test_another_number_of_shards_than_the_stored_jobs_have_is_refused(server: Server) -> None:
    async with opened(server.url) as jobs:
        await jobs.check()
        link = RedisLink(server.url)
        with pytest.raises(SetupError, match="shards = 1"):
            await RedisJobs(link, shards=4).check()
        await link.close()


async def test_a_job_that_no_worker_can_read_fails_and_keeps_nobody_from_the_others(server: Server) -> None:
    async with opened(server.url) as jobs:
        strange, good = await submitted(jobs, 2, max_attempts=2)
        key = b"forebay:{s0}:j:" + packed_id(strange)
        server.ask("HSET", key, "d", b"\x81\xa5model\x01")
        [job] = await leased(jobs)
        assert job.spec.id == good
        async with asyncio.timeout(10):
            while server.ask("HGET", key, "s") not in (b"f", "f"):
                await led(jobs)
                assert list(await jobs.lease(["m"], 10, 0.2, LEASE_S)) == []
        found = await record(jobs, strange)
        assert [look.spec.id for look in (await jobs.list("anna")).jobs] == [good, strange]
        assert (found.spec.envelope, found.spec.model, found.spec.tenant, found.spec.max_attempts) == (
            0,
            "m",
            "anna",
            2,
        )
        assert len(await jobs.events(strange, 0)) > 2
        with pytest.raises(RequestError, match="stored by a newer server"):
            await jobs.asked([strange])
        assert (found.state, found.attempt) == ("failed", 2)
        assert found.error is not None
        assert found.error.code == "unsupported"


async def test_what_was_asked_with_a_failed_job_is_kept_with_its_body(server: Server) -> None:
    async with opened(server.url) as jobs:
        [failed], [done] = await submitted(jobs, body=b"again"), await submitted(jobs)
        first, second = await leased(jobs, 2)
        await jobs.finish([Finish(first, "failed", error=BROKEN), success(second)])
        [asked, gone, unknown] = await jobs.asked([failed, done, spec().id])
        assert asked == first.spec
        assert (gone, unknown) == (None, None)
        assert [found.spec.id for found in (await jobs.list(None, state="failed")).jobs] == [failed]
