"""`RedisKept`: what jobs in Redis have in common, whether they queue there too or another broker carries them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.ids import shard_of_key
from forebay.jobs.record import JobError, JobSpec
from forebay.jobs.redis_codec import (
    SUBMISSION,
    finish_arguments,
    packed_id,
    packed_spec,
    packed_terms,
    spec_of,
    written_id,
)
from forebay.jobs.redis_reader import PREFIX, SERVER_CLOCK, RedisReader, Row
from forebay.jobs.redis_reaper import RedisReaper
from forebay.jobs.redis_scripts import ScriptName
from forebay.jobs.store import Bounds, Finish, LeasedJob, NewJob, Partial, QueueDepth, Submission, retry_after_s
from forebay.jobs.webhooks import Delivery, Settled

MOST_AT_ONCE: Final = 1000
_UNREADABLE: Final = JobError("unsupported", "No worker understands the job as it is stored; a newer server wrote it.")
_UNREADABLE_DELAY_S: Final = 1.0
_OUTCOMES: Final[dict[bytes, Any]] = {b"c": "created", b"p": "replayed", b"m": "mismatch", b"f": "full"}


class RedisKept(RedisReader):
    """A `JobReader` and `WebhookQueue`, and what is alike in a `JobQueue` and a `RecordStore`. The link is its maker's
    to close; `clock` is Lua that tells seconds and microseconds."""

    def __init__(
        self,
        link: RedisLink,
        *,
        shards: int = 1,
        republish_after_s: float = 60.0,
        prefix: str = PREFIX,
        clock: str = SERVER_CLOCK,
    ) -> None:
        super().__init__(link, shards=shards, prefix=prefix, clock=clock)
        self._reaper = RedisReaper(self._scripts, shards, republish_after_s)
        self._first_due = 0

    async def extend(self, jobs: Sequence[LeasedJob], lease_s: float) -> Sequence[bool]:
        """Keep jobs."""
        rows = [(packed_id(job.spec.id), job.nonce) for job in jobs]
        return await self._spread("extend", [_ms(lease_s)], [job.spec.id for job in jobs], rows)

    async def tell(self, partials: Sequence[Partial]) -> Sequence[bool]:
        """Add events of running jobs. Refused while the server is at its maxmemory."""
        rows = [
            (
                packed_id(partial.job.spec.id),
                partial.job.nonce,
                partial.number,
                b"" if partial.progress is None else repr(partial.progress),
                b"" if partial.piece is None else b"p" + partial.piece,
            )
            for partial in partials
        ]
        return await self._spread("tell", [], [partial.job.spec.id for partial in partials], rows)

    async def finish(self, finishes: Sequence[Finish]) -> Sequence[bool]:
        """Commit how jobs ended; also while the server is at its maxmemory."""
        rows = [finish_arguments(finish) for finish in finishes]
        return await self._spread("finish", [], [finish.job.spec.id for finish in finishes], rows)

    async def depth(self, model: str) -> QueueDepth:
        """What waits and runs for one model; `oldest_s` without delayed ones."""
        calls = [self._scripts.call("depth", shard, [model]) for shard in range(self._shards)]
        depths = await asyncio.gather(*calls)
        waiting, nbytes, running, _ = (sum(column) for column in zip(*depths, strict=True))
        return QueueDepth(waiting, nbytes, running, max(depth[3] for depth in depths) / 1e6)

    async def due_webhooks(self, most: int, hold_s: float) -> Sequence[Delivery]:
        """Deliveries that are due. Over several shards the longest due are only about the first."""
        due: list[Delivery] = []
        self._first_due = (self._first_due + 1) % self._shards
        for offset in range(self._shards):
            if len(due) < most:
                shard = (self._first_due + offset) % self._shards
                reply = await self._scripts.call("due", shard, [min(most - len(due), MOST_AT_ONCE), _ms(hold_s)])
                due += (Delivery(written_id(reply[at]), int(reply[at + 1])) for at in range(0, len(reply), 2))
        return due

    async def settle_webhooks(self, settled: Sequence[Settled]) -> None:
        """Note what became of deliveries."""
        rows = [
            (packed_id(one.id), b"" if one.again_s is None else _ms(one.again_s), 1 if one.counts else 0)
            for one in settled
        ]
        await self._spread("settle", [], [one.id for one in settled], rows)

    async def _accept(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """New jobs. Bounds hold for all shards together where jobs are spread evenly."""
        head = [-(-bounds.jobs // self._shards), -(-bounds.nbytes // self._shards)]
        ids, terms = [job.spec.id for job in new], dict[bytes, bytes]()
        replies = await self._spread("submit", head, ids, [self._row(job, terms) for job in new])
        return [_submission(id, *reply) for id, reply in zip(ids, replies, strict=True)]

    def _row(self, new: NewJob, terms: dict[bytes, bytes]) -> Row:
        """The arguments of `submit.lua`. `terms`: those of envelopes that were met in this call."""
        spec, name = new.spec, packed_id(new.spec.id)
        if new.key:
            if shard_of_key(spec.tenant, new.key, self._shards) != self._shard(spec.id):
                raise ValueError(f"job {spec.id} is not in the shard of its key; make its id with shard_bits_of")
            name += hashlib.blake2b(_key_bytes(spec, new.key), digest_size=16).digest() + new.fingerprint.encode()
        envelope = packed_spec(spec)
        if envelope not in terms:
            terms[envelope] = packed_terms(spec)
        return name, terms[envelope], envelope, spec.body

    def _replies(self, name: ScriptName, reply: Any) -> Any:
        if name == "submit":
            return SUBMISSION.iter_unpack(reply)
        if isinstance(reply, bytes):
            return (digit == 49 for digit in reply)
        return reply


def leased_job(nonce: str, id: bytes, envelope: bytes, body: bytes, attempt: int) -> LeasedJob:
    """A claimed job; without a model where its envelope cannot be read."""
    try:
        spec = spec_of(envelope, written_id(id), body)
    except msgspec.DecodeError:
        spec = JobSpec(id=written_id(id), model="", tenant="")
    return LeasedJob(spec, attempt, nonce)


def unreadable_end(job: LeasedJob) -> Finish:
    """Left to other workers, which may be newer; it fails where none of them can read it either."""
    return Finish(job, "retry", error=_UNREADABLE, delay_s=_UNREADABLE_DELAY_S)


def _submission(own: str, letter: bytes, id: bytes, ms: float) -> Submission:
    """`own`: the id of the job that was submitted."""
    outcome = _OUTCOMES[letter]
    if outcome == "created":
        return Submission(outcome, own, int(ms))
    if outcome == "full":
        return Submission(outcome, own, 0, retry_after_s(ms / 1000))
    return Submission(outcome, written_id(id), int(ms))


def _key_bytes(spec: JobSpec, key: str) -> bytes:
    return f"{spec.tenant}\0{key}".encode("utf-8", "surrogateescape")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
