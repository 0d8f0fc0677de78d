"""What the tests of the contract ask again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import msgspec
from tests.contract.jobs.stores import Jobs, Store

from forebay.jobs.ids import JobIds, shard_bits_of
from forebay.jobs.record import STATE_NAMES, JobError, JobRecord, JobSpec, Output, State
from forebay.jobs.store import Bounds, Change, Finish, LeasedJob, NewJob, Reaped

AMPLE = Bounds(1_000_000, 1 << 40)
LEASE_S = 60.0
PATIENCE_S = 10.0
BROKEN = JobError("model_error", "it does not compute", "executing")
CRASHED = JobError("instance_crashed", "gone", "executing")
_IDS = JobIds()


def spec(**changes: Any) -> JobSpec:
    """A job of model `m` and tenant `anna` with an id of its own."""
    return msgspec.structs.replace(JobSpec(id=_IDS.new(), model="m", tenant="anna", body=b'{"x":1}'), **changes)


def keyed(key: str, fingerprint: str, **changes: Any) -> NewJob:
    """A job that is asked for with an Idempotency-Key, in whose shard its id is."""
    asked = spec(**changes)
    return NewJob(msgspec.structs.replace(asked, id=_IDS.new(shard_bits_of(asked.tenant, key))), key, fingerprint)


async def submitted(jobs: Jobs, count: int = 1, **changes: Any) -> list[str]:
    """Ids of new jobs, in the order of their acceptance."""
    specs = [spec(**changes) for _ in range(count)]
    answers = await jobs.submit([NewJob(one) for one in specs], AMPLE)
    assert [answer.outcome for answer in answers] == ["created"] * count
    return [one.id for one in specs]


async def leased(
    jobs: Jobs, count: int = 1, model: str = "m", lease_s: float = LEASE_S, wait_s: float = PATIENCE_S
) -> list[LeasedJob]:
    """So many jobs of a model, in the order in which they were given."""
    found: list[LeasedJob] = []
    async with asyncio.timeout(wait_s):
        while len(found) < count:
            found += await jobs.lease([model], count - len(found), 1.0, lease_s)
    return found


async def started(jobs: Jobs, **changes: Any) -> LeasedJob:
    """A new job that runs. There may be no other of its model."""
    [id] = await submitted(jobs, **changes)
    [job] = await leased(jobs, model=changes.get("model", "m"))
    assert job.spec.id == id
    return job


async def nothing_to_lease(jobs: Jobs, model: str = "m") -> bool:
    """Whether a model has no job that can be run now."""
    return len(await jobs.lease([model], 10, 0.0, LEASE_S)) == 0


async def record(jobs: Jobs, id: str) -> JobRecord:
    """The record, which there must be."""
    [look] = await jobs.read([id])
    assert isinstance(look, JobRecord), look
    return look


async def reaped(store: Store) -> Reaped:
    """One round of the reaper, by who leads."""
    done = await store.jobs.reap()
    if not done.leader:
        done = await store.other.reap()
    assert done.leader
    return done


def success(job: LeasedJob, body: bytes = b'{"y":1}') -> Finish:
    """It succeeded."""
    return Finish(job, "succeeded", output=Output(body), metrics={"batch_rows": 4})


async def succeed(jobs: Jobs, job: LeasedJob, body: bytes = b'{"y":1}') -> bool:
    """Commit that it succeeded."""
    [done] = await jobs.finish([success(job, body)])
    return done


class Listener:
    """Everything that one subscription tells from the moment it is entered."""

    def __init__(self, jobs: Jobs, states: Collection[State] = STATE_NAMES) -> None:
        self._changes = aiter(jobs.changes(states))
        self.heard: list[Change] = []

    async def __aenter__(self) -> Listener:
        async with asyncio.timeout(PATIENCE_S):
            assert list(await anext(self._changes)) == []
        return self

    async def __aexit__(self, *exception: object) -> None:
        close = getattr(self._changes, "aclose", None)
        if close is not None:
            await close()

    async def until(self, id: str, sequence: int) -> list[Change]:
        """The changes of a job, once that of `sequence` is among them."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(change.id == id and change.sequence == sequence for change in self.heard):
                self.heard += await anext(self._changes)
        return [change for change in self.heard if change.id == id]
