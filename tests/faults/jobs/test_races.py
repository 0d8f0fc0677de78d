"""Clients that ask for the same thing at once, and for the contrary."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from tests.e2e.server import eventually
from tests.e2e.wire import Reply
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.houses import House
from tests.faults.jobs.invariants import submitted, witnessing
from tests.faults.jobs.ledger import TERMINAL, tally
from tests.faults.jobs.lengths import repeated

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.ids import JobIds
from forebay.jobs.record import JobSpec
from forebay.jobs.redis_jobs import RedisJobs
from forebay.jobs.store import Bounds, NewJob

AT_ONCE = 50


def together(found: House, calls: Sequence[Callable[[Caller], Reply]]) -> list[Reply]:
    """Each call on a connection of its own, all begun at the same moment."""
    begin = Barrier(len(calls))

    def one(call: Callable[[Caller], Reply]) -> Reply:
        with Caller(found.port) as caller:
            caller.ask("/healthz")  # connected
            begin.wait(30)
            return call(caller)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


@repeated(20)
@pytest.mark.timeout(600)
def test_a_cancel_ends_a_job_once_whatever_it_is_doing(shared: House, rounds: int) -> None:
    chance = random.Random(rounds)
    with witnessing(shared) as witness, Caller(shared.port) as caller:
        seen: Counter[str] = Counter()
        for _ in range(rounds):
            with shared.held() as let_go:
                # More than a worker holds: some run, some are leased, the others wait.
                entries = submitted(witness, caller, 200)
                eventually(lambda: witness.begun(), "jobs run")
                ids = [entry.id for entry in entries]
                chosen = [*ids[:8], *ids[40:60], *ids[150:160]]
                twice = [lambda caller, id=id: caller.ask(f"/v1/jobs/{id}/cancel", b"") for id in [*chosen, *chosen]]
                told = {reply.json()["id"]: reply.json()["status"] for reply in together(shared, twice)}
                assert told == dict.fromkeys(chosen, "canceled")
                let_go()
            rest = [id for id in ids if id not in told]
            chance.shuffle(rest)
            for start in range(0, len(rest), AT_ONCE):
                calls = [
                    lambda caller, id=id: caller.ask(f"/v1/jobs/{id}/cancel", b"")
                    for id in rest[start : start + AT_ONCE]
                ]
                told |= {reply.json()["id"]: reply.json()["status"] for reply in together(shared, calls)}
            assert set(told) == set(ids)
            for entry in entries:
                assert told[entry.id] in TERMINAL
                if told[entry.id] == "canceled":
                    entry.expected = "request_canceled"
            seen.update(told.values())
        assert set(seen) == {"canceled", "succeeded"}
        print(seen)
        witness.check()


@repeated(20)
@pytest.mark.timeout(600)
def test_a_key_that_is_used_at_once_by_many_is_one_job(shared: House, rounds: int) -> None:
    with witnessing(shared) as witness, Caller(shared.port) as caller:
        for _ in range(rounds):
            value, other = witness.ledger.value(), witness.ledger.value()
            key = f"key-{value:.0f}"
            replies = together(shared, [lambda caller: caller.submit(value, key)] * AT_ONCE)  # noqa: B023
            taken = [reply for reply in replies if reply.status in (200, 202)]
            assert {reply.status for reply in replies} <= {200, 202, 409}
            assert sum(reply.headers.get("idempotent-replayed") is None for reply in taken) == 1
            (id,) = {reply.json()["id"] for reply in taken}
            witness.ledger.accept(id, value)
            reused = caller.submit(other, key)
            assert (reused.status, reused.json()["code"]) == (422, "idempotency_key_reused")
        witness.settle(30)
        runs = tally(shared.folder)
        assert {len(runs[entry.value]) for entry in witness.ledger.entries.values()} == {1}
        witness.check()


@repeated(20)
@pytest.mark.timeout(600)
def test_a_job_that_is_published_a_hundred_times_runs_once(shared: House, rounds: int) -> None:
    assert shared.node is not None
    url, made = shared.node.url, JobIds()

    async def publish(specs: Sequence[JobSpec]) -> list[str]:
        link = RedisLink(url)
        jobs = RedisJobs(link)
        try:
            calls = [jobs.submit([NewJob(spec) for spec in specs], Bounds(10**6, 1 << 30)) for _ in range(100)]
            return [one.outcome for answer in await asyncio.gather(*calls) for one in answer]
        finally:
            await jobs.close()
            await link.close()

    with witnessing(shared) as witness:
        for _ in range(rounds):
            specs = []
            for _ in range(5):
                value = witness.ledger.value()
                body = b'{"input":{"x":[%d]}}' % value
                specs.append(JobSpec(id=made.new(), model="tallied", tenant="anonymous", body=body))
                witness.ledger.accept(specs[-1].id, value)
            outcomes: Any = Counter(asyncio.run(publish(specs)))
            assert outcomes == {"created": 5, "replayed": 495}
        witness.settle(30)
        runs = tally(shared.folder)
        assert {len(runs[entry.value]) for entry in witness.ledger.entries.values()} == {1}
        witness.check()
