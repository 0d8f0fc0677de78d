"""`RedisJobs`: jobs in Redis or Valkey, which queues them by itself: record and queue change in one script."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Coroutine, Sequence
from itertools import chain
from typing import Any, Final, TypeVar

import msgspec

from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError
from forebay.jobs.ids import shard_of_key
from forebay.jobs.record import OVERDUE, JobError, JobSpec
from forebay.jobs.redis_codec import (
    SUBMISSION,
    finish_arguments,
    packed_error,
    packed_id,
    packed_spec,
    packed_terms,
    spec_of,
    written_id,
)
from forebay.jobs.redis_reader import PREFIX, SERVER_CLOCK, RedisReader, Row
from forebay.jobs.redis_reaper import RedisReaper
from forebay.jobs.redis_scripts import ScriptName
from forebay.jobs.store import (
    Bounds,
    Finish,
    LeasedJob,
    NewJob,
    Partial,
    QueueDepth,
    Reaped,
    Submission,
    retry_after_s,
)
from forebay.jobs.webhooks import Delivery, Settled

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_POLL_S = 1.0
_MOST_AT_ONCE = 1000
_MOST_LEASED_BYTES = 16 << 20
_LOST_KEPT = 100
_OVERDUE = packed_error(OVERDUE)
_UNREADABLE = JobError("unsupported", "No worker understands the job as it is stored; a newer server wrote it.")
_UNREADABLE_DELAY_S = 1.0
_OUTCOMES: Final[dict[bytes, Any]] = {b"c": "created", b"p": "replayed", b"m": "mismatch", b"f": "full"}


class RedisJobs(RedisReader):
    """A `JobQueue`, `JobReader` and `WebhookQueue`. The link is its maker's to close; `clock` is Lua that tells
    seconds and microseconds."""

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
        self._lost: dict[int, list[tuple[str, Sequence[str]]]] = {}
        """By shard: nonces of leases whose answer never arrived, with their models."""
        self._first_shard = self._first_due = 0
        self._background: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs. Bounds hold for all shards together where jobs are spread evenly."""
        head = [-(-bounds.jobs // self._shards), -(-bounds.nbytes // self._shards)]
        ids, terms = [job.spec.id for job in new], dict[bytes, bytes]()
        replies = await self._spread("submit", head, ids, [self._row(job, terms) for job in new])
        return [_submission(id, *reply) for id, reply in zip(ids, replies, strict=True)]

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        """Claim jobs. Over several shards the oldest of a level is only about the first."""
        if not models or most <= 0:
            return []
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        arrival: asyncio.Event | None = None
        try:
            while True:
                jobs = await self._claim(models, min(most, _MOST_AT_ONCE), lease_s)
                left_s = until - loop.time()
                if jobs or left_s <= 0 or self._closed:
                    return jobs
                if arrival is None:
                    # Looks once more at once: what came before there was an event to set has set none.
                    arrival = self._feed.await_work(models)
                    continue
                try:
                    async with asyncio.timeout(min(left_s, _POLL_S)):
                        await arrival.wait()
                except TimeoutError:
                    pass
                arrival.clear()
        finally:
            if arrival is not None:
                self._feed.forget(arrival)

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

    async def reap(self) -> Reaped:
        """Do what has become due, where no other process does."""
        return await self._reaper.reap()

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
                reply = await self._scripts.call("due", shard, [min(most - len(due), _MOST_AT_ONCE), _ms(hold_s)])
                due += (Delivery(written_id(reply[at]), int(reply[at + 1])) for at in range(0, len(reply), 2))
        return due

    async def settle_webhooks(self, settled: Sequence[Settled]) -> None:
        """Note what became of deliveries."""
        rows = [
            (packed_id(one.id), b"" if one.again_s is None else _ms(one.again_s), 1 if one.counts else 0)
            for one in settled
        ]
        await self._spread("settle", [], [one.id for one in settled], rows)

    async def close(self) -> None:
        """End every wait; what a canceled lease claimed is given back before."""
        self._closed = True
        await super().close()
        while self._background:
            await asyncio.wait(self._background)

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

    async def _claim(self, models: Sequence[str], most: int, lease_s: float) -> Sequence[LeasedJob]:
        """Claim what there is now."""
        if self._shards == 1:
            return await self._kept(self._claim_in(0, models, most, lease_s))
        shares = await self._shares(models, most)
        claims = [self._claim_in(shard, models, share, lease_s) for shard, share in shares.items()]
        found = await self._kept(_gathered(claims))
        return sorted(found, key=lambda job: job.spec.level)

    async def _shares(self, models: Sequence[str], most: int) -> dict[int, int]:
        """How many to claim in each shard, so that the higher levels come first; the first shard changes each time."""
        self._first_shard = (self._first_shard + 1) % self._shards
        order = [(self._first_shard + offset) % self._shards for offset in range(self._shards)]
        peeks = await asyncio.gather(*(self._scripts.call("peek", shard, models) for shard in order))
        shares: dict[int, int] = {}
        for counts in zip(*peeks, strict=True):
            for shard, count in zip(order, counts, strict=True):
                taken = min(count, most)
                if taken:
                    shares[shard] = shares.get(shard, 0) + taken
                    most -= taken
        return shares

    async def _claim_in(self, shard: int, models: Sequence[str], most: int, lease_s: float) -> Sequence[LeasedJob]:
        await self._surrender(shard)
        while True:
            nonce = secrets.token_urlsafe(9)
            head = [most, _ms(lease_s), _MOST_LEASED_BYTES, nonce, _OVERDUE]
            try:
                looked, *reply = await self._scripts.call("lease", shard, [*head, *models])
            except DependencyError:
                self._lost.setdefault(shard, []).append((nonce, models))
                del self._lost[shard][:-_LOST_KEPT]
                raise
            jobs = [self._leased(nonce, at // 4 + 1, *reply[at : at + 4]) for at in range(0, len(reply), 4)]
            readable = [job for job in jobs if job.spec.model]
            if len(readable) < len(jobs):
                await self.finish([_unreadable(job) for job in jobs if not job.spec.model])
            if readable or not looked:
                return readable

    def _leased(self, nonce: str, number: int, id: bytes, envelope: bytes, body: bytes, attempt: int) -> LeasedJob:
        """A claimed job; without a model where its envelope cannot be read."""
        try:
            spec = spec_of(envelope, written_id(id), body)
        except msgspec.DecodeError:
            spec = JobSpec(id=written_id(id), model="", tenant="")
        return LeasedJob(spec, attempt, f"{nonce}{number}")

    async def _surrender(self, shard: int) -> None:
        """Give back what leases claimed whose answer never arrived: it waits for nobody, and no attempt was begun."""
        while lost := self._lost.get(shard):
            nonce, models = lost[0]
            await self._scripts.call("surrender", shard, [nonce, *models])
            if lost and lost[0][0] == nonce:
                del lost[0]

    async def _kept(self, claim: Coroutine[Any, Any, Sequence[LeasedJob]]) -> Sequence[LeasedJob]:
        """Await a claim; where the wait is canceled, what it claims is given back."""
        claiming = self._in_background(claim)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._in_background(self._give_back(claiming))
            raise

    async def _give_back(self, claiming: asyncio.Future[Sequence[LeasedJob]]) -> None:
        try:
            jobs = await claiming
            if jobs:
                await self.finish([Finish(job, "release") for job in jobs])
        except DependencyError as error:
            _log.warning("Jobs claimed for nobody wait for the end of their lease: %s", error.message)

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Future[_T]:
        future = asyncio.ensure_future(work)
        self._background.add(future)
        future.add_done_callback(self._background.discard)
        return future


async def _gathered(claims: Sequence[Coroutine[Any, Any, Sequence[LeasedJob]]]) -> Sequence[LeasedJob]:
    """What all claims gave. An error is raised only where none gave anything."""
    found = await asyncio.gather(*claims, return_exceptions=True)
    jobs = [*chain.from_iterable(answer for answer in found if not isinstance(answer, BaseException))]
    for answer in found:
        if isinstance(answer, BaseException) and not jobs:
            raise answer
    return jobs


def _unreadable(job: LeasedJob) -> Finish:
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
