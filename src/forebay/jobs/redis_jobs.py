"""`RedisJobs`: jobs in Redis or Valkey, which queues them by itself: record and queue change in one script."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Sequence
from itertools import chain
from typing import Any, TypeVar

from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError
from forebay.jobs.record import OVERDUE
from forebay.jobs.redis_codec import (
    packed_error,
)
from forebay.jobs.redis_kept import MOST_AT_ONCE, RedisKept, leased_job, unreadable_end
from forebay.jobs.redis_reader import PREFIX, SERVER_CLOCK
from forebay.jobs.store import (
    Bounds,
    Finish,
    LeasedJob,
    NewJob,
    Reaped,
    Submission,
)

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_POLL_S = 1.0
_MOST_LEASED_BYTES = 16 << 20
_LOST_KEPT = 100
_OVERDUE = packed_error(OVERDUE)


class RedisJobs(RedisKept):
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
        super().__init__(link, shards=shards, republish_after_s=republish_after_s, prefix=prefix, clock=clock)
        self._lost: dict[int, list[tuple[str, Sequence[str]]]] = {}
        """By shard: nonces of leases whose answer never arrived, with their models."""
        self._first_shard = 0
        self._background: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def submit(self, new: Sequence[NewJob], bounds: Bounds) -> Sequence[Submission]:
        """Accept jobs. Bounds hold for all shards together where jobs are spread evenly."""
        return await self._accept(new, bounds)

    async def lease(self, models: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[LeasedJob]:
        """Claim jobs. Over several shards the oldest of a level is only about the first."""
        if not models or most <= 0:
            return []
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        arrival: asyncio.Event | None = None
        try:
            while True:
                jobs = await self._claim(models, min(most, MOST_AT_ONCE), lease_s)
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

    async def reap(self) -> Reaped:
        """Do what has become due, where no other process does."""
        return await self._reaper.reap()

    async def close(self) -> None:
        """End every wait; what a canceled lease claimed is given back before."""
        self._closed = True
        await super().close()
        while self._background:
            await asyncio.wait(self._background)

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
            jobs = [leased_job(f"{nonce}{at // 4 + 1}", *reply[at : at + 4]) for at in range(0, len(reply), 4)]
            readable = [job for job in jobs if job.spec.model]
            if len(readable) < len(jobs):
                await self.finish([unreadable_end(job) for job in jobs if not job.spec.model])
            if readable or not looked:
                return readable

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


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
