"""`RedisRecords`: records of jobs in Redis or Valkey, whose messages another broker carries."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Sequence
from typing import Any, Final

from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError
from forebay.jobs.ids import is_id
from forebay.jobs.record import ENVELOPE_VERSION, OVERDUE, SILENT, JobSpec
from forebay.jobs.record_store import INLINE_BYTES, Carried, Claimed, Due
from forebay.jobs.redis_codec import (
    packed_error,
    packed_foreign,
    packed_id,
    packed_spec,
    packed_terms,
    shown_spec,
    written_id,
)
from forebay.jobs.redis_kept import MOST_AT_ONCE, RedisKept, leased_job, unreadable_end
from forebay.jobs.redis_reader import PREFIX, SERVER_CLOCK
from forebay.jobs.store import Bounds, Finish, LeasedJob, NewJob, Submission

_OVERDUE: Final = packed_error(OVERDUE)
_SILENT: Final = packed_error(SILENT)
_CARRIED_BYTES: Final = 8 << 20
_CARRIED_MOST: Final = 200
_DUE_BYTES: Final = 64 << 20
_EACH_BYTES: Final = 1000
"""Of a job without its body, about."""
_LOST_MOST: Final = 500
"""Of a level, in a round of the reaper."""
_UNKNOWN: Final = -1
_FOR_NOBODY_MOST: Final = 10_000


class RedisRecords(RedisKept):
    """A `RecordStore`, `JobReader` and `WebhookQueue`."""

    brokered = True

    def __init__(
        self,
        link: RedisLink,
        *,
        shards: int = 1,
        republish_after_s: float = 60.0,
        prefix: str = PREFIX,
        clock: str = SERVER_CLOCK,
    ) -> None:
        super().__init__(link, shards=shards, republish_after_s=republish_after_s, prefix=prefix, clock=clock)
        self._for_nobody: list[LeasedJob] = []
        """What claims that failed may have begun and could not give back."""

    async def create(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs."""
        return await self._accept(new, bounds)

    async def claim(self, carried: Sequence[Carried], lease_s: float) -> Sequence[Claimed]:
        """Begin attempts. Whole jobs are not sent to the store, unless it does not know them."""
        if not all(is_id(one.id) for one in carried):
            known = iter(await self.claim([one for one in carried if is_id(one.id)], lease_s))
            return [next(known) if is_id(one.id) else "unknown" for one in carried]
        await self._surrender()
        claimed = await self._claim(carried, lease_s)
        try:
            unknown = [one for one, claim in zip(carried, claimed, strict=True) if claim == "unknown"]
            if unknown and await self._revive(unknown):
                again = iter(await self._claim(unknown, lease_s))
                claimed = [next(again) if claim == "unknown" else claim for claim in claimed]
            unreadable = [job for job in claimed if isinstance(job, LeasedJob) and not job.spec.model]
            if unreadable:
                await self.finish([unreadable_end(job) for job in unreadable])
        except DependencyError:
            await self._give_back([job for job in claimed if isinstance(job, LeasedJob)])
            raise
        return ["stale" if isinstance(job, LeasedJob) and not job.spec.model else job for job in claimed]

    async def due(self, republish_after_s: float, published: Collection[str] = ()) -> Due:
        """One round of the reaper."""
        for id in published:
            self._reaper.freed.pop(packed_id(id), None)
        reaped = await self._reaper.reap()
        if not reaped.leader:
            return Due(reaped)
        jobs = await self._freed()
        waited: dict[bytes, None] = {}
        for shard in range(self._shards):
            waited |= dict.fromkeys(await self._scripts.call("waited", shard, [round(republish_after_s * 1000)]))
        return Due(reaped, jobs, [model.decode() for model in waited])

    async def lost(self, model: str, republish_after_s: float, empty: bool) -> Sequence[Carried]:
        """Jobs whose messages seem to be lost, some hundreds at a time."""
        words = [model, round(republish_after_s * 1000), 1 if empty else 0, _LOST_MOST]
        found: list[tuple[int, bytes]] = []
        for shard in range(self._shards):
            found += ((shard, id) for id in await self._scripts.call("lost", shard, words))
        return await self._whole(found)

    async def _claim(self, carried: Sequence[Carried], lease_s: float) -> list[Claimed]:
        nonce = secrets.token_urlsafe(9)
        rows = [
            (packed_id(one.id), f"{nonce}{number}", 1 if one.spec is None else 0)
            for number, one in enumerate(carried, 1)
        ]
        head = [round(lease_s * 1000), _OVERDUE, _SILENT]
        try:
            replies = await self._spread("claim", head, [one.id for one in carried], rows)
        except DependencyError:
            # Some may have begun, in other shards, or where the answer was lost.
            named = [JobSpec(id=one.id, model="", tenant="") for one in carried]
            await self._give_back([LeasedJob(spec, 0, f"{nonce}{number}") for number, spec in enumerate(named, 1)])
            raise
        return [
            self._claimed(one, f"{nonce}{number}", reply)
            for number, (one, reply) in enumerate(zip(carried, replies, strict=True), 1)
        ]

    async def _give_back(self, jobs: Sequence[LeasedJob]) -> None:
        """Of a claim that fails: nobody learns of what it has begun. Where this fails too, it is done before the next
        claim, whose messages are likely the same ones."""
        self._for_nobody += jobs
        del self._for_nobody[:-_FOR_NOBODY_MOST]
        with contextlib.suppress(DependencyError):
            await self._surrender()

    async def _surrender(self) -> None:
        """Give back what was claimed for nobody. Each in some call: those who claim meanwhile wait for none of it."""
        while jobs := self._for_nobody[:MOST_AT_ONCE]:
            del self._for_nobody[: len(jobs)]
            try:
                await self.finish([Finish(job, "release") for job in jobs])
            except BaseException:
                self._for_nobody += jobs
                raise

    def _claimed(self, carried: Carried, nonce: str, reply: Any) -> Claimed:
        if isinstance(reply, int):
            if reply <= 0 or carried.spec is None:
                return "unknown" if reply == _UNKNOWN else "stale"
            return LeasedJob(carried.spec, reply, nonce)
        attempt, envelope, body = reply
        return leased_job(nonce, packed_id(carried.id), envelope, body, attempt)

    async def _revive(self, unknown: Sequence[Carried]) -> bool:
        """Make records of what messages tell. False: there is none to be made."""
        whole = [(one, one.spec) for one in unknown if one.spec is not None]
        rows = [
            (
                packed_id(one.id),
                one.created_ms,
                packed_terms(spec),
                packed_spec(spec) if one.foreign is None else packed_foreign(one.foreign),
                spec.body,
            )
            for one, spec in whole
        ]
        return any(await self._spread("revive", [], [one.id for one, _ in whole], rows))

    async def _freed(self) -> list[Carried]:
        """Jobs that the reaper made free to be run and that are so still, as many as a round may bring."""
        freed, jobs, left = self._reaper.freed, list[Carried](), _DUE_BYTES
        ids = list(freed)
        for begin in range(0, len(ids), _CARRIED_MOST):
            part = ids[begin : begin + _CARRIED_MOST]
            found = await self._whole([(freed[id], id) for id in part])
            for id in set(part).difference(packed_id(job.id) for job in found):
                del freed[id]
            jobs += found
            left -= sum(_EACH_BYTES + len(job.spec.body) for job in found if job.spec is not None)
            if left <= 0:
                break
        return jobs

    async def _whole(self, found: Sequence[tuple[int, bytes]]) -> list[Carried]:
        """Jobs as messages carry them; those that are not free to be run any more are left out."""
        jobs: list[Carried] = []
        for shard in range(self._shards):
            ids = [id for where, id in found if where == shard]
            while ids:
                words = [_CARRIED_BYTES, INLINE_BYTES, *ids[:_CARRIED_MOST]]
                looked, *reply = await self._scripts.call("carry", shard, words)
                del ids[:looked]
                for at in range(0, len(reply), 5):
                    packed, order, terms, envelope, body = reply[at : at + 5]
                    id = written_id(packed)
                    spec = shown_spec(envelope, id, terms, body or b"")
                    # What another release asks for may be more than is read here: its message only names it.
                    named = body is None or spec.envelope != ENVELOPE_VERSION
                    jobs.append(Carried(id, int(order) // 1000, spec, named))
        return jobs
