"""Dead letters: jobs that failed for good are listed, and asked for again as new jobs, until they are forgotten."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.contract.jobs.calls import (
    AMPLE,
    BROKEN,
    CRASHED,
    keyed,
    leased,
    nothing_to_lease,
    reaped,
    record,
    started,
    submitted,
    succeed,
)
from tests.contract.jobs.stores import Jobs, Store
from tests.contract.jobs.test_list import listed

from forebay.jobs.store import Finish, NewJob


async def failed(jobs: Jobs, count: int = 1, **changes: Any) -> list[str]:
    """Ids of jobs that have failed, in the order of their acceptance."""
    ids = await submitted(jobs, count, **changes)
    held = await leased(jobs, count, model=str(changes.get("model", "m")))
    assert all(await jobs.finish([Finish(job, "failed", error=BROKEN) for job in held]))
    return ids


async def test_what_a_failed_job_was_asked_is_kept_whole(jobs: Jobs) -> None:
    asked: dict[str, Any] = {
        "body": b"\x00\xff" * 5000,
        "content_type": "image/*",
        "level": 2,
        "metadata": {"a": [1]},
        "ttl_s": 90.0,
    }
    [id] = await failed(jobs, **asked)
    [spec] = await jobs.asked([id])
    assert spec is not None
    assert {name: getattr(spec, name) for name in asked} == asked
    assert (spec.id, spec.model, spec.tenant) == (id, "m", "anna")


async def test_one_whose_attempts_are_used_up_is_kept_as_well(store: Store) -> None:
    job, silent = await started(store.jobs, max_attempts=1), await started(store.jobs, max_attempts=1, model="other")
    assert list(await store.jobs.finish([Finish(job, "retry", error=CRASHED)])) == [True]
    await store.pass_s(100.0)
    assert (await reaped(store)).failed == 1
    for one in (job, silent):
        assert (await record(store.jobs, one.spec.id)).state == "failed"
        [spec] = await store.jobs.asked([one.spec.id])
        assert spec is not None
        assert spec.body == one.spec.body


async def test_bodies_of_jobs_that_ended_otherwise_are_dropped(store: Store) -> None:
    done, canceled = await started(store.jobs), await started(store.jobs, model="other")
    [overdue] = await submitted(store.jobs, ttl_s=10.0)
    assert await succeed(store.jobs, done)
    await store.jobs.cancel([canceled.spec.id])
    await store.pass_s(11.0)
    assert (await reaped(store)).expired == 1
    assert list(await store.jobs.asked([done.spec.id, canceled.spec.id, overdue])) == [None, None, None]


async def test_a_body_is_there_while_its_job_is_not_finished(jobs: Jobs) -> None:
    job = await started(jobs, body=b"abc")
    [id] = await submitted(jobs, body=b"def")
    assert [spec and spec.body for spec in await jobs.asked([id, job.spec.id])] == [b"def", b"abc"]


async def test_what_never_was_or_was_deleted_cannot_be_asked_again(jobs: Jobs) -> None:
    [id] = await failed(jobs)
    assert await jobs.delete(id)
    assert list(await jobs.asked([id, keyed("k", "f").spec.id, "nonsense"])) == [None, None, None]
    assert list(await jobs.asked([])) == []


@pytest.mark.parametrize("limit", [2, 50])
async def test_failed_jobs_are_listed_apart_for_each_tenant_and_model(jobs: Jobs, limit: int) -> None:
    mine = await failed(jobs, 3)
    other = await failed(jobs, 2, model="other")
    theirs = await failed(jobs, 2, tenant="bert")
    await submitted(jobs, 3)
    assert [one.spec.id for one in await listed(jobs, state="failed", limit=limit)] == [*other[::-1], *mine[::-1]]
    assert [one.spec.id for one in await listed(jobs, model="other", state="failed", limit=limit)] == other[::-1]
    assert [one.spec.id for one in await listed(jobs, "bert", state="failed", limit=limit)] == theirs[::-1]
    assert len(await listed(jobs, None, state="failed", limit=limit)) == 7
    assert await listed(jobs, "", state="failed") == []
    assert [one.error for one in await listed(jobs, state="failed", model="other")] == [BROKEN, BROKEN]


async def test_failed_jobs_leave_the_list_when_they_are_deleted_or_gone(store: Store) -> None:
    deleted, gone, kept = (
        *await failed(store.jobs, retention_s=1000.0),
        *await failed(store.jobs, retention_s=10.0),
        *await failed(store.jobs, retention_s=1000.0),
    )
    assert await store.jobs.delete(deleted)
    await store.pass_s(11.0)
    assert (await reaped(store)).forgotten == 1
    assert [one.spec.id for one in await listed(store.jobs, state="failed")] == [kept]
    assert list(await store.jobs.asked([gone])) == [None]


async def test_a_replay_is_a_new_job_that_names_the_old_one(jobs: Jobs) -> None:
    [old] = await failed(jobs, body=b"again")
    [asked] = await jobs.asked([old])
    assert asked is not None
    fresh = keyed("replay", "")
    new = msgspec.structs.replace(asked, id=fresh.spec.id, replay_of=old)
    for outcome in ("created", "replayed"):
        [answer] = await jobs.submit([NewJob(new, "replay")], AMPLE)
        assert (answer.outcome, answer.id) == (outcome, new.id)
    [job] = await leased(jobs)
    assert (job.spec.id, job.spec.body, job.spec.replay_of, job.attempt) == (new.id, b"again", old, 1)
    assert await succeed(jobs, job)
    assert (await record(jobs, new.id)).spec.replay_of == old
    assert ((await record(jobs, old)).state, (await record(jobs, old)).error) == ("failed", BROKEN)
    assert await nothing_to_lease(jobs)
