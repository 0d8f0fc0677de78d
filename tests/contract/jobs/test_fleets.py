"""Releases side by side: jobs whose envelope is older or newer than their reader, over whatever carries them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.contract.jobs.calls import AMPLE, LEASE_S, PATIENCE_S, leased, reaped, record, spec, succeed
from tests.contract.jobs.stores import Jobs, Store

from forebay.core.errors import RequestError
from forebay.jobs.brokered import BrokeredQueue
from forebay.jobs.ids import shard_of
from forebay.jobs.record import ENVELOPE_VERSION, JobRecord, JobSpec
from forebay.jobs.redis_codec import packed_id
from forebay.jobs.redis_reader import RedisReader
from forebay.jobs.store import Finish, LeasedJob, NewJob
from forebay.worker.outcomes import unsupported

BROKERED = ("valkey-rabbitmq", "valkey-sqs", "valkey-kafka")
over = pytest.mark.parametrize("store", ["valkey", *BROKERED], indirect=True)
over_a_broker = pytest.mark.parametrize("store", BROKERED, indirect=True)
NEWER = ENVELOPE_VERSION + 1
ATTEMPTS = 2


class NewerSpec(JobSpec, frozen=True, kw_only=True, omit_defaults=True):
    """What a later release asks for."""

    colour: str = ""


class OldestSpec(msgspec.Struct, frozen=True):
    """The least that any release has written."""

    id: str
    model: str
    tenant: str
    body: bytes


def newer(**changes: Any) -> NewerSpec:
    return NewerSpec(**{**msgspec.structs.asdict(spec()), "colour": "blue", "max_attempts": ATTEMPTS, **changes})


def written(envelope: msgspec.Struct) -> Any:
    """What stands in it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(envelope))


async def accepted(jobs: Jobs, asked: JobSpec) -> str:
    """Its id."""
    [answer] = await jobs.submit([NewJob(asked)], AMPLE)
    assert answer.outcome == "created"
    return asked.id


def reader_of(jobs: Jobs) -> RedisReader:
    """The store of the records."""
    found = jobs._store if isinstance(jobs, BrokeredQueue) else jobs
    assert isinstance(found, RedisReader)
    return found


def key_of(reader: RedisReader, id: str) -> bytes:
    return f"{reader._scripts.base(shard_of(id, reader._shards))}j:".encode() + packed_id(id)


async def stored(jobs: Jobs, id: str) -> dict[str, Any]:
    """The envelope of a job, all of it."""
    reader = reader_of(jobs)
    found: dict[str, Any] = msgspec.msgpack.decode(await reader._link.execute("HGET", key_of(reader, id), "d"))
    return found


async def forget_all(jobs: Jobs) -> None:
    """The store has lost its records, and keeps the time."""
    reader = reader_of(jobs)
    for key in await reader._link.execute("KEYS", f"{reader._prefix}:*"):
        if not key.endswith(b":passed"):
            await reader._link.execute("DEL", key)


async def refused(jobs: Jobs, job: LeasedJob) -> None:
    """What a worker does with a version that it does not know."""
    outcome = unsupported(job.spec.envelope, ENVELOPE_VERSION, job.attempt)
    assert list(await jobs.finish([Finish(job, outcome.kind, error=outcome.error, delay_s=outcome.delay_s)])) == [True]


async def comes_again(store: Store) -> LeasedJob:
    """The only job, when its delay is over."""
    await store.pass_s(10.0)
    await reaped(store)
    [job] = await leased(store.jobs)
    return job


async def is_over(store: Store, id: str) -> JobRecord:
    """A job that cannot be read, once it has ended: no `lease` gives it to anybody."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await record(store.jobs, id)).finished_ms:
            assert list(await store.jobs.lease(["m"], 10, 0.2, LEASE_S)) == []
            await store.pass_s(10.0)
            await reaped(store)
    return found


async def leaves_nothing(store: Store) -> None:
    """No record waits, and no message is left that leads anywhere."""
    depth = await store.jobs.depth("m")
    assert (depth.waiting, depth.running, depth.waiting_bytes) == (0, 0, 0)
    assert list(await store.jobs.lease(["m"], 10, 0.5, LEASE_S)) == []


@over
async def test_what_a_newer_release_adds_within_a_version_is_passed_over(store: Store) -> None:
    asked = newer(envelope=ENVELOPE_VERSION, level=0, metadata={"a": [1, None]})
    await accepted(store.jobs, asked)
    [job] = await leased(store.jobs)
    told = msgspec.structs.asdict(asked)
    del told["colour"]
    assert msgspec.structs.asdict(job.spec) == told
    assert await succeed(store.jobs, job)
    await leaves_nothing(store)


@over_a_broker
async def test_the_least_that_any_release_wrote_is_a_job_by_itself(store: Store) -> None:
    """Its record is lost, so it is made of the message alone."""
    asked = spec(body=b"[1]")
    await accepted(store.jobs, asked)
    await forget_all(store.jobs)
    queue = store.jobs
    assert isinstance(queue, BrokeredQueue)
    [job] = await leased(store.jobs)
    assert written(job.spec) == written(OldestSpec(asked.id, asked.model, asked.tenant, asked.body))
    assert await succeed(store.jobs, job)
    assert (await record(store.jobs, asked.id)).state == "succeeded"
    await leaves_nothing(store)


@over
async def test_another_version_is_left_to_who_knows_it_and_fails_where_nobody_does(store: Store) -> None:
    id = await accepted(store.jobs, newer(envelope=NEWER))
    [job] = await leased(store.jobs)
    for attempt in (1, ATTEMPTS):
        assert (job.spec.envelope, job.attempt) == (NEWER, attempt)
        # Whoever knows that version finds all of it, whatever older ones have done with it meanwhile.
        assert (await stored(store.jobs, id))["colour"] == "blue"
        await refused(store.jobs, job)
        if attempt < ATTEMPTS:
            job = await comes_again(store)
    found = await record(store.jobs, id)
    assert (found.state, found.attempt) == ("failed", ATTEMPTS)
    assert found.error is not None
    assert found.error.code == "unsupported"
    with pytest.raises(RequestError, match="stored by a newer server"):
        await store.jobs.asked([id])
    await leaves_nothing(store)


@over
async def test_what_cannot_be_read_at_all_ends_and_says_so(store: Store) -> None:
    id = await accepted(store.jobs, newer(envelope=NEWER, metadata=["no", "mapping"], level=2))
    found = await is_over(store, id)
    assert (found.state, found.attempt) == ("failed", ATTEMPTS)
    assert (found.spec.model, found.spec.tenant, found.spec.level) == ("m", "anna", 2)
    assert found.error is not None
    assert found.error.code == "unsupported"
    await leaves_nothing(store)


@over_a_broker
async def test_a_record_that_is_made_anew_from_a_newer_message_holds_all_of_it(store: Store) -> None:
    id = await accepted(store.jobs, newer(envelope=NEWER, body=b"[2]"))
    await forget_all(store.jobs)
    [job] = await leased(store.jobs)
    assert (job.spec.envelope, job.spec.body) == (NEWER, b"[2]")
    kept = await stored(store.jobs, id)
    assert (kept["colour"], kept["envelope"]) == ("blue", NEWER)
    await refused(store.jobs, job)
    job = await comes_again(store)
    assert (job.spec.id, job.spec.body, job.attempt) == (id, b"[2]", ATTEMPTS)
    await refused(store.jobs, job)
    assert (await record(store.jobs, id)).state == "failed"
    await leaves_nothing(store)
